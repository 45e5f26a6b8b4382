//! A stand-in for a shard, and a transport whose park lets stand-ins have their turn.
//!
//! Owns just enough of a shard to test a session: it adds pushes up once each, answers pulls when
//! the clocks allow, and can be told to refuse. The real one lives in `shard`.
#![allow(dead_code)] // Each test file uses its part.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use gradwire_worker::{Session, SessionSpec, Timeouts};
use kernels::{Isa, crc32c::crc32c};
use transport::simulated::{Faults, Parking, Simulated, World};
use transport::{Event, Integrity, Limits, Link, PeerId, Transport, passes_on};
use wire::{
    Epoch, Flags, HEADER_BYTES, Header, Incarnation, Joined, Kind, Message, Refusal, Routing,
    ScanCursor, Seal, Status, TableSize, Time, WorkerId,
};
use zerocopy::IntoBytes;

/// Rows of one page of a scan.
const PAGE_ROWS: usize = 3;

/// What one shard knows.
pub(crate) struct FakeShard {
    pub(crate) endpoint: Simulated,
    pub(crate) rows: BTreeMap<u64, Vec<f32>>,
    pub(crate) width: u16,
    /// What it answers to every request of this kind.
    pub(crate) refuses: Option<(Kind, Refusal)>,
    /// Width of its values, if it is not the one asked for.
    pub(crate) answers_width: Option<u16>,
    pub(crate) ticks: u64,
    /// Whether its answers say that a few keys are asked for most.
    pub(crate) hot: bool,
    /// What its answers say of credit.
    pub(crate) credit: u16,
    /// Where the worker stood when it joined.
    pub(crate) joined: Joined,
    /// Whether pulls wait for the session's own ticks.
    pub(crate) waits_for_ticks: bool,
    /// Whether it has no turns, like a process that is stopped.
    pub(crate) stopped: bool,
    pub(crate) kinds: Vec<Kind>,
    /// Pushes that asked for the tail's word.
    pub(crate) at_tail: usize,
    /// Epochs of its requests, each change of them.
    pub(crate) epochs_seen: Vec<u64>,
    /// The clock of a worker that is not there; pulls beyond it wait.
    pub(crate) slowest: u64,
    pub(crate) applied: HashSet<(u32, u32, u64)>,
    /// Of each pull: whether any replica may answer it, as its flag, and `credit`.
    pub(crate) pulls_seen: Vec<(u8, u16)>,
    /// The most pulls that ever waited at once.
    pub(crate) waiting_most: usize,
    waiting: Vec<(PeerId, Header, Vec<u64>)>,
}

impl FakeShard {
    fn new(endpoint: Simulated, width: u16) -> FakeShard {
        FakeShard {
            endpoint,
            rows: BTreeMap::new(),
            width,
            refuses: None,
            answers_width: None,
            ticks: 0,
            hot: false,
            credit: 0,
            joined: Joined::default(),
            waits_for_ticks: false,
            stopped: false,
            kinds: Vec::new(),
            at_tail: 0,
            epochs_seen: Vec::new(),
            slowest: u64::MAX,
            applied: HashSet::new(),
            pulls_seen: Vec::new(),
            waiting_most: 0,
            waiting: Vec::new(),
        }
    }

    /// Answers what has come.
    pub(crate) fn turn(&mut self) {
        if self.stopped {
            return;
        }
        let mut events = Vec::new();
        self.endpoint.poll(&mut events);
        for event in events {
            let Event::Received { peer, slot } = event else { continue };
            // What is damaged is dropped: it is sent again.
            let opened = wire::open(slot.bytes(), |bytes| crc32c(Isa::scalar(), 0, bytes));
            if let Ok((header, message)) = opened {
                self.handle(peer, header, &message);
            }
            self.endpoint.release(slot);
        }
        for (peer, header, keys) in std::mem::take(&mut self.waiting) {
            self.pull(peer, header, keys);
        }
        self.endpoint.flush();
    }

