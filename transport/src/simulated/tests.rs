//! What the simulated network promises its drivers. That it is a transport like the others is
//! proved by the conformance suite.

use std::time::Duration;

use wire::{HEADER_BYTES, Header, Kind, Seal, Time};

use super::*;
use crate::api::{Event, Fault, Limits, Link, PeerId, Transport};
use crate::tcp::LINK_SILENCE_MAX;

/// Most steps before a test takes the world for stuck.
const STEPS_MAX: usize = 1_000_000;

/// Two joined endpoints of one world.
struct Pair {
    world: World,
    ends: [Simulated; 2],
    peers: [PeerId; 2],
}

fn pair(seed: u64, faults: Faults) -> Pair {
    let world = World::new(seed, faults);
    let mut ends = [world.endpoint(Limits::default()), world.endpoint(Limits::default())];
    let [one, other] = &mut ends;
    let (to_other, to_one) = world.connect(one, other);
    Pair { world, ends, peers: [to_other, to_one] }
}

/// A push of this number with this many body bytes.
fn message(number: u64, body_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; HEADER_BYTES + body_bytes];
    let mut header = Header::new(Kind::Push);
    header.sequence = number;
    wire::seal(&mut bytes, header, Seal::HeaderOnly, |_| 0);
    bytes
}

fn number_of(bytes: &[u8]) -> u64 {
    Header::peek(bytes.first_chunk().unwrap()).unwrap().sequence
}

fn send(transport: &mut Simulated, peer: PeerId, bytes: &[u8]) {
    let mut slot = transport.acquire(peer, bytes.len()).expect("the peer takes more");
    slot.bytes_mut().copy_from_slice(bytes);
    transport.post(slot);
    transport.flush();
}

/// Runs the world until nothing is to come. Returns what the endpoint received and how its
/// connections ended.
fn drain(world: &World, transport: &mut Simulated) -> (Vec<Vec<u8>>, Vec<Fault>) {
    let (mut messages, mut faults, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STEPS_MAX {
        let more = world.step();
        transport.poll(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Received { slot, .. } => messages.push(slot.bytes().to_vec()),
                Event::Closed { fault, .. } => faults.push(fault),
            }
        }
        if !more {
            return (messages, faults);
        }
    }
    panic!("the world never comes to rest");
}

/// Sends 400 numbered messages as the world allows. Returns what arrived, the world's counts and
/// its trace.
fn run(seed: u64, faults: Faults) -> (Vec<Vec<u8>>, Counts, u64) {
    let Pair { world, mut ends, peers } = pair(seed, faults);
    let [one, other] = &mut ends;
    let mut messages = Vec::new();
    for number in 0..400 {
        let bytes = message(number, (number as usize % 50) * 8);
        let Ok(mut slot) = one.acquire(peers[0], bytes.len()) else { break };
        slot.bytes_mut().copy_from_slice(&bytes);
        one.post(slot);
        one.flush();
        if number % 10 == 0 {
            messages.extend(drain(&world, other).0);
        }
        one.poll(&mut Vec::new());
    }
    messages.extend(drain(&world, other).0);
    (messages, world.counts(), world.trace_hash())
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    for seed in 0..50 {
        let mix = Faults::from_seed(seed);
        let (messages, counts, trace) = run(seed, mix.clone());
        assert_eq!((messages, counts, trace), run(seed, mix.clone()), "seed {seed}");
        assert_ne!(trace, run(seed + 1000, mix).2, "seed {seed}");
    }
}

#[test]
fn without_faults_every_message_arrives_once_whole_and_in_order() {
    let (messages, counts, _) = run(1, Faults::NONE);
    let sent: Vec<_> = (0..400).map(|number| message(number, (number as usize % 50) * 8)).collect();
    assert_eq!(messages, sent);
    assert_eq!(counts, Counts { sent: 400, delivered: 400, ..Counts::default() });
}

#[test]
fn a_message_takes_the_delay_and_not_a_nanosecond_less() {
    let Pair { world, mut ends, peers } = pair(1, Faults { delay_ns: 700..=700, ..Faults::NONE });
    let [one, other] = &mut ends;
    send(one, peers[0], &message(1, 0));
    let mut events = Vec::new();
    world.advance_to(Time::from_nanos(699));
    other.poll(&mut events);
    assert!(events.is_empty());
    world.advance_to(Time::from_nanos(700));
    other.poll(&mut events);
    assert_eq!(events.len(), 1);
}

#[test]
fn lost_and_doubled_messages_are_as_many_as_the_counts_say() {
    let faults = Faults {
        loss_per_mille: 200,
        duplicate_per_mille: 300,
        reorder_ns: 0..=50_000,
        ..Faults::NONE
    };
    let (messages, counts, _) = run(2, faults);
    assert!(counts.lost > 40 && counts.duplicated > 60, "{counts:?}");
    assert_eq!(counts.delivered, 400 - counts.lost + counts.duplicated);
    assert_eq!(messages.len() as u64, counts.delivered);
}

