//! A shard on several servers: what its head did, the others do after it, in the same order.
//!
//! Owns one server's part in a chain: which operations it has applied and which the tail has, the
//! answers that wait for that, who may answer when, and who is fenced. Links, and who is in which
//! chain, are left to `server`; what an operation does to [`crate::Shard`].
//!
//! A head writes each answer at once and sends it once the tail has applied every operation that
//! the answer shows, but for those of `early`. Where nothing is under way, it answers at once if
//! the tail has lately acknowledged something, and else waits for an operation that changes
//! nothing. Each acknowledgement gives the head [`LEASE`] from when it sent what is acknowledged,
//! and whoever passes one on promises not to answer as a head for a quarter longer: so a head that
//! slept through its replacement shows nobody values that are over, and clocks need to agree on
//! nothing but, roughly, how long a second is.
//!
//! Invariant: what was answered, every server that is a replica holds, but for what `early` says
//! and one that was just put out of the chain. What is acknowledged upstream, this server and all
//! behind it have applied.

mod coded;
mod dismiss;
mod early;
mod entry;
mod fill;
mod follow;
mod gather;
mod keep;
mod link;
mod log;
mod pass;
mod read;
mod record;
mod restore;
mod state;
mod tape;
mod view;

#[cfg(test)]
mod coded_tests;
#[cfg(test)]
mod early_tests;
#[cfg(test)]
mod gather_tests;
#[cfg(test)]
mod keep_tests;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use kernels::crc32c::crc32c;
use wire::{Epoch, Holds, Station, Time};

pub use self::coded::PageWriter;
pub use self::entry::Received;
use self::fill::Filling;
pub use self::follow::Taken;
use self::gather::Gathering;
pub use self::gather::{CLOCK_WAIT_MAX, GATHERED_BYTES_MAX, WAIT_MAX};
use self::link::Successor;
use self::log::Log;
use self::pass::{Catching, Passing};
pub use self::record::{Purpose, RecordError, RecordingEnd};
use self::record::{Recording, Tracked};
pub use self::restore::{RestoreError, Restored, Restoring};
pub use self::state::Image;
pub use self::tape::{Reached, TAPE_BYTES, TAPE_HEAD_BYTES, Tape, TapeMessages, tables_of_state};
pub use self::view::{Progress, View};
use crate::answer::Outbox;
use crate::engine::{Mutation, Outcome, Shard, ShardSpec};
use crate::table::Upkeep;

/// How long a head may answer after it sent what the tail then acknowledged.
pub const LEASE: Duration = Duration::from_millis(50);

/// How long a server that passed an acknowledgement on answers nobody as a head: a quarter longer,
/// for clocks that do not run alike.
pub const PROMISE: Duration = Duration::from_micros(62_500);

/// How long a successor that was sent something may say nothing, before its link is given up.
pub const SILENCE_MAX: Duration = Duration::from_millis(250);

/// What a server is in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody places it: it is all there is of its shard.
    Alone,
    /// It answers workers.
    Head,
    /// It does what its predecessor did.
    Follower,
    /// It is sent what its predecessor holds.
    Joining,
    /// It holds the shard no longer.
    Out,
}

/// What has happened that others must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The successor that was filled holds everything.
    Filled,
    /// This server cannot do what its predecessor did: it is out.
    Refused,
    /// The link to the successor is over, or must be ended: it said nothing, or what cannot be.
    SuccessorSilent,
    /// The successor has spoken for the first time over its link.
    SuccessorHeard,
    /// The successor lacks what nobody can send it, or could not be filled fast enough.
    SuccessorUnfit,
}

/// An answer that waits.
#[derive(Debug)]
struct Held<S> {
    /// The tail must have applied so many operations.
    position: u64,
    /// And something that was sent no earlier, where the right to answer was over.
    proof: Option<Time>,
    slot: S,
}

