//! The registry of jobs of several hosts: who is heard of, and what waits for the store.
//!
//! Owns what the store does not have: when hosts were heard last, their results, and answers that
//! may not be said yet. What is dealt is left to `record`.
//!
//! Invariant: nobody is told of a place or a portion before the store holds it; one record is under
//! way at a time.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use wire::{
    AwayHost, JOB_RESULTS_AT_ONCE_MAX, JOB_STANDBYS_MAX, JobAnswer, JobAsk, JobBid, JobEnd,
    JobNews, JobRefusal, JobState, JobStatus, JobVerb, Time, worker_words,
};

use super::super::event::ConnectionId;
use super::super::view::millis;
use super::record::{Host, JobRecord};

/// After how long others are told that a host is not heard of.
const AWAY_AFTER: Duration = Duration::from_secs(3);

/// Jobs that go on at once.
const JOBS_MAX: usize = 64;

/// Jobs that have ended and are still known.
const JOBS_ENDED_MAX: usize = 16;

/// Answers that wait for the store.
const HELD_MAX: usize = 4096;

/// A record for the store, and what it takes the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobWrite {
    /// What is to be kept.
    pub record: JobRecord,
    /// The version that the store has; 0: it has none.
    pub after: u64,
    /// Jobs whose records go.
    pub forgotten: Vec<String>,
}

/// All jobs.
#[derive(Debug, Default)]
pub(in super::super) struct Jobs {
    known: BTreeMap<String, Known>,
    /// The job whose record is being written, and its version.
    under_way: Option<(String, u64)>,
    /// The one whose record was written last, so that each has its turn.
    written: String,
    /// Jobs that nobody knows any more, with the versions that the store still has.
    forgotten: BTreeMap<String, u64>,
    held: VecDeque<Held>,
}

/// A job with what the store does not have.
#[derive(Debug)]
struct Known {
    record: JobRecord,
    /// The version that the store has.
    recorded: u64,
    /// By host.
    heard: Vec<Heard>,
    standbys: Vec<Standby>,
}

/// A launcher that takes the places of a host that is gone.
#[derive(Debug)]
struct Standby {
    holder: u64,
    host: String,
    at: Time,
}

#[derive(Clone, Debug)]
struct Heard {
    at: Time,
    result: Option<String>,
}

/// An answer that is said once the store has this version.
#[derive(Debug)]
struct Held {
    job: String,
    version: u64,
    connection: ConnectionId,
    answer: JobAnswer,
}

impl Jobs {
    /// Goes on with what the store has.
    pub(in super::super) fn recover(records: Vec<JobRecord>, now: Time) -> Jobs {
        let known = records.into_iter().map(|record| {
            let heard = vec![Heard { at: now, result: None }; record.hosts.len()];
            let recorded = record.version;
            (record.name.clone(), Known { record, recorded, heard, standbys: Vec::new() })
        });
        Jobs { known: known.collect(), ..Jobs::default() }
    }

    /// The coordinator stood still for so long, and heard nobody meanwhile.
    pub(in super::super) fn forgive(&mut self, paused: Duration) {
        for known in self.known.values_mut() {
            let hosts = known.heard.iter_mut().map(|heard| &mut heard.at);
            let all = hosts.chain(known.standbys.iter_mut().map(|standby| &mut standby.at));
            all.for_each(|at| *at = *at + paused);
        }
    }

    /// Takes an ask in. What may be said at once.
    pub(in super::super) fn asked(
        &mut self,
        connection: ConnectionId,
        ask: JobAsk,
        now: Time,
    ) -> Option<(ConnectionId, JobAnswer)> {
        let answered = ask.check().and_then(|()| match &ask.verb {
            JobVerb::Enrol(bid) if bid.stands_by => self.stand_by(&ask, bid, now),
            JobVerb::Enrol(bid) => self.enrol(&ask, bid, now),
            JobVerb::Attend(news) => self.attend(&ask, news, now),
            JobVerb::Replace { worker } => self.replace(&ask.job, *worker, now),
        });
        let refused = match answered {
            Ok(answer) => {
                let known = self.known.get(&ask.job)?;
                if known.recorded == known.record.version {
                    return Some((connection, answer));
                }
                if self.held.len() < HELD_MAX {
                    let (job, version) = (ask.job, known.record.version);
                    self.held.push_back(Held { job, version, connection, answer });
                    return None;
                }
                JobRefusal::Full { what: "asks that wait".to_owned(), count_max: HELD_MAX }
            }
            Err(refusal) => refusal,
        };
        Some((connection, JobAnswer::Refused(refused)))
    }

