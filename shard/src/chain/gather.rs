//! Pushes of different workers that wait for each other at the head, to be applied as one.
//!
//! Owns which pushes wait and how long. What they are made is left to `merge`.
//!
//! A push waits until every worker that takes part has one here, until the slowest clock could go
//! on, until something has to see it, or for a bounded time: where workers wait for each other and
//! all that is here ends clocks, [`CLOCK_WAIT_MAX`]; else [`WAIT_MAX`], and not beyond a turn in
//! which there was nothing else to do. Nothing of it is answered, logged or shown before it is
//! applied: to all others it is as if it had not come yet.
//!
//! Invariant: what waits is of one table and of different workers, each of which would be applied
//! if it had come now; whatever else may change the shard comes after it.

use std::ops::Range;
use std::time::Duration;

use kernels::crc32c::crc32c;
use wire::{Flags, Header, Kind, MERGED_PUSHES_MAX, Seal, Status, Time, WorkerId};

use super::pass::Passing;
use super::{Held, Replica, Role};
use crate::answer::{Outbox, REPLY_BYTES};
use crate::engine::{Mutation, Outcome, Shard};
use crate::job::{Census, Job};
use crate::merge::{Merging, NAME_WORDS};

/// How long pushes wait that end clocks, where workers wait for the slowest anyhow.
pub const CLOCK_WAIT_MAX: Duration = Duration::from_millis(2);

/// How long all others wait.
pub const WAIT_MAX: Duration = Duration::from_micros(200);

/// Keys and deltas that wait, in bytes. A push that is longer is applied alone.
pub const GATHERED_BYTES_MAX: usize = 4 << 20;

/// A push that waits.
#[derive(Debug)]
struct Gathered<S> {
    header: Header,
    /// Of the keys of all.
    rows: Range<usize>,
    /// For its answer; none where nobody waits for it any more.
    slot: Option<S>,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Gathering<S> {
    /// In the order in which they came.
    pushes: Vec<Gathered<S>>,
    /// Of all, one after the other.
    keys: Vec<u64>,
    deltas: Vec<f32>,
    width: usize,
    /// When the first one came.
    since: Time,
    census: Census,
    /// The slowest workers whose end of a clock has not come.
    behind: usize,
    merging: Merging,
}

impl<S> Gathering<S> {
    pub(super) fn new() -> Gathering<S> {
        let (pushes, keys, deltas) = (Vec::new(), Vec::new(), Vec::new());
        let (since, census, merging) = (Time::default(), Census::default(), Merging::default());
        Gathering { pushes, keys, deltas, width: 0, since, census, behind: 0, merging }
    }

    /// Drops what waits, as if it had never come.
    pub(super) fn clear(&mut self) {
        self.pushes.clear();
        self.keys.clear();
        self.deltas.clear();
    }

    /// What it takes, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let rows = self.keys.capacity() * 8 + self.deltas.capacity() * 4;
        rows + self.merging.held_bytes()
    }

    /// Until when it may wait.
    pub(super) fn deadline(&self) -> Option<Time> {
        let wait = if self.waits_for_clock() { CLOCK_WAIT_MAX } else { WAIT_MAX };
        (!self.pushes.is_empty()).then(|| self.since + wait)
    }

    /// Whether all that is here ends clocks, and workers wait for the slowest.
    fn waits_for_clock(&self) -> bool {
        let ticks = |push: &Gathered<S>| push.header.flags().has(Flags::TICK);
        self.census.has_clocks && self.pushes.iter().all(ticks)
    }

    fn has(&self, worker: WorkerId) -> bool {
        self.pushes.iter().any(|push| push.header.worker() == worker)
    }

    /// Whether a push may wait with these.
    fn takes(&self, header: &Header) -> bool {
        let is_other = self.pushes.first().is_none_or(|it| it.header.table == header.table);
        let bytes = size_of_val(&self.keys[..]) + size_of_val(&self.deltas[..]);
        let fits = bytes + plain_bytes(header) <= GATHERED_BYTES_MAX;
        is_other && fits && !self.has(header.worker())
    }

