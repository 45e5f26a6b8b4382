//! A seat in a job of several hosts: the places that this launcher has, and its word with the
//! coordinator.
//!
//! Owns the thread that asks the coordinator again and again, and what it has heard. Which batch
//! goes to which worker process is left to `dealer` and `lives`.
//!
//! Invariant: what is to be said is one slate, of which the coordinator is told all each time, so
//! that nothing depends on which answer was lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use learn::data::{SPLIT_BATCH_BITS, Splits};
use learn::{Position, Progress};
use rustix::system::uname;
use wire::{
    AwayHost, BatchAt, Enrolled, JobAnswer, JobAsk, JobBid, JobEnd, JobNews, JobRefusal, JobState,
    JobVerb, PlaceHeld, PlaceNews, Portion, SPLIT_BATCHES, worker_words,
};
use worker::JobId;

use super::args::LIVES_PER_LAUNCHER;
use super::line::{AGAIN_AFTER, Line, Refused};
use super::standby::Standby;
use crate::output::complain;
use crate::signals::Stop;
use crate::train::plan::Coordinated;

/// How often the coordinator is asked where nothing is to be said: it misses who says nothing.
const ATTEND_EVERY: Duration = Duration::from_millis(200);

// Both count a batch within its split alike.
const _: () = assert!(SPLIT_BATCHES == 1 << SPLIT_BATCH_BITS);

/// What is said where a coordinator deals no splits.
const NO_SPLITS: &str = "the coordinator deals no splits, as jobs of this gradwire need: it is of \
                         an earlier build; start one of this build";

/// A launcher's seat.
pub(crate) struct Seat {
    pub(super) job: String,
    pub(super) host: String,
    id: JobId,
    /// The first of its places, which are consecutive.
    first: u32,
    held: Vec<PlaceHeld>,
    generation: u32,
    patience_ms: u64,
    journals: PathBuf,
    splits: Splits,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    slate: Mutex<Slate>,
    bell: Condvar,
}

/// What is to be said, and what was heard.
#[derive(Default)]
struct Slate {
    news: JobNews,
    /// Something is to be said at once.
    is_urgent: bool,
    is_over: bool,
    /// Portions that nobody has taken.
    dealt: VecDeque<(u32, Portion)>,
    results: BTreeMap<u32, String>,
    /// None: nothing was heard yet.
    state: Option<JobState>,
    /// Why nothing more will be heard.
    lost: Option<String>,
}

/// How the job goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Course {
    On,
    /// All workers are to stop where they are.
    Stopped(String),
    /// It has ended, or is out of reach.
    Over(String),
}

impl Shared {
    fn slate(&self) -> MutexGuard<'_, Slate> {
        self.slate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Takes part in a job: asks for places until the coordinator has answered; if it stands by,
    /// until a host is gone. None: the job is done, and needed it for nothing.
    ///
    /// - `holder`: this launcher's number, in all of its lives.
    /// - Errors: the coordinator refuses, or does not answer for long; or there
    ///   is no job to stand by for within [`GATHER_MAX`](super::GATHER_MAX).
    pub(super) fn take(
        coordinated: &Coordinated,
        job: &str,
        holder: u64,
        bid: JobBid,
        journals: PathBuf,
        splits: Splits,
        stop: &Stop,
    ) -> Result<Option<Seat>, Refused> {
        let mut line = Line::new(coordinated);
        let (host, patience_ms) = (bid.host.clone(), bid.patience_ms);
        let mut standby = Standby::new(job, bid.stands_by);
        let enrol = JobAsk { job: job.to_owned(), holder, verb: JobVerb::Enrol(bid) };
        let Some(enrolled) = line.enrol(&enrol, &mut standby, stop)? else { return Ok(None) };
        let Enrolled { id, generation, places, splits: dealt } = enrolled;
        if dealt != splits.count() {
            let end = Some(JobEnd::Failed { why: NO_SPLITS.to_owned() });
            let verb = JobVerb::Attend(JobNews { generation, end, ..JobNews::default() });
            // It would wait for this host otherwise; that it does not hear of it ends no less.
            let _ = line.ask(&JobAsk { job: job.to_owned(), holder, verb });
            return Err(Refused::Failed(NO_SPLITS.to_owned()));
        }
        let first = places.first().map_or(0, |place| place.place);
        let shared = Arc::new(Shared::default());
        {
            let mut slate = shared.slate();
            slate.news.generation = generation;
            slate.news.results_seen = vec![first]; // Its own it has.
            slate.news.places = places.iter().map(unasked).collect();
        }
        let attendant = Attendant {
            shared: Arc::clone(&shared),
            line,
            job: job.to_owned(),
            holder,
            told_away: BTreeSet::new(),
        };
        let thread = std::thread::Builder::new().name("attendant".to_owned());
        let thread = thread.spawn(move || attendant.run());
        let thread = Some(thread.map_err(|error| Refused::Failed(error.to_string()))?);
        Ok(Some(Seat {
            job: job.to_owned(),
            host,
            id: JobId::new(id),
            first,
            held: places,
            generation,
            patience_ms,
            journals,
            splits,
            shared,
            thread,
        }))
    }

