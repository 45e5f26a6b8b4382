//! Lanes, healthy and broken: a stream of numbered messages each way arrives once and in order,
//! by RDMA while that works and over TCP while it does not.
//!
//! Owns the faults. They need two devices with a wire between them and the right to break it: a
//! guest has both. Elsewhere each test is skipped by name. Times are printed and never a condition.

use std::process::Command;
use std::time::Instant;

use conformance::lanes::{
    End, LIMITS, PATIENCE, Side, change, exchange, exchange_until, join, join_two, on, open, tell,
    until, until_lanes, with_device, with_wires,
};
use conformance::message;
use transport::tcp::{self, TcpBackend};
use transport::verbs::{Breakage, Verbs, VerbsSettings};
use transport::{Event, PeerId, Standing, Transport};

/// Messages of one exchange, each way.
const MESSAGES: u64 = 300;
/// The devices of one wire.
const WIRE: [&str; 2] = ["rxe0", "rxe1"];

fn sent_by_lane(end: &End) -> u64 {
    end.counts().messages_sent
}

/// A stream over the wire outlives `hurt`, goes by TCP until `heal`, and by RDMA after.
fn outlives(name: &str, hurt: &str, heal: &str) {
    with_wires(name, &WIRE, || {
        let mut ends = join(open(on("rxe0")), open(on("rxe1")));
        until_lanes(&mut ends);
        exchange(&mut ends, MESSAGES);
        change(hurt);
        let broken = |end: &End| end.counts().breaks > 0 && !end.goes_by_lane();
        let noticed = exchange_until(&mut ends, "break", |ends| ends.iter().all(broken));
        exchange(&mut ends, MESSAGES);
        assert!(!ends.iter().any(End::goes_by_lane), "it is still broken");
        change(heal);
        let back = exchange_until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        let before = ends.each_ref().map(sent_by_lane);
        exchange(&mut ends, MESSAGES);
        assert!(ends.iter().zip(before).all(|(end, before)| sent_by_lane(end) > before));
        tell(&format!("{name}: over TCP after {noticed:?}, by RDMA again after {back:?}"));
    });
}

#[test]
fn messages_go_by_the_lane_and_arrive_once_and_in_order() {
    with_device("messages_go_by_the_lane_and_arrive_once_and_in_order", || {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        exchange(&mut ends, 5); // Over TCP, or not: the lane comes when it comes.
        until_lanes(&mut ends);
        let before = ends.each_ref().map(sent_by_lane);
        exchange(&mut ends, MESSAGES);
        for (end, before) in ends.iter().zip(before) {
            assert_eq!(sent_by_lane(end) - before, MESSAGES);
            assert_eq!(end.counts().breaks, 0);
        }
    });
}

#[test]
fn a_slot_held_over_the_switch_to_the_lane_keeps_its_place() {
    with_device("a_slot_held_over_the_switch_to_the_lane_keeps_its_place", || {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        // Acquired before the turn in which the lane comes: over TCP, and before all by the lane.
        let peer = ends[0].streams[0].peer;
        let mut held = ends[0].side.transport().acquire(peer, 100).expect("there is credit");
        message::fill(held.bytes_mut(), 0);
        ends[0].streams[0].sent = 1;
        until(&mut ends, "lane", |ends| {
            if ends[0].goes_by_lane() {
                return true;
            }
            let transport = ends[0].side.transport();
            let next = transport.acquire(peer, 100).expect("there is credit");
            let slot = std::mem::replace(&mut held, next);
            transport.post(slot);
            message::fill(held.bytes_mut(), ends[0].streams[0].sent);
            ends[0].streams[0].sent += 1;
            false
        });
        let received = ends[0].streams[0].sent - 1;
        let goal = ends[0].streams[0].sent + 20;
        ends[0].send_to(|_| goal);
        for _ in 0..100 {
            ends.iter_mut().for_each(End::turn);
        }
        assert_eq!(ends[1].streams[0].received, received, "one is held, and all behind it");
        ends[0].side.transport().post(held);
        exchange(&mut ends, MESSAGES);
    });
}

#[test]
fn messages_to_a_peer_without_rdma_go_over_tcp() {
    with_device("messages_to_a_peer_without_rdma_go_over_tcp", || {
        let plain = tcp::open(TcpBackend::Epoll, LIMITS).expect("epoll is everywhere");
        let mut ends = join(open(VerbsSettings::default()), Side::Plain(plain));
        exchange(&mut ends, MESSAGES);
        assert_eq!(sent_by_lane(&ends[0]), 0);
    });
}

