//! The conductor's decisions, event by event: no store, no server.

use std::time::Duration;

use wire::{
    Applicant, Apply, Ask, Candidate, Chain, CheckpointStatus, Clock, Epoch, Member, Placement,
    RecordOrder, RecordedPart, ServerId, ShardId, StoreReport, StoreState, StoredValues, Time,
    ToCoordinator, ToMember,
};

use super::super::assign::Spread;
use super::super::checkpointer::{Parts, StoreNews, StoreTask};
use super::super::event::{Action, ConnectionId, Event};
use super::super::machine::Machine;
use super::super::spec::ClusterSpec;
use super::super::store::Entry;
use super::cut::{AGAIN_PATIENCE, ASK_AGAIN_AFTER, ASK_LATER_AFTER};
use super::{CHECKPOINT_ATTEMPTS_MAX, CUT_PATIENCE, Conduct, Conductor, PART_ATTEMPTS_MAX};

const STEP: Duration = Duration::from_millis(250);
/// One checkpoint in so many has everything.
const FULL_EVERY: u32 = 3;
const PERSON: ConnectionId = ConnectionId(100);

/// A cluster of two servers, each alone with one shard, or both with both.
struct Stage {
    machine: Machine,
    now: Time,
    /// What was ordered and not looked at.
    orders: Vec<(ConnectionId, RecordOrder)>,
    said: Vec<(ConnectionId, ToMember)>,
    tasks: Vec<StoreTask>,
}

impl Stage {
    fn new(chains: &[&[u32]], every: Option<Duration>) -> Stage {
        let spec = ClusterSpec {
            name: "ctr".into(),
            shards: chains.len() as u16,
            replicas: 1,
            servers_min: 1,
            spread: Spread::DistinctServers,
        };
        let member = |number: u32| Member {
            server: ServerId::new(number),
            name: format!("s{number}"),
            place: format!("h{number}:1"),
            host: format!("h{number}"),
            memory_mib: 1024,
        };
        let chain = |servers: &&[u32]| Chain {
            epoch: Epoch::new(1),
            replicas: servers.iter().map(|&number| ServerId::new(number)).collect(),
            joining: None,
        };
        let placement = Placement {
            epoch: Epoch::new(1),
            servers: (1..=2).map(member).collect(),
            chains: chains.iter().map(chain).collect(),
            ..Placement::default()
        };
        let now = Time::from_nanos(1 << 40);
        let entry = Entry { placement, numbers_given: 2, ..Entry::default() };
        let mut machine = Machine::new(spec, 7, entry, Vec::new(), now);
        let place = Some("p".into());
        let (rate_mib_s, full_every, values) = (None, FULL_EVERY, StoredValues::Bf16);
        let conduct = Conduct { place, every, rate_mib_s, full_every, values };
        machine.conductor = Conductor::new(conduct, now);
        let (orders, said, tasks) = Default::default();
        let mut stage = Stage { machine, now, orders, said, tasks };
        for number in 1..=2 {
            let candidate = Candidate {
                life: Some(wire::Life { server: ServerId::new(number), cluster_id: 7 }),
                name: format!("s{number}"),
                place: format!("h{number}:1"),
                host: format!("h{number}"),
                memory_mib: 1024,
                cores: 1,
            };
            stage.apply(connection(number), Applicant::Server(candidate));
        }
        stage.apply(PERSON, Applicant::Person);
        stage.said.clear();
        stage
    }

    fn apply(&mut self, connection: ConnectionId, applicant: Applicant) {
        let message = ToCoordinator::Apply(Apply::new("ctr", Epoch::new(1), applicant));
        self.handle(Event::Said { connection, message });
    }

    fn handle(&mut self, event: Event) {
        for action in self.machine.handle(event, self.now) {
            match action {
                Action::Send { connection, message: ToMember::Record(order) } => {
                    self.orders.push((connection, order));
                }
                Action::Send { message: ToMember::BeatSeen { .. }, .. } => {}
                Action::Send { connection, message } => self.said.push((connection, message)),
                Action::Store(task) => self.tasks.push(task),
                _ => {}
            }
        }
    }

