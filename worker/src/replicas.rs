//! Replicas behind heads: they answer some pulls, where a shard is hot.
//!
//! Owns the links to those replicas, which pull goes to which server, and handing a pull back to
//! the head. Finding the servers is left to [`Routes`](crate::Routes); whether a replica may answer
//! yet is its own affair.
//!
//! A session knows what it has asked of each server. A pull goes to the replica that was asked for
//! least, and to the head where that makes little difference: where keys are asked for alike, heads
//! have all of it.
//!
//! Invariant: a pull is unanswered on one link at most, and what a replica refuses, loses or is
//! late with goes to the head.

use std::time::Duration;

use transport::{Fault, PeerId, RecvSlot};
use wire::{Flags, Header, Refusal, ServerId, ShardId, Status, Time, WorkerId};

use crate::codec::KeyCodec;
use crate::error::WorkerError;
use crate::fits::check_fits;
use crate::kept::WordOf;
use crate::link::{Link, Lost};
use crate::pull::{Arrival, MayKeep};
use crate::request::{Body, Coding, Origin, Request};
use crate::routes::{Following, Route};
use crate::send::Sending;
use crate::session::Session;
use crate::turn::PulledPart;

/// Replicas besides heads that a session has links to.
const REPLICAS_MAX: usize = 1024;

/// A pull that a replica has not answered after this part of the time-out of a request goes to the
/// head: the replica may be cut off, or far behind.
const LATE_PART: u32 = 4;

/// A replica that said nothing while a pull was late is left alone for so many of these times.
const REST_LATES: u32 = 4;

/// What a pull costs besides its keys, as a number of them; servers reckon alike.
const REQUEST_KEYS: u64 = 16;

/// Keys asked for after which what was asked of servers is halved: what is over is forgotten.
const LOADS_MAX: u64 = 1 << 20;

/// A difference between servers below this part of all load is none.
const SLACK_PART: u64 = 32;

/// Whether pulls go to replicas that are not the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Heads answer all.
    Heads,
    /// Others do, where a shard says that a few of its keys are asked for much more than the rest,
    /// and its head has been asked for more than they have.
    #[default]
    Auto,
    /// Others do, on all shards alike, to even out what each server is asked for.
    Replicas,
}

/// Whom a link goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTo {
    /// The head.
    Head,
    /// A replica behind it, which answers pulls alone.
    Replica,
}

/// Where pulls may go, and what was asked of whom.
#[derive(Default)]
pub(crate) struct ReplicaLinks {
    choice: Option<Reading>,
    shards: Vec<Shard>,
    replicas: Vec<Option<Replica>>,
    /// By peer: which of the replicas it is.
    of_peer: Vec<Option<usize>>,
    asked: Vec<AskedOf>,
    /// Of all servers together, lately.
    load_sum: u64,
    /// Replicas that shall be linked again.
    lost: Vec<(ShardId, ServerId)>,
    /// When the next pull may be late.
    pub(crate) due_at: Time,
}

/// What was asked of a server.
struct AskedOf {
    server: ServerId,
    /// Keys lately, requests counted as some.
    load: u64,
    /// Keys ever.
    keys: u64,
}

/// What is known of a shard.
#[derive(Clone, Copy, Default)]
struct Shard {
    head: ServerId,
    is_hot: bool,
    /// Whether its replicas are asked for.
    is_followed: bool,
}

/// A link to a replica.
struct Replica {
    shard: usize,
    server: ServerId,
    link: Link,
    rests_until: Time,
}

impl ReplicaLinks {
    fn load(&self, server: ServerId) -> u64 {
        self.asked.iter().find(|one| one.server == server).map_or(0, |one| one.load)
    }

    /// Notes a pull of so many keys that goes to a server.
    fn note_asked(&mut self, server: ServerId, keys: u32) {
        let (keys, load) = (u64::from(keys), u64::from(keys) + REQUEST_KEYS);
        match self.asked.iter_mut().find(|one| one.server == server) {
            Some(one) => (one.load, one.keys) = (one.load + load, one.keys + keys),
            None => self.asked.push(AskedOf { server, load, keys }),
        }
        self.load_sum += load;
        if self.load_sum >= LOADS_MAX {
            self.asked.iter_mut().for_each(|one| one.load /= 2);
            self.load_sum = self.asked.iter().map(|one| one.load).sum();
        }
    }

