//! Laws of bounds: what is under way is limited, and a limit that was met lets go again.

use transport::{Limits, SendRefusal, SendSlot};

use crate::message;
use crate::node::{LIMITS, Node, expect_number, joined, star, until};
use crate::rig::Rig;

/// What an operating system may hold of one connection beside the limits, in bytes: generous,
/// against Linux' largest socket buffers of a few MiB.
const BUFFERED_BYTES_MAX: usize = 64 << 20;

/// Turns without progress after which a sender is taken for stopped.
const TURNS_STOPPED: usize = 500;

/// And the longest one is not.
pub fn a_message_over_the_limit_is_refused_with_both_numbers(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    let bytes_max = LIMITS.message_bytes_max;
    for bytes in [bytes_max + 1, usize::MAX] {
        let refusal = nodes[0].transport.acquire(peers[0], bytes).expect_err("it is too long");
        assert_eq!(refusal, SendRefusal::TooLarge { bytes, bytes_max });
    }
    nodes[0].send(peers[0], 1, bytes_max).expect("the longest is allowed");
    expect_number(&mut nodes, 1, 1);
}

/// Nothing is posted here, so nothing may leave.
pub fn acquired_bytes_are_bounded_and_come_back_when_cancelled(rig: &dyn Rig) {
    const BYTES: usize = 4_000;
    let (mut nodes, peers) = joined(rig, LIMITS);
    for _ in 0..20 {
        let mut slots = Vec::new();
        let refusal = loop {
            match nodes[0].transport.acquire(peers[0], BYTES) {
                Ok(slot) => slots.push(slot),
                Err(refusal) => break refusal,
            }
            let bytes = slots.len() * BYTES;
            assert!(bytes <= LIMITS.send_bytes_max + BYTES, "{bytes} bytes were given out");
        };
        assert_eq!(refusal, SendRefusal::NoCredit);
        assert!(slots.len() * BYTES >= LIMITS.send_bytes_max / 4, "{} slots only", slots.len());
        slots.drain(..).for_each(|slot: SendSlot| nodes[0].transport.cancel(slot));
        // A ring gives them back once its reader has passed them.
        nodes[0].turn();
        nodes[1].turn();
    }
    nodes[0].send(peers[0], 1, BYTES).expect("all came back");
    expect_number(&mut nodes, 1, 1);
}

/// Sends while there is credit. Returns how many were sent when none came for many turns.
fn send_until_stopped(nodes: &mut [Node; 2], peer: transport::PeerId, bytes: usize) -> u64 {
    let (mut sent, mut turns_stopped) = (0, 0);
    while turns_stopped < TURNS_STOPPED {
        match nodes[0].send(peer, sent, bytes) {
            Ok(()) => (sent, turns_stopped) = (sent + 1, 0),
            Err(refusal) => {
                assert_eq!(refusal, SendRefusal::NoCredit);
                turns_stopped += 1;
                nodes[0].rest();
            }
        }
        nodes[0].turn();
        nodes[1].turn();
        let total = sent as usize * bytes;
        let total_max = LIMITS.send_bytes_max + LIMITS.recv_bytes_max + BUFFERED_BYTES_MAX;
        assert!(total <= total_max, "{total} bytes are under way");
    }
    sent
}

/// The reader's memory stays bounded too, and nothing is lost.
pub fn a_peer_that_releases_nothing_stops_its_sender_and_a_release_lets_it_go_on(rig: &dyn Rig) {
    const BYTES: usize = 20_000;
    let (mut nodes, peers) = joined(rig, LIMITS);
    let sent = send_until_stopped(&mut nodes, peers[0], BYTES);
    let held = nodes[1].received.len() * BYTES;
    let held_max = LIMITS.recv_bytes_max + LIMITS.message_bytes_max;
    assert!((BYTES..=held_max).contains(&held), "the reader holds {held} bytes");
    let (mut next, mut received) = (sent, 0);
    until(&mut nodes, "last message", |nodes| {
        if next < sent + 100 && nodes[0].send(peers[0], next, BYTES).is_ok() {
            next += 1;
        }
        while let Some((_, number)) = nodes[1].next_number() {
            assert_eq!(number, received, "the next one's number");
            received += 1;
        }
        (received == sent + 100).then_some(())
    });
}

/// One spoke of the hub never polls and its connection is full; the other one's goes on.
pub fn a_peer_that_is_not_polled_does_not_hold_up_another(rig: &dyn Rig) {
    const BYTES: usize = 20_000;
    let ([mut hub, idle, busy], [[to_idle, _], [to_busy, busy_to_hub]]) = star(rig, LIMITS);
    let (mut filled, mut turns_stopped) = (0, 0);
    while turns_stopped < TURNS_STOPPED {
        match hub.send(to_idle, filled, BYTES) {
            Ok(()) => (filled, turns_stopped) = (filled + 1, 0),
            Err(_) => turns_stopped += 1,
        }
        hub.turn();
        assert!((filled as usize) * BYTES <= BUFFERED_BYTES_MAX, "nobody polls, and it goes on");
    }
    let mut nodes = [hub, busy];
    for number in 0..200 {
        nodes[0].send(to_busy, number, BYTES).expect("this peer has its own credit");
        expect_number(&mut nodes, 1, number);
        nodes[1].send(busy_to_hub, number, BYTES).expect("this peer has its own credit");
        expect_number(&mut nodes, 0, number);
    }
    let [hub, _] = nodes;
    let mut nodes = [hub, idle];
    for number in 0..filled {
        expect_number(&mut nodes, 1, number);
    }
}

/// Each sends whenever it has credit and releases what it reads.
pub fn both_sides_send_100_megabytes_at_once_and_neither_waits_forever(rig: &dyn Rig) {
    const MESSAGES: u64 = 200;
    let limits = Limits { message_bytes_max: 512 << 10, ..Limits::default() };
    let (mut nodes, peers) = joined(rig, limits);
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    until(&mut nodes, "last message", |nodes| {
        for (index, node) in nodes.iter_mut().enumerate() {
            while sent[index] < MESSAGES {
                let Ok(mut slot) = node.transport.acquire(peers[index], 500_000) else { break };
                message::fill(slot.bytes_mut(), sent[index]);
                node.transport.post(slot);
                sent[index] += 1;
            }
            while let Some((_, number)) = node.next_number() {
                assert_eq!(number, received[index], "the next one's number");
                received[index] += 1;
            }
        }
        (received == [MESSAGES; 2]).then_some(())
    });
}