#[test]
fn a_stranger_has_no_lane_and_a_member_who_becomes_one_loses_it() {
    with_device("a_stranger_has_no_lane_and_a_member_who_becomes_one_loses_it", || {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        let set = |end: &mut End, standing| {
            let peer = end.streams[0].peer;
            end.side.transport().set_standing(peer, standing);
        };
        set(&mut ends[0], Standing::Stranger);
        exchange(&mut ends, MESSAGES);
        assert_eq!(ends.each_ref().map(sent_by_lane), [0, 0], "the one end wants none");
        assert_eq!(ends.each_ref().map(|end| end.counts().registrations), [0, 0]);
        set(&mut ends[0], Standing::Member);
        until_lanes(&mut ends);
        exchange(&mut ends, MESSAGES);
        set(&mut ends[0], Standing::Stranger);
        exchange_until(&mut ends, "break", |ends| !ends.iter().any(End::goes_by_lane));
        let before = ends.each_ref().map(sent_by_lane);
        exchange(&mut ends, MESSAGES);
        assert_eq!(ends.each_ref().map(sent_by_lane), before);
    });
}

#[test]
fn a_wrong_rkey_is_found_before_a_message_is_sent_to_it() {
    with_device("a_wrong_rkey_is_found_before_a_message_is_sent_to_it", || {
        let wrong = VerbsSettings { breakage: Breakage::WrongRkey, ..VerbsSettings::default() };
        let mut ends = join(open(VerbsSettings::default()), open(wrong));
        for _ in 0..5 {
            exchange(&mut ends, MESSAGES / 5);
        }
        assert_eq!(sent_by_lane(&ends[0]), 0, "it would have gone to the wrong place");
    });
}

#[test]
fn a_receiver_that_posts_too_few_receives_shows_as_a_break_and_loses_nothing() {
    with_device(
        "a_receiver_that_posts_too_few_receives_shows_as_a_break_and_loses_nothing",
        || {
            let few = VerbsSettings { breakage: Breakage::FewReceives, ..VerbsSettings::default() };
            let mut ends = join(open(VerbsSettings::default()), open(few));
            let goal = "break for want of receives";
            exchange_until(&mut ends, goal, |ends| ends.iter().any(|end| end.counts().breaks > 0));
            exchange(&mut ends, MESSAGES);
        },
    );
}

#[test]
fn a_completion_queue_that_overruns_loses_nothing() {
    with_device("a_completion_queue_that_overruns_loses_nothing", || {
        let small = VerbsSettings { breakage: Breakage::SmallCq, ..VerbsSettings::default() };
        let mut ends = join(open(VerbsSettings::default()), open(small));
        for _ in 0..5 {
            exchange(&mut ends, MESSAGES);
        }
    });
}

#[test]
fn a_hub_of_many_peers_has_a_lane_to_each_and_to_those_that_come_after_others_went() {
    const PEERS: usize = 12;
    let name = "a_hub_of_many_peers_has_a_lane_to_each_and_to_those_that_come_after_others_went";
    with_device(name, || {
        let mut hub = Verbs::open(VerbsSettings::default(), LIMITS).expect("the device opens");
        let mut spokes = Verbs::open(VerbsSettings::default(), LIMITS).expect("the device opens");
        for round in 0..2 {
            let joints: Vec<[PeerId; 2]> =
                (0..PEERS).map(|_| join_two(&mut hub, &mut spokes)).collect();
            let start = Instant::now();
            let (mut events, mut received) = (Vec::new(), 0);
            while joints.iter().any(|joint| !hub.goes_by_lane(joint[0])) {
                hub.poll(&mut events);
                spokes.poll(&mut events);
                assert!(start.elapsed() < PATIENCE, "no lanes in round {round}");
            }
            let before = hub.lane_counts().messages_sent;
            for (number, joint) in joints.iter().enumerate() {
                let mut slot = hub.acquire(joint[0], 3_000).expect("there is credit");
                message::fill(slot.bytes_mut(), number as u64);
                hub.post(slot);
            }
            hub.flush();
            while received < PEERS {
                hub.poll(&mut events);
                spokes.poll(&mut events);
                for event in events.drain(..) {
                    let Event::Received { peer, slot } = event else { continue };
                    let joint = joints.iter().position(|joint| joint[1] == peer);
                    assert_eq!(Some(message::number_of(slot.bytes()) as usize), joint);
                    spokes.release(slot);
                    received += 1;
                }
                assert!(start.elapsed() < PATIENCE, "{received} messages in round {round}");
            }
            let counts = hub.lane_counts();
            assert_eq!(counts.messages_sent - before, PEERS as u64);
            let registrations = counts.registrations;
            let devices = hub.rail_counts().len() as u64;
            let most = 8 * devices;
            assert!((2..=most).contains(&registrations), "{registrations} on {devices} devices");
            joints.iter().for_each(|joint| hub.close(joint[0]));
        }
    });
}

