//! Two ends of a lane against each other, over a way that breaks at any moment.

use std::collections::VecDeque;

use proptest::prelude::*;

use wire::{LaneFabric, LaneRail};

use super::*;

/// What the TCP link carries.
#[derive(Clone, Copy, Debug)]
enum Item {
    Control(LaneMessage),
    Message(u64),
}

/// A write under way to an end.
#[derive(Clone, Copy, Debug)]
enum Write {
    Try,
    Message(u64),
}

/// How an end's ring is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// By a request, which is over at some time, with a key of this generation's.
    OfQueuePair,
    /// From the beginning.
    OfRegion,
}

const REGION_RKEY: u32 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    None,
    Waiting,
    Connected,
    /// A write to it was lost: it takes no later one, as a reliable queue pair does not.
    Deaf,
}

struct End {
    lane: Lane,
    /// From the peer, over TCP.
    tcp: VecDeque<Item>,
    /// From the peer, by the lane of this generation.
    writes: VecDeque<Write>,
    pair: Pair,
    keys: Keys,
    /// The key by which its ring may be written now.
    rkey: Option<u32>,
    /// The key of the peer's ring, as it was told last.
    peer_rkey: u32,
    /// Taken from the lane in this generation.
    taken: u64,
    /// Taken before the peer's switch came.
    early: VecDeque<u64>,
    received: Vec<u64>,
    /// Sent by the lane in this generation.
    sent: Vec<u64>,
    next: u64,
}

struct Model {
    ends: [End; 2],
    now: Time,
    wire_works: bool,
    lane_messages: u64,
    lots: [std::iter::Cycle<std::vec::IntoIter<u64>>; 2],
}

fn offer(generation: u32) -> LaneOffer {
    LaneOffer {
        generation,
        rail: 0,
        qp_number: 1,
        psn: 1,
        lid: 0,
        gid: [0; 16],
        mtu_code: 1,
        messages_max: 1,
        messages_held: 0,
        ring_address: 0,
        ring_bytes: 64,
        position: 0,
        released: 0,
    }
}

fn rails(generation: u32, lot: u64) -> LaneRails {
    let rail = LaneRail { gid: [1; 16], distance: 10, subnet_bits: 0, fabric: LaneFabric::RoceV2 };
    LaneRails::new(generation, lot, &[rail]).expect("there is one")
}

/// A lane that has named its rails, and chooses.
fn called(now: Time) -> Lane {
    let mut lane = Lane::new(now);
    lane.called(5);
    lane.hear(&LaneMessage::Rails(rails(1, 4)), now).expect("it may name its rails");
    lane
}

impl Model {
    fn new(keys: [Keys; 2]) -> Model {
        let end = |keys| End {
            lane: Lane::new(Time::from_nanos(0)),
            tcp: VecDeque::new(),
            writes: VecDeque::new(),
            pair: Pair::None,
            keys,
            rkey: None,
            peer_rkey: 0,
            taken: 0,
            early: VecDeque::new(),
            received: Vec::new(),
            sent: Vec::new(),
            next: 0,
        };
        let now = Time::from_nanos(0);
        let lots = [vec![1, 2, 3], vec![2, 1]].map(|lots| lots.into_iter().cycle());
        Model { ends: keys.map(end), now, wire_works: true, lane_messages: 0, lots }
    }

    fn say(&mut self, from: usize, item: Item) {
        self.ends[1 - from].tcp.push_back(item);
    }

    fn send(&mut self, from: usize) {
        let number = self.ends[from].next;
        match self.ends[from].lane.way() {
            Way::Closed => return,
            Way::Tcp => self.say(from, Item::Message(number)),
            Way::Lane => {
                self.ends[from].sent.push(number);
                self.write(from, Write::Message(number));
            }
        }
        self.ends[from].next += 1;
    }

    /// What is written to a queue pair that is gone, or over a broken wire, is lost. What gets
    /// there finds the ring open to it.
    fn write(&mut self, from: usize, write: Write) {
        let rkey = self.ends[from].peer_rkey;
        let there = &mut self.ends[1 - from];
        match there.pair {
            Pair::Connected if self.wire_works => {
                assert_eq!(there.rkey, Some(rkey), "the key by which end {from} writes");
                there.writes.push_back(write);
            }
            Pair::Connected => there.pair = Pair::Deaf,
            _ => {}
        }
    }

