//! Laws of what arrives: whole, once, and in the order of acquisition.

use transport::{RecvSlot, SendSlot};
use wire::HEADER_BYTES;

use crate::message::{self, Random};
use crate::node::{LIMITS, expect_number, joined, settle, star, until};
use crate::rig::Rig;

/// Where every slot begins, in bytes.
const ALIGN_BYTES: usize = 64;

/// Messages of random lengths go both ways at once.
pub fn every_message_arrives_once_whole_and_in_order(rig: &dyn Rig) {
    const MESSAGES: u64 = 2_000;
    let (mut nodes, peers) = joined(rig, LIMITS);
    let mut random = [Random::new(1), Random::new(2)];
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    until(&mut nodes, "last message", |nodes| {
        for (index, node) in nodes.iter_mut().enumerate() {
            while sent[index] < MESSAGES {
                let bytes = random[index].message_bytes(LIMITS.message_bytes_max);
                if node.send(peers[index], sent[index], bytes).is_err() {
                    break;
                }
                sent[index] += 1;
            }
            while let Some((_, number)) = node.next_number() {
                assert_eq!(number, received[index], "the next one's number");
                received[index] += 1;
            }
        }
        (received == [MESSAGES; 2]).then_some(())
    });
    settle(&mut nodes);
    assert!(nodes.iter().all(|node| node.received.is_empty()), "one arrived twice");
    assert!(nodes.iter().all(|node| node.closed.is_empty()));
}

/// The extremes of the length, and their neighbours.
pub fn the_shortest_and_the_longest_message_arrive_whole(rig: &dyn Rig) {
    let limits = transport::Limits::default();
    let (mut nodes, peers) = joined(rig, limits);
    let bytes_max = limits.message_bytes_max;
    let lengths = [64, 65, 127, 128, 129, 4095, 4096, 4097, bytes_max - 1, bytes_max];
    for (number, &bytes) in lengths.iter().enumerate() {
        nodes[0].send(peers[0], number as u64, bytes).expect("there is credit for one");
        let length = until(&mut nodes, "message", |nodes| {
            nodes[1].received.front().map(|(_, slot)| slot.bytes().len())
        });
        assert_eq!(length, bytes);
        expect_number(&mut nodes, 1, number as u64);
    }
}

/// Eight slots at a time, posted in a random order.
pub fn slots_posted_in_any_order_arrive_in_the_order_of_acquisition(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    let mut random = Random::new(3);
    for round in 0..50 {
        let mut slots: Vec<SendSlot> = Vec::new();
        for number in round * 8..(round + 1) * 8 {
            let bytes = HEADER_BYTES + random.below(3_000);
            let mut slot = nodes[0].transport.acquire(peers[0], bytes).expect("there is credit");
            message::fill(slot.bytes_mut(), number);
            slots.push(slot);
        }
        random.shuffle(&mut slots);
        for slot in slots {
            nodes[0].transport.post(slot);
            if random.below(3) == 0 {
                nodes[0].transport.flush();
            }
        }
        for number in round * 8..(round + 1) * 8 {
            expect_number(&mut nodes, 1, number);
        }
    }
}

/// Whether by `cancel` or by dropping, before a flush or after, at the front or in between.
pub fn a_cancelled_or_dropped_slot_vanishes(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    let mut random = Random::new(4);
    for round in 0..50 {
        let mut slots: Vec<SendSlot> = Vec::new();
        for place in 0..6 {
            let slot = nodes[0].transport.acquire(peers[0], 200 + 64 * place);
            slots.push(slot.expect("there is credit"));
        }
        let gone = [random.below(6), random.below(6)];
        let (mut kept, mut vanishing) = (Vec::new(), Vec::new());
        for (place, mut slot) in slots.into_iter().enumerate() {
            if gone.contains(&place) {
                vanishing.push(slot);
                continue;
            }
            let number = round * 6 + place as u64;
            message::fill(slot.bytes_mut(), number);
            nodes[0].transport.post(slot);
            kept.push(number);
        }
        if round % 2 == 0 {
            nodes[0].turn(); // Those behind a slot that is out wait for it.
        }
        for slot in vanishing {
            match random.below(2) {
                0 => drop(slot),
                _ => nodes[0].transport.cancel(slot),
            }
        }
        for number in kept {
            expect_number(&mut nodes, 1, number);
        }
    }
    settle(&mut nodes);
    assert!(nodes[1].received.is_empty(), "a cancelled message arrived");
}

