//! The session: what a worker asks of all shards together.
//!
//! Owns the public verbs that do not wait: split, pull, push, tick. Waiting, receiving and
//! sending again are left to `turn`, calls with one answer to `call`.
//!
//! Invariant: between two verbs every admitted request is either in flight or listed as unsent,
//! and nothing is admitted before all of its checks have passed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use kernels::Isa;
use kernels::hash::mix;
use transport::{Event, PeerId, Transport};
use wire::{
    Carried, Clock, Encoding, Epoch, Flags, Header, Incarnation, KeyForm, Kind, Routing, ShardId,
    TableId, Time, WorkerId,
};

use crate::call::Call;
use crate::codec::{Codecs, KeyCodec};
use crate::counts::Counts;
use crate::error::WorkerError;
use crate::link::{Link, REQUESTS_MAX};
use crate::port::Port;
use crate::pull::{PullTicket, Pulls, Values, ValuesBody};
use crate::replicas::ReplicaLinks;
use crate::request::{Body, Coding, Origin, Request};
use crate::routes::Following;
use crate::split::{KEYS_MAX, Split, Splitter};

/// Buffers for deltas that are kept for later pushes.
const DELTAS_POOLED_MAX: usize = 64;

/// What a session is made of.
pub struct SessionSpec {
    /// Moves the bytes. The session is its only user.
    pub transport: Box<dyn Transport>,
    /// The link to each shard, by its number; handshakes are over.
    pub peers: Vec<PeerId>,
    /// What errors call each shard's server, by the shard's number.
    pub servers: Vec<String>,
    /// Which shard owns a key.
    pub routing: Routing,
    /// Who asks.
    pub worker: WorkerId,
    /// Which life of this worker.
    pub incarnation: Incarnation,
    /// What the processor can.
    pub isa: Isa,
    /// How long to wait before doing something about it.
    pub timeouts: Timeouts,
}

/// How long a session waits before it does something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An unanswered request is sent again after this time, over a network; a pull less and less
    /// often. Within one host's memory nothing gets lost, and nothing is sent again.
    pub request: Duration,
    /// A server that owes an answer and sends nothing for this time is given up. Pulls do not
    /// count: they may wait at the shard for a slow worker. In a cluster it is
    /// [`CHAIN_GIVE_UP_MIN`](crate::CHAIN_GIVE_UP_MIN) at least.
    pub give_up: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { request: Duration::from_secs(1), give_up: Duration::from_secs(5) }
    }
}

/// What follows a push in the worker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// More pushes of the same clock.
    More,
    /// Nothing: the clock is finished, on every shard.
    Tick,
}

/// One worker's conversation with all shards. Used by one thread.
///
/// `pull`, `push` and `tick` only post; what they posted leaves with the next [`Session::flush`],
/// [`Session::poll`] or wait. Times are the transport's, see [`Session::now`].
pub struct Session {
    pub(crate) port: Port,
    pub(crate) links: Vec<Link>,
    /// The shard at the other end of each peer, by the peer's number.
    pub(crate) shard_of_peer: Vec<Option<usize>>,
    pub(crate) pulls: Pulls,
    pub(crate) call: Call,
    pub(crate) codecs: Codecs,
    pub(crate) counts: Counts,
    pub(crate) timeouts: Timeouts,
    /// The error that ended the session.
    pub(crate) failed: Option<WorkerError>,
    pub(crate) events: Vec<Event>,
    /// When the next request may be due.
    pub(crate) timer_at: Time,
    pub(crate) timer_ran_at: Time,
    /// When the session last listened.
    pub(crate) polled_at: Time,
    /// Since when the session has been polled without a long gap.
    pub(crate) attentive_since: Time,
    /// Who finds other servers for shards that are lost here, if anybody does.
    pub(crate) following: Option<Following>,
    pub(crate) behind: ReplicaLinks,
    /// Tables whose pushes a head answers for.
    pub(crate) tables_at_head: BTreeSet<TableId>,
    worker: WorkerId,
    incarnation: Incarnation,
    pub(crate) clock: Clock,
    splitter: Splitter,
    deltas_pool: Vec<Rc<Vec<f32>>>,
}