    fn hear(&mut self, end: usize) {
        let now = self.now;
        let here = &mut self.ends[end];
        match here.tcp.pop_front() {
            None => {}
            Some(Item::Message(number)) => here.received.push(number),
            Some(Item::Control(message)) => {
                here.lane.hear(&message, now).expect("the peer keeps the rules");
                if here.lane.peer_has_switched() {
                    here.received.extend(here.early.drain(..));
                }
            }
        }
    }

    /// The request that opens the ring is over, if it was posted.
    fn open(&mut self, end: usize) {
        let here = &mut self.ends[end];
        if here.pair != Pair::None && here.lane.phase == Phase::Opening {
            here.rkey = Some(match here.keys {
                Keys::OfQueuePair => 1000 + here.lane.generation(),
                Keys::OfRegion => REGION_RKEY,
            });
            assert_eq!(here.lane.arrived(), Arrived::Awaited);
        }
    }

    fn take(&mut self, end: usize) {
        let here = &mut self.ends[end];
        match here.writes.pop_front() {
            None => {}
            Some(Write::Message(number)) => {
                here.taken += 1;
                self.lane_messages += 1;
                match here.lane.peer_has_switched() {
                    true => here.received.push(number),
                    false => here.early.push_back(number),
                }
            }
            // Its sender's device has the acknowledgement.
            Some(Write::Try) => {
                self.ends[1 - end].lane.arrived();
            }
        }
    }

    fn fail(&mut self, end: usize) {
        let now = self.now;
        self.ends[end].lane.failed(Reason::Request, now);
    }

    /// The wire is cut: what is under way is lost.
    fn cut(&mut self) {
        self.wire_works = false;
        for end in self.ends.iter_mut().filter(|end| !end.writes.is_empty()) {
            end.writes.clear();
            end.pair = Pair::Deaf;
        }
    }

    /// Does one step; what has come is taken up to a point before the queue pair is destroyed.
    fn step(&mut self, end: usize, takes: usize) {
        let now = self.now;
        let Some(step) = self.ends[end].lane.step(now) else { return };
        let generation = self.ends[end].lane.generation();
        match step {
            Step::Call { .. } => {
                // Now the one chooses, now the other, and now none can.
                let lot = self.lots[end].next().expect("without end");
                self.ends[end].lane.called(lot);
                self.say(end, Item::Control(LaneMessage::Rails(rails(generation, lot))));
            }
            Step::Offer { by, .. } => {
                match by {
                    Choice::Ours(theirs) => assert_eq!(theirs.generation, generation),
                    Choice::Theirs { rail } => assert_eq!(rail, 0),
                }
                self.ends[end].pair = Pair::Waiting;
                self.ends[end].lane.offered();
                self.say(end, Item::Control(LaneMessage::Offer(offer(generation))));
            }
            Step::Connect(_) => {
                self.ends[end].pair = Pair::Connected;
                self.ends[end].lane.connected();
                if self.ends[end].keys == Keys::OfRegion {
                    self.open(end);
                }
            }
            Step::Ready => {
                let rkey = self.ends[end].rkey.expect("the ring is open");
                self.ends[end].lane.ready();
                self.say(end, Item::Control(LaneMessage::Ready { generation, rkey }));
            }
            Step::Try { rkey } => {
                self.ends[end].peer_rkey = rkey;
                self.write(end, Write::Try);
                self.ends[end].lane.tried();
            }
            Step::Switch => {
                self.ends[end].lane.switched(now);
                self.say(end, Item::Control(LaneMessage::Switch { generation }));
            }
            Step::Break { reason, .. } => {
                for _ in 0..takes {
                    self.take(end);
                }
                let here = &mut self.ends[end];
                here.writes.clear();
                (here.pair, here.rkey) = (Pair::None, None);
                here.lane.broken(now);
                let (delivered, reason) = (here.taken, reason as u8);
                let word = LaneMessage::Broken { generation, delivered, reason };
                self.say(end, Item::Control(word));
            }
            Step::Reroute { delivered } => {
                let sent = std::mem::take(&mut self.ends[end].sent);
                for &number in &sent[delivered as usize..] {
                    self.say(end, Item::Message(number));
                }
                self.ends[end].taken = 0;
                self.ends[end].lane.rerouted(now);
            }
            Step::Quit => unreachable!("nobody refuses"),
        }
    }

