//! Laws of the one wait there is: it ends by a message, a waker or its deadline.

use std::time::Duration;

use crate::node::{LIMITS, PATIENCE, joined};
use crate::rig::Rig;

/// A park may end early, but not always: a loop of them ends.
pub fn the_clock_never_goes_back_and_a_park_ends_by_its_deadline(rig: &dyn Rig) {
    let (mut nodes, _) = joined(rig, LIMITS);
    let transport = &mut nodes[0].transport;
    for wait_us in [0, 1, 50, 1_000, 20_000] {
        let deadline = transport.now() + Duration::from_micros(wait_us);
        let mut before = transport.now();
        while transport.now() < deadline {
            transport.park(deadline);
            assert!(transport.now() >= before, "the clock went back");
            before = transport.now();
        }
    }
    let before = transport.now();
    transport.park(wire::Time::from_nanos(0)); // A deadline that is past is no wait.
    assert!(transport.now() >= before, "the clock went back");
}

/// Long before the deadline.
pub fn a_message_ends_a_park(rig: &dyn Rig) {
    let (mut nodes, peers) = joined(rig, LIMITS);
    for number in 0..10 {
        nodes[0].send(peers[0], number, 1_000).expect("there is credit");
        nodes[0].turn();
        let deadline = nodes[1].after(PATIENCE);
        loop {
            nodes[1].turn();
            if let Some((_, got)) = nodes[1].next_number() {
                assert_eq!(got, number);
                break;
            }
            nodes[1].transport.park(deadline);
            assert!(nodes[1].transport.now() < deadline, "slept on although a message came");
            nodes[0].turn();
        }
    }
}

/// So that a wake between the last look and the park is not lost.
pub fn a_waker_that_woke_before_ends_the_next_park(rig: &dyn Rig) {
    let (mut nodes, _) = joined(rig, LIMITS);
    let waker = nodes[0].transport.waker();
    for _ in 0..10 {
        waker.wake();
        let deadline = nodes[0].after(PATIENCE);
        nodes[0].transport.park(deadline);
        assert!(nodes[0].transport.now() < deadline, "slept on although it was woken");
        nodes[0].turn();
    }
}
