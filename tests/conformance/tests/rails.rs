//! Rails: lanes are spread over two wires, leave one that fails for the other, and come back.
//!
//! Owns a core at each end of both wires, with several links between them. It needs four devices,
//! `rxe0` and `rxe2` at the one end and `rxe1` and `rxe3` at the other; elsewhere each test is
//! skipped by name. Times are printed and never a condition.

use std::time::Duration;

use conformance::lanes::{
    End, change, exchange, exchange_until, join, link, on, open, tell, until_lanes, with_wires,
};
use transport::verbs::VerbsSettings;

/// Both wires: rxe0 to rxe1, rxe2 to rxe3.
const WIRES: [&str; 4] = ["rxe0", "rxe1", "rxe2", "rxe3"];
/// Messages of one exchange, each way, on each link.
const MESSAGES: u64 = 60;
/// Links between the two cores.
const LINKS: usize = 4;

/// A soft device on a busy processor is slow, and no lane is to change its rail because of that.
const PATIENT: Duration = Duration::from_secs(20);

/// Two cores with so many links, over both wires, and all lanes up. A request may take so long.
fn cores(operation_max: Duration) -> [End; 2] {
    let sides = ["rxe0,rxe2", "rxe1,rxe3"];
    let [one, other] = sides.map(|rails| open(VerbsSettings { operation_max, ..on(rails) }));
    let mut ends = join(one, other);
    (1..LINKS).for_each(|_| link(&mut ends));
    until_lanes(&mut ends);
    ends
}

/// Lanes of an end on each of its rails, by device.
fn lanes(end: &End) -> Vec<(String, u32)> {
    let rails = end.rails().into_iter();
    rails.filter(|(_, lanes, _)| *lanes > 0).map(|(device, lanes, _)| (device, lanes)).collect()
}

fn all_over(ends: &[End; 2], devices: [&str; 2]) -> bool {
    let count = ends[0].streams.len() as u32;
    ends.iter().zip(devices).all(|(end, device)| lanes(end) == [(device.to_owned(), count)])
}

/// Keeps messages coming until all lanes are over these devices, and checks that they carry.
fn goes_over(ends: &mut [End; 2], devices: [&str; 2]) -> Duration {
    let goal = format!("lanes over {} and {} alone", devices[0], devices[1]);
    let took = exchange_until(ends, &goal, |ends| all_over(ends, devices));
    let sent = |end: &End, device: &str| {
        end.rails().iter().find(|(name, ..)| name == device).map_or(0, |(.., sent)| *sent)
    };
    let before = [sent(&ends[0], devices[0]), sent(&ends[1], devices[1])];
    exchange(ends, MESSAGES);
    for ((end, device), before) in ends.iter().zip(devices).zip(before) {
        assert!(sent(end, device) > before, "{device} carries nothing: {:?}", end.rails());
    }
    took
}

#[test]
fn lanes_are_spread_over_both_rails_and_both_carry_messages() {
    let name = "lanes_are_spread_over_both_rails_and_both_carry_messages";
    with_wires(name, &WIRES, || {
        let mut ends = cores(PATIENT);
        exchange(&mut ends, MESSAGES);
        for (end, devices) in ends.iter().zip([["rxe0", "rxe2"], ["rxe1", "rxe3"]]) {
            let rails = end.rails();
            let found: Vec<_> = rails.iter().map(|(name, lanes, _)| (&**name, *lanes)).collect();
            assert_eq!(found, devices.map(|device| (device, LINKS as u32 / 2)), "{rails:?}");
            assert!(rails.iter().all(|(.., sent)| *sent > 0), "{rails:?}");
            let registrations = end.counts().registrations;
            assert!((4..=16).contains(&registrations), "{registrations} on two devices");
        }
    });
}

#[test]
fn when_a_rail_goes_down_all_goes_over_the_other_and_back_when_that_goes_down() {
    let name = "when_a_rail_goes_down_all_goes_over_the_other_and_back_when_that_goes_down";
    with_wires(name, &WIRES, || {
        let mut ends = cores(PATIENT);
        exchange(&mut ends, MESSAGES);
        change("ip link set rdma0 down");
        let left = goes_over(&mut ends, ["rxe2", "rxe3"]);
        change("ip link set rdma0 up");
        exchange(&mut ends, MESSAGES);
        assert!(all_over(&ends, ["rxe2", "rxe3"]), "a lane that works stays where it is");
        change("ip link set rdma3 down");
        let back = goes_over(&mut ends, ["rxe0", "rxe1"]);
        change("ip link set rdma3 up");
        tell(&format!("{name}: over the other after {left:?}, back after {back:?}"));
    });
}

#[test]
fn a_lane_that_is_set_up_anew_takes_the_rail_that_is_there_again() {
    let name = "a_lane_that_is_set_up_anew_takes_the_rail_that_is_there_again";
    with_wires(name, &WIRES, || {
        let mut ends = cores(PATIENT);
        change("ip link set rdma0 down");
        goes_over(&mut ends, ["rxe2", "rxe3"]);
        change("ip link set rdma0 up");
        // New links take the rail that has no lanes.
        (0..LINKS).for_each(|_| link(&mut ends));
        exchange_until(&mut ends, "lanes over both", |ends| {
            let half = |device: &str| (device.to_owned(), LINKS as u32);
            lanes(&ends[0]) == ["rxe0", "rxe2"].map(half)
                && lanes(&ends[1]) == ["rxe1", "rxe3"].map(half)
        });
        exchange(&mut ends, MESSAGES);
    });
}

#[test]
fn a_rail_that_loses_everything_is_left_though_its_ports_are_up() {
    let name = "a_rail_that_loses_everything_is_left_though_its_ports_are_up";
    with_wires(name, &WIRES, || {
        let mut ends = cores(VerbsSettings::default().operation_max);
        exchange(&mut ends, MESSAGES);
        change("tc qdisc add dev rdma0 root netem loss 100%");
        let left = goes_over(&mut ends, ["rxe2", "rxe3"]);
        change("tc qdisc del dev rdma0 root");
        tell(&format!("{name}: over the other after {left:?}"));
    });
}

#[test]
fn rails_that_lead_nowhere_are_tried_and_the_one_that_does_is_found() {
    let name = "rails_that_lead_nowhere_are_tried_and_the_one_that_does_is_found";
    with_wires(name, &WIRES, || {
        // rxe0 leads to rxe1, which the other end may not use.
        let mut ends = join(open(on("rxe0,rxe2")), open(on("rxe3")));
        until_lanes(&mut ends);
        exchange(&mut ends, MESSAGES);
        assert!(all_over(&ends, ["rxe2", "rxe3"]), "{:?}", ends.each_ref().map(End::rails));
    });
}
