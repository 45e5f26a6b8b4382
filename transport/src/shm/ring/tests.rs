//! What a ring promises, with peers that keep the rules and peers that break them.

use std::collections::VecDeque;
use std::thread;

use proptest::prelude::*;

use super::super::shared::RING_BYTES_MIN;
use super::*;

const NO_LIMIT: usize = usize::MAX;

/// Both ends of a ring, each with a mapping of its own, and a third mapping for a vandal.
struct Ring {
    sender: Sender,
    receiver: Receiver,
    vandal: Arc<Lane>,
}

fn ring(ring_bytes: usize, under_way_bytes_max: usize, held_bytes_max: usize) -> Ring {
    let memory = Shared::create(ring_bytes).unwrap();
    let map = || Arc::new(Shared::map(&memory, ring_bytes as u64).unwrap());
    let sender = Sender::new(&map(), Side::A, under_way_bytes_max);
    let receiver = Receiver::new(&map(), Side::A, held_bytes_max);
    Ring { sender, receiver, vandal: lane(&map(), Side::A).0 }
}

impl Ring {
    fn send(&mut self, message: &[u8]) {
        let mut record = self.sender.acquire(message.len()).unwrap().expect("there is room");
        record.bytes_mut().copy_from_slice(message);
        record.post(message.len());
    }

    /// The next message, past records without one.
    fn receive(&mut self) -> Option<RecvRecord> {
        loop {
            match self.receiver.take().unwrap() {
                Take::Message(record) => return Some(record),
                Take::Passed => {}
                Take::Empty | Take::Held => return None,
            }
        }
    }
}

#[test]
fn a_message_arrives_aligned_and_whole_and_at_another_address() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    let mut record = ring.sender.acquire(100).unwrap().unwrap();
    record.bytes_mut().fill(7);
    let sent_at = record.bytes_mut().as_ptr();
    record.post(90);
    let received = ring.receive().unwrap();
    assert_eq!(received.bytes(), [7; 90]);
    assert!(received.bytes().as_ptr().addr().is_multiple_of(64));
    assert_ne!(received.bytes().as_ptr(), sent_at);
}

#[test]
fn records_arrive_in_the_order_in_which_they_were_acquired() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    let [mut one, mut two, three] = [(); 3].map(|()| ring.sender.acquire(1).unwrap().unwrap());
    one.bytes_mut()[0] = 1;
    two.bytes_mut()[0] = 2;
    two.post(1);
    assert!(ring.receive().is_none(), "the first is not posted");
    one.post(1);
    assert_eq!(ring.receive().unwrap().bytes(), [1]);
    assert_eq!(ring.receive().unwrap().bytes(), [2]);
    drop(three);
    assert!(ring.receive().is_none());
}

#[test]
fn a_cancelled_record_is_passed_over_and_its_room_comes_back() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    for round in 0..1000_u64 {
        drop(ring.sender.acquire(700).unwrap().unwrap());
        ring.send(&round.to_le_bytes());
        assert_eq!(ring.receive().unwrap().bytes(), round.to_le_bytes());
    }
}

#[test]
fn a_full_ring_gives_no_record_until_the_oldest_is_released() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    let mut sent = 0;
    while let Some(record) = ring.sender.acquire(500).unwrap() {
        record.post(500);
        sent += 1;
    }
    assert_eq!(sent, 7, "7 * 576 and a header fit 4096 bytes");
    let first = ring.receive().unwrap();
    let second = ring.receive().unwrap();
    drop(second);
    assert!(!ring.sender.may_reclaim());
    assert!(ring.sender.acquire(500).unwrap().is_none(), "the oldest is still held");
    assert!(!ring.receiver.has_released(), "and there is nothing to tell");
    drop(first);
    assert!(ring.receiver.has_released() && !ring.receiver.has_released());
    assert!(ring.sender.may_reclaim());
    assert!(ring.sender.acquire(500).unwrap().is_some());
}

#[test]
fn the_longest_message_fits_an_empty_ring_wherever_it_stands() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    let longest = vec![9; ring.sender.message_bytes_max()];
    assert_eq!(longest.len(), 2048 - 64);
    for step in 0..200 {
        ring.send(&vec![1; step * 8 % 1900]);
        assert!(ring.receive().is_some());
        ring.send(&longest);
        assert_eq!(ring.receive().unwrap().bytes(), longest);
    }
}

#[test]
fn no_more_is_under_way_than_the_limit_but_one_record_always_may() {
    let mut ring = ring(RING_BYTES_MIN, 300, NO_LIMIT);
    ring.send(&[1; 1000]);
    assert!(ring.sender.acquire(1).unwrap().is_none());
    drop(ring.receive());
    ring.send(&[1; 64]);
    ring.send(&[2; 64]);
    assert!(ring.sender.acquire(1).unwrap().is_none(), "256 of 300 bytes are under way");
}

