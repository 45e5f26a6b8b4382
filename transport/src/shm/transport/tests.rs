//! The transport over rings: sleeping, waking, closing, and peers that die.

use std::thread;

use wire::{Header, Kind, Malformed, Seal};

use super::super::{RING_BYTES_MIN, accept, offer, pair};
use super::*;

/// Longer than any test takes that does not hang.
const LONG: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits { message_bytes_max: 1900, spin_ns: 0, ..Limits::default() }
}

/// A transport with one peer.
struct Side {
    shm: Shm,
    peer: PeerId,
}

fn adopted(end: End) -> Side {
    let mut shm = Shm::new(limits()).unwrap();
    let peer = shm.adopt(Link::Shm(end)).unwrap();
    Side { shm, peer }
}

fn sides() -> (Side, Side) {
    let (one, other) = pair(RING_BYTES_MIN).unwrap();
    (adopted(one), adopted(other))
}

impl Side {
    fn send(&mut self, bytes: usize, content: u8) -> Result<(), SendRefusal> {
        let mut slot = self.shm.acquire(self.peer, bytes)?;
        slot.bytes_mut().fill(content);
        wire::seal(slot.bytes_mut(), Header::new(Kind::Push), Seal::HeaderOnly, |_| 0);
        self.shm.post(slot);
        self.shm.flush();
        Ok(())
    }

    fn poll(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.shm.poll(&mut events);
        events
    }

    /// Parks until there are events.
    fn wait_all(&mut self) -> Vec<Event> {
        let deadline = self.shm.now() + LONG;
        loop {
            let events = self.poll();
            if !events.is_empty() {
                return events;
            }
            assert!(self.shm.now() < deadline, "nothing came");
            self.shm.park(deadline);
        }
    }