/// `SendSlot::truncate` decides the length.
pub fn a_message_cut_shorter_arrives_cut(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    for (number, (acquired, posted)) in
        [(10_000, 64), (10_000, 9_999), (128, 65), (500, 500)].into_iter().enumerate()
    {
        let mut slot = nodes[0].transport.acquire(peers[0], acquired).expect("there is credit");
        assert_eq!((slot.len(), slot.bytes_mut().len()), (acquired, acquired));
        slot.truncate(posted);
        message::fill(slot.bytes_mut(), number as u64);
        nodes[0].transport.post(slot);
        let length = until(&mut nodes, "message", |nodes| {
            nodes[1].received.front().map(|(_, slot)| slot.bytes().len())
        });
        assert_eq!(length, posted);
        expect_number(&mut nodes, 1, number as u64);
    }
}

/// The reader holds up to eight messages and releases them as chance has it, for many times the
/// memory that a connection has; what it holds does not change.
pub fn slots_are_released_in_any_order(rig: &dyn Rig) {
    const MESSAGES: u64 = 3_000;
    let (mut nodes, peers) = joined(rig, LIMITS);
    let mut random = Random::new(5);
    let (mut sent, mut received) = (0, 0);
    let mut held: Vec<(u64, RecvSlot)> = Vec::new();
    until(&mut nodes, "last message", |nodes| {
        let [one, other] = nodes;
        while sent < MESSAGES {
            let bytes = HEADER_BYTES + random.below(8_000);
            if one.send(peers[0], sent, bytes).is_err() {
                break;
            }
            sent += 1;
        }
        // Where messages lie in a ring, one that is held for long stops what comes a lap later.
        let stopped = other.received.is_empty() && !held.is_empty();
        if stopped {
            let (_, slot) = held.swap_remove(random.below(held.len()));
            other.transport.release(slot);
        }
        while let Some((_, slot)) = other.received.pop_front() {
            held.push((received, slot));
            received += 1;
            if held.len() == 8 {
                let (number, slot) = held.swap_remove(random.below(8));
                assert_eq!(message::number_of(slot.bytes()), number, "a held one changed");
                other.transport.release(slot);
            }
        }
        (received == MESSAGES).then_some(())
    });
}

/// On both sides, whatever the lengths before.
pub fn every_slot_begins_at_a_multiple_of_64(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    let mut random = Random::new(6);
    for number in 0..200 {
        let bytes = random.message_bytes(LIMITS.message_bytes_max);
        let mut slot = nodes[0].transport.acquire(peers[0], bytes).expect("there is credit");
        let address = slot.bytes_mut().as_ptr().addr();
        assert!(address.is_multiple_of(ALIGN_BYTES), "a send slot at {address:#x}");
        message::fill(slot.bytes_mut(), number);
        nodes[0].transport.post(slot);
        let address = until(&mut nodes, "message", |nodes| {
            nodes[1].received.front().map(|(_, slot)| slot.bytes().as_ptr().addr())
        });
        assert!(address.is_multiple_of(ALIGN_BYTES), "a received slot at {address:#x}");
        expect_number(&mut nodes, 1, number);
    }
}

/// One doorbell for everyone.
pub fn one_flush_sends_all_that_was_posted_to_every_peer(rig: &dyn Rig) {
    let (mut nodes, joints) = star(rig, LIMITS);
    for number in 0..20 {
        for [to_node, _] in joints {
            nodes[0].send(to_node, number, 500).expect("there is credit");
        }
    }
    nodes[0].transport.flush();
    let [mut hub, one, other] = nodes;
    let (mut events, mut received) = (Vec::new(), [0; 2]);
    until(&mut [one, other], "last message", |spokes| {
        hub.transport.poll(&mut events);
        hub.rest();
        for (node, received) in spokes.iter_mut().zip(&mut received) {
            while let Some((_, number)) = node.next_number() {
                assert_eq!(number, *received, "the next one's number");
                *received += 1;
            }
        }
        (received == [20; 2]).then_some(())
    });
}

/// Headers count, and so does only what was posted, at its cut length.
pub fn every_posted_byte_is_counted_once(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    assert_eq!(nodes[0].transport.bytes_sent(), 0);
    for number in 0..10 {
        nodes[0].send(peers[0], number, 1_000).expect("there is credit");
    }
    let slot = nodes[0].transport.acquire(peers[0], 5_000).expect("there is credit");
    nodes[0].transport.cancel(slot);
    let mut slot = nodes[0].transport.acquire(peers[0], 5_000).expect("there is credit");
    slot.truncate(64);
    message::fill(slot.bytes_mut(), 10);
    nodes[0].transport.post(slot);
    for number in 0..=10 {
        expect_number(&mut nodes, 1, number);
    }
    assert_eq!(nodes[0].transport.bytes_sent(), 10_064);
    assert_eq!(nodes[1].transport.bytes_sent(), 0);
}
