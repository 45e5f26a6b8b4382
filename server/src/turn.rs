//! The data path on one screen: poll, handle, answer, flush.
//!
//! Owns one turn of a core's loop, whose turn it is among peers, and the messages that cannot be
//! answered yet. What a message does is left to `shard`, links between servers to `chains`.
//!
//! A turn handles what is short, of every peer, and then so much of what is long that the next poll
//! is near: a short request waits for one long one at most, however many another peer has sent.
//! Peers with long ones take turns. What a table owes, as lines to move while it grows, is done
//! before further long ones, in parts, and short requests are handled between those.
//!
//! Invariant: the messages of one peer are handled in the order they came, except pulls that wait
//! for a clock: those step aside, so that the push they wait for can pass. What waits is bounded
//! by what the transport lets each peer send.

use std::collections::{BTreeSet, VecDeque};

use shard::chain::{Replica, Role};
use shard::{Outcome, Room, Shard, Upkeep};
use transport::{
    AdoptError, Event, Integrity, Link, PeerId, RecvSlot, SendSlot, Standing, Transport, Waker,
};
use wire::{HEADER_BYTES, ShardId, Time, WorkerId};

use crate::chains::{Hosted, News};
use crate::guest::{Blocked, Guest, Length, Party, WayBack, Who, cost};
use crate::quiet::Quiet;
use crate::recordings::Recordings;
use crate::reply::{Kept, Reply};
use crate::view::{CoreView, Ending, Peers, Traffic};

/// Keys of short requests that a turn handles of one peer.
const SHORT_KEYS_PER_TURN: usize = 4096;

/// Keys of long requests that a turn handles; one such request may pass it.
pub(crate) const LONG_KEYS_PER_TURN: usize = 8192;

/// Peers without room for an answer that a busy turn asks for it.
const PROBES_A_TURN: usize = 8;

/// What the end of a worker's connection means for its job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClosed {
    /// The worker is lost, which ends the job: the others are told by name.
    #[default]
    LoseWorker,
    /// The worker may come back over another connection and go on where it was. Its place is kept
    /// meanwhile, and the others wait for its clock as before: however long, unless all of the
    /// job's workers are gone and another job wants to begin.
    AwaitReconnect,
}

/// One core: a transport and the shards that it turns. A thread turns it; a simulation turns many.
pub struct Core {
    pub(crate) transport: Box<dyn Transport>,
    /// Those that were here at some time; one that is not any more is empty and says so.
    pub(crate) hosted: Vec<Hosted>,
    on_closed: OnClosed,
    /// By peer; none where the connection is over.
    pub(crate) peers: Vec<Option<Box<Guest>>>,
    /// Peers with messages in their inbox, in the order of their turns.
    turns: VecDeque<PeerId>,
    /// Pulls ahead of the slowest worker, in the order they came.
    waiting: Vec<RecvSlot>,
    events: Vec<Event>,
    /// The transport's clock after the last poll; not read where no shard has a chain.
    pub(crate) now: Time,
    pub(crate) news: Vec<News>,
    traffic: Traffic,
    present: Peers,
    /// Where asking for room goes on, in `turns`.
    probed: usize,
    /// Of messages that are dropped.
    quiet: Quiet,
    pub(crate) recordings: Recordings,
    /// Shards that are placed here and are not restored yet.
    pub(crate) loading: BTreeSet<ShardId>,
}

impl Core {
    /// A core with one shard, numbered 0, that loses a worker with its connection.
    pub fn new(transport: Box<dyn Transport>, shard: Shard) -> Core {
        Core::with_on_closed(transport, OnClosed::default(), [(ShardId::new(0), shard)])
    }

