//! The far end of a law whose other end lies in another thread or process.
//!
//! Owns the roles that a far end plays, and starting this test binary again to play one.
//!
//! Invariant: a far end comes to its end when its peer is gone, whatever happens.

use std::collections::VecDeque;
use std::env;
use std::process::{Child, Command, Stdio};

use transport::{Limits, Link, PeerId, RecvSlot, SendRefusal, Transport};

use crate::message;
use crate::node::{LIMITS, Node, PATIENCE};
use crate::rig::Across;

/// The variable that makes a test binary a far end: a role, a blank, an address.
const ORDER_VARIABLE: &str = "GRADWIRE_CONFORMANCE_FAR";

/// Messages that each side of a flood sends.
const FLOOD_MESSAGES: u64 = 200;

/// How long each of them is, in bytes: 100 MB in all.
const FLOOD_BYTES: usize = 500_000;

/// The limits of a flood.
pub const FLOOD_LIMITS: Limits = Limits {
    message_bytes_max: 512 << 10,
    send_bytes_max: 4 << 20,
    recv_bytes_max: 4 << 20,
    spin_ns: 10_000,
};

/// What a far end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Returns every message.
    Echo,
    /// Sends and receives 100 MB.
    Flood,
}

/// A process that is a far end. Dropping it kills it.
pub struct FarProcess(Child);

/// Starts this test binary again, as the far end that knocks at `address`.
pub fn start(role: Role, address: &str) -> FarProcess {
    let binary = env::current_exe().expect("the test binary has a path");
    let child = Command::new(binary)
        .args(["--exact", "far_process", "--nocapture"])
        .env(ORDER_VARIABLE, format!("{} {address}", role.name()))
        .stdout(Stdio::null())
        .spawn()
        .expect("the test binary starts");
    FarProcess(child)
}

/// What this process was started for, if it is a far end.
pub fn order() -> Option<String> {
    env::var(ORDER_VARIABLE).ok()
}

/// Plays the part that [`start`] ordered.
pub fn obey(rig: &dyn Across, order: &str) {
    let (role, address) = order.split_once(' ').expect("an order is a role and an address");
    let role = [Role::Echo, Role::Flood].into_iter().find(|known| known.name() == role);
    let role = role.expect("the role is known");
    let link = rig.knock(address);
    play(role, rig.open(role.limits()), link);
}

/// Plays a role until it is done or the peer is gone.
pub fn play(role: Role, transport: Box<dyn Transport>, link: Link) {
    let mut node = Node::new(transport);
    let peer = node.transport.adopt(link).expect("the transport takes its own kind");
    match role {
        Role::Echo => echo(&mut node, peer),
        Role::Flood => {
            flood(&mut node, peer);
            // The near end closes once it has the last message.
            run(&mut node, "end of the connection", |node| (!node.closed.is_empty()).then_some(()));
        }
    }
}

/// Sends 100 MB while it receives 100 MB. Both ends do it at once.
pub fn flood(node: &mut Node, peer: PeerId) {
    let (mut sent, mut received) = (0, 0);
    run(node, "last message of the flood", |node| {
        assert_eq!(node.closed, [], "closed after {sent} were sent and {received} received");
        sent = send_to(node, peer, sent, FLOOD_MESSAGES, |_| FLOOD_BYTES);
        while received < FLOOD_MESSAGES
            && let Some((_, number)) = node.next_number()
        {
            assert_eq!(number, received, "the next one's number");
            received += 1;
        }
        ((sent, received) == (FLOOD_MESSAGES, FLOOD_MESSAGES)).then_some(())
    });
    // Each tells the other that it has all, so that neither closes on what is under way.
    run(node, "credit", |node| node.send(peer, FLOOD_MESSAGES, 64).ok());
    let (_, number) = run(node, "word of the other end", Node::next_number);
    assert_eq!(number, FLOOD_MESSAGES);
}

/// Posts and flushes the messages from number `next` to before `end`, as long as there is credit.
/// Returns the first number that is still to be sent. A park after this ends when there is more.
pub fn send_to(
    node: &mut Node,
    peer: PeerId,
    mut next: u64,
    end: u64,
    mut bytes: impl FnMut(u64) -> usize,
) -> u64 {
    while next < end && node.send(peer, next, bytes(next)).is_ok() {
        next += 1;
    }
    node.transport.flush();
    next
}

/// Turns one node, parking in between, until `reached` finds what it looks for.
///
/// Panics: after [`PATIENCE`] by the transport's clock, naming the `goal`.
pub fn run<T>(node: &mut Node, goal: &str, mut reached: impl FnMut(&mut Node) -> Option<T>) -> T {
    let deadline = node.after(PATIENCE);
    loop {
        node.turn();
        if let Some(found) = reached(node) {
            node.transport.flush();
            return found;
        }
        assert!(node.transport.now() < deadline, "no {goal} after {PATIENCE:?}");
        node.transport.park(deadline);
    }
}

fn echo(node: &mut Node, peer: PeerId) {
    let mut waiting: VecDeque<RecvSlot> = VecDeque::new();
    loop {
        node.turn();
        if !node.closed.is_empty() {
            return;
        }
        waiting.extend(node.received.drain(..).map(|(_, slot)| slot));
        answer(node, peer, &mut waiting);
        node.transport.flush();
        node.transport.park(node.after(PATIENCE));
    }
}

/// Posts answers while there is credit.
fn answer(node: &mut Node, peer: PeerId, waiting: &mut VecDeque<RecvSlot>) {
    while let Some(slot) = waiting.pop_front() {
        message::number_of(slot.bytes());
        let mut answer = match node.transport.acquire(peer, slot.bytes().len()) {
            Ok(answer) => answer,
            Err(SendRefusal::NoCredit) => {
                waiting.push_front(slot);
                break;
            }
            // Its closed event is to come: nobody is left to answer.
            Err(SendRefusal::NoSuchPeer) => break,
            Err(refusal) => panic!("the echo gets no slot: {refusal}"),
        };
        answer.bytes_mut().copy_from_slice(slot.bytes());
        node.transport.post(answer);
        node.transport.release(slot);
    }
}

impl Role {
    /// The limits that both ends have.
    pub fn limits(self) -> Limits {
        match self {
            Role::Echo => LIMITS,
            Role::Flood => FLOOD_LIMITS,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Echo => "echo",
            Role::Flood => "flood",
        }
    }
}

impl FarProcess {
    /// Kills it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.0.kill().expect("the process is there");
        self.0.wait().expect("the process is ours");
    }

    /// Waits for its end. Panics: if it failed.
    pub fn join(mut self) {
        let status = self.0.wait().expect("the process is ours");
        assert!(status.success(), "the far end failed: {status}");
    }
}

impl Drop for FarProcess {
    fn drop(&mut self) {
        // It may be gone already, and then there is nothing to kill or to wait for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