#[test]
fn no_more_is_taken_than_may_be_held_but_one_record_always_may() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, 200);
    ring.send(&[1; 500]);
    ring.send(&[2; 10]);
    let first = ring.receive().unwrap();
    assert!(matches!(ring.receiver.take(), Ok(Take::Held)));
    assert!(ring.receiver.is_held() && !ring.receiver.may_take());
    drop(first);
    assert!(ring.receiver.may_take());
    assert_eq!(ring.receive().unwrap().bytes(), [2; 10]);
}

#[test]
fn a_message_of_the_bytes_of_headers_is_never_taken_for_one() {
    let ring_bytes = RING_BYTES_MIN;
    let mut ring = ring(ring_bytes, NO_LIMIT, NO_LIMIT);
    for round in 0..500_usize {
        let bytes = 64 * (1 + round % 9);
        let mut record = ring.sender.acquire(bytes).unwrap().unwrap();
        let position = record.position + HEAD_BYTES as u64;
        for (line, forged) in record.bytes_mut().chunks_exact_mut(64).enumerate() {
            // What a READY header would be at this place one lap later.
            let state = (position + line as u64 * 64 + ring_bytes as u64) | READY;
            forged[..8].copy_from_slice(&state.to_le_bytes());
            forged[8..16].copy_from_slice(&(64_u64 << 32).to_le_bytes());
        }
        record.post(bytes);
        assert_eq!(ring.receive().unwrap().bytes().len(), bytes);
        assert!(ring.receive().is_none(), "nothing else was sent in round {round}");
    }
}

#[test]
fn slots_stay_readable_when_both_ends_are_gone() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    ring.send(b"still here");
    let received = ring.receive().unwrap();
    let mut under_way = ring.sender.acquire(10).unwrap().unwrap();
    drop(ring);
    under_way.bytes_mut().fill(1);
    under_way.post(10);
    assert_eq!(received.bytes(), b"still here");
}

#[test]
fn a_hundred_thousand_messages_cross_two_threads_unchanged() {
    const MESSAGES: u64 = 100_000;
    let Ring { mut sender, mut receiver, .. } = ring(64 << 10, NO_LIMIT, NO_LIMIT);
    let filler = thread::spawn(move || {
        for number in 0..MESSAGES {
            let bytes = length(number);
            let mut record = loop {
                match sender.acquire(bytes).unwrap() {
                    Some(record) => break record,
                    None => thread::yield_now(),
                }
            };
            fill(record.bytes_mut(), number);
            record.post(bytes);
        }
    });
    let mut number = 0;
    let mut held = VecDeque::new();
    while number < MESSAGES {
        match receiver.take().unwrap() {
            Take::Message(record) => {
                held.push_back((number, record));
                number += 1;
            }
            Take::Passed => {}
            Take::Empty | Take::Held => thread::yield_now(),
        }
        // Checked only later, and every other one out of order.
        if held.len() > 8 || number == MESSAGES {
            if number % 2 == 0 {
                held.swap(0, 1);
            }
            while held.len() > 4 || (number == MESSAGES && !held.is_empty()) {
                let (number, record) = held.pop_front().unwrap();
                let mut want = vec![0; length(number)];
                fill(&mut want, number);
                assert_eq!(record.bytes(), want, "message {number}");
            }
        }
    }
    filler.join().unwrap();
}

fn length(number: u64) -> usize {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

fn fill(bytes: &mut [u8], number: u64) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (number as usize ^ index).wrapping_mul(31) as u8;
    }
}

#[test]
fn garbage_in_a_header_is_a_broken_ring_with_the_reason() {
    let position = 0;
    let cases = [
        (64 | READY, 64 << 32, "a state names another position than its own"),
        (position | FREE, 64 << 32, "a state's kind is unknown"),
        (position | 63, 64 << 32, "a state's kind is unknown"),
        (position | READY, 0, "a record's length is no multiple of 64 bytes"),
        (position | READY, 100 << 32, "a record's length is no multiple of 64 bytes"),
        (position | PAD, 8192 << 32, "a record reaches over the end of the ring"),
        (position | READY, u64::from(u32::MAX) << 32, "a record's length is no multiple"),
        (position | READY, 4096 << 32, "a record leaves no room for the header behind it"),
        (position | READY, 128 << 32 | 65, "a message is longer than its record"),
    ];
    for (state, lengths, why) in cases {
        let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
        let head = ring.vandal.head(0);
        head.lengths.store(lengths, Ordering::Relaxed);
        head.state.store(state, Ordering::Release);
        let Err(Broken(what)) = ring.receiver.take() else { panic!("{why}") };
        assert!(what.starts_with(why), "{what}");
        assert!(ring.receiver.may_take(), "so that the owner comes and sees");
    }
}