impl Session {
    /// A session over links whose handshake is over.
    ///
    /// - Panics: if there is not one peer and one server name for each shard.
    pub fn new(spec: SessionSpec) -> Session {
        let shards = spec.routing.shards();
        assert_eq!((spec.peers.len(), spec.servers.len()), (shards, shards), "one a shard");
        let port = Port::new(spec.transport, spec.isa);
        let now = port.now();
        let links: Vec<Link> = std::iter::zip(&spec.peers, spec.servers)
            .map(|(&peer, server)| Link::new(peer, server, spec.routing.epoch(), now))
            .collect();
        let life = u64::from(spec.worker.get()) << 32 | u64::from(spec.incarnation.get());
        let seed = mix(life);
        let mut session = Session {
            port,
            links,
            shard_of_peer: Vec::new(),
            pulls: Pulls::default(),
            call: Call::default(),
            codecs: Codecs::new(spec.isa, seed),
            counts: Counts::default(),
            timeouts: spec.timeouts,
            failed: None,
            events: Vec::new(),
            timer_at: now,
            timer_ran_at: now,
            polled_at: now,
            attentive_since: now,
            following: None,
            behind: ReplicaLinks::default(),
            tables_at_head: BTreeSet::new(),
            worker: spec.worker,
            incarnation: spec.incarnation,
            clock: Clock::new(0),
            splitter: Splitter::new(spec.routing),
            deltas_pool: Vec::new(),
        };
        for (shard, &peer) in spec.peers.iter().enumerate() {
            session.note_peer(peer, shard);
        }
        session
    }

    /// Now, on the clock of the transport, in which all deadlines are given.
    pub fn now(&self) -> Time {
        self.port.now()
    }

    /// How many clocks this worker has finished.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The slowest worker's clock, as far as the servers have told.
    pub fn clock_slowest(&self) -> Clock {
        let slowest = self.links.iter().map(|link| link.clock_slowest).min();
        slowest.expect("a routing table has a shard")
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.links.len()
    }