    /// Time passes; servers beat.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + Duration::from_millis(20);
            for number in 1..=2 {
                let beat = wire::Beat { epoch: Epoch::new(1), ..wire::Beat::default() };
                let message = ToCoordinator::Beat(beat);
                self.handle(Event::Said { connection: connection(number), message });
            }
            self.handle(Event::Tick);
        }
    }

    fn ask(&mut self) -> ToMember {
        let message = ToCoordinator::Ask(Ask::Checkpoint);
        self.handle(Event::Said { connection: PERSON, message });
        self.said.pop().expect("an answer").1
    }

    /// Has one begun. The orders.
    fn begin(&mut self, number: u64) -> Vec<(ConnectionId, RecordOrder)> {
        self.wait(STEP);
        self.orders.clear();
        assert!(matches!(self.tasks.pop(), Some(StoreTask::Begin { .. })));
        self.handle(Event::Store(StoreNews::Begun { number }));
        self.wait(STEP);
        std::mem::take(&mut self.orders)
    }

    fn tell(&mut self, (connection, order): &(ConnectionId, RecordOrder), state: StoreState) {
        let RecordOrder { number, shard, attempt, .. } = *order;
        let message = ToCoordinator::Stored(StoreReport { shard, number, attempt, state });
        self.handle(Event::Said { connection: *connection, message });
        self.handle(Event::Tick);
    }

    /// All say a clock, and the same one when they are asked again, and once more.
    fn mark(&mut self, orders: &[(ConnectionId, RecordOrder)], clock: u64) {
        orders.iter().for_each(|order| self.tell(order, marked(clock)));
        for after in [ASK_AGAIN_AFTER, ASK_LATER_AFTER] {
            self.wait(after);
            orders.iter().for_each(|order| self.tell(order, marked(clock)));
        }
    }

    fn status(&self) -> CheckpointStatus {
        self.machine.conductor.status(self.now).expect("it has a place")
    }

    /// Where recordings were told to end, of those that were told.
    fn cuts(&mut self) -> Vec<Option<Clock>> {
        let cut = |(_, message)| match message {
            ToMember::Cut { clock, .. } => Some(clock),
            _ => None,
        };
        std::mem::take(&mut self.said).into_iter().filter_map(cut).collect()
    }
}

fn connection(server: u32) -> ConnectionId {
    ConnectionId(u64::from(server))
}

fn marked(clock: u64) -> StoreState {
    StoreState::Marked { clock: Clock::new(clock), bytes: 10 }
}

fn part(object: &str) -> RecordedPart {
    RecordedPart {
        object: object.into(),
        bytes: 20,
        blocks: 1,
        messages: 3,
        root: "0".into(),
        rows: 4,
        position: 5,
        tables: Vec::new(),
        base: None,
        seed: None,
        values: StoredValues::F32,
    }
}

#[test]
fn the_tails_record_and_are_cut_after_the_highest_clock_of_all() {
    let mut stage = Stage::new(&[&[1, 2], &[2, 1]], None);
    assert_eq!(stage.ask(), ToMember::Done);
    assert!(matches!(stage.ask(), ToMember::Denied(_)), "one at a time");
    let orders = stage.begin(5);
    let tails: Vec<_> = orders.iter().map(|(to, order)| (*to, order.shard.get())).collect();
    assert_eq!(tails, [(connection(2), 0), (connection(1), 1)]);
    assert!(orders.iter().all(|(_, order)| order.values == StoredValues::Bf16), "as was planned");
    stage.tell(&orders[0], marked(7));
    assert_eq!(stage.cuts(), [], "the other has not all of its rows");
    stage.tell(&orders[1], marked(9));
    stage.orders.clear();
    stage.wait(ASK_AGAIN_AFTER);
    assert_eq!((stage.cuts().len(), stage.orders.len()), (0, 2), "they are asked again");
    stage.mark(&orders, 9);
    let cut = Some(Clock::new(10));
    assert_eq!(stage.cuts(), [cut, cut]);
    stage.tell(&orders[0], StoreState::Recorded(part("a")));
    stage.tell(&orders[1], StoreState::Recorded(part("b")));
    let parts = Parts { epoch: Epoch::new(1), clock: cut, parts: vec![part("a"), part("b")] };
    assert_eq!(stage.tasks, [StoreTask::Publish(Box::new(parts))]);
    let published = StoreNews::Published { number: 5, bytes: 40, rows: 8, clock: cut };
    stage.handle(Event::Store(published));
    let status = stage.status();
    assert_eq!((status.ended, &status.failure, status.under_way), (1, &None, None));
    assert_eq!(status.last.expect("it is there").number, 5);
}