    /// Parks until there is an event, which must be the only one.
    fn wait(&mut self) -> Event {
        let mut events = self.wait_all();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}

/// Length and first byte of the body of a received message.
fn message(event: &Event) -> (usize, u8) {
    let Event::Received { slot, .. } = event else { panic!("{event:?} is no message") };
    (slot.bytes().len(), slot.bytes()[64])
}

fn fault(event: &Event) -> Fault {
    let Event::Closed { fault, .. } = event else { panic!("{event:?} is no end") };
    fault.clone()
}

#[test]
fn messages_go_both_ways_in_order() {
    let (mut one, mut other) = sides();
    for content in 1..=3 {
        one.send(100, content).unwrap();
        other.send(200, content + 10).unwrap();
    }
    let there: Vec<_> = other.poll().iter().map(message).collect();
    let here: Vec<_> = one.poll().iter().map(message).collect();
    assert_eq!(there, [(100, 1), (100, 2), (100, 3)]);
    assert_eq!(here, [(200, 11), (200, 12), (200, 13)]);
    assert_eq!((one.shm.bytes_sent(), other.shm.bytes_sent()), (300, 600));
}

#[test]
fn a_slot_longer_than_its_message_is_cut_to_it() {
    let (mut one, mut other) = sides();
    let mut slot = one.shm.acquire(one.peer, 1000).unwrap();
    wire::seal(&mut slot.bytes_mut()[..100], Header::new(Kind::Push), Seal::HeaderOnly, |_| 0);
    one.shm.post(slot);
    assert_eq!(message(&other.wait()).0, 100);
}

#[test]
fn a_refused_sender_sleeps_until_the_receiver_has_released() {
    let (mut one, mut other) = sides();
    let mut sent = 0;
    while one.send(500, 1).is_ok() {
        sent += 1;
    }
    let receiver = thread::spawn(move || {
        let mut received = 0;
        while received < sent + 100 {
            for event in other.wait_all() {
                let Event::Received { slot, .. } = event else { panic!("{event:?}") };
                other.shm.release(slot);
                received += 1;
            }
            other.shm.flush();
        }
        other
    });
    for _ in 0..100 {
        while let Err(refusal) = one.send(500, 2) {
            assert_eq!(refusal, SendRefusal::NoCredit);
            one.shm.park(one.shm.now() + LONG);
            assert!(one.poll().is_empty());
        }
    }
    drop(receiver.join().unwrap());
}

#[test]
fn released_room_is_news_once_for_each_refusal() {
    let (mut one, mut other) = sides();
    while one.send(500, 1).is_ok() {}
    assert!(!one.shm.has_news());
    drop(other.poll());
    assert!(one.shm.has_news());
    assert!(!one.shm.has_news());
    while one.send(500, 1).is_ok() {}
    drop(other.poll());
    assert!(one.shm.has_news());
}

#[test]
fn a_message_wakes_a_sleeper_time_after_time() {
    let (mut one, mut other) = sides();
    let echo = thread::spawn(move || {
        for content in 0..1000_u32 {
            assert_eq!(message(&other.wait()), (80, content as u8));
            other.send(90, content as u8).unwrap();
        }
        other
    });
    for content in 0..1000_u32 {
        one.send(80, content as u8).unwrap();
        assert_eq!(message(&one.wait()), (90, content as u8));
    }
    drop(echo.join().unwrap());
}

#[test]
fn a_waker_ends_the_park_under_way_or_the_next_one() {
    let mut one = sides().0;
    let waker = one.shm.waker();
    waker.wake();
    one.shm.park(Time::NEVER);
    let thread = thread::spawn(move || waker.wake());
    one.poll(); // The end of the other side.
    one.shm.park(Time::NEVER);
    thread.join().unwrap();
}

#[test]
fn a_park_ends_at_its_deadline_spinning_or_asleep() {
    for spin_ns in [0, u64::MAX] {
        let mut shm = Shm::new(Limits { spin_ns, ..limits() }).unwrap();
        let deadline = shm.now() + Duration::from_millis(3);
        while shm.now() < deadline {
            shm.park(deadline); // May return early, and would hang here if it never returned.
        }
    }
}

#[test]
fn what_was_posted_before_a_close_is_received_before_the_end_is() {
    let (mut one, mut other) = sides();
    one.send(100, 1).unwrap();
    one.send(100, 2).unwrap();
    one.shm.close(one.peer);
    assert_eq!(fault(&one.wait()), Fault::ClosedHere);
    assert!(one.poll().is_empty(), "once");
    let events = other.poll();
    assert_eq!(message(&events[0]), (100, 1));
    assert_eq!(message(&events[1]), (100, 2));
    assert_eq!(fault(&events[2]), Fault::PeerClosed);
    let Event::Received { slot, .. } = &events[0] else { panic!() };
    assert_eq!(slot.bytes()[64], 1, "slots stay readable");
    assert_eq!(other.send(100, 1), Err(SendRefusal::NoSuchPeer));
    assert!(other.poll().is_empty());
}

#[test]
fn a_sleeper_wakes_when_the_other_thread_drops_its_end() {
    let (one, mut other) = sides();
    let thread = thread::spawn(move || fault(&other.wait()));
    drop(one);
    assert_eq!(thread.join().unwrap(), Fault::PeerClosed);
}

#[test]
fn an_end_that_was_never_adopted_closes_the_pair_too() {
    let (one, other) = pair(RING_BYTES_MIN).unwrap();
    let mut one = adopted(one);
    drop(other);
    assert_eq!(fault(&one.wait()), Fault::PeerClosed);
}

#[test]
fn a_process_that_dies_without_a_word_is_seen_by_its_socket() {
    let (here, there) = UnixStream::pair().unwrap();
    let mut one = adopted(offer(here, RING_BYTES_MIN).unwrap());
    // A process that is killed closes its descriptors and runs nothing.
    let End { doors, process } = accept(there).unwrap();
    mem::forget(doors);
    drop(process);
    assert_eq!(fault(&one.wait()), Fault::PeerClosed);
}

#[test]
fn a_spinner_sees_a_process_die_too() {
    let (here, there) = UnixStream::pair().unwrap();
    let mut shm = Shm::new(Limits { spin_ns: u64::MAX, ..limits() }).unwrap();
    let peer = shm.adopt(Link::Shm(offer(here, RING_BYTES_MIN).unwrap())).unwrap();
    let End { doors, process } = accept(there).unwrap();
    mem::forget(doors);
    drop(process);
    assert_eq!(fault(&Side { shm, peer }.wait()), Fault::PeerClosed);
}

#[test]
fn two_processes_sockets_carry_messages() {
    let (here, there) = UnixStream::pair().unwrap();
    let mut one = adopted(offer(here, RING_BYTES_MIN).unwrap());
    let mut other = adopted(accept(there).unwrap());
    one.send(100, 5).unwrap();
    assert_eq!(message(&other.wait()), (100, 5));
}

#[test]
fn what_is_no_message_ends_the_link_with_the_reason() {
    let refused = |act: &dyn Fn(&mut [u8])| {
        let (mut one, mut other) = sides();
        let mut slot = one.shm.acquire(one.peer, 100).unwrap();
        wire::seal(slot.bytes_mut(), Header::new(Kind::Push), Seal::HeaderOnly, |_| 0);
        act(slot.bytes_mut());
        one.shm.post(slot);
        one.shm.flush();
        let ended = fault(&other.wait());
        assert_eq!(fault(&one.wait()), Fault::PeerClosed);
        ended
    };
    let magic = refused(&|bytes| bytes[..4].fill(1));
    assert_eq!(magic, Fault::Malformed(Malformed::Magic { found: 0x0101_0101 }));
    let (mut one, mut other) = sides();
    let slot = one.shm.acquire(one.peer, 10).unwrap();
    one.shm.post(slot);
    assert_eq!(fault(&other.wait()), Fault::Malformed(Malformed::TooShort { bytes: 10 }));
}

#[test]
fn a_message_over_the_receivers_limit_ends_the_link() {
    let (one, other) = pair(RING_BYTES_MIN).unwrap();
    let mut one = adopted(one);
    let small = Limits { message_bytes_max: 100, ..limits() };
    let mut shm = Shm::new(small).unwrap();
    let peer = shm.adopt(Link::Shm(other)).unwrap();
    one.send(101, 1).unwrap();
    let ended = fault(&Side { shm, peer }.wait());
    assert_eq!(ended, Fault::Malformed(Malformed::TooLong { body_bytes: 37 }));
}

#[test]
fn too_large_a_message_is_refused_with_the_limit_of_ring_and_transport() {
    let mut one = sides().0;
    let refusal = one.shm.acquire(one.peer, 1901).unwrap_err();
    assert_eq!(refusal, SendRefusal::TooLarge { bytes: 1901, bytes_max: 1900 });
    let mut shm = Shm::new(Limits::default()).unwrap();
    let (one, _other) = pair(RING_BYTES_MIN).unwrap();
    let peer = shm.adopt(Link::Shm(one)).unwrap();
    let refusal = shm.acquire(peer, 1985).unwrap_err();
    assert_eq!(refusal, SendRefusal::TooLarge { bytes: 1985, bytes_max: 1984 });
}

#[test]
fn limits_above_the_wires_are_refused() {
    let message_bytes_max = FRAME_BYTES_MAX + 1;
    let error = Shm::new(Limits { message_bytes_max, ..limits() }).unwrap_err();
    assert!(matches!(error, ShmError::MessageBytes { .. }), "{error}");
}

#[test]
fn one_thread_serves_many_peers_and_none_waits_for_another() {
    let mut hub = Shm::new(limits()).unwrap();
    let mut leaves = Vec::new();
    for _ in 0..20 {
        let (here, there) = pair(RING_BYTES_MIN).unwrap();
        leaves.push((hub.adopt(Link::Shm(here)).unwrap(), adopted(there)));
    }
    for (round, (_, leaf)) in leaves.iter_mut().enumerate() {
        for _ in 0..round {
            leaf.send(64 + 1, round as u8).unwrap();
        }
    }
    let mut events = Vec::new();
    hub.poll(&mut events);
    for (round, (peer, _)) in leaves.iter().enumerate() {
        let from = |event: &&Event| matches!(event, Event::Received { peer: p, .. } if p == peer);
        let received: Vec<_> = events.iter().filter(from).map(message).collect();
        assert_eq!(received, vec![(65, round as u8); round]);
    }
    leaves.remove(3);
    events.clear();
    hub.poll(&mut events);
    assert_eq!(events.len(), 1);
    assert_eq!(fault(&events[0]), Fault::PeerClosed);
}