    /// Lets everything come to rest.
    fn settle(&mut self) {
        self.wire_works = true;
        for _ in 0..200 {
            self.now = self.now + Duration::from_millis(100);
            for end in [0, 1] {
                (0..50).for_each(|_| self.hear(end));
                (0..50).for_each(|_| self.take(end));
                self.open(end);
                self.step(end, 0);
            }
        }
    }

    fn check(&self) {
        for (end, there) in [(0, 1), (1, 0)] {
            let all: Vec<u64> = (0..self.ends[there].next).collect();
            assert_eq!(self.ends[end].received, all, "what end {end} received");
        }
    }
}

/// What happens next, at one of the ends.
fn act(model: &mut Model, what: u8, end: usize, takes: usize) {
    model.now = model.now + Duration::from_millis(7);
    match what {
        0..=5 => model.send(end),
        6..=12 => model.hear(end),
        13..=18 => model.take(end),
        19..=26 => model.step(end, takes),
        27 => model.cut(),
        28 => model.wire_works = true,
        29..=34 => model.open(end),
        _ => model.fail(end),
    }
}

proptest! {
    #[test]
    fn every_message_arrives_once_and_in_order_wherever_a_lane_breaks(
        acts in prop::collection::vec((0_u8..36, 0_usize..2, 0_usize..4), 0..800),
        keys in prop::array::uniform2(prop::sample::select(&[Keys::OfQueuePair, Keys::OfRegion])),
    ) {
        let mut model = Model::new(keys);
        for (what, end, takes) in acts {
            act(&mut model, what, end, takes);
        }
        // A cut that nobody noticed is noticed by the deadline of a request.
        model.fail(0);
        model.fail(1);
        model.settle();
        model.check();
        prop_assert!(model.ends.iter().all(|end| end.lane.way() == Way::Lane), "healed");
    }
}

#[test]
fn two_ends_come_to_a_lane_and_send_by_it_with_windows_and_without() {
    for keys in [[Keys::OfQueuePair; 2], [Keys::OfRegion; 2], [Keys::OfQueuePair, Keys::OfRegion]] {
        let mut model = Model::new(keys);
        model.settle();
        (0..10).for_each(|_| model.send(0));
        assert_eq!(model.ends[0].sent.len(), 10);
        model.settle();
        model.check();
        assert_eq!(model.lane_messages, 10);
    }
}

#[test]
fn who_has_the_larger_lot_chooses_the_rails_and_the_other_waits_for_its_offer() {
    let now = Time::from_nanos(0);
    let lane = called(now);
    let by = Choice::Ours(rails(1, 4));
    assert_eq!(lane.step(now), Some(Step::Offer { generation: 1, by }));
    let mut lane = Lane::new(now);
    assert_eq!(lane.step(now), Some(Step::Call { generation: 1 }));
    lane.called(3);
    assert_eq!(lane.step(now), None);
    lane.hear(&LaneMessage::Rails(rails(1, 4)), now).expect("it may name its rails");
    assert_eq!(lane.step(now), None);
    lane.hear(&LaneMessage::Offer(LaneOffer { rail: 2, ..offer(1) }), now).expect("it may offer");
    let by = Choice::Theirs { rail: 2 };
    assert_eq!(lane.step(now), Some(Step::Offer { generation: 1, by }));
}

#[test]
fn with_the_same_lot_nobody_chooses_and_the_generation_is_over() {
    let now = Time::from_nanos(0);
    let mut lane = Lane::new(now);
    lane.called(4);
    lane.hear(&LaneMessage::Rails(rails(1, 4)), now).expect("it may name its rails");
    let reason = Reason::NoRail;
    assert_eq!(lane.step(now), Some(Step::Break { generation: 1, reason }));
}

#[test]
fn a_peer_is_not_told_that_it_may_write_before_the_ring_is_open() {
    let now = Time::from_nanos(0);
    let mut lane = called(now);
    lane.offered();
    lane.hear(&LaneMessage::Offer(offer(1)), now).expect("it may offer");
    lane.hear(&LaneMessage::Ready { generation: 1, rkey: 5 }, now).expect("it may be ready");
    assert_eq!(lane.step(now), Some(Step::Connect(offer(1))));
    lane.connected();
    assert_eq!(lane.step(now), None);
    assert_eq!(lane.arrived(), Arrived::Awaited);
    assert_eq!(lane.step(now), Some(Step::Ready));
    lane.ready();
    assert_eq!(lane.step(now), Some(Step::Try { rkey: 5 }));
}