    fn note_asked_of_head(&mut self, shard: usize, keys: u32) {
        if let Some(head) = self.shards.get(shard).map(|shard| shard.head) {
            self.note_asked(head, keys);
        }
    }

    /// The replica that has been asked for least, if that is clearly less than the head.
    fn least_asked(&self, shard: usize, head: &Link, now: Time) -> Option<usize> {
        let fits = |one: &Replica| {
            let link = &one.link;
            one.shard == shard
                && link.lost.is_none()
                && link.epoch == head.epoch
                && link.open() < link.in_flight_max()
                && now >= one.rests_until
        };
        let fitting = self.replicas.iter().enumerate();
        let fitting =
            fitting.filter_map(|(at, one)| Some((at, one.as_ref().filter(|it| fits(it))?)));
        let (load, at) = fitting.map(|(at, one)| (self.load(one.server), at)).min()?;
        let slack = match self.choice {
            Some(Reading::Replicas) => 0,
            _ => self.load_sum / SLACK_PART,
        };
        (load + slack < self.load(self.shards[shard].head)).then_some(at)
    }
}

impl Session {
    /// Whether pulls may go to replicas that are not the head. Where a job has a bound on clocks,
    /// values keep it whoever answers, and a pull always shows what this worker pushed before it;
    /// but it may show an older state than another pull before it, as far as the bound lets it.
    /// Without [`Session::follow`] there are no replicas.
    pub fn read_from(&mut self, choice: Reading) {
        self.behind.choice = Some(choice);
        self.behind.shards.resize(self.shards(), Shard::default());
    }

    /// Keys of pulls that each server was asked for since the session began, of sessions with a
    /// cluster.
    pub fn keys_by_server(&self) -> impl Iterator<Item = (ServerId, u64)> {
        self.behind.asked.iter().map(|one| (one.server, one.keys))
    }

    /// The servers of heads, by shard, before anything was asked.
    pub(crate) fn set_hosts(&mut self, hosts: &[ServerId]) {
        self.behind.shards.resize(hosts.len(), Shard::default());
        for (shard, &host) in self.behind.shards.iter_mut().zip(hosts) {
            shard.head = host;
        }
    }

    /// Another server is a shard's head.
    pub(crate) fn note_head(&mut self, shard: usize, server: ServerId) {
        if let Some(known) = self.behind.shards.get_mut(shard) {
            known.head = server;
        }
    }

    /// Sends a pull to the head of its shard, or to the replica that has been asked for less.
    pub(crate) fn admit_pull(&mut self, shard: usize, header: Header, body: Body, origin: Origin) {
        let now = self.now();
        let Some(at) = self.choose(shard, &header, now) else {
            self.behind.note_asked_of_head(shard, header.keys);
            return self.admit(shard, header, body, origin);
        };
        let pushed = self.links[shard].pushes.next().get() - 1;
        let flags = Flags::ANY_REPLICA.get();
        let header = Header { flags, credit: pushed as u16, ..header };
        let coding = match self.key_codec(header.table()) {
            KeyCodec::Plain => Coding::PLAIN,
            _ => Coding::new(KeyCodec::Packed), // It need not know anything from before.
        };
        let (sends, due_at) = (0, now);
        let word_of = WordOf::TAIL;
        let request =
            Request { header, body, origin, first_at: now, due_at, sends, coding, word_of };
        let replica = self.behind.replicas[at].as_mut().expect("it was just chosen");
        replica.link.admit(request);
        let server = replica.server;
        self.behind.note_asked(server, header.keys);
        self.counts.keys_from_replicas += u64::from(header.keys);
        self.send_to_replica(at, now);
        self.behind.due_at = self.behind.due_at.min(now + self.late_after());
    }

    /// Which replica a pull goes to; none: to the head.
    fn choose(&self, shard: usize, header: &Header, now: Time) -> Option<usize> {
        let behind = &self.behind;
        let may = match behind.choice {
            Some(Reading::Replicas) => true,
            // Where keys are coded, pushes name those of pulls: the head should know them.
            Some(Reading::Auto) => {
                let is_plain = self.key_codec(header.table()) == KeyCodec::Plain;
                is_plain && behind.shards.get(shard)?.is_hot
            }
            Some(Reading::Heads) | None => false,
        };
        let reads_all = header.worker() == WorkerId::OBSERVER;
        let head = &self.links[shard];
        if !may || reads_all || header.keys == 0 || head.lost.is_some() {
            return None;
        }
        behind.least_asked(shard, head, now)
    }