/// One server's part in the chain of one shard. `S`: a place for an answer, see [`Outbox::Slot`].
#[derive(Debug)]
pub struct Replica<S> {
    shard: Shard,
    /// What an empty one is made of; none where it is never emptied.
    spec: Option<ShardSpec>,
    mutation: Mutation,
    role: Role,
    /// Operations applied here, pieces counted one by one.
    position: u64,
    /// Operations that every replica has applied, as far as is known here.
    acknowledged: u64,
    /// Of those applied here, how many the tail must have before anything is answered.
    needed: u64,
    log: Log,
    successor: Option<Successor>,
    filling: Option<Filling>,
    /// What goes to a store of checkpoints; never while the successor is filled.
    recording: Option<Recording>,
    /// Since when it is noted what changes, for a recording of that alone.
    tracked: Option<Tracked>,
    /// Why the last recording ended by itself, until it is asked for.
    recording_end: Option<RecordingEnd>,
    /// Answers that wait for the tail, in their order.
    held: VecDeque<Held<S>>,
    /// Pushes that wait for those of other workers.
    gathering: Gathering<S>,
    /// What the tail acknowledged last was first sent then.
    proven: Option<Time>,
    /// Whether an operation is wanted before the right to answer ends.
    wants_renewal: bool,
    /// The epoch that another server was heard to be at.
    fenced_by: Epoch,
    /// Until when a head may answer at once.
    right_until: Option<Time>,
    /// Until when this server has promised not to answer as a head.
    promised_until: Option<Time>,
    following: follow::Following,
    notices: Vec<Notice>,
}

impl<S> Replica<S> {
    /// A shard that is all there is, without a coordinator.
    pub fn alone(shard: Shard, message_bytes_max: usize) -> Replica<S> {
        Replica {
            log: Log::new(shard.isa, message_bytes_max),
            mutation: shard.mutation,
            shard,
            spec: None,
            role: Role::Alone,
            position: 0,
            acknowledged: 0,
            needed: 0,
            successor: None,
            filling: None,
            recording: None,
            tracked: None,
            recording_end: None,
            held: VecDeque::new(),
            gathering: Gathering::new(),
            proven: None,
            wants_renewal: false,
            fenced_by: Epoch::default(),
            right_until: None,
            promised_until: None,
            following: follow::Following::default(),
            notices: Vec::new(),
        }
    }

    /// An empty shard with a place in a chain.
    ///
    /// - `spec`: its epoch is not looked at.
    /// - `message_bytes_max`: the longest message that servers of the chain take.
    pub fn placed(
        spec: ShardSpec,
        message_bytes_max: usize,
        epoch: Epoch,
        station: Station,
    ) -> Replica<S> {
        let spec = ShardSpec { epoch, ..spec };
        let mut replica = Replica::alone(Shard::new(spec.clone()), message_bytes_max);
        replica.spec = Some(spec);
        replica.take_station(Some(station));
        replica
    }

    /// Takes another place in the chain, in a later epoch; in the same one nothing changes. All
    /// links are of the epoch before then, and over. `None`: it has no place any more. A shard
    /// that is alone stays so.
    ///
    /// - Result: whether anything changed.
    pub fn place(&mut self, epoch: Epoch, station: Option<Station>) -> bool {
        if epoch <= self.shard.epoch || self.role == Role::Alone {
            return false;
        }
        if self.mutation == Mutation::HeadsForever
            && self.role == Role::Head
            && station.is_none_or(|station| station.place > 0)
        {
            self.successor = None;
            self.acknowledge_own();
            return false;
        }
        self.shard.epoch = epoch;
        self.shard.progress = true; // What waits for a clock is for another head to answer.
        self.take_station(station);
        true
    }