#[test]
fn a_reordered_message_is_overtaken_and_no_other_is() {
    let faults =
        Faults { reorder_per_mille: 100, reorder_ns: 1_000_000..=2_000_000, ..Faults::NONE };
    let (messages, counts, _) = run(3, faults);
    let numbers: Vec<u64> = messages.iter().map(|bytes| number_of(bytes)).collect();
    let overtaken = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    assert_eq!(numbers.len(), 400);
    assert!(overtaken > 0 && overtaken <= counts.reordered, "{overtaken} overtaken, {counts:?}");
}

#[test]
fn a_corrupt_message_differs_in_one_bit_or_ends_the_connection() {
    let faults = Faults { corrupt_per_mille: 1000, ..Faults::NONE };
    let mut ended = 0;
    for seed in 0..200 {
        let Pair { world, mut ends, peers } = pair(seed, faults.clone());
        let [one, other] = &mut ends;
        let sent = message(7, 8);
        send(one, peers[0], &sent);
        let (messages, faults) = drain(&world, other);
        if messages.is_empty() {
            assert!(matches!(faults[..], [Fault::Malformed(_)]), "seed {seed}: {faults:?}");
            assert_eq!(drain(&world, one).1, [Fault::PeerClosed], "seed {seed}");
            ended += 1;
            continue;
        }
        let differ = messages[0].iter().zip(&sent).map(|(got, sent)| (got ^ sent).count_ones());
        assert_eq!(differ.sum::<u32>(), 1, "seed {seed}");
    }
    assert!((1..200).contains(&ended), "{ended} of 200 flips broke the framing");
}

#[test]
fn a_cut_ends_the_connection_at_both_ends_and_a_new_one_works() {
    let Pair { world, mut ends, peers } = pair(4, Faults::NONE);
    let [one, other] = &mut ends;
    send(one, peers[0], &message(1, 0));
    world.cut(one.id(), other.id());
    for end in [&mut *one, &mut *other] {
        let (messages, faults) = drain(&world, end);
        assert!(messages.is_empty());
        assert!(matches!(faults[..], [Fault::Os { errno: libc::ECONNRESET, .. }]), "{faults:?}");
    }
    let (left, right) = world.link();
    let to_other = one.adopt(Link::Simulated(left)).unwrap();
    other.adopt(Link::Simulated(right)).unwrap();
    assert_ne!(to_other, peers[0], "a peer's number is never used again");
    send(one, to_other, &message(2, 0));
    assert_eq!(drain(&world, other).0, [message(2, 0)]);
}

#[test]
fn cuts_by_chance_end_connections_at_both_ends() {
    let Pair { world, mut ends, peers } = pair(5, Faults { cut_per_mille: 1000, ..Faults::NONE });
    let [one, other] = &mut ends;
    send(one, peers[0], &message(1, 0));
    assert_eq!(world.counts().cut, 1);
    assert_eq!(drain(&world, one).1.len(), 1);
    assert_eq!(drain(&world, other).1.len(), 1);
}

#[test]
fn a_blocked_way_loses_silently_in_that_direction_until_it_opens() {
    let Pair { world, mut ends, peers } = pair(6, Faults::NONE);
    let [one, other] = &mut ends;
    world.block(one.id(), other.id());
    send(one, peers[0], &message(1, 0));
    send(other, peers[1], &message(2, 0));
    assert_eq!(drain(&world, other), (vec![], vec![]));
    assert_eq!(drain(&world, one), (vec![message(2, 0)], vec![]));
    world.unblock(one.id(), other.id());
    send(one, peers[0], &message(3, 0));
    assert_eq!(drain(&world, other).0, [message(3, 0)]);
    assert_eq!(world.counts().walled, 1);
}

#[test]
fn a_partition_by_chance_ends_after_its_time() {
    let faults = Faults { partition_per_mille: 1000, partition_ns: 1_000..=1_000, ..Faults::NONE };
    let Pair { world, mut ends, peers } = pair(7, faults);
    let [one, other] = &mut ends;
    send(one, peers[0], &message(1, 0));
    world.set_faults(Faults::NONE);
    send(one, peers[0], &message(2, 0));
    world.advance_to(Time::from_nanos(1_000));
    send(one, peers[0], &message(3, 0));
    assert_eq!(drain(&world, other).0, [message(3, 0)]);
}

#[test]
fn a_partition_by_chance_is_not_prolonged_by_what_is_sent_into_it() {
    let partition_ns = 1_000_000..=1_000_000;
    let faults = Faults { partition_per_mille: 1000, partition_ns, ..Faults::NONE };
    let Pair { world, mut ends, peers } = pair(7, faults);
    let [one, other] = &mut ends;
    for at_ns in (0..1_000_000).step_by(1000) {
        world.advance_to(Time::from_nanos(at_ns));
        send(one, peers[0], &message(1, 0));
    }
    world.set_faults(Faults::NONE);
    world.advance_to(Time::from_nanos(1_000_000));
    send(one, peers[0], &message(2, 0));
    assert_eq!(drain(&world, other).0, [message(2, 0)]);
    assert_eq!((world.counts().partitions, world.counts().walled), (1, 1000));
}

