//! One core over a simulated network: what it keeps, and what it gives back.

use std::time::Duration;

use gradwire_server::{Core, OnClosed, Who};
use kernels::Isa;
use kernels::crc32c::crc32c;
use shard::rule::{Rules, Sum, table_spec};
use shard::{Mutation, Shard, ShardSpec, Upkeep};
use transport::simulated::{Faults, Simulated, World};
use transport::{Event, Limits, Link, PeerId, Transport};
use wire::{
    Announced, Define, Epoch, Flags, HEADER_BYTES, Header, Incarnation, JobId, Join, Kind, Refusal,
    Seal, ShardId, Staleness, Status, WorkerId,
};

const EPOCH: Epoch = Epoch::new(1);
const INCARNATION: Incarnation = Incarnation::new(1);
const SHARD: ShardId = ShardId::new(0);

/// Room for two pulls and a push.
const LIMITS: Limits =
    Limits { message_bytes_max: 256, send_bytes_max: 1 << 16, recv_bytes_max: 256, spin_ns: 0 };

fn crc(bytes: &[u8]) -> u32 {
    crc32c(Isa::detect(), 0, bytes)
}

/// A core whose job has two workers, and one endpoint that speaks for both.
struct Rig {
    world: World,
    core: Core,
    endpoint: Simulated,
    limits: Limits,
    /// By worker.
    peers: Vec<PeerId>,
}

impl Rig {
    fn new(on_closed: OnClosed) -> Rig {
        Rig::with_limits(on_closed, LIMITS)
    }

    fn with_limits(on_closed: OnClosed, limits: Limits) -> Rig {
        let world = World::new(1, Faults::NONE);
        let shard = Shard::new(ShardSpec {
            isa: Isa::detect(),
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: 1 << 24,
            seed: 1,
            credit: 8,
            mutation: Mutation::None,
        });
        let core =
            Core::with_on_closed(Box::new(world.endpoint(limits)), on_closed, [(SHARD, shard)]);
        let endpoint = world.endpoint(limits);
        let mut rig = Rig { world, core, endpoint, limits, peers: Vec::new() };
        let join = Join { job: JobId::new(1), workers: 2, staleness: Staleness::BSP }.to_bytes();
        let define = Define::new(&table_spec("counts", 1, &Sum), Announced::default())
            .expect("a short name");
        for worker in 0..2 {
            rig.link(worker);
            rig.ask(worker, Kind::Join, Header::new(Kind::Join), &join);
            rig.ask(worker, Kind::Define, Header::new(Kind::Define), define.as_bytes());
        }
        let done = rig.turn().into_iter().all(|answer| answer.status() == Ok(Status::Done));
        assert!(done);
        rig
    }

    /// Makes a connection for a worker, in place of the one it has.
    fn link(&mut self, worker: u32) {
        let (ours, theirs) = self.world.link();
        let who = Who {
            shard: SHARD,
            epoch: EPOCH,
            worker: WorkerId::new(worker),
            incarnation: INCARNATION,
            message_bytes_max: self.limits.message_bytes_max,
        };
        self.core.adopt(Link::Simulated(theirs), who).expect("an end of its own world");
        let peer = self.endpoint.adopt(Link::Simulated(ours)).expect("an end of its own world");
        self.peers.truncate(worker as usize);
        self.peers.push(peer);
    }

    fn ask(&mut self, worker: u32, kind: Kind, header: Header, body: &[u8]) {
        let header = Header {
            kind: kind as u8,
            epoch: EPOCH.get(),
            worker,
            incarnation: INCARNATION.get(),
            ..header
        };
        let peer = self.peers[worker as usize];
        let mut slot = self.endpoint.acquire(peer, HEADER_BYTES + body.len()).expect("room");
        slot.bytes_mut()[HEADER_BYTES..].copy_from_slice(body);
        wire::seal(slot.bytes_mut(), header, Seal::Body, crc);
        self.endpoint.post(slot);
    }

    fn pull(&mut self, worker: u32, clock: u64) {
        let header = Header { sequence: 1 << 63, clock, keys: 1, ..Header::new(Kind::Pull) };
        self.ask(worker, Kind::Pull, header, &7_u64.to_le_bytes());
    }