#[test]
fn a_stream_outlives_a_link_that_goes_down() {
    let (down, up) = ("ip link set rdma1 down", "ip link set rdma1 up");
    outlives("a_stream_outlives_a_link_that_goes_down", down, up);
}

#[test]
fn a_stream_outlives_a_wire_that_loses_everything() {
    let hurt = "tc qdisc add dev rdma0 root netem loss 100%";
    let heal = "tc qdisc del dev rdma0 root";
    outlives("a_stream_outlives_a_wire_that_loses_everything", hurt, heal);
}

#[test]
fn a_stream_outlives_a_port_that_changes_its_address() {
    let hurt = "ip addr del 10.77.0.1/24 dev rdma0";
    // The GID comes to another place of the table than it had.
    let heal = "ip addr add 10.77.0.9/24 dev rdma0 && ip addr add 10.77.0.1/24 dev rdma0";
    outlives("a_stream_outlives_a_port_that_changes_its_address", hurt, heal);
}

/// Makes a device that may be taken away.
const DEVICE_COMES: &str = "ip link add gone0 type dummy && ip addr add 10.78.0.1/24 dev gone0 \
     && ip link set gone0 up mtu 4200 && rdma link add rxe9 type rxe netdev gone0";
/// Takes what it lies on away; ends once nobody has the device open.
const DEVICE_GOES: &str = "ip link del gone0";

#[test]
fn a_stream_outlives_a_device_that_is_taken_away_and_uses_it_when_it_is_there_again() {
    let name = "a_stream_outlives_a_device_that_is_taken_away_and_uses_it_when_it_is_there_again";
    with_wires(name, &WIRE, || {
        change(DEVICE_COMES);
        let mut ends = join(open(on("rxe9")), open(on("rxe9")));
        until_lanes(&mut ends);
        exchange(&mut ends, MESSAGES);
        let mut going = Command::new("sh").args(["-c", DEVICE_GOES]).spawn().expect("a shell");
        let broken = |end: &End| end.counts().breaks > 0 && !end.goes_by_lane();
        let noticed = exchange_until(&mut ends, "break", |ends| ends.iter().all(broken));
        let let_go = exchange_until(&mut ends, "end of the device", |_| {
            going.try_wait().expect("it is a child").is_some_and(|status| status.success())
        });
        exchange(&mut ends, MESSAGES);
        change(DEVICE_COMES);
        let back = exchange_until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        exchange(&mut ends, MESSAGES);
        tell(&format!(
            "{name}: over TCP after {noticed:?}, let go of {let_go:?} later, back after {back:?}"
        ));
        drop(ends);
        change(DEVICE_GOES);
    });
}

/// What a process of a user without rights may lock is bounded; here by less than a ring takes.
const SMALL_MEMLOCK: &str = "ulimit -l 256; exec setpriv --reuid 65534 --clear-groups";
/// The variable that makes this binary the process of such a user.
const SMALL_VARIABLE: &str = "GRADWIRE_CONFORMANCE_SMALL_MEMLOCK";

#[test]
fn messages_go_over_tcp_where_too_little_memory_may_be_locked() {
    let name = "messages_go_over_tcp_where_too_little_memory_may_be_locked";
    if std::env::var_os(SMALL_VARIABLE).is_some() {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        exchange(&mut ends, MESSAGES);
        assert_eq!(ends.each_ref().map(sent_by_lane), [0, 0]);
        return;
    }
    with_wires(name, &WIRE, || {
        let binary = std::env::current_exe().expect("the test binary has a path");
        let command = format!("{SMALL_MEMLOCK} {} --exact {name}", binary.display());
        let status = Command::new("sh").args(["-c", &command]).env(SMALL_VARIABLE, "1").status();
        assert!(status.expect("there is a shell").success());
    });
}