    /// A launcher stands by, or has the places of a host that is gone.
    fn stand_by(&mut self, ask: &JobAsk, bid: &JobBid, now: Time) -> Result<JobAnswer, JobRefusal> {
        let known = self.known.get_mut(&ask.job).ok_or(JobRefusal::Unknown)?;
        if let Some(ended) = &known.record.ended {
            return Err(JobRefusal::Ended { end: ended.end.clone() });
        }
        if known.record.host(ask.holder).is_some() {
            return self.enrol(ask, bid, now);
        }
        if known.record.was_replaced(ask.holder) {
            return Err(JobRefusal::Replaced);
        }
        known.record.agree(bid)?;
        known.note_standby(ask.holder, &bid.host, now)?;
        Ok(JobAnswer::StandsBy { hosts: known.record.hosts.len() as u32 })
    }

    /// A person has one that stands by take a host's places, whether it is heard of or not.
    fn replace(&mut self, job: &str, worker: u32, now: Time) -> Result<JobAnswer, JobRefusal> {
        let known = self.known.get_mut(job).ok_or(JobRefusal::Unknown)?;
        if let Some(ended) = &known.record.ended {
            return Err(JobRefusal::Ended { end: ended.end.clone() });
        }
        let unfit = |what: String| JobRefusal::Unfit { what };
        let Some(at) = known.record.host_of(worker) else {
            return Err(unfit(format!("no host has worker {worker} of job {job}")));
        };
        let gone = known.record.hosts[at].name.clone();
        if known.standbys(now).next().is_none() {
            let flag = "start its command with --stand-by on one";
            return Err(unfit(format!("no host stands by for job {job}; {flag}")));
        }
        if !known.replace(at, now) {
            return Err(unfit(format!("{gone} runs an earlier build, which does not say enough")));
        }
        Ok(JobAnswer::Replaced { gone, by: known.record.hosts[at].name.clone() })
    }

    fn enrol(&mut self, ask: &JobAsk, bid: &JobBid, now: Time) -> Result<JobAnswer, JobRefusal> {
        let goes_on = self.known.values().filter(|one| one.record.ended.is_none()).count();
        let before = self.known.get(&ask.job);
        let is_old =
            before.and_then(|known| known.record.ended.as_ref().map(|ended| (known, ended)));
        let mut fresh = match (before, is_old) {
            (Some(_), None) => None,
            (_, Some((known, ended))) if known.record.host(ask.holder).is_some() => {
                return Err(JobRefusal::Ended { end: ended.end.clone() });
            }
            (known, _) => {
                if goes_on >= JOBS_MAX {
                    let (what, count_max) = ("jobs under way".to_owned(), JOBS_MAX);
                    return Err(JobRefusal::Full { what, count_max });
                }
                let version = known.map_or(0, |known| known.record.version);
                let left = || self.forgotten.get(&ask.job).copied().unwrap_or(0);
                let recorded = known.map_or_else(left, |known| known.recorded);
                let version = version.max(recorded);
                let record = JobRecord::new(&ask.job, version, bid);
                Some(Known { record, recorded, heard: Vec::new(), standbys: Vec::new() })
            }
        };
        let known = match &mut fresh {
            Some(fresh) => fresh,
            None => self.known.get_mut(&ask.job).ok_or(JobRefusal::Unknown)?,
        };
        if known.record.was_replaced(ask.holder) {
            return Err(JobRefusal::Replaced);
        }
        let enrolled = known.record.enrol(ask.holder, bid)?;
        known.heard.resize(known.record.hosts.len(), Heard { at: now, result: None });
        if let Some(at) = known.record.host(ask.holder) {
            known.heard[at] = Heard { at: now, result: None };
        }
        if let Some(fresh) = fresh {
            self.forgotten.remove(&ask.job);
            self.known.insert(ask.job.clone(), fresh);
        }
        Ok(JobAnswer::Enrolled(enrolled))
    }

    fn attend(&mut self, ask: &JobAsk, news: &JobNews, now: Time) -> Result<JobAnswer, JobRefusal> {
        let order = self.next_order();
        let known = self.known.get_mut(&ask.job).ok_or(JobRefusal::Unknown)?;
        let Some(at) = known.record.host(ask.holder) else {
            let was_replaced = known.record.was_replaced(ask.holder);
            return Err(if was_replaced { JobRefusal::Replaced } else { JobRefusal::Unknown });
        };
        if known.record.hosts[at].generation != news.generation {
            return Err(JobRefusal::Replaced);
        }
        known.heard[at].at = now;
        if known.record.ended.is_none() {
            if known.record.runs() && news.result.is_some() {
                known.heard[at].result.clone_from(&news.result);
            }
            known.wish(at, news.end.as_ref(), order);
        }
        if known.record.ended.is_none() {
            known.record.attend(at, news)?;
        }
        Ok(JobAnswer::State(known.state(at, news, now)))
    }

    fn next_order(&self) -> u64 {
        let ended = self.known.values().filter_map(|known| known.record.ended.as_ref());
        ended.map(|ended| ended.order).max().unwrap_or(0) + 1
    }