    /// What the job is called on servers.
    pub(crate) fn id(&self) -> JobId {
        self.id
    }

    /// The first of its places: the number of its first worker.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// How many places it has.
    pub(crate) fn places(&self) -> u32 {
        self.held.len() as u32
    }

    /// Which life each worker begins with: above all of those under this launcher's lives before.
    pub(crate) fn first_life(&self) -> u32 {
        1 + self.generation.saturating_sub(1) % LIVES_PER_LAUNCHER * LIVES_PER_LAUNCHER
    }

    /// Which of the launcher's lives this is, from 1.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// How long one of the job's hosts may be gone.
    pub(crate) fn patience_ms(&self) -> u64 {
        self.patience_ms
    }

    /// Where its workers' journals lie.
    pub(crate) fn journals(&self) -> PathBuf {
        self.journals.clone()
    }

    /// The splits of the job's data.
    pub(crate) fn splits(&self) -> &Splits {
        &self.splits
    }

    /// How far a worker is known to be whose steps may be in journals that are out of reach; none:
    /// all its lives have kept them here.
    pub(crate) fn known(&self, worker: usize) -> Option<Progress> {
        let held = &self.held[worker];
        let position = held.done.map(|BatchAt { epoch, batch }| Position { epoch, batch });
        held.untold.map(|_| Progress { steps: held.steps, position })
    }

    /// Steps, or somewhat more, whose figures are on a host that is gone.
    pub(super) fn steps_untold(&self) -> u64 {
        self.held.iter().filter_map(|held| held.untold).sum()
    }

    /// By worker: what it was dealt in lives of the launcher before.
    pub(crate) fn held(&self) -> impl Iterator<Item = (usize, &[Portion])> {
        self.held.iter().map(|held| &held.open[..]).enumerate()
    }

    /// Says how far a worker is, all of it on every shard, and of which epoch it wants more.
    pub(crate) fn note(&self, worker: usize, settled: Option<Progress>, wants: Option<u32>) {
        let mut slate = self.shared.slate();
        let place = self.first + worker as u32;
        let is_served = slate.dealt.iter().any(|(dealt, _)| *dealt == place);
        let Some(one) = slate.news.places.get_mut(worker) else { return };
        let Progress { steps, position } = settled.unwrap_or_default();
        one.done = position.map(|Position { epoch, batch }| BatchAt { epoch, batch });
        one.steps = Some(steps);
        let wants = wants.filter(|_| !is_served);
        let is_new = wants.is_some() && one.wants != wants;
        one.wants = wants;
        if is_new {
            slate.is_urgent = true;
            self.shared.bell.notify_all();
        }
    }

    /// Portions that were dealt since this was asked last, with their workers; and of how many
    /// epochs, from the first one on, these workers have all that they will be dealt.
    pub(crate) fn take_dealt(&self) -> (Vec<(usize, Portion)>, u32) {
        let mut slate = self.shared.slate();
        let dealt = std::mem::take(&mut slate.dealt);
        let epochs_dealt = slate.state.as_ref().map_or(0, |state| state.epochs_dealt);
        let by_worker = |(place, portion)| ((place - self.first) as usize, portion);
        (dealt.into_iter().map(by_worker).collect(), epochs_dealt)
    }

    /// How the job goes on.
    pub(crate) fn course(&self) -> Course {
        let slate = self.shared.slate();
        if let Some(why) = &slate.lost {
            return Course::Over(why.clone());
        }
        let Some(state) = &slate.state else { return Course::On };
        match (&state.end, &state.stopped) {
            (Some(JobEnd::Failed { why }), _) => {
                Course::Over(format!("job {} has failed: {why}", self.job))
            }
            (Some(JobEnd::Stopped { why }), _) | (None, Some(why)) => Course::Stopped(why.clone()),
            (Some(JobEnd::Done) | None, _) => Course::On,
        }
    }

    /// How the job is, as was heard last.
    pub(super) fn state(&self) -> JobState {
        self.shared.slate().state.clone().unwrap_or_default()
    }

    /// Whether anything was heard yet.
    pub(super) fn has_heard(&self) -> bool {
        self.shared.slate().state.is_some()
    }

