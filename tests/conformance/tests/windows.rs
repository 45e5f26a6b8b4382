//! Rings and who may write to them: lanes work with memory windows at both ends, at one and at
//! none.
//!
//! Owns two ends over loop-back, each with its own device's say. Where there is no device, the
//! tests are skipped by name.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use conformance::message;
use transport::verbs::{Breakage, Verbs, VerbsSettings, Windows, devices};
use transport::{Event, Limits, Link, PeerId, SendRefusal, Transport};

/// How long a test waits for what must happen, before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// A soft device on an emulated processor is slow, and no lane is to break of that.
const OPERATION_MAX: Duration = Duration::from_secs(20);
/// Messages each way.
const MESSAGES: u64 = 200;
/// Lengths of messages, in bytes: inline ones, short ones and long ones.
const SIZES: [usize; 4] = [64, 300, 5_000, 40_000];

const LIMITS: Limits = Limits {
    message_bytes_max: 64 << 10,
    send_bytes_max: 512 << 10,
    recv_bytes_max: 512 << 10,
    spin_ns: 0,
};

struct End {
    verbs: Verbs,
    peer: PeerId,
    sent: u64,
    received: u64,
}

impl End {
    /// Sends what there is credit for, once the lane is the way, and checks what came.
    fn turn(&mut self) {
        while self.sent < MESSAGES && self.verbs.goes_by_lane(self.peer) {
            match self.verbs.acquire(self.peer, SIZES[self.sent as usize % SIZES.len()]) {
                Ok(mut slot) => {
                    message::fill(slot.bytes_mut(), self.sent);
                    self.verbs.post(slot);
                    self.sent += 1;
                }
                Err(SendRefusal::NoCredit) => break,
                Err(refusal) => panic!("message {} gets no slot: {refusal}", self.sent),
            }
        }
        self.verbs.flush();
        let mut events = Vec::new();
        self.verbs.poll(&mut events);
        for event in events {
            match event {
                Event::Received { slot, .. } => {
                    assert_eq!(message::number_of(slot.bytes()), self.received);
                    self.received += 1;
                    self.verbs.release(slot);
                }
                Event::Closed { fault, .. } => panic!("closed: {fault}"),
            }
        }
    }
}

/// Two ends of a link, if this machine has a device that has windows.
fn ends(test: &str, breakages: [Breakage; 2]) -> Option<[End; 2]> {
    let has_windows =
        devices().is_ok_and(|all| all.iter().any(|device| device.windows == Windows::OfQueuePair));
    if !has_windows {
        // Past the harness's capture: a skip is to be seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no device with memory windows");
        return None;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let left = TcpStream::connect(address).expect("the listener is there");
    let (right, _) = listener.accept().expect("someone connects");
    let mut links = [left, right].into_iter();
    Some(breakages.map(|breakage| {
        let settings =
            VerbsSettings { breakage, operation_max: OPERATION_MAX, ..VerbsSettings::default() };
        let mut verbs = Verbs::open(settings, LIMITS).expect("there is a device");
        let link = Link::Tcp(links.next().expect("two of them"));
        let peer = verbs.adopt(link).expect("it takes TCP");
        End { verbs, peer, sent: 0, received: 0 }
    }))
}

/// Exchanges all messages by the lane. How many windows each end has bound for that.
fn exchange(mut ends: [End; 2]) -> [u64; 2] {
    let deadline = Instant::now() + PATIENCE;
    while ends.iter().any(|end| end.received < MESSAGES) {
        assert!(Instant::now() < deadline, "{:?}", ends.map(|end| end.received));
        ends.iter_mut().for_each(End::turn);
    }
    for end in &ends {
        let counts = end.verbs.lane_counts();
        assert_eq!((counts.messages_sent, counts.messages_received), (MESSAGES, MESSAGES));
        assert_eq!((counts.switches, counts.breaks), (1, 0));
    }
    ends.map(|end| end.verbs.lane_counts().windows)
}

#[test]
fn each_ring_is_opened_to_its_own_peer_alone_where_the_device_can() {
    let test = "each_ring_is_opened_to_its_own_peer_alone_where_the_device_can";
    let Some(ends) = ends(test, [Breakage::None; 2]) else { return };
    assert_eq!(exchange(ends), [1, 1]);
}

#[test]
fn messages_go_by_lanes_without_windows_too() {
    let test = "messages_go_by_lanes_without_windows_too";
    let Some(ends) = ends(test, [Breakage::NoWindows; 2]) else { return };
    assert_eq!(exchange(ends), [0, 0]);
}

#[test]
fn an_end_with_windows_and_one_without_come_to_a_lane() {
    let test = "an_end_with_windows_and_one_without_come_to_a_lane";
    let Some(ends) = ends(test, [Breakage::None, Breakage::NoWindows]) else { return };
    assert_eq!(exchange(ends), [1, 0]);
}