#[test]
fn a_ring_that_is_not_opened_breaks_the_lane_before_it_is_used() {
    let now = Time::from_nanos(0);
    let mut lane = called(now);
    lane.offered();
    lane.hear(&LaneMessage::Offer(offer(1)), now).expect("it may offer");
    lane.connected();
    lane.failed(Reason::Request, now);
    let reason = Reason::Request;
    assert_eq!(lane.step(now), Some(Step::Break { generation: 1, reason }));
    assert_eq!((lane.way(), lane.arrived()), (Way::Tcp, Arrived::Other));
}

#[test]
fn a_way_that_does_not_work_is_never_used() {
    let mut model = Model::new([Keys::OfQueuePair; 2]);
    model.cut();
    for _ in 0..50 {
        for end in [0, 1] {
            (0..9).for_each(|_| model.hear(end));
            (0..9).for_each(|_| {
                model.open(end);
                model.step(end, 0);
            });
            model.send(end);
            model.fail(end);
            assert_eq!(model.ends[end].lane.way(), Way::Tcp);
        }
        model.now = model.now + PAUSE_MAX;
    }
    model.settle();
    model.check();
}

#[test]
fn pauses_double_up_to_a_second_and_begin_anew_after_a_good_use() {
    let now = Time::from_nanos(0);
    let mut lane = Lane::new(now);
    let mut pause = || {
        lane.cannot_call(now);
        lane.due().expect("it tries again") - now
    };
    assert_eq!([pause(), pause()], [PAUSE_MIN, PAUSE_MIN * 2]);
    assert_eq!((0..9).map(|_| pause()).max(), Some(PAUSE_MAX));
    lane.switched(now);
    lane.failed(Reason::Request, now + GOOD_USE);
    lane.broken(now);
    lane.rerouted(now);
    assert_eq!(lane.due(), Some(now + PAUSE_MIN));
}

#[test]
fn a_peer_without_lanes_ends_them_unless_one_is_in_use() {
    let now = Time::from_nanos(0);
    let none = LaneMessage::None { reason: 9 };
    let mut lane = Lane::new(now);
    lane.offered();
    lane.hear(&none, now).expect("it may say so");
    assert_eq!(lane.step(now), Some(Step::Quit));
    lane.quitted();
    assert_eq!((lane.step(now), lane.way()), (None, Way::Tcp));
    let mut lane = Lane::new(now);
    lane.switched(now);
    assert!(lane.hear(&none, now).is_err());
}

#[test]
fn a_stranger_is_not_called_and_one_who_becomes_a_stranger_loses_its_lane() {
    let now = Time::from_nanos(0);
    let mut lane = Lane::new(now);
    lane.set_standing(Standing::Stranger, now);
    assert_eq!((lane.step(now), lane.due()), (None, None));
    lane.hear(&LaneMessage::Rails(rails(1, 4)), now).expect("it may name its rails");
    assert_eq!((lane.step(now), lane.due()), (None, None));
    lane.set_standing(Standing::Member, now);
    assert_eq!(lane.step(now), Some(Step::Call { generation: 1 }));
    lane.switched(now);
    lane.set_standing(Standing::Stranger, now);
    let reason = Reason::Stranger;
    assert_eq!(lane.step(now), Some(Step::Break { generation: 1, reason }));
    lane.broken(now);
    let delivered = 0;
    lane.hear(&LaneMessage::Broken { generation: 1, delivered, reason: 1 }, now).expect("it may");
    assert_eq!(lane.step(now), Some(Step::Reroute { delivered }));
    lane.rerouted(now);
    assert_eq!((lane.step(now + PAUSE_MAX), lane.due()), (None, None));
}

#[test]
fn what_a_peer_says_of_another_generation_or_twice_is_a_breach() {
    let now = Time::from_nanos(0);
    let mut lane = Lane::new(now);
    assert!(lane.hear(&LaneMessage::Ready { generation: 2, rkey: 5 }, now).is_err());
    assert!(lane.hear(&LaneMessage::Switch { generation: 1 }, now).is_ok());
    assert!(lane.hear(&LaneMessage::Switch { generation: 1 }, now).is_err());
}
