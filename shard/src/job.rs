//! The job that a shard serves: its workers, their lives and their clocks.
//!
//! Owns who may speak, and how far the slowest worker is. Which pushes were applied is left to
//! `admission`.
//!
//! A worker's place outlives its life: a later one finds the clock and the pushes of those before,
//! and does again what of its next step is missing, under the same numbers.
//!
//! Invariant: `slowest` is the least clock of the workers that have not left; one that has not
//! joined yet counts as clock 0.

use kernels::hash::mix;
use wire::{
    Clock, Header, Incarnation, JOIN_BODY_BYTES, JobId, Join, Joined, Refusal, Staleness, WorkerId,
};
use zerocopy::IntoBytes;

use crate::admission::Admission;
use crate::change::Changes;
use crate::known_keys::KnownKeys;
use crate::table::Moment;
use crate::words::Words;

/// Most workers a job may have.
pub const WORKERS_MAX: u32 = 4096;

/// A job and its members.
#[derive(Debug)]
pub(crate) struct Job {
    join: Join,
    members: Vec<Member>,
    lost: Option<WorkerId>,
    slowest: Clock,
    /// The furthest clock that any worker has reached.
    furthest: Clock,
    /// Clocks that workers have finished, of all together.
    finished: u64,
    /// The clock by which rows age; it never goes back.
    age: u64,
    /// The last join was taken, and nobody has asked since.
    has_newcomer: bool,
}

/// How many workers there are to wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    /// Those that take part.
    pub(crate) live: usize,
    /// Those, or who has yet to join, whose clock is the slowest.
    pub(crate) slowest: usize,
    /// Whether workers wait for the slowest at all.
    pub(crate) has_clocks: bool,
}

/// One worker of the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    life: Life,
    clock: Clock,
    pub(crate) admission: Admission,
    pub(crate) known: KnownKeys,
    /// Whether a pull waits here for pushes that its sender sent before it.
    awaits_pushes: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    NotJoined,
    Joined(Incarnation),
    Left(Incarnation),
}

impl Job {
    /// A job nobody has joined yet. The shard has checked `join.workers` against
    /// [`WORKERS_MAX`].
    pub(crate) fn new(join: Join) -> Job {
        let members = vec![Member::default(); join.workers as usize];
        Job {
            join,
            members,
            lost: None,
            slowest: Clock::default(),
            furthest: Clock::default(),
            finished: 0,
            age: 0,
            has_newcomer: false,
        }
    }

    pub(crate) fn id(&self) -> JobId {
        self.join.job
    }

    /// Whether somebody takes part in it now.
    pub(crate) fn is_active(&self) -> bool {
        let joined = |member: &Member| matches!(member.life, Life::Joined(_));
        self.lost.is_none() && self.members.iter().any(joined)
    }

    /// The workers that take part, and their lives.
    pub(crate) fn joined(&self) -> Vec<(WorkerId, Incarnation)> {
        let lives = (0..).zip(&self.members).filter_map(|(worker, member)| match member.life {
            Life::Joined(incarnation) => Some((WorkerId::new(worker), incarnation)),
            Life::NotJoined | Life::Left(_) => None,
        });
        lives.collect()
    }

    /// A worker, or an observer, takes part.
    pub(crate) fn join(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
        join: Join,
    ) -> Result<Changes, Refusal> {
        if let Some(worker) = self.lost {
            return Err(Refusal::WorkerLost { worker });
        }
        if join != self.join {
            return Err(Refusal::JobMismatch);
        }
        let mut changes = Changes::Nothing;
        if worker != WorkerId::OBSERVER {
            let member = self.members.get_mut(worker.get() as usize).ok_or(Refusal::Malformed)?;
            match member.life {
                Life::Joined(known) | Life::Left(known) if known > incarnation => {
                    return Err(Refusal::Fenced { known });
                }
                Life::Joined(known) | Life::Left(known) if known == incarnation => {}
                _ => {
                    member.life = Life::Joined(incarnation);
                    member.known = KnownKeys::default();
                    self.find_slowest();
                    changes = Changes::Something;
                }
            }
        }
        self.has_newcomer = true;
        Ok(changes)
    }

    /// Where a worker stands here, by all of its lives; an observer stands nowhere.
    pub(crate) fn standing(&self, worker: WorkerId) -> Joined {
        let member = self.members.get(worker.get() as usize);
        member.map_or(Joined::default(), |member| Joined {
            clock: member.clock.get(),
            tick_sequence: member.admission.tick_sequence(),
        })
    }

    /// This worker's clock; 0 of one that takes no part.
    pub(crate) fn clock_of(&self, worker: WorkerId) -> Clock {
        let member = self.members.get(worker.get() as usize);
        member.map_or(Clock::default(), |member| member.clock)
    }

