//! One worker as a process of its own: `gradwire worker`.
//!
//! Owns reading the plan, telling the parent how it goes, and ending when the parent is gone.

use std::io::{self, BufRead};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use learn::data::{Csr, DataError, Delivered, Splits, split_batch, split_of};
use learn::metrics::Metrics;
use learn::{Epochs, Feed, Journal, JournalError, LogisticRegression, Mark, Position, Progress};
use worker::{Incarnation, JobId};

use super::dealer::Dealt;
use super::workers::{Done, Reached, Report, WorkerPlan, watch};
use crate::failure::Failure;
use crate::output;
use crate::signals::Stop;

/// How long a worker may take to end in good order once its parent is gone.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// How long the parent may take to deal out a batch: longer than it waits for a coordinator.
const CLAIM_MAX: Duration = Duration::from_secs(150);

/// Works as the plan on standard input says.
pub(crate) fn run() -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::failed)?;
    let plan: WorkerPlan = serde_json::from_str(&line)
        .map_err(|error| Failure::usage(format!("the plan on standard input: {error}")))?;
    let (dealt, to_claim) = sync_channel(DEALT_MAX);
    watch_parent(stop.clone(), Some(dealt))?;
    match go(&plan, &stop, to_claim) {
        Ok(()) => Ok(()),
        Err(failure) => output::json(&Report::Failed { why: failure.to_string() }),
    }
}

fn go(plan: &WorkerPlan, stop: &Stop, dealt: Receiver<Dealt>) -> Result<(), Failure> {
    let mut session = plan.contact.session(plan.who(), Incarnation::new(plan.life))?;
    let (job, weights) = plan.job();
    if plan.takes_over.is_some() {
        // From here on the life before changes nothing: its journal has all that it has pushed.
        job.begin(&mut session).map_err(Failure::failed)?;
    }
    let mut journal = open_journal(plan).map_err(Failure::failed)?;
    let mark = journal.as_ref().map_or_else(Mark::default, Journal::mark);
    let given = Given::default();
    let claims = Claims::new(dealt, &mark, stop, &given);
    let feed = open_feed(plan, claims, &mark).map_err(Failure::failed)?;
    if plan.takes_over.is_some() {
        output::json(&Report::TookOver { steps: mark.kept().steps })?;
    }
    let mut learner = LogisticRegression::new(weights, &plan.optimizer);
    let mut watch = watch(&feed, stop, |report| {
        let reached = Reached { done: mark.kept().position, settled: mark.settled() };
        let told = output::json(&report).and_then(|()| output::json(&Report::Reached(reached)));
        if told.is_err() {
            stop.ask(); // Nobody listens any more.
        }
    });
    let mut paced = |metrics: &Metrics| {
        sleep(Duration::from_millis(plan.pace_ms));
        if plan.says_steps && output::json(&Report::Stepped { steps: mark.kept().steps }).is_err() {
            stop.ask();
        }
        watch(metrics)
    };
    let batches = Batches { feed: &feed, stop, given };
    let worked = job.work(&mut session, &mut learner, &batches, journal.as_mut(), &mut paced);
    drop(watch);
    output::json(&Report::Done(Box::new(Done::new(worked.map_err(Failure::failed)?, &feed))))
}

/// The journal of its place, if it keeps one.
fn open_journal(plan: &WorkerPlan) -> Result<Option<Journal>, JournalError> {
    let (job, who) = (JobId::new(plan.job), plan.who());
    let Some(dir) = &plan.journal else { return Ok(None) };
    match (&plan.takes_over, plan.known) {
        (Some(before), _) => Journal::take_over(before, dir, job, who).map(Some),
        (None, Some(known)) => Journal::stand_in(dir, job, who, known).map(Some),
        (None, None) => Journal::open(dir, job, who).map(Some),
    }
}

/// Opens the data: the batches that the parent deals, or the splits.
fn open_feed(plan: &WorkerPlan, mut claims: Claims, mark: &Mark) -> Result<Epochs, DataError> {
    let (source, epochs, done) = (plan.source.clone(), plan.epochs, mark.kept().position);
    let Some(splits) = plan.splits.clone() else {
        let claim = Arc::new(Mutex::new(move |epoch| claims.next(epoch)));
        return Epochs::open_shared(source, epochs, claim, done.map_or(0, |done| done.epoch));
    };
    let splits: Arc<Splits> = Arc::new(splits);
    let claim = Arc::new(Mutex::new(move |epoch, delivered: &Delivered| {
        claims.next_split(epoch, delivered)
    }));
    Epochs::open_splits(source, epochs, splits, claim, done)
}

/// Batches that are asked for before they are needed: the parent's answer takes its time.
const CLAIMS_AHEAD: u32 = 3;

/// Batches that were dealt and not taken: of this epoch, and what is left of the one before.
const DEALT_MAX: usize = 4 * CLAIMS_AHEAD as usize;

/// How soon somebody who waits for a batch sees that the process is to stop.
const STOP_SEEN_AFTER: Duration = Duration::from_millis(50);

