//! One core over a simulated network: what it keeps, and what it gives back.

use gradwire_server::{Core, OnClosed, Who};
use kernels::Isa;
use kernels::crc32c::crc32c;
use shard::rule::{Rules, Sum, table_spec};
use shard::{Mutation, Shard, ShardSpec};
use transport::simulated::{Faults, Simulated, World};
use transport::{Event, Limits, Link, PeerId, Transport};
use wire::{
    Define, Epoch, Flags, HEADER_BYTES, Header, Incarnation, JobId, Join, Kind, Refusal, Seal,
    Staleness, Status, WorkerId,
};

const EPOCH: Epoch = Epoch::new(1);
const INCARNATION: Incarnation = Incarnation::new(1);

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
    /// By worker.
    peers: Vec<PeerId>,
}

impl Rig {
    fn new(on_closed: OnClosed) -> Rig {
        let world = World::new(1, Faults::NONE);
        let shard = Shard::new(ShardSpec {
            isa: Isa::detect(),
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: 1 << 16,
            seed: 1,
            credit: 8,
            mutation: Mutation::None,
        });
        let core = Core::with_on_closed(Box::new(world.endpoint(LIMITS)), shard, on_closed);
        let endpoint = world.endpoint(LIMITS);
        let mut rig = Rig { world, core, endpoint, peers: Vec::new() };
        let join = Join { job: JobId::new(1), workers: 2, staleness: Staleness::BSP }.to_bytes();
        let define = Define::new(&table_spec("counts", 1, &Sum)).expect("a short name");
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
            worker: WorkerId::new(worker),
            incarnation: INCARNATION,
            message_bytes_max: LIMITS.message_bytes_max,
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