    /// A core without peers.
    ///
    /// - `shards`: those that it holds alone; [`Core::place`] gives it others.
    pub fn with_on_closed(
        transport: Box<dyn Transport>,
        on_closed: OnClosed,
        shards: impl IntoIterator<Item = (ShardId, Shard)>,
    ) -> Core {
        let message_bytes_max = transport.limits().message_bytes_max;
        let alone = |(number, shard)| Hosted::alone(number, shard, message_bytes_max);
        Core {
            hosted: shards.into_iter().map(alone).collect(),
            transport,
            on_closed,
            peers: Vec::new(),
            turns: VecDeque::new(),
            waiting: Vec::new(),
            events: Vec::new(),
            now: Time::default(),
            news: Vec::new(),
            traffic: Traffic::default(),
            present: Peers::default(),
            probed: 0,
            quiet: Quiet::default(),
            recordings: Recordings::default(),
            loading: BTreeSet::new(),
        }
    }

    /// Takes over a connection whose handshake is over, of a worker or of a shard's predecessor.
    /// Until its worker has joined the job it is a stranger's, which has no faster way: memory is
    /// opened to members alone.
    ///
    /// - Result: `None`, and the connection is closed, if the shard is not here, or its chain is of
    ///   another epoch than the predecessor's.
    pub fn adopt(&mut self, link: Link, who: Who) -> Result<Option<PeerId>, AdoptError> {
        let Some(at) = self.hosted.iter().position(|hosted| hosted.number == who.shard) else {
            return Ok(None);
        };
        if who.worker == WorkerId::PREDECESSOR {
            return self.adopt_predecessor(at, link, who);
        }
        let peer = self.take_in(link, Party::Worker, at, who)?;
        // One that comes back, or from the head before this one, has joined already.
        if !self.hosted[at].replica.shard().has_member(who.worker, who.incarnation) {
            self.transport.set_standing(peer, Standing::Stranger);
        }
        Ok(Some(peer))
    }

    pub(crate) fn take_in(
        &mut self,
        link: Link,
        party: Party,
        at: usize,
        who: Who,
    ) -> Result<PeerId, AdoptError> {
        let peer = self.transport.adopt(link)?;
        if self.peers.len() <= peer.index() {
            self.peers.resize_with(peer.index() + 1, || None);
        }
        let (inbox, way_back) = (VecDeque::new(), WayBack::Open);
        let guest = Guest { peer, party, at, who, is_of_other_job: false, inbox, way_back };
        *guest.kind(&mut self.present) += 1;
        self.peers[peer.index()] = Some(Box::new(guest));
        Ok(peer)
    }