    fn take_station(&mut self, station: Option<Station>) {
        let was = self.role;
        self.shard.set_room(None); // A follower does what its head did, room or not.
        self.role = match station {
            None => Role::Out,
            Some(Station { holds: Holds::Part, .. }) => Role::Joining,
            // As `fence` has it: a word of this epoch may come after one of a later epoch.
            Some(Station { place: 0, .. }) if self.fenced_by > self.shard.epoch => Role::Follower,
            Some(Station { place: 0, .. }) => Role::Head,
            Some(_) => Role::Follower,
        };
        let lacks = was == Role::Out || was == Role::Joining && !self.following.is_filled;
        if lacks && matches!(self.role, Role::Head | Role::Follower) {
            self.notices.push(Notice::Refused);
            self.role = Role::Out;
        }
        if matches!(self.role, Role::Out | Role::Joining) {
            self.empty();
        }
        self.end_filling();
        match self.role {
            Role::Follower => self.following.begin_replica(self.position),
            Role::Head if self.mutation == Mutation::StaleEpochsTaken => {
                self.following.begin_replica(self.position);
            }
            _ => self.following = follow::Following::default(),
        }
        (self.right_until, self.wants_renewal) = (None, false);
        self.successor = station
            .and_then(|station| station.downstream)
            .filter(|_| self.role != Role::Out)
            .map(|(_, holds)| Successor::new(holds));
        self.log.keep_operations(self.position);
        self.log.let_go();
        self.needed = self.position;
        if self.mutation == Mutation::LogDropped {
            self.log.restart(self.position + 1);
        }
        if self.role != Role::Head {
            self.drop_waiting();
        } else if was == Role::Follower && self.mutation == Mutation::PushesForgotten {
            self.shard.forget_pushes();
        }
        self.acknowledge_own();
    }

    /// Drops all that it holds.
    fn empty(&mut self) {
        self.abort_recording(RecordingEnd::Gone);
        let spec = self.spec.clone().expect("only a shard that was placed is emptied");
        self.shard = Shard::new(ShardSpec { epoch: self.shard.epoch, ..spec });
        self.shard.progress = true;
        (self.position, self.acknowledged, self.needed, self.tracked) = (0, 0, 0, None);
        self.log.restart(1);
        self.drop_waiting();
        self.following = follow::Following::default();
    }

    /// This server cannot go on: it holds the shard no longer.
    fn give_up(&mut self) {
        self.notices.push(Notice::Refused);
        self.role = Role::Out;
        self.successor = None;
        self.end_filling();
        self.empty();
    }

    /// Another server is at a later epoch of this chain: this one is no head any more.
    pub fn fence(&mut self, epoch: Epoch) {
        let goes_on = self.role == Role::Alone || self.mutation == Mutation::HeadsForever;
        if epoch > self.shard.epoch && !goes_on {
            self.drop_waiting();
            self.fenced_by = epoch;
            self.role = match self.role {
                Role::Head => Role::Follower,
                role => role,
            };
            self.shard.progress = true;
        }
    }

    /// Does what a worker's message asks for, as [`Shard::handle`] does. The answer may wait for
    /// [`Replica::release`].
    ///
    /// - `now`: read after the message had come.
    pub fn handle<O: Outbox<Slot = S>>(
        &mut self,
        now: Time,
        bytes: &[u8],
        outbox: &mut O,
    ) -> Outcome {
        if self.role == Role::Alone {
            let outcome = self.shard.handle(bytes, outbox);
            self.note_reached();
            return outcome;
        }
        let isa = self.shard.isa;
        let header = match wire::read_header(bytes, |bytes| crc32c(isa, 0, bytes)) {
            Ok(header) => header,
            Err(malformed) => return Outcome::Malformed(malformed),
        };
        if header.epoch() > self.shard.epoch {
            return Outcome::NoSlot; // This server will hear of that epoch, too.
        }
        if self.role != Role::Head {
            return self.handle_behind_head(&header, bytes, outbox);
        }
        if self.is_log_full() {
            return Outcome::NoSlot;
        }
        if let Some(outcome) = self.gather(now, &header, bytes, outbox) {
            return outcome;
        }
        let mut catching = Catching { outbox, caught: None };
        let before = self.before(&header);
        let logs = self.logs();
        let mut sink = Passing { log: &mut self.log, position: &mut self.position, logs };
        let outcome = self.shard.handle_into(bytes, &mut catching, &mut sink);
        self.note_reached();
        self.acknowledge_own();
        let position = self.note_done(&header, before);
        if let Some(slot) = catching.caught {
            self.answer(now, position, slot, outbox);
        }
        outcome
    }