    /// Every shard's number.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let shards = u16::try_from(self.links.len()).expect("a routing table has fewer");
        (0..shards).map(ShardId::new)
    }

    /// Which shard owns a key.
    pub fn routing(&self) -> &Routing {
        self.splitter.routing()
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The transport, to read its name and counters.
    pub fn transport(&self) -> &dyn Transport {
        &*self.port.transport
    }

    /// The transport, for a driver that adopts a new link before [`Session::reconnect`].
    pub fn transport_mut(&mut self) -> &mut dyn Transport {
        &mut *self.port.transport
    }

    /// Groups strictly ascending keys by shard. The result serves any number of pulls and pushes;
    /// its buffers are used again once it is dropped.
    ///
    /// - Errors: [`WorkerError::Keys`] with the index of the first key out of order, or
    ///   [`WorkerError::TooMany`].
    pub fn split(&mut self, keys: &[u64]) -> Result<Rc<Split>, WorkerError> {
        if keys.len() > KEYS_MAX {
            let (count, count_max) = (keys.len(), KEYS_MAX);
            return Err(WorkerError::TooMany { what: "keys of one split", count, count_max });
        }
        self.splitter.split(keys).map_err(WorkerError::Keys)
    }

    /// Asks for the values of all keys of `split`, as they are when no worker is further behind
    /// this one's clock than the job allows. Several pulls may be under way.
    ///
    /// - `width`: values a key that the table's rule returns.
    /// - Errors: [`WorkerError::WidthTooLarge`], [`WorkerError::TooMany`], or the error that
    ///   ended the session. Nothing was sent.
    pub fn pull(
        &mut self,
        table: TableId,
        split: &Rc<Split>,
        width: u16,
    ) -> Result<PullTicket, WorkerError> {
        self.pull_ahead(table, split, width, 0)
    }

    /// A pull for the clock `ahead` ticks from now: it may be asked before they are done, and is
    /// answered when the job allows it then.
    ///
    /// - Errors: as [`Session::pull`].
    pub fn pull_ahead(
        &mut self,
        table: TableId,
        split: &Rc<Split>,
        width: u16,
        ahead: u64,
    ) -> Result<PullTicket, WorkerError> {
        self.check()?;
        self.codecs.try_ways(self.port.now(), self.counts.pairs_pushed);
        let keys_max = self.port.pull_keys_max(usize::from(width))?;
        let parts = self.count_parts(split, keys_max)?;
        let place = self.pulls.begin(split, usize::from(width), parts)?;
        let clock = Clock::new(self.clock.get() + ahead);
        let values = self.codecs.of(table).pull.to_u8();
        let encoding = Encoding::new(KeyForm::Plain, values, Carried::All).get();
        for shard in 0..self.links.len() {
            for range in cut(split.range_of(shard), keys_max) {
                let header = self.header(Kind::Pull, table, range.len(), width);
                let header = Header { clock: clock.get(), encoding, ..header };
                let body = Body::Keys { split: Rc::clone(split), range };
                self.admit_pull(shard, header, body, Origin::Pull(place));
            }
        }
        self.counts.keys_pulled += split.keys_count() as u64;
        Ok(PullTicket { place, table, clock })
    }

    /// Adds deltas to all keys of `split`, each exactly once. The session keeps `deltas` until
    /// every shard has answered for its tail, see [`Acknowledge`](wire::Acknowledge); a buffer that
    /// nobody else holds then serves the next [`Session::deltas_buffer`].
    ///
    /// - `deltas`: `[keys, width]` f32 in the order of the keys that were split.
    /// - Errors: [`WorkerError::WidthTooLarge`], [`WorkerError::TooMany`] (wait for pushes, then
    ///   try again), or the error that ended the session. Nothing was sent, the clock stands.
    /// - Panics: if `deltas` has another length.
    pub fn push(
        &mut self,
        table: TableId,
        split: &Rc<Split>,
        deltas: Rc<Vec<f32>>,
        width: u16,
        then: Then,
    ) -> Result<(), WorkerError> {
        self.check()?;
        // Whatever the codec: it may be another one in a later life.
        let keys_max = self.port.coded_push_keys_max(usize::from(width))?;
        let keys = split.keys_count();
        assert_eq!(deltas.len(), keys * usize::from(width), "{keys} keys of width {width}");
        self.count_parts(split, keys_max)?;
        for shard in 0..self.links.len() {
            if self.is_done_by_earlier_life(shard) {
                continue;
            }
            let whole = split.range_of(shard);
            for range in cut(whole.clone(), keys_max) {
                let mut header = self.header(Kind::Push, table, range.len(), width);
                if then == Then::Tick && range.end == whole.end {
                    header.flags = Flags::TICK.get();
                }
                let body = self.codecs.push_body(table, split, range, &deltas);
                self.counts.pairs_carried += body.carried() as u64;
                self.admit(shard, header, body, Origin::Push);
            }
            if then == Then::Tick && whole.is_empty() {
                self.admit_tick(shard);
            }
        }
        if then == Then::Tick {
            self.clock = self.clock.next();
        }
        self.counts.pairs_pushed += keys as u64;
        self.recycle_deltas(deltas);
        Ok(())
    }

    /// Finishes the clock on every shard, where nothing is left to push.
    ///
    /// - Errors: as [`Session::push`].
    pub fn tick(&mut self) -> Result<(), WorkerError> {
        self.check()?;
        self.check_room(1)?;
        for shard in 0..self.links.len() {
            self.admit_tick(shard);
        }
        self.clock = self.clock.next();
        Ok(())
    }

    /// A buffer of `len` f32 that nobody else holds, with any content, for the next push.
    pub fn deltas_buffer(&mut self, len: usize) -> Rc<Vec<f32>> {
        let mut buffer = self.deltas_pool.pop().unwrap_or_default();
        Rc::get_mut(&mut buffer).expect("a pooled buffer is nobody's").resize(len, 0.0);
        buffer
    }

    /// Whether a pull is over, so that waiting for it returns at once.
    pub fn is_over(&self, ticket: &PullTicket) -> bool {
        self.pulls.is_over(ticket.place)
    }

    /// Gives up a pull. An answer that still comes is dropped.
    #[allow(clippy::needless_pass_by_value)] // A ticket is spent.
    pub fn cancel(&mut self, ticket: PullTicket) {
        self.forget_pull(ticket.place);
        if let (Some(values), _) = self.pulls.end(ticket.place) {
            self.recycle(values);
        }
    }

    /// Gives the memory of values back, to the server's ring or to the session.
    pub fn recycle(&mut self, values: Values) {
        match values.body {
            ValuesBody::Slot { slot, shard } => {
                let link = &mut self.links[shard];
                link.held_bytes = link.held_bytes.saturating_sub(slot.bytes().len());
                self.port.transport.release(slot);
            }
            ValuesBody::Gathered(buffer) => self.pulls.keep_buffer(buffer),
        }
    }

    /// Messages of pushes that are not answered yet.
    pub fn pushes_outstanding(&self) -> usize {
        self.links.iter().map(|link| link.pushes.open).sum()
    }

    /// Goes on over a new link to the same shard, after [`WorkerError::ServerLost`],
    /// [`WorkerError::Moved`] or [`WorkerError::Silent`]: everything unanswered, and what only a
    /// head has answered for, is sent again under its old numbers, so that each push counts once.
    /// The old link is closed.
    ///
    /// - `epoch`: at which the shard is served there.
    pub fn reconnect(&mut self, shard: ShardId, peer: PeerId, epoch: Epoch) {
        let (shard, now) = (shard.index(), self.now());
        let link = &mut self.links[shard];
        let old = link.peer;
        if link.lost.is_none() {
            self.port.transport.close(old);
        }
        self.counts.pushes_again += link.renew(peer, epoch, now) as u64;
        self.shard_of_peer[old.index()] = None;
        self.note_peer(peer, shard);
        self.timer_at = now;
        self.retire_older(shard, now);
    }

    /// The error that ended the session.
    pub(crate) fn check(&self) -> Result<(), WorkerError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// A header of this session; `link` gives the number and the epoch.
    pub(crate) fn header(&self, kind: Kind, table: TableId, keys: usize, width: u16) -> Header {
        Header {
            worker: self.worker.get(),
            incarnation: self.incarnation.get(),
            clock: self.clock.get(),
            table: table.get(),
            keys: u32::try_from(keys).expect("a message has fewer keys than `KEYS_MAX`"),
            width,
            ..Header::new(kind)
        }
    }

    /// Whether an answer is to this life of this worker.
    pub(crate) fn is_ours(&self, header: &Header) -> bool {
        (header.worker(), header.incarnation()) == (self.worker, self.incarnation)
    }

    /// Gives a request its number and sends it, now if there is credit for it.
    pub(crate) fn admit(&mut self, shard: usize, header: Header, body: Body, origin: Origin) {
        let now = self.now();
        let coding = match header.kind() {
            Kind::Pull | Kind::Push if header.keys > 0 => {
                Coding::new(self.key_codec(header.table()))
            }
            _ => Coding::PLAIN,
        };
        let (first_at, due_at, sends, word_of) = (now, now, 0, self.word_of(&header));
        let request = Request { header, body, origin, first_at, due_at, sends, coding, word_of };
        self.links[shard].admit(request);
        self.send_unsent(shard, now);
    }

    /// Refuses what would exceed the bound on unanswered requests of any one shard.
    pub(crate) fn check_room(&self, requests: usize) -> Result<(), WorkerError> {
        let open = self.links.iter().map(Link::open).max().unwrap_or(0);
        if open + requests > REQUESTS_MAX {
            let (count, count_max) = (open + requests, REQUESTS_MAX);
            return Err(WorkerError::TooMany { what: "requests of one shard", count, count_max });
        }
        Ok(())
    }

    /// Keeps a buffer of deltas that nobody holds any more.
    pub(crate) fn recycle_deltas(&mut self, mut deltas: Rc<Vec<f32>>) {
        if Rc::get_mut(&mut deltas).is_some() && self.deltas_pool.len() < DELTAS_POOLED_MAX {
            self.deltas_pool.push(deltas);
        }
    }

    /// The form of keys in messages about a table. An observer tells a shard nothing that lasts.
    pub(crate) fn key_codec(&self, table: TableId) -> KeyCodec {
        match self.codecs.of(table).keys {
            KeyCodec::Numbered if self.worker == WorkerId::OBSERVER => KeyCodec::Packed,
            codec => codec,
        }
    }

    fn admit_tick(&mut self, shard: usize) {
        if self.is_done_by_earlier_life(shard) {
            return;
        }
        let mut header = self.header(Kind::Push, TableId::new(0), 0, 0);
        header.flags = Flags::TICK.get();
        self.admit(shard, header, Body::Nothing, Origin::Push);
    }

    /// How many messages a split makes, if there is room for them.
    fn count_parts(&self, split: &Split, keys_max: usize) -> Result<usize, WorkerError> {
        let parts = |shard| cut(split.range_of(shard), keys_max).len();
        let most = (0..self.links.len()).map(parts).max().unwrap_or(0);
        self.check_room(most.max(1))?;
        Ok((0..self.links.len()).map(parts).sum())
    }

    fn note_peer(&mut self, peer: PeerId, shard: usize) {
        if self.shard_of_peer.len() <= peer.index() {
            self.shard_of_peer.resize(peer.index() + 1, None);
        }
        self.shard_of_peer[peer.index()] = Some(shard);
    }
}