    fn tick(&mut self, worker: u32) {
        let flags = Flags::TICK.get();
        self.ask(worker, Kind::Push, Header { sequence: 1, flags, ..Header::new(Kind::Push) }, &[]);
    }

    /// Pushes 1 to each key below `keys`.
    fn push(&mut self, worker: u32, sequence: u64, keys: u32) {
        let (numbers, deltas) = (0..u64::from(keys), vec![1.0_f32; keys as usize]);
        let numbers = numbers.flat_map(u64::to_le_bytes);
        let body: Vec<u8> = numbers.chain(deltas.into_iter().flat_map(f32::to_le_bytes)).collect();
        let header = Header { sequence, keys, width: 1, ..Header::new(Kind::Push) };
        self.ask(worker, Kind::Push, header, &body);
    }

    /// Delivers what was asked to the core, without giving it a turn.
    fn deliver(&mut self) {
        self.endpoint.flush();
        while self.world.step() {}
    }

    /// Lets everything happen, and returns the headers of what was answered.
    fn turn(&mut self) -> Vec<Header> {
        let (mut events, mut answers) = (Vec::new(), Vec::new());
        self.endpoint.flush();
        let mut busy = true;
        while busy {
            busy = self.world.step();
            busy |= self.core.turn();
            self.endpoint.poll(&mut events);
            for event in events.drain(..) {
                let Event::Received { slot, .. } = event else { continue };
                answers.push(wire::open(slot.bytes(), crc).expect("well formed").0);
                self.endpoint.release(slot);
            }
        }
        answers
    }
}

#[test]
fn copies_of_a_pull_that_waits_leave_room_for_the_tick_that_it_waits_for() {
    let mut rig = Rig::new(OnClosed::LoseWorker);
    rig.tick(1);
    assert_eq!(rig.turn().len(), 1);
    for _ in 0..20 {
        rig.pull(0, 1);
    }
    assert_eq!(rig.turn().len(), 0, "the pull waits for its own worker's tick");
    rig.tick(0);
    let kinds: Vec<Kind> = rig.turn().iter().map(Header::kind).collect();
    assert_eq!(kinds, [Kind::Reply, Kind::Values], "one answer for all copies");
}

#[test]
fn a_closed_connection_ends_the_job_for_the_others() {
    let mut rig = Rig::new(OnClosed::LoseWorker);
    rig.endpoint.close(rig.peers[1]);
    rig.turn();
    rig.tick(0);
    let lost = Refusal::WorkerLost { worker: WorkerId::new(1) };
    assert_eq!(rig.turn()[0].status(), Ok(Status::Refused(lost)));
}

#[test]
fn a_worker_that_is_waited_for_goes_on_over_another_connection() {
    let mut rig = Rig::new(OnClosed::AwaitReconnect);
    rig.tick(1);
    rig.turn();
    rig.endpoint.close(rig.peers[1]);
    rig.turn();
    rig.link(1);
    rig.tick(1); // Its answer may have been lost: it counts once.
    assert_eq!(rig.turn()[0].status(), Ok(Status::Duplicate));
    rig.tick(0);
    rig.pull(1, 1);
    let kinds: Vec<Kind> = rig.turn().iter().map(Header::kind).collect();
    assert_eq!(kinds, [Kind::Reply, Kind::Values]);
}

/// Room for a window of long pushes.
const ROOMY: Limits = Limits {
    message_bytes_max: 1 << 18,
    send_bytes_max: 1 << 22,
    recv_bytes_max: 1 << 22,
    ..LIMITS
};

/// Keys of a long push: a turn handles one.
const LONG: u32 = 10_000;

#[test]
fn a_short_pull_passes_the_long_pushes_of_another_worker() {
    let mut rig = Rig::with_limits(OnClosed::LoseWorker, ROOMY);
    (1..=5).for_each(|sequence| rig.push(0, sequence, LONG));
    rig.pull(1, 0);
    rig.deliver();
    let answers = rig.turn();
    assert_eq!(answers.len(), 6);
    let place = answers.iter().position(|answer| answer.worker == 1);
    assert!(place <= Some(1), "one turn: the pull and one push; the answer is number {place:?}");
    assert!(answers.iter().all(|answer| answer.status() == Ok(Status::Done)));
}