    /// Whether the coordinator is out of reach, or answers this launcher no more.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.slate().lost.is_some()
    }

    /// Results of other hosts, by their first places.
    pub(super) fn results(&self) -> BTreeMap<u32, String> {
        self.shared.slate().results.clone()
    }

    /// Changes what the coordinator is told.
    pub(super) fn say(&self, change: impl FnOnce(&mut JobNews)) {
        let mut slate = self.shared.slate();
        change(&mut slate.news);
        slate.is_urgent = true;
        self.shared.bell.notify_all();
    }

    /// Has all workers of the job stop, unless it ends already.
    pub(crate) fn stop(&self) {
        if self.shared.slate().news.end.is_none() {
            let why = format!("interrupted on {}", self.host);
            self.say(|news| news.end = Some(JobEnd::Stopped { why }));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.slate().is_over = true;
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn unasked(held: &PlaceHeld) -> PlaceNews {
    let PlaceHeld { place, portion, .. } = *held;
    PlaceNews { place, done: None, steps: Some(0), portion, wants: None }
}

/// A coordinator of an earlier build that took over deals runs of batches.
fn is_split(portion: &Portion) -> bool {
    portion.batches == SPLIT_BATCHES && portion.first.is_multiple_of(u64::from(SPLIT_BATCHES))
}

/// What people call this host.
pub(super) fn host_name() -> String {
    let name = uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "host".to_owned() } else { name }
}

/// The thread's own.
struct Attendant {
    shared: Arc<Shared>,
    line: Line,
    job: String,
    holder: u64,
    /// First places of hosts that people were told are away.
    told_away: BTreeSet<u32>,
}

impl Attendant {
    fn run(mut self) {
        while let Some(news) = self.next_news() {
            let (job, verb) = (self.job.clone(), JobVerb::Attend(news));
            match self.line.ask(&JobAsk { job, holder: self.holder, verb }) {
                Ok(Some(JobAnswer::State(state))) => self.hear(state),
                Ok(None | Some(JobAnswer::Refused(JobRefusal::Full { .. }))) => {
                    std::thread::sleep(AGAIN_AFTER);
                }
                Ok(Some(JobAnswer::Refused(refusal))) => return self.lose(&refusal.to_string()),
                Ok(Some(
                    JobAnswer::Enrolled(_)
                    | JobAnswer::StandsBy { .. }
                    | JobAnswer::Replaced { .. },
                )) => {
                    return self.lose("the coordinator answers out of turn");
                }
                Err(why) => return self.lose(&why),
            }
        }
    }

    fn lose(&self, why: &str) {
        self.shared.slate().lost = Some(format!("job {}: {why}", self.job));
    }

    /// What is to be said next, when it is time; none: nothing more.
    fn next_news(&self) -> Option<JobNews> {
        let until = Instant::now() + ATTEND_EVERY;
        let mut slate = self.shared.slate();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if slate.is_over {
                return None;
            }
            if slate.is_urgent || left.is_zero() {
                slate.is_urgent = false;
                return Some(slate.news.clone());
            }
            let waited = self.shared.bell.wait_timeout(slate, left);
            slate = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn hear(&mut self, mut state: JobState) {
        state.away.iter().for_each(|away| self.tell_away(away));
        self.told_away.retain(|first| state.away.iter().any(|away| away.first == *first));
        let mut slate = self.shared.slate();
        if state.dealt.iter().any(|(_, portion)| !is_split(portion)) {
            slate.lost = Some(format!("job {}: {NO_SPLITS}", self.job));
            return;
        }
        for (place, portion) in std::mem::take(&mut state.dealt) {
            let one = slate.news.places.iter_mut().find(|one| one.place == place);
            let Some(one) = one.filter(|one| portion.number == one.portion + 1) else { continue };
            (one.portion, one.wants) = (portion.number, None);
            slate.dealt.push_back((place, portion));
        }
        for (first, result) in std::mem::take(&mut state.results) {
            if !slate.news.results_seen.contains(&first) {
                slate.news.results_seen.push(first);
                slate.is_urgent = true; // There may be more.
            }
            slate.results.insert(first, result);
        }
        slate.state = Some(state);
    }

    fn tell_away(&mut self, away: &AwayHost) {
        if !self.told_away.insert(away.first) {
            return;
        }
        let AwayHost { host, first, places, away_ms, patience_ms } = away;
        let left = patience_ms.saturating_sub(*away_ms) / 1000;
        complain(&format!(
            "gradwire: job {}: {host} with {} was not heard of for {} s; start the same command \
             again there within {left} s",
            self.job,
            worker_words(*first, *places),
            away_ms / 1000
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_of_a_coordinator_of_before_is_no_split() {
        let portion = |first, batches| Portion { number: 1, epoch: 0, first, batches };
        assert!(is_split(&portion(0, SPLIT_BATCHES)));
        assert!(is_split(&portion(3 << SPLIT_BATCH_BITS, SPLIT_BATCHES)));
        // It takes what was dealt for batches, and deals eight more.
        assert!(!is_split(&portion(3 << SPLIT_BATCH_BITS, 8)));
        assert!(!is_split(&portion(0, 8)));
        assert!(!is_split(&portion(8, SPLIT_BATCHES)));
    }
}