    fn send_to_replica(&mut self, at: usize, now: Time) {
        let patience = self.timeouts.request;
        let Session { behind, port, counts, .. } = self;
        if let Some(Some(Replica { link, shard, .. })) = behind.replicas.get_mut(at) {
            Sending { port, counts, now, patience }.send(link, *shard);
        }
    }

    /// After which time a pull goes to the head.
    fn late_after(&self) -> Duration {
        self.timeouts.request / LATE_PART
    }

    /// Notes whether a shard says that it is hot.
    pub(crate) fn note_hot(&mut self, shard: usize, answer: &Header) {
        if let Some(shard) = self.behind.shards.get_mut(shard) {
            shard.is_hot = answer.flags().has(Flags::HOT);
        }
    }

    /// Asks for links to replicas that are wanted, or were lost.
    pub(crate) fn want_replicas(&mut self, following: &mut Following) {
        let behind = &mut self.behind;
        let always = match behind.choice {
            Some(Reading::Replicas) => true,
            Some(Reading::Auto) => false,
            Some(Reading::Heads) | None => return,
        };
        for (number, shard) in (0..).zip(&mut behind.shards) {
            if !shard.is_followed && (always || shard.is_hot) {
                shard.is_followed = true;
                following.want_replicas(ShardId::new(number), None);
            }
        }
        for (shard, server) in behind.lost.drain(..) {
            following.want_replicas(shard, Some(server));
        }
    }