/// Cuts one shard's keys into messages of as many keys, a power of two; the last has what is left.
///
/// So the cut follows from the number of keys alone: another life of the worker makes it alike. And
/// the pieces of a push lie within those of its pull, which are no shorter where a delta is no
/// shorter than a value: the shard then has a list for each of them.
fn cut(range: Range<usize>, keys_max: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let keys = 1 << keys_max.ilog2();
    let pieces = range.len().div_ceil(keys);
    (0..pieces).map(move |piece| {
        let start = range.start + piece * keys;
        start..range.end.min(start + keys)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_push_lie_within_pieces_of_its_pull() {
        for (len, push_max, pull_max) in [(0, 5, 9), (1, 1, 1), (1000, 17, 40), (4096, 512, 1023)] {
            let pull: Vec<_> = cut(7..7 + len, pull_max).collect();
            let push: Vec<_> = cut(7..7 + len, push_max).collect();
            let lies = |one: &Range<usize>| {
                pull.iter().any(|all| all.start <= one.start && one.end <= all.end)
            };
            assert!(push.iter().all(lies), "{len} keys");
            assert_eq!(push.iter().map(ExactSizeIterator::len).sum::<usize>(), len);
            assert!(push.iter().all(|one| one.len() <= push_max && !one.is_empty()));
        }
    }
}
