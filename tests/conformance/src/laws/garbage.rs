//! Laws of a peer that does not speak the wire: it loses its connection and nobody else does.

use transport::{Fault, Limits};
use wire::{HEADER_BYTES, Malformed};

use crate::node::{LIMITS, Node, expect_closed, expect_number, star};
use crate::rig::Rig;

/// The fault names what was found.
pub fn bytes_that_are_no_message_harm_no_other_peer(rig: &dyn Rig) {
    const JUNK: u8 = 0xA5;
    let (mut nodes, [[to_bad, bad_to_hub], joint]) = star(rig, LIMITS);
    let mut slot = nodes[1].transport.acquire(bad_to_hub, 200).expect("there is credit");
    slot.bytes_mut().fill(JUNK);
    nodes[1].transport.post(slot);
    let found = u32::from_le_bytes([JUNK; 4]);
    let fault = Fault::Malformed(Malformed::Magic { found });
    assert_eq!(expect_closed(&mut nodes, 0), (to_bad, fault));
    expect_closed(&mut nodes, 1);
    expect_exchange(&mut nodes, joint);
}

/// The sender's limit is larger than the receiver's.
pub fn a_message_longer_than_the_receiver_allows_harms_no_other_peer(rig: &dyn Rig) {
    const BYTES: usize = 10_000;
    let small = Limits { message_bytes_max: 4_096, ..LIMITS };
    let mut nodes = [small, LIMITS, LIMITS].map(|limits| Node::new(rig.open(limits)));
    let [hub, bad, good] = &mut nodes;
    let [bad_to_hub, to_bad] = rig.join(&mut *bad.transport, &mut *hub.transport);
    let [good_to_hub, to_good] = rig.join(&mut *good.transport, &mut *hub.transport);
    nodes[1].send(bad_to_hub, 1, BYTES).expect("the sender's limit allows it");
    let body_bytes = (BYTES - HEADER_BYTES) as u32;
    let fault = Fault::Malformed(Malformed::TooLong { body_bytes });
    assert_eq!(expect_closed(&mut nodes, 0), (to_bad, fault));
    assert!(nodes[0].received.is_empty());
    expect_closed(&mut nodes, 1);
    expect_exchange(&mut nodes, [to_good, good_to_hub]);
}

/// The hub, node 0, and node 2 exchange a message each way.
fn expect_exchange(nodes: &mut [Node; 3], joint: [transport::PeerId; 2]) {
    nodes[0].send(joint[0], 8, 1_000).expect("the good peer has credit");
    expect_number(nodes, 2, 8);
    nodes[2].send(joint[1], 9, 1_000).expect("the good peer has credit");
    expect_number(nodes, 0, 9);
    assert!(nodes[0].closed.is_empty() && nodes[2].closed.is_empty());
}