    /// Sends an answer now, or once the tail has so many operations.
    fn answer<O: Outbox<Slot = S>>(&mut self, now: Time, upto: u64, slot: S, outbox: &mut O) {
        let (needs, mutation) = (self.needs_successor(), self.mutation);
        let has_right = !needs
            || self.right_until.is_some_and(|until| now < until)
            || mutation == Mutation::PromisesBroken;
        let is_acknowledged = self.acknowledged >= upto;
        let is_free = self.held.is_empty() && !self.is_promised(now);
        if is_acknowledged && has_right && is_free || mutation == Mutation::AnswersNotHeld {
            // Before the right ends, so that nobody waits for it.
            self.wants_renewal = needs && self.right_until.is_none_or(|it| now + LEASE / 2 >= it);
            outbox.post(slot);
        } else {
            let proof = (!has_right).then_some(now);
            self.held.push_back(Held { position: upto, proof, slot });
        }
    }

    /// Gives out the answers that need not wait any more, in their order.
    pub fn release(&mut self, now: Time, mut post: impl FnMut(S)) {
        // What is over must be no deadline, or whoever turns this would not sleep.
        self.promised_until = self.promised_until.filter(|&until| now < until);
        if self.held.is_empty() || self.is_promised(now) {
            return;
        }
        while let Some(Held { position, proof, .. }) = self.held.front()
            && *position <= self.acknowledged
            && !self.lacks_proof(*proof)
        {
            let held = self.held.pop_front().expect("there is one in front");
            post(held.slot);
        }
    }

    /// Whether the chain has acknowledged nothing that was sent since.
    fn lacks_proof(&self, proof: Option<Time>) -> bool {
        self.needs_successor() && proof > self.proven
    }

    /// When there is something to do that no message brings.
    pub fn deadline(&self) -> Option<Time> {
        let promise = self.promised_until.filter(|_| !self.held.is_empty());
        let silence = self.successor.as_ref().and_then(|it| it.silent_at(!self.log.is_empty()));
        let word = self.word_due();
        let waits = self.gathering.deadline();
        [promise, silence, word, waits].into_iter().flatten().min()
    }

    /// What it is in its chain.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How many operations it has applied since the shard began, pieces of long ones counted one by
    /// one; while it is being filled it counts for nothing.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether it holds everything that was acknowledged.
    pub fn holds_everything(&self) -> bool {
        match self.role {
            Role::Alone | Role::Head | Role::Follower => true,
            Role::Joining => self.following.is_filled,
            Role::Out => false,
        }
    }

    /// The chain's epoch.
    pub fn epoch(&self) -> Epoch {
        self.shard.epoch
    }

    /// What has happened that others must hear of, to be taken.
    pub fn notices(&mut self) -> &mut Vec<Notice> {
        &mut self.notices
    }

    /// The shard.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The shard, to change: its upkeep, and who waits.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// As [`Shard::upkeep`].
    pub fn upkeep(&self) -> Upkeep {
        self.shard.upkeep()
    }

    /// Whether another server must have what this one acknowledges.
    fn needs_successor(&self) -> bool {
        let holds = self.successor.as_ref().map(|successor| successor.holds);
        holds == Some(Holds::Everything) || self.filling.as_ref().is_some_and(Filling::is_marked)
    }

    /// Whether operations are kept for a successor.
    fn logs(&self) -> bool {
        let holds = self.successor.as_ref().map(|successor| successor.holds);
        holds == Some(Holds::Everything) || self.filling.is_some()
    }

    /// Where nobody is behind this server, what it has applied is what the tail has.
    fn acknowledge_own(&mut self) {
        if !self.needs_successor() || self.mutation == Mutation::AcksEarly {
            self.acknowledged = self.position;
        }
        if !self.logs() {
            self.log.restart(self.position + 1);
        }
    }

    fn is_promised(&self, now: Time) -> bool {
        let until = self.promised_until.filter(|_| self.role == Role::Head);
        until.is_some_and(|until| now < until) && self.mutation != Mutation::PromisesBroken
    }

    /// Whether there is no room for another operation. A server that is being filled does not stop
    /// the others.
    fn is_log_full(&mut self) -> bool {
        if !self.logs() || !self.log.is_full() {
            return false;
        }
        if !self.needs_successor() {
            self.notices.push(Notice::SuccessorUnfit);
            self.end_filling();
            return false;
        }
        true
    }
}