    /// Gives the places of hosts that are not heard of to those that stand by, or ends their jobs,
    /// and forgets the oldest jobs that have ended.
    pub(in super::super) fn look(&mut self, now: Time) {
        let mut order = self.next_order();
        for known in self.known.values_mut() {
            if known.record.ended.is_none()
                && let Some(at) = known.missing(now)
                && !known.replace(at, now)
            {
                known.give_up(at, now, order);
                order += 1;
            }
        }
        let ended = |known: &Known| known.record.ended.as_ref().map(|ended| ended.order);
        while self.known.values().filter_map(ended).count() > JOBS_ENDED_MAX {
            let all = self.known.iter().filter_map(|(name, one)| Some((ended(one)?, name.clone())));
            let Some((_, oldest)) = all.min() else { return };
            if self.under_way.as_ref().is_some_and(|(name, _)| *name == oldest) {
                return; // When the store has it.
            }
            self.held.retain(|held| held.job != oldest);
            if let Some(known) = self.known.remove(&oldest) {
                self.forgotten.insert(oldest, known.recorded);
            }
        }
    }

    /// A record that is to be written now, if there is one.
    pub(in super::super) fn next_write(&mut self) -> Option<Arc<JobWrite>> {
        if self.under_way.is_some() {
            return None;
        }
        let is_new = |(_, one): &(&String, &Known)| one.record.version > one.recorded;
        let after = (Bound::Excluded(self.written.clone()), Bound::Unbounded);
        let later = self.known.range::<String, _>(after).find(is_new);
        let (name, known) = later.or_else(|| self.known.iter().find(is_new))?;
        self.under_way = Some((name.clone(), known.record.version));
        let forgotten = std::mem::take(&mut self.forgotten).into_keys().collect();
        let (record, after) = (known.record.clone(), known.recorded);
        Some(Arc::new(JobWrite { record, after, forgotten }))
    }

    /// The store has the record that was under way: what may be said now.
    pub(in super::super) fn kept(&mut self) -> Vec<(ConnectionId, JobAnswer)> {
        let Some((job, version)) = self.under_way.take() else { return Vec::new() };
        self.written.clone_from(&job);
        if let Some(known) = self.known.get_mut(&job) {
            known.recorded = version;
        }
        let is_due = |held: &Held| held.job == job && held.version <= version;
        let (due, held) = self.held.drain(..).partition(is_due);
        self.held = held;
        let due: VecDeque<Held> = due;
        due.into_iter().map(|held| (held.connection, held.answer)).collect()
    }

    /// All jobs, for people: those that go on first.
    pub(in super::super) fn status(&self, now: Time) -> Vec<JobStatus> {
        let mut all: Vec<&Known> = self.known.values().collect();
        all.sort_by_key(|known| known.record.ended.is_some());
        all.into_iter().map(|known| known.status(now)).collect()
    }
}

impl Known {
    /// What a launcher wants for the whole job.
    fn wish(&mut self, at: usize, wish: Option<&JobEnd>, order: u64) {
        let Host { holder, first, .. } = self.record.hosts[at];
        match wish {
            Some(JobEnd::Done) if first == 0 => {
                let end = match self.record.stopped.clone() {
                    Some(why) => JobEnd::Stopped { why },
                    None => JobEnd::Done,
                };
                self.record.end(end, None, order);
            }
            Some(end @ JobEnd::Failed { .. }) => {
                self.record.end(end.clone(), Some(holder), order);
            }
            // Nobody has begun: there is nothing to be stopped in good order.
            Some(end @ JobEnd::Stopped { .. }) if !self.record.runs() => {
                self.record.end(end.clone(), Some(holder), order);
            }
            Some(JobEnd::Stopped { why }) if self.record.stopped.is_none() => {
                self.record.stopped = Some(why.clone());
                self.record.version += 1;
            }
            Some(JobEnd::Done | JobEnd::Stopped { .. }) | None => {}
        }
    }

    fn silence(&self, at: usize, now: Time) -> Duration {
        now - self.heard[at].at
    }

    /// A host that is needed and was not heard of for too long. One that has said all that is
    /// wanted of it may go.
    fn missing(&self, now: Time) -> Option<usize> {
        (0..self.heard.len()).find(|&at| {
            let is_needed = self.record.hosts[at].first == 0 || self.heard[at].result.is_none();
            is_needed && self.silence(at, now) > self.record.patience()
        })
    }

    /// A launcher says that it stands by.
    fn note_standby(&mut self, holder: u64, host: &str, now: Time) -> Result<(), JobRefusal> {
        self.standbys.retain(|one| one.holder == holder || now - one.at <= AWAY_AFTER);
        if let Some(known) = self.standbys.iter_mut().find(|one| one.holder == holder) {
            known.at = now;
            return Ok(());
        }
        if self.standbys.len() == JOB_STANDBYS_MAX {
            let (what, count_max) = ("hosts that stand by".to_owned(), JOB_STANDBYS_MAX);
            return Err(JobRefusal::Full { what, count_max });
        }
        self.standbys.push(Standby { holder, host: host.to_owned(), at: now });
        Ok(())
    }