    /// Takes over a link to a replica, unless the shard has gone on to a later epoch.
    pub(crate) fn take_replica(&mut self, route: Route, now: Time) {
        let Route { shard, epoch, server, host, link, .. } = route;
        let at = shard.index();
        let count = self.behind.replicas.iter().flatten().count();
        if epoch < self.links[at].epoch || count >= REPLICAS_MAX {
            return;
        }
        let is_same = |one: &Option<Replica>| {
            one.as_ref().is_some_and(|one| (one.shard, one.server) == (at, host))
        };
        if let Some(before) = self.behind.replicas.iter().position(is_same) {
            self.retire(before, now);
        }
        let Ok(peer) = self.port.transport.adopt(link) else {
            return self.behind.lost.push((shard, host));
        };
        let link = Link::new(peer, server, epoch, now);
        let replica = Replica { shard: at, server: host, link, rests_until: now };
        let behind = &mut self.behind;
        let free = behind.replicas.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            behind.replicas.push(None);
            behind.replicas.len() - 1
        });
        behind.replicas[place] = Some(replica);
        if behind.of_peer.len() <= peer.index() {
            behind.of_peer.resize(peer.index() + 1, None);
        }
        behind.of_peer[peer.index()] = Some(place);
    }

    /// A shard is served at a later epoch: replicas of one before are not asked any more.
    pub(crate) fn retire_older(&mut self, shard: usize, now: Time) {
        let epoch = self.links[shard].epoch;
        for at in 0..self.behind.replicas.len() {
            let replica = self.behind.replicas[at].as_ref();
            if replica.is_some_and(|one| one.shard == shard && one.link.epoch < epoch) {
                self.retire(at, now);
            }
        }
    }

    /// Whether a peer that is gone was a replica; its pulls go to the head.
    pub(crate) fn note_replica_closed(&mut self, peer: PeerId, fault: Fault, now: Time) {
        let Some(at) = self.replica_at(peer) else { return };
        if let Some(replica) = &mut self.behind.replicas[at] {
            replica.link.lost = Some(Lost::Fault(fault));
            let lost = (ShardId::new(replica.shard as u16), replica.server);
            self.behind.lost.push(lost);
        }
        self.retire(at, now);
    }

    /// Takes in what a replica says.
    pub(crate) fn receive_from_replica(
        &mut self,
        peer: PeerId,
        slot: RecvSlot,
        now: Time,
    ) -> Result<(), WorkerError> {
        let found = self.replica_at(peer);
        let (Some(at), Ok(header)) = (found, self.port.open(&slot)) else {
            // What is damaged was a pull's answer: that goes to the head once it is late.
            self.counts.damaged += u64::from(found.is_some());
            self.port.transport.release(slot);
            return Ok(());
        };
        let is_ours = self.is_ours(&header);
        let replica = self.behind.replicas[at].as_mut().expect("a peer's replica is there");
        let (link, shard) = (&mut replica.link, replica.shard);
        link.note_answer(&header, now);
        let Some(request) = link.take(header.sequence()).filter(|_| is_ours) else {
            self.counts.answers_late += 1;
            self.port.transport.release(slot);
            return Ok(());
        };
        let status = header.status().expect("`Port::open` has read it");
        if let Status::Refused(refusal) = status {
            self.port.transport.release(slot);
            self.hand_over(shard, request, now);
            if let Refusal::EpochMismatch { .. } = refusal {
                self.retire(at, now);
            }
            return Ok(());
        }
        if let Err(error) = check_fits(&link.server, &request.header, &header) {
            self.port.transport.release(slot);
            return Err(error);
        }
        if header.flags().has(Flags::HOT) {
            self.note_hot(shard, &header);
        }
        self.counts.values_bytes += slot.bytes().len() as u64;
        let Request { header: asked, body, origin, .. } = request;
        let (Origin::Pull(place), Body::Keys { split, range }) = (origin, body) else {
            unreachable!("replicas are sent pulls alone")
        };
        let part = PulledPart { place, asked, split: &split, range };
        match self.take_values(part, slot, MayKeep::No) {
            Ok(Arrival::Copied(slot)) => self.port.transport.release(slot),
            Ok(Arrival::Kept) => {}
            Err((slot, damaged)) => {
                self.port.transport.release(slot);
                let server = self.behind.name(at);
                return Err(WorkerError::Undecodable { server, damaged });
            }
        }
        self.send_to_replica(at, now);
        Ok(())
    }

    /// Hands pulls that are late to their heads.
    pub(crate) fn run_late(&mut self, now: Time) {
        if now < self.behind.due_at {
            return;
        }
        let late_after = self.late_after();
        let (mut due_at, mut late) = (Time::NEVER, Vec::new());
        for at in 0..self.behind.replicas.len() {
            let Some(replica) = &mut self.behind.replicas[at] else { continue };
            let (shard, heard_at) = (replica.shard, replica.link.heard_at);
            while let Some(asked_at) = replica.link.first_asked_at() {
                let late_at = asked_at.max(self.attentive_since) + late_after;
                if late_at > now {
                    due_at = due_at.min(late_at);
                    break;
                }
                let Some(request) = replica.link.take_first() else { break };
                if heard_at < asked_at {
                    replica.rests_until = now + late_after * REST_LATES;
                }
                late.push((shard, request));
            }
        }
        self.behind.due_at = due_at;
        late.into_iter().for_each(|(shard, request)| self.hand_over(shard, request, now));
    }

    /// Gives up a pull wherever it is.
    pub(crate) fn forget_pull(&mut self, place: usize) {
        let replicas = self.behind.replicas.iter_mut().flatten();
        let links = self.links.iter_mut().chain(replicas.map(|replica| &mut replica.link));
        links.for_each(|link| link.forget(Origin::Pull(place)));
    }

    fn replica_at(&self, peer: PeerId) -> Option<usize> {
        self.behind.of_peer.get(peer.index()).copied().flatten()
    }

    /// Ends the link to a replica; its pulls go to the head.
    fn retire(&mut self, at: usize, now: Time) {
        let Some(mut replica) = self.behind.replicas[at].take() else { return };
        let peer = replica.link.peer;
        self.behind.of_peer[peer.index()] = None;
        if replica.link.lost.is_none() {
            self.port.transport.close(peer);
        }
        while let Some(request) = replica.link.take_first() {
            self.hand_over(replica.shard, request, now);
        }
    }

    /// Asks the head for what a replica was asked for.
    fn hand_over(&mut self, shard: usize, request: Request, now: Time) {
        let Request { header, body, origin, first_at, .. } = request;
        let header = Header { flags: Flags::NONE.get(), credit: 0, ..header };
        let coding = Coding::new(self.key_codec(header.table()));
        let (sends, due_at, word_of) = (0, now, WordOf::TAIL);
        self.counts.pulls_handed_over += 1;
        self.behind.note_asked_of_head(shard, header.keys);
        let request = Request { header, body, origin, first_at, due_at, sends, coding, word_of };
        self.links[shard].admit(request);
        self.send_unsent(shard, now);
    }
}

impl ReplicaLinks {
    /// What errors call a replica.
    fn name(&self, at: usize) -> String {
        self.replicas[at].as_ref().map_or_else(String::new, |one| one.link.server.clone())
    }
}