#[test]
fn where_no_worker_goes_on_the_cut_is_where_each_shard_is() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let orders = stage.begin(1);
    stage.mark(&orders, 3);
    assert_eq!(stage.cuts(), [Some(Clock::new(4)); 2]);
    stage.wait(CUT_PATIENCE + STEP);
    assert_eq!(stage.cuts().last(), Some(&None), "nobody gets there");
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let orders = stage.begin(1);
    stage.mark(&orders, u64::MAX);
    assert_eq!(stage.cuts(), [None, None], "nobody takes part");
}

#[test]
fn a_part_that_fails_is_begun_again_a_bounded_number_of_times() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let mut orders = stage.begin(1);
    let failed = StoreState::NotRecorded { reason: "the disk".into() };
    for attempt in 0..PART_ATTEMPTS_MAX {
        let order = orders.iter().find(|(_, order)| order.shard == ShardId::new(0));
        let order = order.expect("it is ordered again").clone();
        assert_eq!(order.1.attempt, attempt);
        stage.tell(&order, failed.clone());
        stage.wait(STEP);
        orders = std::mem::take(&mut stage.orders);
    }
    let why = stage.status().failure.expect("it was given up");
    assert!(why.contains("shard 0") && why.contains("the disk"), "{why}");
    assert!(matches!(stage.tasks.pop(), Some(StoreTask::Abandon { .. })));
    let ended = ToMember::EndRecordings { number: 1 };
    assert!(stage.said.contains(&(connection(2), ended)), "who records on is told");
}

#[test]
fn a_part_that_fails_behind_the_cut_begins_everything_again() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    for number in 1..=u64::from(CHECKPOINT_ATTEMPTS_MAX) {
        let orders = stage.begin(number);
        stage.mark(&orders, 3);
        stage.tell(&orders[0], StoreState::Recorded(part("a")));
        assert_eq!(stage.status().failure, None);
        stage.tell(&orders[1], StoreState::NotRecorded { reason: "killed".into() });
        let abandons = |task: &mut StoreTask| matches!(task, StoreTask::Abandon { .. });
        assert_eq!(stage.tasks.extract_if(.., abandons).count(), 1);
    }
    assert!(stage.status().failure.is_some(), "it is not begun without end");
    assert_eq!(stage.status().ended, 1);
}

#[test]
fn a_cut_is_as_far_ahead_as_clocks_go_by_and_farther_once_a_shard_was_beyond_it() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let mut ahead = Vec::new();
    for number in 1..=u64::from(CHECKPOINT_ATTEMPTS_MAX) {
        let orders = stage.begin(number);
        orders.iter().for_each(|order| stage.tell(order, marked(100)));
        stage.wait(ASK_AGAIN_AFTER);
        orders.iter().for_each(|order| stage.tell(order, marked(110)));
        ahead.push(stage.cuts()[0].expect("a clock").get() - 110);
        let beyond = StoreState::NotRecorded { reason: "it was beyond the cut".into() };
        stage.tell(&orders[1], beyond);
        stage.tasks.retain(|task| !matches!(task, StoreTask::Abandon { .. }));
    }
    assert_eq!(ahead, [11, 41, 161], "10 clocks in 20 ms, and asking takes no time");
    assert!(stage.status().failure.is_some(), "it is not begun without end");
    // A server of before says its clock once.
    stage.ask();
    let orders = stage.begin(9);
    orders.iter().for_each(|order| stage.tell(order, marked(5)));
    stage.wait(ASK_AGAIN_AFTER);
    stage.wait(AGAIN_PATIENCE + STEP);
    assert_eq!(stage.cuts(), [Some(Clock::new(6)); 2]);
}