#[test]
fn a_record_over_one_that_is_held_is_not_taken_until_that_is_released() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    ring.send(&[1; 1000]);
    let first = ring.receive().unwrap();
    // The peer takes room again that was never released to it.
    for (position, span) in [(1088, 1024), (2112, 1984), (4096, 1024)] {
        let head = ring.vandal.head(position);
        head.lengths.store(span << 32, Ordering::Relaxed);
        head.state.store(position | READY, Ordering::Release);
    }
    assert_eq!(ring.receive().unwrap().bytes().len(), 0);
    assert!(ring.receive().is_none());
    assert!(ring.receiver.is_held());
    drop(first);
    assert!(!ring.receiver.is_held());
}

#[test]
fn a_state_that_no_sent_record_can_have_is_a_broken_ring_for_its_sender() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    while let Some(record) = ring.sender.acquire(500).unwrap() {
        record.post(500);
    }
    ring.vandal.head(0).state.store(u64::MAX, Ordering::Release);
    assert!(ring.sender.acquire(500).is_err());
}

#[test]
fn a_peer_that_frees_what_is_still_being_filled_gets_no_second_record_there() {
    let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
    let mut mine = ring.sender.acquire(1900).unwrap().unwrap();
    ring.vandal.head(0).state.store(FREE, Ordering::Release);
    assert!(ring.sender.acquire(1900).unwrap().is_some());
    assert!(ring.sender.acquire(1900).unwrap().is_none());
    mine.bytes_mut().fill(1);
}

#[derive(Clone, Debug)]
enum Step {
    /// Acquire so many bytes.
    Acquire(usize),
    /// Post the slot of this number among those out, cut by so many bytes.
    Post(usize, usize),
    Cancel(usize),
    Take,
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..1984_usize).prop_map(Step::Acquire),
        4 => (0..200_usize).prop_map(Step::Acquire),
        6 => (any::<usize>(), 0..300_usize).prop_map(|(slot, cut)| Step::Post(slot, cut)),
        1 => any::<usize>().prop_map(Step::Cancel),
        6 => Just(Step::Take),
        6 => any::<usize>().prop_map(Step::Release),
    ]
}

/// What became of an acquired record.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Out,
    Posted(usize),
    Cancelled,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_order_of_posts_cancels_and_releases_delivers_each_message_once_in_order(
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
        let mut fates: Vec<Fate> = Vec::new();
        let mut out = Vec::new();
        let mut held = Vec::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Acquire(bytes) => {
                    if let Some(mut record) = ring.sender.acquire(bytes).unwrap() {
                        fill(record.bytes_mut(), fates.len() as u64);
                        out.push((fates.len(), bytes, record));
                        fates.push(Fate::Out);
                    }
                }
                Step::Post(slot, cut) if !out.is_empty() => {
                    let (number, bytes, record) = out.swap_remove(slot % out.len());
                    let bytes = bytes.saturating_sub(cut);
                    record.post(bytes);
                    fates[number] = Fate::Posted(bytes);
                }
                Step::Cancel(slot) if !out.is_empty() => {
                    let (number, _, record) = out.swap_remove(slot % out.len());
                    drop(record);
                    fates[number] = Fate::Cancelled;
                }
                Step::Take => {
                    while fates.get(next) == Some(&Fate::Cancelled) {
                        next += 1;
                    }
                    let received = ring.receive();
                    if let Some(Fate::Posted(bytes)) = fates.get(next) {
                        let record = received.expect("a posted record with nothing before it");
                        prop_assert_eq!(record.bytes().len(), *bytes);
                        held.push((next, record));
                        next += 1;
                    } else {
                        prop_assert!(received.is_none());
                    }
                }
                Step::Release(slot) if !held.is_empty() => {
                    let (number, record) = held.swap_remove(slot % held.len());
                    let mut want = vec![0; record.bytes().len()];
                    fill(&mut want, number as u64);
                    prop_assert_eq!(record.bytes(), want);
                }
                _ => {}
            }
        }
        out.clear();
        held.clear();
        while ring.receive().is_some() {}
        prop_assert!(ring.sender.acquire(1984).unwrap().is_some(), "everything came back");
    }

    #[test]
    fn no_header_that_a_peer_may_write_leads_out_of_the_ring(
        headers in prop::collection::vec((0..80_u64, 0..6_u64, 0..70_u64, 0..4200_u64), 1..40),
    ) {
        let mut ring = ring(RING_BYTES_MIN, NO_LIMIT, NO_LIMIT);
        let mut held = Vec::new();
        for (place, kind, span, bytes) in headers {
            let position = ring.receiver.window.end() + place / 70 * 64;
            let head = ring.vandal.head(ring.receiver.window.end());
            head.lengths.store(((span * 64) << 32) | bytes, Ordering::Relaxed);
            head.state.store(position | kind, Ordering::Release);
            match ring.receiver.take() {
                Ok(Take::Message(record)) => {
                    prop_assert_eq!(record.bytes().iter().filter(|&&b| b == 255).count(), 0);
                    held.push(record);
                }
                Ok(_) => held.clear(),
                Err(_) => break,
            }
        }
    }
}