    /// Whether there is nobody left to wait for.
    fn is_over(&self) -> bool {
        let count = self.pushes.len();
        let clock_ends = self.census.has_clocks && self.behind == 0;
        count > 0 && (clock_ends || count >= self.census.live.min(MERGED_PUSHES_MAX))
    }
}

impl<S> Replica<S> {
    /// Keeps a push that others may be waited for; whatever else has to see what waits, has it
    /// applied first.
    ///
    /// - Result: what became of the push; none if the request is still to be done.
    pub(super) fn gather<O: Outbox<Slot = S>>(
        &mut self,
        now: Time,
        header: &Header,
        bytes: &[u8],
        outbox: &mut O,
    ) -> Option<Outcome> {
        if self.shard.may_wait(header) {
            if !self.gathering.takes(header) {
                self.end_gathering::<O>(now, outbox.seal());
            }
            if let Some(outcome) = self.take_in(now, bytes, outbox) {
                return Some(outcome);
            }
        }
        if !self.is_blind(header) {
            self.end_gathering::<O>(now, outbox.seal());
        }
        None
    }

    /// Whether this is a pull that need not see what waits: none of it is its sender's, or it may
    /// not be answered yet.
    fn is_blind(&self, header: &Header) -> bool {
        let may_read = |it: &Job| it.may_read(header.clock());
        let is_its = self.gathering.has(header.worker());
        let may_be_answered = self.shard.job.as_ref().is_some_and(may_read);
        header.kind() == Kind::Pull && !(is_its && may_be_answered)
    }

    /// Keeps a push, if it is one that would be applied now.
    fn take_in<O: Outbox<Slot = S>>(
        &mut self,
        now: Time,
        bytes: &[u8],
        outbox: &mut O,
    ) -> Option<Outcome> {
        let isa = self.shard.isa;
        let (header, message) = wire::open(bytes, |bytes| crc32c(isa, 0, bytes)).ok()?;
        let census = self.shard.job.as_ref()?.census();
        let clock = self.shard.clock_of(header.worker());
        let is_slowest = clock == self.shard.clocks()?.0;
        if census.live < 2 || plain_bytes(&header) > GATHERED_BYTES_MAX {
            return None;
        }
        let (keys, deltas) = self.shard.fresh_push(&header, &message)?;
        let Some(slot) = outbox.acquire(REPLY_BYTES) else { return Some(Outcome::NoSlot) };
        let gathering = &mut self.gathering;
        if gathering.pushes.is_empty() {
            (gathering.since, gathering.census) = (now, census);
            (gathering.behind, gathering.width) = (census.slowest, usize::from(header.width));
        }
        let rows = gathering.keys.len()..gathering.keys.len() + keys.len();
        gathering.keys.extend_from_slice(keys);
        gathering.deltas.extend_from_slice(deltas);
        gathering.pushes.push(Gathered { header, rows, slot: Some(slot) });
        let ends_clock = is_slowest && header.flags().has(Flags::TICK);
        gathering.behind = gathering.behind.saturating_sub(usize::from(ends_clock));
        if gathering.is_over() {
            self.end_gathering::<O>(now, outbox.seal());
        }
        Some(Outcome::Answered)
    }

    /// Applies what has waited for long enough. Whether there was any.
    ///
    /// - `is_idle`: there is nothing else to do.
    /// - `seal`: of answers.
    pub fn end_waits<O: Outbox<Slot = S>>(&mut self, now: Time, is_idle: bool, seal: Seal) -> bool {
        let Some(deadline) = self.gathering.deadline() else { return false };
        let is_due = now >= deadline || is_idle && !self.gathering.waits_for_clock();
        if is_due {
            self.end_gathering::<O>(now, seal);
        }
        is_due
    }