    /// Whether a join was taken since the last time this was asked.
    pub(crate) fn take_newcomer(&mut self) -> bool {
        std::mem::take(&mut self.has_newcomer)
    }

    /// Who there is to wait for.
    pub(crate) fn census(&self) -> Census {
        let lives = |member: &&Member| matches!(member.life, Life::Joined(_));
        let live = self.members.iter().filter(lives).count();
        let left = |member: &Member| matches!(member.life, Life::Left(_));
        let is_slowest = |member: &&Member| !left(member) && member.clock == self.slowest;
        let slowest = self.members.iter().filter(is_slowest).count();
        Census { live, slowest, has_clocks: self.join.staleness != Staleness::ASP }
    }

    /// Whether this life of a worker takes part.
    pub(crate) fn has_member(&self, worker: WorkerId, incarnation: Incarnation) -> bool {
        let member = self.members.get(worker.get() as usize);
        member.is_some_and(|member| member.life == Life::Joined(incarnation))
    }

    /// The member that speaks, if it may.
    pub(crate) fn member(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
    ) -> Result<&mut Member, Refusal> {
        if let Some(worker) = self.lost {
            return Err(Refusal::WorkerLost { worker });
        }
        let member = self.members.get_mut(worker.get() as usize).ok_or(Refusal::NotJoined)?;
        match member.life {
            Life::Joined(known) if known == incarnation => Ok(member),
            Life::Joined(known) | Life::Left(known) if known > incarnation => {
                Err(Refusal::Fenced { known })
            }
            _ => Err(Refusal::NotJoined),
        }
    }

    /// Whether a pull at this clock sees all it must see.
    pub(crate) fn may_read(&self, clock: Clock) -> bool {
        clock.get() <= self.slowest.get().saturating_add(self.join.staleness.clocks_max())
    }

    /// Whether all pushes are here that the sender of this pull sent before it. If not,
    /// [`Job::note_pushed`] says when to look again. An observer has none.
    pub(crate) fn has_pushes_before(&mut self, header: &Header) -> bool {
        let Ok(member) = self.member(header.worker(), header.incarnation()) else { return true };
        let has_all = member.admission.has_applied_upto(header.credit);
        member.awaits_pushes |= !has_all;
        has_all
    }

    /// A push of this worker was applied. Whether a pull of it waits for that.
    pub(crate) fn note_pushed(&mut self, worker: WorkerId) -> bool {
        let member = self.members.get_mut(worker.get() as usize);
        member.is_some_and(|member| std::mem::take(&mut member.awaits_pushes))
    }

    /// A worker has finished the steps up to `clock`. Whether somebody may go on now.
    pub(crate) fn tick(&mut self, worker: WorkerId, clock: Clock) -> bool {
        if let Some(member) = self.members.get_mut(worker.get() as usize) {
            self.finished += clock.get().saturating_sub(member.clock.get());
            member.clock = member.clock.max(clock);
            self.furthest = self.furthest.max(clock);
        }
        self.find_slowest()
    }

    /// A worker has finished: nobody waits for it any more. Done again, it stays done. With it,
    /// whether somebody may go on now.
    pub(crate) fn leave(
        &mut self,
        worker: WorkerId,
        incarnation: Incarnation,
    ) -> Result<(Changes, bool), Refusal> {
        let left = |member: &Member| member.life == Life::Left(incarnation);
        if self.members.get(worker.get() as usize).is_some_and(left) {
            return Ok((Changes::Nothing, false));
        }
        self.member(worker, incarnation)?.life = Life::Left(incarnation);
        Ok((Changes::Something, self.find_slowest()))
    }

    /// A worker's connection is gone. If it took part, the job cannot go on.
    pub(crate) fn lose(&mut self, worker: WorkerId, incarnation: Incarnation) -> bool {
        let joined = self.member(worker, incarnation).is_ok();
        if joined {
            self.lost = Some(worker);
        }
        joined
    }

    /// The slowest worker's clock.
    pub(crate) fn slowest(&self) -> Clock {
        self.slowest
    }

    /// What is kept of workers' keys, in bytes.
    pub(crate) fn known_bytes(&self) -> u64 {
        self.members.iter().map(|member| member.known.bytes()).sum()
    }

    /// The furthest worker's clock.
    pub(crate) fn furthest(&self) -> Clock {
        self.furthest
    }