    fn standbys(&self, now: Time) -> impl Iterator<Item = usize> {
        let is_there = move |&at: &usize| now - self.standbys[at].at <= AWAY_AFTER;
        (0..self.standbys.len()).filter(is_there)
    }

    /// Gives the places of a host that is not heard of to one that stands by. Whether there is one.
    fn replace(&mut self, at: usize, now: Time) -> bool {
        let Some(standby) = self.standbys(now).next() else { return false };
        if !self.record.can_be_replaced(at) {
            return false;
        }
        let Standby { holder, host, .. } = self.standbys.remove(standby);
        let Host { name, first, places, .. } = &self.record.hosts[at];
        tracing::warn!(
            job = %self.record.name, gone = %name, by = %host,
            workers = %worker_words(*first, *places), "a host of a job is replaced"
        );
        self.record.replace(at, holder, &host);
        self.heard[at] = Heard { at: now, result: None };
        true
    }

    /// Ends the job, since a host is not heard of.
    fn give_up(&mut self, at: usize, now: Time, order: u64) {
        let Host { name, first, places, .. } = &self.record.hosts[at];
        let why = format!(
            "{name}, which has {}, was not heard of for {} s, and no host stood by (--stand-by); \
             begin anew by starting the command on every host",
            worker_words(*first, *places),
            self.record.patience().as_secs()
        );
        let is_there = |&other: &usize| self.silence(other, now) <= AWAY_AFTER;
        let sweeper = (0..self.heard.len()).find(is_there);
        let sweeper = sweeper.map(|other| self.record.hosts[other].holder);
        self.record.end(JobEnd::Failed { why }, sweeper, order);
    }

    /// How the job is, for one of its hosts.
    fn state(&self, at: usize, news: &JobNews, now: Time) -> JobState {
        let record = &self.record;
        let own = &record.hosts[at];
        let gathers = own.first == 0;
        let is_new = |host: &Host| gathers && !news.results_seen.contains(&host.first);
        let hosts = record.hosts.iter().zip(&self.heard).filter(|(host, _)| is_new(host));
        let results = hosts.filter_map(|(host, heard)| Some((host.first, heard.result.clone()?)));
        let is_away = |&other: &usize| {
            other != at && record.ended.is_none() && self.silence(other, now) > AWAY_AFTER
        };
        let away = (0..self.heard.len()).filter(is_away).map(|other| AwayHost {
            host: record.hosts[other].name.clone(),
            first: record.hosts[other].first,
            places: record.hosts[other].places,
            away_ms: millis(self.silence(other, now)),
            patience_ms: millis(record.patience()),
        });
        let ended = record.ended.as_ref();
        JobState {
            taken: record.places.len() as u32,
            is_prepared: record.is_prepared,
            dealt: record.news_for(news),
            epochs_dealt: record.epochs_dealt(),
            has_result: self.heard[at].result.is_some(),
            hosts: record.hosts.len() as u32,
            results: results.take(JOB_RESULTS_AT_ONCE_MAX).collect(),
            away: away.collect(),
            stopped: record.stopped.clone(),
            end: ended.map(|ended| ended.end.clone()),
            sweeps: ended.is_some_and(|ended| ended.sweeper == Some(own.holder)),
        }
    }

    fn status(&self, now: Time) -> JobStatus {
        let record = &self.record;
        let present = record.hosts.iter().enumerate();
        let present = present.filter(|(at, _)| self.silence(*at, now) <= AWAY_AFTER);
        let state = match &record.ended {
            Some(ended) => match ended.end {
                JobEnd::Done => "done",
                JobEnd::Stopped { .. } => "stopped",
                JobEnd::Failed { .. } => "failed",
            },
            None if record.places.len() < record.workers as usize => "gathers",
            None if !record.is_prepared => "prepares",
            None if record.stopped.is_some() => "stops",
            None => "runs",
        };
        JobStatus {
            name: record.name.clone(),
            workers: record.workers,
            present: match record.ended {
                Some(_) => 0,
                None => present.map(|(_, host)| host.places).sum(),
            },
            hosts: record.hosts.len() as u32,
            standbys: match record.ended {
                Some(_) => 0,
                None => self.standbys(now).count() as u32,
            },
            state: state.to_owned(),
            epochs: record.epochs,
            epoch: record.next.len() as u32,
            portions: record.places.iter().map(|place| place.dealt).sum(),
            open: record.places.iter().map(|place| place.open.len() as u64).sum(),
        }
    }
}
