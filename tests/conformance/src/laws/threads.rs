//! Laws between two threads: what sleeps is woken.

use std::thread;
use std::time::Duration;

use transport::Limits;

use crate::far::{self, Role, run};
use crate::message::Random;
use crate::node::{LIMITS, Node, PATIENCE, expect_closed};
use crate::rig::Across;

/// Random lengths, with as many under way as there is credit for.
pub fn an_echo_from_another_thread_returns_every_message_whole_and_in_order(rig: &dyn Across) {
    with_far(rig, Role::Echo, |node, peer| exchange_with_echo(node, peer, 3_000));
}

/// Sends random messages to an echo and checks what comes back.
pub fn exchange_with_echo(node: &mut Node, peer: transport::PeerId, messages: u64) {
    let mut random = Random::new(7);
    let (mut sent, mut received) = (0, 0);
    run(node, "last answer", |node| {
        assert_eq!(node.closed, [], "closed after {received} answers");
        let bytes = |_| random.message_bytes(LIMITS.message_bytes_max);
        sent = far::send_to(node, peer, sent, messages, bytes);
        while let Some((_, number)) = node.next_number() {
            assert_eq!(number, received, "the next one's number");
            received += 1;
        }
        (received == messages).then_some(())
    });
}

/// One message at a time, and no spinning: each round is two sleeps and two wake-ups.
pub fn no_wake_up_is_lost_between_two_threads_that_sleep_whenever_they_can(rig: &dyn Across) {
    assert_eq!(LIMITS.spin_ns, 0, "nobody spins");
    with_far(rig, Role::Echo, |node, peer| {
        for number in 0..5_000 {
            node.send(peer, number, 64 + number as usize % 100).expect("there is credit");
            // `run` parks for as long as its deadline is away: a lost wake-up fails it.
            assert_eq!(run(node, "answer", Node::next_number).1, number);
        }
    });
}

/// The sender parks whenever it is out of credit, and nothing but the other's releases can go on.
pub fn a_release_in_another_thread_wakes_a_sender_out_of_credit(rig: &dyn Across) {
    const MESSAGES: u64 = 2_000;
    const BYTES: usize = 30_000;
    let (left, right) = rig.link(LIMITS);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut reader = Node::new(rig.open(LIMITS));
            reader.transport.adopt(right).expect("the transport takes its own kind");
            for number in 0..MESSAGES {
                assert_eq!(run(&mut reader, "message", Node::next_number).1, number);
            }
            run(&mut reader, "end", |node| (!node.closed.is_empty()).then_some(()));
        });
        let mut sender = Node::new(rig.open(LIMITS));
        let peer = sender.transport.adopt(left).expect("the transport takes its own kind");
        let mut sent = 0;
        run(&mut sender, "credit", |node| {
            assert_eq!(node.closed, [], "closed after {sent} were sent");
            sent = far::send_to(node, peer, sent, MESSAGES, |_| BYTES);
            (sent == MESSAGES).then_some(())
        });
        // All credit back means that the reader has all but the last few.
        let slots: Vec<_> = run(&mut sender, "all credit", |node| {
            let slots: Vec<_> = (0..LIMITS.send_bytes_max / BYTES / 2)
                .map_while(|_| node.transport.acquire(peer, BYTES).ok())
                .collect();
            (slots.len() == LIMITS.send_bytes_max / BYTES / 2).then_some(slots)
        });
        drop(slots);
        for _ in 0..200 {
            sender.turn();
            sender.rest();
        }
    });
}

/// Whether it comes before, while or after the other begins to sleep.
pub fn a_waker_in_another_thread_ends_a_park(rig: &dyn Across) {
    let mut node = Node::new(rig.open(LIMITS));
    for round in 0..200 {
        let waker = node.transport.waker();
        let pause = Duration::from_micros(round % 20 * 10);
        let deadline = node.after(PATIENCE);
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(pause);
                waker.wake();
            });
            node.transport.park(deadline);
        });
        assert!(node.transport.now() < deadline, "slept on although it was woken");
        node.transport.park(node.transport.now()); // A second wake-up may be left.
    }
}

/// 100 MB each way.
pub fn two_threads_send_100_megabytes_to_each_other_at_once(rig: &dyn Across) {
    with_far(rig, Role::Flood, far::flood);
}

/// As one does that panics.
pub fn a_thread_that_ends_without_a_word_is_reported_closed(rig: &dyn Across) {
    let (left, right) = rig.link(LIMITS);
    let mut node = Node::new(rig.open(LIMITS));
    let peer = node.transport.adopt(left).expect("the transport takes its own kind");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut far = Node::new(rig.open(LIMITS));
            far.transport.adopt(right).expect("the transport takes its own kind");
            far.turn();
        });
    });
    let (closed, _) = expect_closed(&mut [node], 0);
    assert_eq!(closed, peer);
}

/// Runs `near` with a far end in another thread, then closes.
fn with_far(rig: &dyn Across, role: Role, near: impl FnOnce(&mut Node, transport::PeerId)) {
    let limits: Limits = role.limits();
    let (left, right) = rig.link(limits);
    thread::scope(|scope| {
        scope.spawn(move || far::play(role, rig.open(limits), right));
        let mut node = Node::new(rig.open(limits));
        let peer = node.transport.adopt(left).expect("the transport takes its own kind");
        near(&mut node, peer);
    });
}