    /// Applies what waits: as one, or one by one, if that cannot be or there is but one.
    fn end_gathering<O: Outbox<Slot = S>>(&mut self, now: Time, seal: Seal) {
        if self.gathering.pushes.is_empty() {
            return;
        }
        debug_assert_eq!(self.role, Role::Head);
        let is_done = self.gathering.pushes.len() > 1 && self.push_gathered();
        let logs = self.logs();
        let Gathering { pushes, keys, deltas, width, .. } = &mut self.gathering;
        let mut answers = Vec::with_capacity(pushes.len());
        for Gathered { header, rows, slot } in pushes.drain(..) {
            let status = if is_done {
                Status::Done
            } else {
                let mut sink = Passing { log: &mut self.log, position: &mut self.position, logs };
                let deltas = &deltas[rows.start * *width..rows.end * *width];
                let done = self.shard.push_read(&header, &keys[rows], deltas, &mut sink);
                done.unwrap_or_else(Status::Refused)
            };
            self.shard.count_push(&header, status);
            answers.push((header, status, slot));
        }
        self.gathering.clear();
        self.needed = self.position;
        self.note_reached();
        self.acknowledge_own();
        let stamp = self.shard.stamp();
        for (header, status, slot) in answers {
            let Some(mut slot) = slot else { continue };
            stamp.write_reply::<O>(&mut slot, seal, &header, status);
            self.held.push_back(Held { position: self.needed, proof: Some(now), slot });
        }
    }

    /// Applies what waits as one operation. Whether that was done; if not, nothing changed.
    fn push_gathered(&mut self) -> bool {
        let logs = self.logs();
        let Gathering { pushes, keys, deltas, width, merging, .. } = &mut self.gathering;
        let names = pushes.iter().map(|push| wire::PushName::of(&push.header));
        merging.merge(names, keys, deltas, *width);
        let Ok((header, merged)) = merging.merged(&pushes[0].header) else { return false };
        let header = Header { epoch: self.shard.epoch.get(), ..header };
        let mut body = merging.body();
        if self.shard.mutation == Mutation::NamesForgotten {
            body[0] = &body[0][NAME_WORDS * size_of::<u64>()..];
        }
        let mut sink = Passing { log: &mut self.log, position: &mut self.position, logs };
        let is_done = self.shard.push_merged(&header, &merged, body, &mut sink).is_ok();
        if is_done {
            self.shard.tally.merges += 1;
            self.shard.tally.pushes_merged += pushes.len() as u64;
        }
        is_done
    }
}

impl<S> Replica<S> {
    /// Drops all answers that wait, and pushes that were not applied: another head does them.
    pub(super) fn drop_waiting(&mut self) {
        self.held.clear();
        self.gathering.clear();
    }

    /// Drops answers that nobody waits for any more.
    pub fn drop_held(&mut self, is_for: impl Fn(&S) -> bool) {
        self.held.retain(|held| !is_for(&held.slot));
        for push in &mut self.gathering.pushes {
            push.slot.take_if(|slot| is_for(slot));
        }
    }
}

impl Shard {
    /// Whether this is a push that may be applied with those of others.
    fn may_wait(&mut self, header: &Header) -> bool {
        let is_push = header.kind() == Kind::Push && header.keys > 0;
        is_push && self.tables.get(header.table()).is_ok_and(|table| table.spec().aggregate)
    }

    /// Counts a push that was answered.
    fn count_push(&mut self, header: &Header, status: Status) {
        match status {
            Status::Done => self.tally.moved(header),
            Status::Duplicate => {}
            Status::Refused(refusal) => self.tally.refused(refusal),
        }
        self.tally.answered(header);
    }
}

/// What a push takes once it is read, at most.
fn plain_bytes(header: &Header) -> usize {
    header.keys as usize * (size_of::<u64>() + usize::from(header.width) * size_of::<f32>())
}