    fn handle(&mut self, peer: PeerId, header: Header, message: &Message<'_>) {
        self.kinds.push(header.kind());
        if self.epochs_seen.last() != Some(&header.epoch) {
            self.epochs_seen.push(header.epoch);
        }
        match self.refuses {
            Some((kind, refusal)) if kind == header.kind() => {
                return self.reply(peer, header, Status::Refused(refusal));
            }
            _ => {}
        }
        match message {
            Message::Push(keyed) => {
                self.at_tail += usize::from(header.flags().has(Flags::AT_TAIL));
                let name = (header.worker, header.incarnation, header.sequence);
                let status = match self.applied.insert(name) {
                    true => Status::Done,
                    false => Status::Duplicate,
                };
                if status == Status::Done {
                    self.add(keyed.keys.as_slice(), keyed.values, usize::from(header.width));
                    self.ticks += u64::from(header.flags().has(Flags::TICK));
                }
                self.reply(peer, header, status);
            }
            Message::Pull(keys) => {
                let any = header.flags & Flags::ANY_REPLICA.get();
                self.pulls_seen.push((any, header.credit));
                self.pull(peer, header, keys.as_slice().to_vec());
            }
            Message::Load(view) => {
                for (key, row) in view.keys.iter().zip(view.rows.chunks(header.width.into())) {
                    self.rows.insert(*key, row.to_vec());
                }
                self.reply(peer, header, Status::Done);
            }
            Message::Remove(keys) => {
                keys.iter().for_each(|key| drop(self.rows.remove(key)));
                self.reply(peer, header, Status::Done);
            }
            Message::Scan => self.scan(peer, header),
            Message::Join(_) => {
                let joined = self.joined;
                self.send(peer, Header { kind: Kind::Joined as u8, ..header }, joined.as_bytes());
            }
            Message::Measure => {
                let size =
                    TableSize { rows: self.rows.len() as u64, bytes: 7, ..TableSize::default() };
                self.send(peer, Header { kind: Kind::Size as u8, ..header }, size.as_bytes());
            }
            _ => self.reply(peer, header, Status::Done),
        }
    }

    fn add(&mut self, keys: &[u64], deltas: &[f32], width: usize) {
        for (key, deltas) in keys.iter().zip(deltas.chunks(width.max(1))) {
            let row = self.rows.entry(*key).or_insert_with(|| vec![0.0; width]);
            row.iter_mut().zip(deltas).for_each(|(value, delta)| *value += delta);
        }
    }

    fn pull(&mut self, peer: PeerId, header: Header, keys: Vec<u64>) {
        let slowest = if self.waits_for_ticks { self.ticks } else { self.slowest };
        if header.clock > slowest {
            self.waiting.push((peer, header, keys));
            self.waiting_most = self.waiting_most.max(self.waiting.len());
            return;
        }
        let width = self.answers_width.unwrap_or(self.width);
        let zeros = vec![0.0; usize::from(width)];
        let mut values = Vec::new();
        for key in &keys {
            values.extend_from_slice(self.rows.get(key).unwrap_or(&zeros));
        }
        let header = Header { kind: Kind::Values as u8, width, clock: 0, ..header };
        self.send(peer, header, values.as_bytes());
    }

    fn scan(&mut self, peer: PeerId, header: Header) {
        let page = self.rows.iter().skip(header.clock as usize).take(PAGE_ROWS);
        let mut body: Vec<u8> = Vec::new();
        page.clone().for_each(|(key, _)| body.extend_from_slice(key.as_bytes()));
        page.clone().for_each(|(_, row)| body.extend_from_slice(row.as_slice().as_bytes()));
        let keys = page.count() as u32;
        let next = header.clock + u64::from(keys);
        let clock = match next as usize == self.rows.len() {
            true => ScanCursor::END.get(),
            false => next,
        };
        let (kind, width) = (Kind::Rows as u8, self.width);
        self.send(peer, Header { kind, keys, width, clock, ..header }, &body);
    }

    fn reply(&mut self, peer: PeerId, header: Header, status: Status) {
        let mut answer = Header { keys: 0, width: 0, ..header };
        answer.kind = Kind::Reply as u8;
        status.write(&mut answer);
        self.send(peer, answer, &[]);
    }