    /// The clock by which rows age, and what is drawn from, as a request has them. The clock is the
    /// worker's own, cut to between the slowest worker's and what the job allows. Where no worker
    /// waits for another, it is the mean of all.
    ///
    /// The seeds leave out the sender's incarnation, so that a worker that begins again from the
    /// same rows has the same draws. They do not depend on how a step is cut into messages, but for
    /// the rounding where no worker waits for another: there a clock need not advance, and each
    /// message has draws of its own.
    pub(crate) fn moment(&self, header: &Header) -> Moment {
        let ahead_max = match self.join.staleness {
            Staleness::ASP => 0,
            _ if header.worker() == WorkerId::OBSERVER => 0,
            staleness => staleness.clocks_max(),
        };
        let clock = header.clock.clamp(self.age, self.age.saturating_add(ahead_max));
        let worker = u64::from(header.worker) << 32;
        let step = match self.join.staleness {
            Staleness::ASP => header.sequence,
            _ => header.clock,
        };
        Moment {
            clock: clock as u32, // Ages count on past the end of 32 bits.
            slowest: self.age as u32,
            coin_seed: mix(header.clock ^ worker),
            rounding_seed: mix(step ^ worker),
        }
    }

    /// The same for who takes part in no clock: the slowest worker's, and once all have left the
    /// furthest that one reached.
    pub(crate) fn now(&self) -> Moment {
        let slowest = self.age as u32;
        Moment { clock: slowest, slowest, ..Moment::default() }
    }

    /// Writes it as words, but for the keys that workers have told: a worker tells them anew to a
    /// server that does not know them. [`Job::read`] reads them.
    pub(crate) fn write(&self, words: &mut Vec<u64>) {
        let join = self.join.to_bytes();
        let (join, _) = join.as_chunks();
        words.extend(join.iter().map(|word| u64::from_le_bytes(*word)));
        words.push(self.lost.map_or(0, |worker| 1 + u64::from(worker.get())));
        let clocks = [self.slowest.get(), self.furthest.get(), self.finished, self.age];
        words.extend_from_slice(&clocks);
        for member in &self.members {
            let (life, incarnation) = match member.life {
                Life::NotJoined => (0, 0),
                Life::Joined(incarnation) => (1, incarnation.get()),
                Life::Left(incarnation) => (2, incarnation.get()),
            };
            words.extend_from_slice(&[life, u64::from(incarnation), member.clock.get()]);
            member.admission.write(words);
        }
    }

    /// Reads what [`Job::write`] wrote; `None` if it is something else.
    pub(crate) fn read(words: &mut Words<'_>) -> Option<Job> {
        let join = Join::from_bytes(words.take(JOIN_BODY_BYTES / 8)?.as_bytes())?;
        let in_bounds = (1..=WORKERS_MAX).contains(&join.workers);
        let mut job = in_bounds.then(|| Job::new(join))?;
        let lost = words.next()?;
        job.lost = lost.checked_sub(1).map(|worker| WorkerId::new(worker as u32));
        job.slowest = Clock::new(words.next()?);
        job.furthest = Clock::new(words.next()?);
        (job.finished, job.age) = (words.next()?, words.next()?);
        for member in &mut job.members {
            let (life, incarnation) = (words.next()?, Incarnation::new(words.next()? as u32));
            member.life = match life {
                0 => Life::NotJoined,
                1 => Life::Joined(incarnation),
                2 => Life::Left(incarnation),
                _ => return None,
            };
            member.clock = Clock::new(words.next()?);
            member.admission = Admission::read(words)?;
        }
        Some(job)
    }

    /// Forgets which pushes were applied: a defect, for tests.
    pub(crate) fn forget_pushes(&mut self) {
        self.members.iter_mut().for_each(|member| member.admission = Admission::default());
    }

    /// The same of one worker.
    pub(crate) fn forget_pushes_of(&mut self, worker: WorkerId) {
        if let Some(member) = self.members.get_mut(worker.get() as usize) {
            member.admission = Admission::default();
        }
    }

    /// Looks for the slowest clock again. Whether it has moved.
    fn find_slowest(&mut self) -> bool {
        let takes_part = |member: &&Member| !matches!(member.life, Life::Left(_));
        let clocks = self.members.iter().filter(takes_part).map(|member| member.clock);
        let slowest = clocks.min().unwrap_or(Clock::new(u64::MAX));
        let age = match self.join.staleness {
            Staleness::ASP => self.finished / self.members.len() as u64,
            _ => slowest.min(self.furthest).get(),
        };
        self.age = self.age.max(age);
        std::mem::replace(&mut self.slowest, slowest) != slowest
    }
}

#[cfg(test)]
mod tests {
    use wire::{Sequence, Staleness};

    use super::*;
    use crate::admission::Verdict;

    const FIRST: Incarnation = Incarnation::new(1);

    fn job(workers: u32, staleness: Staleness) -> Job {
        let join = Join { job: JobId::new(9), workers, staleness };
        let mut job = Job::new(join);
        for worker in 0..workers {
            job.join(WorkerId::new(worker), FIRST, join).expect("its own job");
        }
        job
    }

