//! Rings and who may write to them: lanes work with memory windows at both ends, at one and at
//! none.
//!
//! Owns two ends over loop-back, each with its own device's say. Where there is no device, the
//! tests are skipped by name.

use std::time::Duration;

use conformance::lanes::{End, exchange, join, open, tell, until_lanes};
use transport::verbs::{Breakage, VerbsSettings, Windows, devices};

/// A soft device on an emulated processor is slow, and no lane is to break of that.
const OPERATION_MAX: Duration = Duration::from_secs(20);
/// Messages each way.
const MESSAGES: u64 = 200;

/// Two ends of a link, if this machine has a device that has windows.
fn ends(test: &str, breakages: [Breakage; 2]) -> Option<[End; 2]> {
    let has_windows =
        devices().is_ok_and(|all| all.iter().any(|device| device.windows == Windows::OfQueuePair));
    if !has_windows {
        tell(&format!("SKIPPED: {test}: no device with memory windows"));
        return None;
    }
    let [one, other] = breakages.map(|breakage| {
        let operation_max = OPERATION_MAX;
        open(VerbsSettings { breakage, operation_max, ..VerbsSettings::default() })
    });
    Some(join(one, other))
}

/// Exchanges all messages by the lane. How many windows each end has bound for that.
fn windows_of(mut ends: [End; 2]) -> [u64; 2] {
    until_lanes(&mut ends);
    exchange(&mut ends, MESSAGES);
    for end in &ends {
        let counts = end.counts();
        assert_eq!((counts.messages_sent, counts.messages_received), (MESSAGES, MESSAGES));
        assert_eq!((counts.switches, counts.breaks), (1, 0));
    }
    ends.map(|end| end.counts().windows)
}

#[test]
fn each_ring_is_opened_to_its_own_peer_alone_where_the_device_can() {
    let test = "each_ring_is_opened_to_its_own_peer_alone_where_the_device_can";
    let Some(ends) = ends(test, [Breakage::None; 2]) else { return };
    assert_eq!(windows_of(ends), [1, 1]);
}

#[test]
fn messages_go_by_lanes_without_windows_too() {
    let test = "messages_go_by_lanes_without_windows_too";
    let Some(ends) = ends(test, [Breakage::NoWindows; 2]) else { return };
    assert_eq!(windows_of(ends), [0, 0]);
}

#[test]
fn an_end_with_windows_and_one_without_come_to_a_lane() {
    let test = "an_end_with_windows_and_one_without_come_to_a_lane";
    let Some(ends) = ends(test, [Breakage::None, Breakage::NoWindows]) else { return };
    assert_eq!(windows_of(ends), [1, 0]);
}