/// The batches of a process, which end where it is to stop while it waits for one.
struct Batches<'a> {
    feed: &'a Epochs,
    stop: &'a Stop,
    given: Given,
}

/// The last batch that the learner was given.
type Given = Arc<Mutex<Option<Position>>>;

impl Feed for Batches<'_> {
    fn next(&self) -> Result<Option<Csr>, DataError> {
        match self.feed.next() {
            Err(DataError::NoClaim { .. }) if self.stop.asked() => Ok(None),
            Ok(Some(batch)) if batch.rows() > 0 => {
                let at = Position { epoch: batch.epoch, batch: batch.batch };
                *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
                Ok(Some(batch))
            }
            next => next,
        }
    }

    fn recycle(&self, batch: Csr) {
        self.feed.recycle(batch);
    }
}

/// What the parent deals to this process.
struct Claims {
    dealt: Receiver<Dealt>,
    mark: Mark,
    given: Given,
    stop: Stop,
    epoch: u32,
    /// Unanswered questions of this epoch.
    asked: u32,
}

impl Claims {
    fn new(dealt: Receiver<Dealt>, mark: &Mark, stop: &Stop, given: &Given) -> Claims {
        let epoch = mark.kept().position.map_or(0, |done| done.epoch);
        let (mark, given, stop) = (mark.clone(), Arc::clone(given), stop.clone());
        Claims { dealt, mark, given, stop, epoch, asked: 0 }
    }

    /// This process's next batch of an epoch.
    fn next(&mut self, epoch: u32) -> Result<u64, DataError> {
        let next = self.ask(epoch, CLAIMS_AHEAD, None)?;
        let ended = || no_claim("the parent ends an epoch".to_owned());
        next.ok_or_else(ended)
    }

    /// This process's next split of an epoch, if there is one left. While it is asked for, what was
    /// read before is still worked on.
    fn next_split(&mut self, epoch: u32, delivered: &Delivered) -> Result<Option<u64>, DataError> {
        let next = self.ask(epoch, 1, Some(delivered))?;
        Ok(next.map(split_of))
    }

    /// Up to where all is done, and up to where it is on every shard. Splits without a row for this
    /// pass leave nothing in the journal: where it has all that was given to the learner, they are
    /// done as well.
    fn done(&self, epoch: u32, delivered: Option<&Delivered>) -> Reached {
        let ended = delivered.and_then(Delivered::last);
        let given = *self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.mark.kept();
        let ended = ended.filter(|_| given <= kept.position);
        let ended = ended.map(|split| Position { epoch, batch: split_batch(split + 1) - 1 });
        let kept = Progress { position: kept.position.max(ended), ..kept };
        let settled = self.mark.settled();
        let settled = settled.map(|all| if all.steps == kept.steps { kept } else { all });
        Reached { done: kept.position, settled }
    }

    /// Asks for so many answers ahead, and waits for the next one; none: this epoch has no more.
    fn ask(
        &mut self,
        epoch: u32,
        ahead: u32,
        delivered: Option<&Delivered>,
    ) -> Result<Option<u64>, DataError> {
        if self.epoch != epoch {
            (self.epoch, self.asked) = (epoch, 0);
        }
        let mut done = self.done(epoch, delivered);
        while self.asked < ahead {
            let claim = Report::Claim { epoch, reached: done };
            output::json(&claim).map_err(|why| no_claim(why.to_string()))?;
            self.asked += 1;
        }
        let until = Instant::now() + CLAIM_MAX;
        loop {
            let dealt = match self.dealt.recv_timeout(STOP_SEEN_AFTER) {
                Ok(dealt) => dealt,
                Err(_) if self.stop.asked() => return Err(no_claim("it was stopped".to_owned())),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {
                    // Nothing more may be dealt before what was delivered meanwhile is told.
                    let now = self.done(epoch, delivered);
                    if now != done {
                        done = now;
                        output::json(&Report::Reached(now))
                            .map_err(|why| no_claim(why.to_string()))?;
                    }
                    continue;
                }
                Err(_) => return Err(no_claim("the parent does not answer".to_owned())),
            };
            // What is left of an epoch before lies beyond its end.
            let (of, next) = match dealt {
                Dealt::Next(next) => (next.epoch, Some(next.batch)),
                Dealt::Over(over) => (over, None),
            };
            if of == epoch {
                self.asked -= 1;
                return Ok(next);
            }
        }
    }
}

fn no_claim(reason: String) -> DataError {
    DataError::NoClaim { reason }
}

/// Listens to the parent: what it deals is handed to `dealt`, any other line asks this process to
/// stop, and so does the end of standard input: then the parent is gone.
pub(crate) fn watch_parent(stop: Stop, dealt: Option<SyncSender<Dealt>>) -> Result<(), Failure> {
    let watch = move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match (serde_json::from_str(&line), &dealt) {
                (Ok(told), Some(dealt)) => drop(dealt.send(told)),
                _ => stop.ask(),
            }
        }
        stop.ask();
        sleep(FAREWELL_MAX);
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("parent".to_owned()).spawn(watch);
    thread.map(drop).map_err(Failure::failed)
}