#[test]
fn who_writes_to_a_peer_that_left_behind_a_wall_hears_of_it_once_the_wall_falls() {
    let Pair { world, ends, peers } = pair(8, Faults::NONE);
    let [mut one, other] = ends;
    world.block(other.id(), one.id());
    drop(other);
    let mut events = Vec::new();
    one.poll(&mut events);
    assert!(events.is_empty(), "half open: nobody was told");
    world.heal();
    send(&mut one, peers[0], &message(1, 0));
    assert_eq!(drain(&world, &mut one).1, [Fault::PeerClosed]);
}

#[test]
fn who_is_silent_to_a_peer_that_left_behind_a_wall_hears_of_it_as_late_as_from_tcp() {
    let Pair { world, ends, peers: _ } = pair(8, Faults::NONE);
    let [mut one, other] = ends;
    world.block(other.id(), one.id());
    drop(other);
    assert_eq!(drain(&world, &mut one).1, [Fault::PeerClosed]);
    assert_eq!(world.now(), Time::default() + LINK_SILENCE_MAX);
}

#[test]
fn an_end_that_is_dropped_unadopted_closes_the_other() {
    let world = World::new(9, Faults::NONE);
    let mut one = world.endpoint(Limits::default());
    let (left, right) = world.link();
    one.adopt(Link::Simulated(left)).unwrap();
    assert_eq!(drain(&world, &mut one).1, []);
    drop(right);
    assert_eq!(drain(&world, &mut one).1, [Fault::PeerClosed]);
}

#[test]
fn noted_deadlines_are_stepped_to_in_order_and_none_is_slept_past() {
    let Pair { world, mut ends, .. } = pair(10, Faults::NONE);
    let [one, other] = &mut ends;
    world.set_parking(Parking::NotesDeadline);
    one.park(Time::from_nanos(5_000));
    other.park(Time::from_nanos(2_000));
    assert_eq!(world.now(), Time::from_nanos(0));
    assert!(world.step());
    assert_eq!(world.now(), Time::from_nanos(2_000));
    assert!(world.step());
    assert_eq!(world.now(), Time::from_nanos(5_000));
    assert!(!world.step());
    one.park(Time::from_nanos(9_000));
    other.waker().wake();
    assert!(world.step());
    assert_eq!(world.now(), Time::from_nanos(5_000), "a waker is heard before any deadline");
    other.park(Time::NEVER);
    assert!(world.step());
    assert_eq!(world.now(), Time::from_nanos(9_000));
    assert!(!world.step(), "a deadline of never is none");
}

#[test]
fn clocks_disagree_by_a_constant_and_a_park_keeps_its_own_clock() {
    let Pair { world, mut ends, .. } =
        pair(11, Faults { clock_ahead_ns_max: 1_000_000_000, ..Faults::NONE });
    let [one, other] = &mut ends;
    assert_ne!(one.now(), other.now());
    let apart = one.now() - other.now().min(one.now());
    let deadline = one.now() + Duration::from_nanos(300);
    one.park(deadline);
    assert_eq!((one.now(), world.now()), (deadline, Time::from_nanos(300)));
    assert_eq!(one.now() - other.now().min(one.now()), apart);
}

#[test]
fn nothing_is_sent_before_a_flush() {
    let Pair { world, mut ends, peers } = pair(12, Faults::NONE);
    let [one, other] = &mut ends;
    let bytes = message(1, 0);
    let mut slot = one.acquire(peers[0], bytes.len()).unwrap();
    slot.bytes_mut().copy_from_slice(&bytes);
    one.post(slot);
    one.poll(&mut Vec::new());
    assert_eq!(drain(&world, other).0, Vec::<Vec<u8>>::new());
    one.flush();
    assert_eq!(drain(&world, other).0, [bytes]);
}

#[test]
fn a_park_ends_at_once_when_credit_is_back_and_tells_of_it_once() {
    let Pair { world, mut ends, peers } = pair(13, Faults::NONE);
    let [one, other] = &mut ends;
    let held: Vec<_> = std::iter::from_fn(|| one.acquire(peers[0], 1 << 20).ok()).collect();
    one.park(Time::from_nanos(500));
    assert_eq!(world.now(), Time::from_nanos(500), "no credit is back yet");
    drop(held);
    one.park(Time::from_nanos(1_000));
    assert_eq!(world.now(), Time::from_nanos(500));
    one.park(Time::from_nanos(1_000));
    assert_eq!(world.now(), Time::from_nanos(1_000));
    assert!(drain(&world, other).0.is_empty());
}
