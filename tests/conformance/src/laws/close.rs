//! Laws of the end of a connection: told once to each side, and harmless to all else.

use transport::{Fault, PeerId, SendRefusal};

use crate::message;
use crate::node::{LIMITS, Node, expect_closed, expect_number, joined, settle, star, until};
use crate::rig::Rig;

/// Once, with who did it.
pub fn a_close_gives_one_closed_event_on_each_side(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    nodes[0].send(peers[0], 1, 1_000).expect("there is credit");
    expect_number(&mut nodes, 1, 1);
    nodes[0].transport.close(peers[0]);
    nodes[0].transport.close(peers[0]); // Closing twice is closing once.
    assert_eq!(expect_closed(&mut nodes, 0), (peers[0], Fault::ClosedHere));
    assert_eq!(expect_closed(&mut nodes, 1), (peers[1], Fault::PeerClosed));
    settle(&mut nodes);
    assert!(nodes.iter().all(|node| node.closed.is_empty()), "closed twice");
}

/// On both sides, for as long as they are held.
pub fn slots_received_before_a_close_stay_readable(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    for (index, peer) in peers.into_iter().enumerate() {
        for number in 0..4 {
            nodes[index].send(peer, number, 10_000).expect("there is credit");
        }
    }
    until(&mut nodes, "messages", |nodes| {
        nodes.iter().all(|node| node.received.len() == 4).then_some(())
    });
    nodes[0].transport.close(peers[0]);
    expect_closed(&mut nodes, 0);
    expect_closed(&mut nodes, 1);
    settle(&mut nodes);
    for node in &mut nodes {
        for number in 0..4 {
            assert_eq!(node.next_number().expect("it was received").1, number);
        }
    }
    settle(&mut nodes);
}

/// Posting, cancelling and dropping them are all still allowed.
pub fn slots_acquired_before_a_close_may_be_posted_and_go_nowhere(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    let mut slots = Vec::new();
    for number in 0..4 {
        for index in [0, 1] {
            let slot = nodes[index].transport.acquire(peers[index], 1_000);
            let mut slot = slot.expect("there is credit");
            message::fill(slot.bytes_mut(), number);
            slots.push((index, number, slot));
        }
    }
    nodes[0].transport.close(peers[0]);
    expect_closed(&mut nodes, 0);
    expect_closed(&mut nodes, 1);
    for (index, number, mut slot) in slots {
        assert_eq!(message::number_of(slot.bytes_mut()), number, "a slot outlives its connection");
        match number {
            0 => nodes[index].transport.cancel(slot),
            1 => drop(slot),
            _ => nodes[index].transport.post(slot),
        }
    }
    settle(&mut nodes);
    assert!(nodes.iter().all(|node| node.received.is_empty()));
}

/// As at the end of a process.
pub fn a_transport_that_is_dropped_is_reported_closed_to_its_peers(rig: &dyn Rig) {
    let ([hub, one, other], [[to_one, _], [to_other, other_to_hub]]) = star(rig, LIMITS);
    drop(one);
    let mut nodes = [hub, other];
    assert_eq!(expect_closed(&mut nodes, 0), (to_one, Fault::PeerClosed));
    nodes[0].send(to_other, 1, 100).expect("the other one is there");
    expect_number(&mut nodes, 1, 1);
    let [hub, other] = nodes;
    drop(hub);
    assert_eq!(expect_closed(&mut [other], 0), (other_to_hub, Fault::PeerClosed));
}

/// On either side; nor does one that never was.
pub fn a_peer_that_is_closed_or_unknown_gets_no_slot(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    let unknown = nodes[0].transport.acquire(PeerId::new(99), 100);
    assert_eq!(unknown.expect_err("nobody has this number"), SendRefusal::NoSuchPeer);
    nodes[1].transport.close(peers[1]);
    let at_once = nodes[1].transport.acquire(peers[1], 100);
    assert_eq!(at_once.expect_err("it is closed here"), SendRefusal::NoSuchPeer);
    expect_closed(&mut nodes, 0);
    expect_closed(&mut nodes, 1);
    for (node, peer) in nodes.iter_mut().zip(peers) {
        let refusal = node.transport.acquire(peer, 100).expect_err("the connection is over");
        assert_eq!(refusal, SendRefusal::NoSuchPeer);
        node.transport.close(peer); // Too late, and harmless.
    }
    nodes[0].transport.close(PeerId::new(99));
    settle(&mut nodes);
    assert!(nodes.iter().all(|node| node.closed.is_empty()));
}

/// Many times, so that whatever a connection holds is given back.
pub fn a_new_connection_after_a_close_has_a_new_number_and_works(rig: &dyn Rig) {
    let (mut nodes, mut peers) = joined(rig, LIMITS);
    let mut seen = vec![peers];
    for number in 0..40 {
        nodes[0].send(peers[0], number, 50_000).expect("there is credit");
        expect_number(&mut nodes, 1, number);
        nodes[0].send(peers[0], number, 50_000).expect("there is credit");
        let closer = number as usize % 2;
        nodes[closer].transport.close(peers[closer]);
        assert_eq!(expect_closed(&mut nodes, 0).0, peers[0]);
        assert_eq!(expect_closed(&mut nodes, 1).0, peers[1]);
        nodes.iter_mut().for_each(Node::release_all);
        let [one, other] = &mut nodes;
        peers = rig.join(&mut *one.transport, &mut *other.transport);
        assert!(seen.iter().all(|old| old[0] != peers[0] && old[1] != peers[1]), "{peers:?}");
        seen.push(peers);
    }
}

/// What was under way to and from the others arrives.
pub fn closing_one_peer_leaves_the_others(rig: &dyn Rig) {
    let (mut nodes, [[to_one, _], [to_other, other_to_hub]]) = star(rig, LIMITS);
    for number in 0..10 {
        nodes[0].send(to_one, number, 10_000).expect("there is credit");
        nodes[0].send(to_other, number, 10_000).expect("there is credit");
        nodes[2].send(other_to_hub, number, 10_000).expect("there is credit");
    }
    nodes[0].transport.close(to_one);
    for number in 0..10 {
        expect_number(&mut nodes, 2, number);
        expect_number(&mut nodes, 0, number);
    }
    assert_eq!(expect_closed(&mut nodes, 0), (to_one, Fault::ClosedHere));
    settle(&mut nodes);
    assert!(nodes[2].closed.is_empty() && nodes[0].closed.is_empty());
}