#[test]
fn workers_with_long_pushes_take_turns() {
    let mut rig = Rig::with_limits(OnClosed::LoseWorker, ROOMY);
    (1..=3).for_each(|sequence| rig.push(0, sequence, LONG));
    (1..=3).for_each(|sequence| rig.push(1, sequence, LONG));
    rig.deliver();
    let workers: Vec<u32> = rig.turn().iter().map(|answer| answer.worker).collect();
    assert_eq!(workers, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn one_workers_requests_keep_their_order_however_long_each_is() {
    let mut rig = Rig::with_limits(OnClosed::LoseWorker, ROOMY);
    let lengths = [LONG, 1, 600, LONG, 0, 2 * LONG, 1];
    for (sequence, keys) in (1..).zip(lengths) {
        rig.push(0, sequence, keys);
    }
    rig.deliver();
    let sequences: Vec<u64> = rig.turn().iter().map(|answer| answer.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_a_table_owes_is_done_before_further_long_requests_and_after_short_ones() {
    let mut rig = Rig::with_limits(OnClosed::LoseWorker, ROOMY);
    rig.push(0, 1, LONG);
    rig.deliver();
    rig.core.turn();
    assert_eq!(
        rig.core.shard(SHARD).expect("it is here").upkeep(),
        Upkeep::Owed,
        "so many new keys"
    );
    rig.push(0, 2, LONG);
    rig.pull(1, 0);
    rig.deliver();
    rig.core.turn();
    rig.deliver();
    let mut events = Vec::new();
    rig.endpoint.poll(&mut events);
    let answered = events.into_iter().map(|event| {
        let Event::Received { slot, .. } = event else { panic!("{event:?}") };
        let header = wire::open(slot.bytes(), crc).expect("well formed").0;
        rig.endpoint.release(slot);
        (header.worker, header.sequence)
    });
    assert_eq!(answered.collect::<Vec<_>>(), [(0, 1), (1, 1 << 63)]);
    let later: Vec<u64> = rig.turn().iter().map(|answer| answer.sequence).collect();
    assert_eq!(later, [2]);
    assert_eq!(rig.core.shard(SHARD).expect("it is here").upkeep(), Upkeep::None, "there was time");
}

/// Has worker 0 of another job join, over a connection of its own.
fn join_another(rig: &mut Rig) -> Status {
    let join = Join { job: JobId::new(2), workers: 1, staleness: Staleness::BSP }.to_bytes();
    rig.link(0);
    rig.ask(0, Kind::Join, Header::new(Kind::Join), &join);
    rig.turn()[0].status().expect("a status that is known")
}

fn pass(rig: &Rig, seconds: u64) {
    rig.world.advance_to(rig.world.now() + Duration::from_secs(seconds));
}

#[test]
fn a_job_whose_workers_are_all_gone_gives_way_to_another_after_a_while() {
    let mut rig = Rig::new(OnClosed::AwaitReconnect);
    rig.endpoint.close(rig.peers[0]);
    rig.endpoint.close(rig.peers[1]);
    rig.turn();
    pass(&rig, 44);
    assert_eq!(join_another(&mut rig), Status::Refused(Refusal::JobMismatch));
    pass(&rig, 2);
    assert_eq!(join_another(&mut rig), Status::Done);
}

#[test]
fn a_job_with_a_worker_that_is_there_gives_way_to_nobody() {
    let mut rig = Rig::new(OnClosed::AwaitReconnect);
    let (ours, _) = (rig.peers[1], rig.endpoint.close(rig.peers[0]));
    rig.turn();
    pass(&rig, 1000);
    assert_eq!(join_another(&mut rig), Status::Refused(Refusal::JobMismatch));
    // Gone for a moment only.
    rig.endpoint.close(ours);
    rig.turn();
    assert_eq!(join_another(&mut rig), Status::Refused(Refusal::JobMismatch));
}