#[test]
fn clocks_are_asked_for_a_third_time_where_few_went_by_and_nobody_waits_for_a_tick() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let orders = stage.begin(1);
    let say = |stage: &mut Stage, (connection, order): &(ConnectionId, RecordOrder), clock| {
        let RecordOrder { number, shard, attempt, .. } = *order;
        let report = StoreReport { shard, number, attempt, state: marked(clock) };
        let message = ToCoordinator::Stored(report);
        stage.handle(Event::Said { connection: *connection, message });
    };
    orders.iter().for_each(|order| say(&mut stage, order, 100));
    stage.wait(ASK_AGAIN_AFTER);
    assert_eq!(std::mem::take(&mut stage.orders).len(), 2);
    orders.iter().for_each(|order| say(&mut stage, order, 101));
    assert_eq!((stage.cuts().len(), stage.orders.len()), (0, 0), "too few to tell");
    stage.wait(ASK_LATER_AFTER);
    assert_eq!(std::mem::take(&mut stage.orders).len(), 2);
    orders.iter().for_each(|order| say(&mut stage, order, 102));
    let why = "2 clocks in 80 ms, of which asking took 20: it is told in 80";
    assert_eq!(stage.cuts(), [Some(Clock::new(105)); 2], "{why}");
}

#[test]
fn what_a_server_says_of_another_attempt_counts_for_nothing() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let orders = stage.begin(2);
    let (to, order) = orders[0].clone();
    let others = [
        (to, RecordOrder { number: 1, ..order.clone() }),
        (to, RecordOrder { attempt: 1, ..order.clone() }),
        (connection(2), order.clone()),
        (to, RecordOrder { shard: ShardId::new(9), ..order }),
    ];
    for other in &others {
        stage.tell(other, marked(1));
    }
    assert_eq!(stage.status().under_way.expect("it is").parts_marked, 0);
}

#[test]
fn one_is_due_after_so_long_and_again_after_the_last() {
    let every = Duration::from_secs(5);
    let mut stage = Stage::new(&[&[1], &[2]], Some(every));
    stage.wait(every - STEP);
    assert_eq!(stage.tasks, []);
    stage.wait(STEP);
    let begin = StoreTask::Begin { shards: 2 };
    stage.wait(STEP);
    assert_eq!(stage.tasks, std::slice::from_ref(&begin));
    stage.handle(Event::Store(StoreNews::Failed { why: "the store".into() }));
    stage.tasks.clear();
    assert_eq!(stage.status().failure.as_deref(), Some("the store"));
    stage.wait(every + STEP);
    assert_eq!(stage.tasks, [begin]);
}

/// Has one taken whose parts say that they are the changes since these. The base that was ordered.
fn take(stage: &mut Stage, number: u64, bases: [Option<u64>; 2]) -> Option<u64> {
    stage.ask();
    let orders = stage.begin(number);
    stage.mark(&orders, u64::MAX);
    for (order, base) in orders.iter().zip(bases) {
        assert!(order.1.is_base);
        stage.tell(order, StoreState::Recorded(RecordedPart { base, ..part("a") }));
    }
    assert!(matches!(stage.tasks.pop(), Some(StoreTask::Publish(_))));
    let news = StoreNews::Published { number, bytes: 40, rows: 8, clock: None };
    stage.handle(Event::Store(news));
    orders[0].1.base
}

#[test]
fn one_checkpoint_in_so_many_has_everything_and_the_others_changes_since_the_last() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    let mut ordered = |number, base| take(&mut stage, number, [base, None]);
    assert_eq!(ordered(1, None), None);
    assert_eq!(ordered(2, Some(1)), Some(1));
    assert_eq!(ordered(3, Some(2)), Some(2));
    assert_eq!(ordered(4, None), None, "the third behind a full one");
    assert_eq!(ordered(7, None), Some(4));
    // The servers had everything anew: it is a full one.
    assert_eq!(ordered(8, Some(7)), Some(7));
    assert_eq!(ordered(9, Some(8)), Some(8));
    assert_eq!(ordered(10, None), None);
}

#[test]
fn a_part_with_the_changes_since_another_checkpoint_is_begun_again() {
    let mut stage = Stage::new(&[&[1], &[2]], None);
    stage.ask();
    let orders = stage.begin(1);
    stage.tell(&orders[0], StoreState::Recorded(RecordedPart { base: Some(9), ..part("a") }));
    stage.wait(STEP);
    assert_eq!(stage.status().under_way.expect("it is").parts_done, 0);
    assert_eq!(stage.orders[0].1.attempt, 1);
}