    #[test]
    fn a_worker_waits_for_the_slowest_and_no_longer() {
        let mut job = job(2, Staleness::ssp(1));
        let (fast, slow) = (WorkerId::new(0), WorkerId::new(1));
        job.tick(fast, Clock::new(1));
        assert!(job.may_read(Clock::new(1)));
        assert!(!job.may_read(Clock::new(2)));
        assert!(job.tick(slow, Clock::new(1)));
        assert!(job.may_read(Clock::new(2)));
        assert!(!job.may_read(Clock::new(3)));
        assert_eq!(job.leave(slow, FIRST), Ok((Changes::Something, false)));
        job.tick(fast, Clock::new(5));
        assert!(job.may_read(Clock::new(6)));
    }

    #[test]
    fn asynchronous_workers_never_wait() {
        let job = job(2, Staleness::ASP);
        assert!(job.may_read(Clock::new(u64::MAX)));
    }

    #[test]
    fn a_restarted_worker_fences_its_former_life() {
        let mut job = job(1, Staleness::BSP);
        let worker = WorkerId::new(0);
        let join = Join { job: JobId::new(9), workers: 1, staleness: Staleness::BSP };
        let second = Incarnation::new(2);
        job.join(worker, second, join).expect("a later life");
        let fenced = Refusal::Fenced { known: second };
        assert_eq!(job.member(worker, FIRST).err(), Some(fenced));
        assert_eq!(job.join(worker, FIRST, join), Err(fenced));
        assert!(!job.lose(worker, FIRST), "the former life's connection ends late");
        assert!(job.member(worker, second).is_ok());
    }

    /// Pushes with this sequence, and ticks to `clock` if there is one.
    fn push(job: &mut Job, life: Incarnation, sequence: u64, clock: Option<u64>) {
        let member = job.member(WorkerId::new(0), life).expect("it takes part");
        let finished = member.admission.applied(Sequence::new(sequence), clock.map(Clock::new));
        if let Some(clock) = finished {
            job.tick(WorkerId::new(0), clock);
        }
    }

    #[test]
    fn a_later_life_finds_the_clock_and_the_pushes_of_those_before() {
        let mut job = job(1, Staleness::BSP);
        let (worker, second) = (WorkerId::new(0), Incarnation::new(2));
        push(&mut job, FIRST, 1, None);
        push(&mut job, FIRST, 2, Some(1));
        // Of the second step its last push alone has come.
        push(&mut job, FIRST, 4, Some(2));
        let join = Join { job: JobId::new(9), workers: 1, staleness: Staleness::BSP };
        job.join(worker, second, join).expect("a later life");
        assert_eq!(job.standing(worker), Joined { clock: 1, tick_sequence: 2 });
        let member = job.member(worker, second).expect("it takes part");
        assert_eq!(member.admission.verdict(Sequence::new(3)), Verdict::Fresh);
        assert_eq!(member.admission.verdict(Sequence::new(4)), Verdict::Duplicate);
        push(&mut job, second, 3, None);
        assert_eq!(job.standing(worker), Joined { clock: 2, tick_sequence: 4 });
        let mut words = Vec::new();
        job.write(&mut words);
        let copy = Job::read(&mut Words::new(&words)).expect("as it was written");
        assert_eq!(copy.standing(worker), job.standing(worker));
    }

    #[test]
    fn who_has_left_and_comes_back_goes_on_where_it_was() {
        let mut job = job(2, Staleness::BSP);
        let (worker, second) = (WorkerId::new(0), Incarnation::new(2));
        push(&mut job, FIRST, 1, Some(1));
        job.leave(worker, FIRST).expect("it takes part");
        let join = Join { job: JobId::new(9), workers: 2, staleness: Staleness::BSP };
        job.join(worker, second, join).expect("a later life");
        assert_eq!(job.standing(worker), Joined { clock: 1, tick_sequence: 1 });
    }

    #[test]
    fn a_lost_worker_ends_the_job_for_all_by_name() {
        let mut job = job(2, Staleness::BSP);
        let lost = WorkerId::new(1);
        assert!(job.lose(lost, FIRST));
        let refusal = Refusal::WorkerLost { worker: lost };
        assert_eq!(job.member(WorkerId::new(0), FIRST).err(), Some(refusal));
        assert!(!job.is_active());
    }

    #[test]
    fn who_has_left_may_leave_again_and_is_not_lost() {
        let mut job = job(1, Staleness::BSP);
        let worker = WorkerId::new(0);
        assert_eq!(job.leave(worker, FIRST), Ok((Changes::Something, true)));
        assert_eq!(job.leave(worker, FIRST), Ok((Changes::Nothing, false)));
        assert!(!job.lose(worker, FIRST));
        assert!(!job.is_active());
    }
}