    fn send(&mut self, peer: PeerId, header: Header, body: &[u8]) {
        // A peer that is gone, or too slow, asks again.
        let Ok(mut slot) = self.endpoint.acquire(peer, HEADER_BYTES + body.len()) else { return };
        slot.bytes_mut()[HEADER_BYTES..].copy_from_slice(body);
        let flags = if self.hot { Flags::HOT } else { Flags::NONE }.get();
        let header = Header { flags, body_crc: 0, credit: self.credit, ..header };
        let crc = |bytes: &[u8]| crc32c(Isa::scalar(), 0, bytes);
        wire::seal(slot.bytes_mut(), header, Seal::Body, crc);
        self.endpoint.post(slot);
    }
}

/// A transport that lets time pass, and the shards work, while it is parked.
struct Driven {
    inner: Simulated,
    world: World,
    shards: Vec<Rc<RefCell<FakeShard>>>,
    /// What the way is said to be.
    integrity: Integrity,
}

impl Transport for Driven {
    passes_on!(
        inner: name, limits, now, adopt, poll, acquire, post, cancel, flush, release, waker, close,
        set_standing, held_bytes, bytes_sent
    );

    fn integrity(&self) -> Integrity {
        self.integrity
    }

    fn park(&mut self, deadline: Time) {
        self.inner.park(deadline);
        self.world.step();
        for shard in &self.shards {
            shard.borrow_mut().turn();
        }
    }
}

/// A session and its shards in one world.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) session: Session,
    pub(crate) shards: Vec<Rc<RefCell<FakeShard>>>,
}

impl Rig {
    /// `shards` shards whose tables have `width` values a key, each on a host of its own.
    pub(crate) fn new(seed: u64, faults: Faults, limits: Limits, shards: usize, width: u16) -> Rig {
        Rig::with(World::new(seed, faults), Integrity::NeedsChecksum, limits, shards, width)
    }

    /// As if session and one shard shared their host's memory.
    pub(crate) fn over_memory(width: u16) -> Rig {
        let world = World::new(1, Faults::NONE);
        Rig::with(world, Integrity::Memory, Limits::default(), 1, width)
    }

    fn with(world: World, integrity: Integrity, limits: Limits, shards: usize, width: u16) -> Rig {
        world.set_parking(Parking::NotesDeadline);
        let mut inner = world.endpoint(limits);
        let mut peers = Vec::new();
        let shards: Vec<_> = (0..shards)
            .map(|_| {
                let mut endpoint = world.endpoint(limits);
                peers.push(world.connect(&mut inner, &mut endpoint).0);
                Rc::new(RefCell::new(FakeShard::new(endpoint, width)))
            })
            .collect();
        let (driven_world, driven_shards) = (world.clone(), shards.clone());
        let driven = Driven { inner, world: driven_world, shards: driven_shards, integrity };
        let session = Session::new(SessionSpec {
            transport: Box::new(driven),
            peers,
            servers: (0..shards.len()).map(|shard| format!("host{shard}:7000")).collect(),
            routing: Routing::new(Epoch::new(4), shards.len()).expect("shards are in range"),
            worker: WorkerId::new(2),
            incarnation: Incarnation::new(5),
            isa: Isa::detect(),
            timeouts: Timeouts::default(),
        });
        Rig { world, session, shards }
    }

    /// One shard, a quiet network.
    pub(crate) fn quiet(shards: usize, width: u16) -> Rig {
        Rig::new(1, Faults::NONE, Limits::default(), shards, width)
    }

    /// A moment this many seconds from now.
    pub(crate) fn after_s(&self, seconds: u64) -> Time {
        self.session.now() + std::time::Duration::from_secs(seconds)
    }

    /// Joins session and shard by a new connection.
    pub(crate) fn reconnect(&mut self, shard: usize) {
        let (ours, theirs) = self.world.link();
        let endpoint = &mut self.shards[shard].borrow_mut().endpoint;
        endpoint.adopt(Link::Simulated(theirs)).expect("it is of this world");
        let adopted = self.session.transport_mut().adopt(Link::Simulated(ours));
        let shard = wire::ShardId::new(shard as u16);
        let epoch = self.session.routing().epoch();
        self.session.reconnect(shard, adopted.expect("it is of this world"), epoch);
    }

    /// Everything that the shards hold, together.
    pub(crate) fn rows(&self) -> BTreeMap<u64, Vec<f32>> {
        self.shards.iter().flat_map(|shard| shard.borrow().rows.clone()).collect()
    }
}
