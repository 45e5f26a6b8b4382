//! Who may have a faster way: those that have joined the shard's job, and nobody else.

use std::cell::RefCell;
use std::rc::Rc;

use gradwire_server::{Core, Who};
use kernels::Isa;
use kernels::crc32c::crc32c;
use shard::rule::Rules;
use shard::{Mutation, Shard, ShardSpec};
use transport::simulated::{Faults, Simulated, World};
use transport::{AdoptError, Event, Limits, Link, PeerId, Standing, Transport, passes_on};
use wire::{
    Epoch, HEADER_BYTES, Header, Incarnation, JobId, Join, Kind, Refusal, Seal, ShardId, Staleness,
    Status, WorkerId,
};

const EPOCH: Epoch = Epoch::new(1);
const INCARNATION: Incarnation = Incarnation::new(1);

/// A transport, and what it was told of its peers.
struct Told {
    inner: Simulated,
    standings: Rc<RefCell<Vec<Standing>>>,
}

impl Transport for Told {
    passes_on!(
        inner: name, limits, integrity, now, poll, acquire, post, cancel, flush, release, park,
        waker, close, held_bytes, bytes_sent
    );

    fn adopt(&mut self, link: Link) -> Result<PeerId, AdoptError> {
        self.standings.borrow_mut().push(Standing::default());
        self.inner.adopt(link)
    }

    fn set_standing(&mut self, peer: PeerId, standing: Standing) {
        self.standings.borrow_mut()[peer.index()] = standing;
    }
}

/// A core, and one endpoint that speaks for all workers.
struct Rig {
    world: World,
    core: Core,
    endpoint: Simulated,
    standings: Rc<RefCell<Vec<Standing>>>,
    peers: Vec<PeerId>,
}

impl Rig {
    fn new() -> Rig {
        let world = World::new(1, Faults::NONE);
        let limits = Limits::default();
        let shard = Shard::new(ShardSpec {
            isa: Isa::detect(),
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: 1 << 24,
            seed: 1,
            credit: 8,
            mutation: Mutation::None,
        });
        let standings = Rc::new(RefCell::new(Vec::new()));
        let told = Told { inner: world.endpoint(limits), standings: Rc::clone(&standings) };
        let core = Core::new(Box::new(told), shard);
        let endpoint = world.endpoint(limits);
        Rig { world, core, endpoint, standings, peers: Vec::new() }
    }

    /// A further connection, of this worker.
    fn link(&mut self, worker: u32) -> usize {
        let (ours, theirs) = self.world.link();
        let (worker, message_bytes_max) = (WorkerId::new(worker), 1 << 20);
        let (shard, epoch) = (ShardId::new(0), EPOCH);
        let who = Who { shard, worker, incarnation: INCARNATION, epoch, message_bytes_max };
        self.core.adopt(Link::Simulated(theirs), who).expect("an end of its own world");
        let peer = self.endpoint.adopt(Link::Simulated(ours)).expect("an end of its own world");
        self.peers.push(peer);
        self.peers.len() - 1
    }

    /// Has a worker say this over a connection. What it is answered.
    fn ask(&mut self, at: usize, worker: u32, kind: Kind, body: &[u8]) -> Status {
        let bytes = HEADER_BYTES + body.len();
        let mut slot = self.endpoint.acquire(self.peers[at], bytes).expect("there is credit");
        slot.bytes_mut()[HEADER_BYTES..].copy_from_slice(body);
        let header = Header {
            worker,
            incarnation: INCARNATION.get(),
            epoch: EPOCH.get(),
            ..Header::new(kind)
        };
        wire::seal(slot.bytes_mut(), header, Seal::Body, |bytes| crc32c(Isa::detect(), 0, bytes));
        self.endpoint.post(slot);
        self.endpoint.flush();
        let mut events = Vec::new();
        for _ in 0..100 {
            while self.world.step() {}
            self.core.turn();
            self.endpoint.poll(&mut events);
            if let Some(Event::Received { slot, .. }) = events.pop() {
                let header = Header::peek(slot.bytes().first_chunk().expect("a header"));
                let status = header.expect("a header").status().expect("a known one");
                self.endpoint.release(slot);
                return status;
            }
        }
        panic!("no answer");
    }

    fn join(&mut self, at: usize, worker: u32, job: u64) -> Status {
        let join = Join { job: JobId::new(job), workers: 2, staleness: Staleness::BSP };
        self.ask(at, worker, Kind::Join, &join.to_bytes())
    }

    fn standings(&self) -> Vec<Standing> {
        self.standings.borrow().clone()
    }
}

#[test]
fn a_peer_is_a_stranger_until_its_worker_has_joined() {
    let mut rig = Rig::new();
    let one = rig.link(0);
    assert_eq!(rig.standings(), [Standing::Stranger]);
    assert_eq!(rig.join(one, 0, 7), Status::Done);
    assert_eq!(rig.standings(), [Standing::Member]);
}

#[test]
fn a_worker_of_a_second_job_is_refused_and_stays_a_stranger() {
    let mut rig = Rig::new();
    let (one, other) = (rig.link(0), rig.link(1));
    assert_eq!(rig.join(one, 0, 7), Status::Done);
    assert_eq!(rig.join(other, 1, 8), Status::Refused(Refusal::JobMismatch));
    assert_eq!(rig.standings(), [Standing::Member, Standing::Stranger]);
    assert_eq!(rig.join(other, 1, 7), Status::Done, "the same worker of this job");
    assert_eq!(rig.standings(), [Standing::Member, Standing::Member]);
}

#[test]
fn who_joined_the_job_before_is_a_stranger_to_the_next_one() {
    let mut rig = Rig::new();
    let (one, other) = (rig.link(0), rig.link(1));
    assert_eq!(rig.join(one, 0, 7), Status::Done);
    assert_eq!(rig.ask(one, 0, Kind::Leave, &[]), Status::Done);
    assert_eq!(rig.standings(), [Standing::Member, Standing::Stranger], "its link is still good");
    assert_eq!(rig.join(other, 1, 8), Status::Done);
    assert_eq!(rig.standings(), [Standing::Stranger, Standing::Member]);
}