    /// One pass: what is short is handled, and some of what is long; answers are sent. Whether
    /// there was anything to do, or is more.
    pub fn turn(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        self.transport.poll(&mut events);
        let mut busy = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Received { slot, .. } => self.receive(slot),
                Event::Closed { peer, fault } => {
                    tracing::debug!(peer = peer.index(), %fault, "connection over");
                    self.traffic.endings[Ending::of(&fault) as usize] += 1;
                    self.forget(peer);
                }
            }
        }
        self.events = events;
        if self.hosted.iter().any(Hosted::is_chained) {
            self.now = self.transport.now(); // After the poll: what came is no younger.
        }
        if self.serve_short() {
            self.keep_chains();
            self.transport.flush(); // These answers wait for nothing long.
            busy = true;
        }
        if self.upkeep() == Upkeep::Owed {
            self.tend();
            busy = true;
        } else {
            busy |= self.serve_long();
        }
        busy |= self.settle_turns(busy);
        busy |= self.end_waits(!busy);
        for at in 0..self.hosted.len() {
            if self.hosted[at].replica.shard_mut().take_progress() {
                self.wake_waiting(at);
                busy = true;
            }
        }
        busy |= self.keep_chains();
        busy |= self.keep_recordings();
        self.transport.flush();
        if !busy && self.upkeep() == Upkeep::MayWait {
            self.tend();
            busy = true;
        }
        busy
    }

    /// Sleeps until there may be something to do, `deadline` at the latest.
    pub fn park(&mut self, deadline: Time) {
        let due = self.hosted.iter().filter_map(|hosted| hosted.replica.deadline());
        self.transport.park(due.chain(self.tape_due()).fold(deadline, Time::min));
    }

    /// The transport's clock.
    pub fn now(&self) -> Time {
        self.transport.now()
    }

    /// Ends a [`Core::park`] from another thread.
    pub fn waker(&self) -> Waker {
        self.transport.waker()
    }

    /// A shard that is here.
    pub fn shard(&self, number: ShardId) -> Option<&Shard> {
        let hosted = self.hosted.iter().find(|hosted| hosted.number == number);
        hosted.map(|hosted| hosted.replica.shard())
    }

    /// A shard that is here, with its place in its chain.
    pub fn replica_mut(&mut self, number: ShardId) -> Option<&mut Replica<SendSlot>> {
        let hosted = self.hosted.iter_mut().find(|hosted| hosted.number == number);
        hosted.map(|hosted| &mut hosted.replica)
    }

    /// What it holds for its peers, in bytes.
    pub(crate) fn held_bytes(&self) -> u64 {
        let shards = self.hosted.iter().map(|hosted| hosted.replica.held_bytes());
        shards.sum::<u64>() + self.transport.held_bytes() + self.recordings.spare_bytes()
    }

    /// Says what its tables may still take. Those of followers are not bounded by it: what a head
    /// has done, they do.
    pub(crate) fn set_room(&mut self, room: Room) {
        self.bound_recordings(room);
        let answers = |hosted: &Hosted| matches!(hosted.replica.role(), Role::Alone | Role::Head);
        let count = self.hosted.iter().filter(|hosted| answers(hosted)).count().max(1) as u64;
        let part = Room { bytes: room.bytes / count, ..room };
        for hosted in &mut self.hosted {
            let room = answers(hosted).then_some(part);
            hosted.replica.shard_mut().set_room(room);
        }
    }

    /// Writes down how it is, and what has been done since the last time.
    pub(crate) fn show(&mut self, view: &mut CoreView) {
        view.shards.clear();
        for hosted in &mut self.hosted {
            view.tally.add(&hosted.replica.shard_mut().take_tally());
            view.shards.push((hosted.number, hosted.replica.view()));
        }
        view.traffic = Traffic { sent_bytes: self.transport.bytes_sent(), ..self.traffic };
        view.peers = self.present;
        view.recording = self.recordings.took;
        view.recording_own = self.recordings.took_own;
        let queued = |peer: &PeerId| Some(self.peers[peer.index()].as_ref()?.inbox.len());
        view.requests_queued = self.turns.iter().filter_map(queued).sum();
        view.pulls_waiting = self.waiting.len();
        view.held_bytes = self.held_bytes();
    }

    fn upkeep(&self) -> Upkeep {
        let upkeep = self.hosted.iter().map(|hosted| hosted.replica.upkeep());
        upkeep.max().unwrap_or(Upkeep::None)
    }

    /// Does a part of the upkeep of the shard that needs it most.
    fn tend(&mut self) {
        let needs_most = self.hosted.iter_mut().max_by_key(|hosted| hosted.replica.upkeep());
        if let Some(hosted) = needs_most {
            hosted.replica.shard_mut().tend();
        }
    }

    /// A message has come; its peer gets a turn.
    fn receive(&mut self, slot: RecvSlot) {
        let peer = slot.peer();
        self.traffic.received_bytes += slot.bytes().len() as u64;
        let Some(Some(guest)) = self.peers.get_mut(peer.index()) else {
            return self.transport.release(slot);
        };
        if guest.inbox.is_empty() {
            self.turns.push_back(peer);
        }
        guest.inbox.push_back(slot);
    }

    /// Handles what is short in front of each peer's inbox. Whether there was any.
    fn serve_short(&mut self) -> bool {
        let mut served = false;
        for at in 0..self.turns.len() {
            let (peer, mut keys_done) = (self.turns[at], 0);
            while keys_done < SHORT_KEYS_PER_TURN
                && let Some(keys) = self.serve_one(peer, Length::Short)
            {
                keys_done += keys;
                served = true;
            }
        }
        served
    }

    /// Handles some of what is long, one message of each peer after another. Whether there was any.
    fn serve_long(&mut self) -> bool {
        let (mut keys_done, mut passed_over) = (0, 0);
        while keys_done < LONG_KEYS_PER_TURN && passed_over < self.turns.len() {
            let Some(peer) = self.turns.pop_front() else { break };
            self.turns.push_back(peer);
            match self.serve_one(peer, Length::Long) {
                Some(keys) => (keys_done, passed_over) = (keys_done + keys, 0),
                None => passed_over += 1,
            }
        }
        keys_done > 0
    }

    /// Handles the next message of a peer, if it is of this length and its answer has room. What it
    /// cost, in keys.
    fn serve_one(&mut self, peer: PeerId, length: Length) -> Option<usize> {
        let guest = self.peers[peer.index()].as_mut()?;
        let (keys, found) = cost(guest.inbox.front()?);
        if found != length || guest.way_back != WayBack::Open {
            return None;
        }
        let (party, at, who) = (guest.party, guest.at, guest.who);
        let slot = guest.inbox.pop_front()?;
        self.recordings.is_asked |= party != Party::Successor;
        let done = match party {
            Party::Worker => self.handle(at, who, slot),
            Party::Predecessor => {
                self.follow(at, slot).map_err(|slot| Blocked { slot, lacking_bytes: 0 })
            }
            Party::Successor => {
                self.hear(at, slot);
                Ok(())
            }
        };
        let Err(Blocked { slot, lacking_bytes }) = done else { return Some(keys) };
        let guest = self.peers[peer.index()].as_mut()?;
        guest.inbox.push_front(slot);
        guest.way_back = match lacking_bytes {
            0 => WayBack::Shut,
            bytes => WayBack::Full { bytes },
        };
        None
    }

    /// Ends the turns of peers that have nothing left; of the others, those may be tried again
    /// whose answers have room. Whether one has that had none.
    ///
    /// A peer that does not read its answers is so asked for room once in a while, and its message
    /// is not read again and again: in a turn that was `busy`, [`PROBES_A_TURN`] of them are asked.
    fn settle_turns(&mut self, busy: bool) -> bool {
        let (peers, mut full) = (&mut self.peers, 0);
        self.turns.retain(|peer| {
            let guest = peers[peer.index()].as_mut();
            let guest = guest.expect("`forget` takes a peer that is gone off the list");
            match guest.way_back {
                WayBack::Full { .. } => full += 1,
                WayBack::Open | WayBack::Shut => guest.way_back = WayBack::Open,
            }
            !guest.inbox.is_empty()
        });
        if full == 0 {
            return false;
        }
        let count = if busy { full.min(PROBES_A_TURN) } else { full };
        let (mut asked, mut opened, turns) = (0, false, self.turns.len());
        for step in 0..turns {
            let peer = self.turns[(self.probed + step) % turns];
            let Some(guest) = self.peers[peer.index()].as_mut() else { continue };
            let WayBack::Full { bytes } = guest.way_back else { continue };
            if let Ok(slot) = self.transport.acquire(peer, bytes) {
                self.transport.cancel(slot);
                guest.way_back = WayBack::Open;
                opened = true;
            }
            asked += 1;
            if asked == count {
                self.probed = (self.probed + step + 1) % turns;
                break;
            }
        }
        opened
    }

    /// Handles one message; gives it back where its answer has no room.
    fn handle(&mut self, at: usize, who: Who, slot: RecvSlot) -> Result<(), Blocked> {
        if self.on_closed == OnClosed::AwaitReconnect {
            self.dismiss_absent(at, &slot);
        }
        let peer = slot.peer();
        let mut reply = Reply {
            transport: &mut *self.transport,
            peer,
            bytes_max: who.message_bytes_max,
            lacking_bytes: 0,
        };
        let replica = &mut self.hosted[at].replica;
        let (outcome, slot) = replica.handle_received(self.now, Kept(slot), &mut reply);
        let lacking_bytes = reply.lacking_bytes;
        match (outcome, slot.map(|Kept(slot)| slot)) {
            (Outcome::Answered, slot) => {
                drop(slot);
                if let Some(job) = self.hosted[at].replica.shard_mut().take_joined() {
                    self.admit_member(at, peer, job);
                }
            }
            (Outcome::Waiting, Some(slot)) => self.wait(slot),
            (Outcome::NoSlot, Some(slot)) => return Err(Blocked { slot, lacking_bytes }),
            (Outcome::Waiting | Outcome::NoSlot, None) => {} // What is kept was answered.
            (Outcome::Malformed(malformed), slot) => {
                if self.quiet.speaks(self.transport.now()) {
                    let unsaid = self.quiet.take_unsaid();
                    tracing::warn!(peer = peer.index(), %malformed, unsaid, "a message is dropped");
                }
                drop(slot);
                self.traffic.malformed += 1;
                // Over a network that checks nothing itself, a changed message is sent again.
                if self.transport.integrity() == Integrity::Memory {
                    self.transport.close(peer);
                }
            }
        }
        Ok(())
    }

    /// Keeps a pull until the clock advances, unless it is a copy of one that waits already: the
    /// room that copies took would be missing for the push that the pull waits for.
    fn wait(&mut self, slot: RecvSlot) {
        let head = &slot.bytes()[..HEADER_BYTES];
        let is_copy =
            |one: &RecvSlot| one.peer() == slot.peer() && one.bytes()[..HEADER_BYTES] == *head;
        if self.waiting.iter().any(is_copy) {
            self.transport.release(slot);
        } else {
            self.waiting.push(slot);
        }
    }

    /// A shard's clock has advanced: pulls that waited are the first of their peers again.
    fn wake_waiting(&mut self, at: usize) {
        let peers = &self.peers;
        let is_its = |slot: &mut RecvSlot| {
            peers[slot.peer().index()].as_ref().is_some_and(|guest| guest.at == at)
        };
        let woken: Vec<RecvSlot> = self.waiting.extract_if(.., is_its).collect();
        for slot in woken.into_iter().rev() {
            let peer = slot.peer();
            let guest = self.peers[peer.index()].as_mut();
            let guest = guest.expect("`forget` releases what waits for a peer that is gone");
            if guest.inbox.is_empty() {
                self.turns.push_front(peer);
            }
            guest.inbox.push_front(slot);
        }
    }

    /// A connection is over: its messages go, and its worker is missed or waited for.
    fn forget(&mut self, peer: PeerId) {
        let Some(guest) = self.peers.get_mut(peer.index()).and_then(Option::take) else { return };
        *guest.kind(&mut self.present) -= 1;
        match guest.party {
            Party::Worker if self.on_closed == OnClosed::LoseWorker => {
                let shard = self.hosted[guest.at].replica.shard_mut();
                shard.worker_lost(guest.who.worker, guest.who.incarnation);
            }
            Party::Worker => {
                self.note_absence(&guest);
                let replica = &mut self.hosted[guest.at].replica;
                replica.drop_held(|slot| slot.peer() == peer);
            }
            Party::Predecessor | Party::Successor => self.chain_link_over(guest.at, peer),
        }
        let waited = self.waiting.extract_if(.., |slot| slot.peer() == peer);
        for slot in waited.chain(guest.inbox) {
            self.transport.release(slot);
        }
        self.turns.retain(|&other| other != peer);
    }
}
