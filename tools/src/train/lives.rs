//! The workers of a run as processes, and their lives.
//!
//! Owns starting them, dealing batches to them over pipes, starting again who died where the
//! servers keep its place, and giving the place of who is late to a spare. Which batch and which
//! life is next is left to `dealer`, who is late to `backups`, what reports mean to `workers`.
//!
//! A spare that gets a place does the late step anew, unless the life before is through with it
//! when the spare fences it on the shards: the first one counts. Only then that one is ended.
//!
//! Invariant: one life of a worker is heard at a time; what the one before pushes once the next has
//! joined, shards refuse.

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use launch::{ChildEvent, Children, Signal};
use learn::{JOURNAL_START, Progress};
use worker::JobId;

use super::backups::Backups;
use super::board::Board;
use super::cluster::{Contact, PrivateDir};
use super::dealer::{AfterDeath, Dealer};
use super::job::{Course, Seat};
use super::plan::{Death, Plan};
use super::workers::{CAUSE_WAIT, Done, Heard, Report, WorkerPlan, gather};
use crate::failure::Failure;
use crate::output::complain;
use crate::signals::Stop;

/// How long children are listened to before the coordinator is, while one waits for a batch of it.
const OWED_WAIT: Duration = Duration::from_millis(1);

/// Runs the workers as processes: all of a job, or those of a seat in one.
pub(crate) fn run_processes(
    plan: &Plan,
    (job, contact): (JobId, &Contact),
    seat: Option<&Seat>,
    children: &mut Children,
    stop: &Stop,
    board: &mut Board,
) -> Result<Vec<Done>, Failure> {
    let mut crew = Crew::start(plan, (job, contact), seat, children)?;
    let mut told = false;
    let mut done = gather(crew.places(), board, stop, |wait| {
        if let Err(why) = crew.attend(stop) {
            return Heard::Death(why);
        }
        if stop.asked() && !told {
            told = true;
            crew.lives.iter().for_each(|&life| crew.children.child(life).tell("stop\n"));
        }
        crew.kill_due();
        if !stop.asked()
            && let Err(failure) = crew.back_up()
        {
            return Heard::Death(failure.to_string());
        }
        let wait = if crew.seat.is_some() && crew.dealer.owes() { OWED_WAIT } else { wait };
        match crew.children.next(wait) {
            Some((number, event)) => crew.hear(number, event, stop),
            None => Heard::Nothing,
        }
    })?;
    for (worker, done) in done.iter_mut().enumerate() {
        done.restarts = crew.dealer.restarts(worker);
        done.backups = crew.dealer.handovers(worker);
    }
    Ok(done)
}

/// The processes.
struct Crew<'a> {
    plan: &'a Plan,
    job: JobId,
    contact: &'a Contact,
    /// Its part in a job of several hosts, if it is one.
    seat: Option<&'a Seat>,
    children: &'a mut Children,
    dealer: Dealer,
    /// By worker: the child that is its life now.
    lives: Vec<usize>,
    /// By worker: up to where its steps are on every shard, as far as is known.
    settled: Vec<Option<Progress>>,
    /// By worker: whether it has said its last word, so that its end is no news.
    has_ended: Vec<bool>,
    /// Where workers keep their steps, if there are later lives.
    journals: Option<PathBuf>,
    /// Removes them with this process, unless a later life of it needs them.
    _private: Option<PrivateDir>,
    /// By worker: where its steps are, below that.
    journal_of: Vec<PathBuf>,
    backups: Backups,
    /// Processes that wait to be told whose place they get.
    spares: Vec<usize>,
    /// Lives that are being replaced, with their workers.
    replaced: Vec<(usize, usize)>,
    /// Children whose end is no news.
    retired: Vec<usize>,
    started: Instant,
    /// Arranged ones that are to come, the next one last.
    deaths: Vec<Death>,
}

impl<'a> Crew<'a> {
    fn start(
        plan: &'a Plan,
        (job, contact): (JobId, &'a Contact),
        seat: Option<&'a Seat>,
        children: &'a mut Children,
    ) -> Result<Crew<'a>, Failure> {
        // Without a coordinator the servers end the job when a worker's link is lost.
        let restarts_max = if contact.coordinated.is_some() { plan.restarts } else { 0 };
        let keeps = restarts_max > 0 || plan.backup > 0;
        let private = (keeps && seat.is_none()).then(|| PrivateDir::new("journals")).transpose()?;
        let own = private.as_ref().map(|dir| dir.path().to_owned());
        let journals = seat.map(Seat::journals).or(own);
        let workers = seat.map_or(plan.workers, Seat::places);
        let count = workers as usize;
        let mut deaths = plan.drill.as_ref().map_or(Vec::new(), |drill| drill.deaths.clone());
        deaths.sort_by_key(|death| std::cmp::Reverse(death.at));
        let mut crew = Crew {
            plan,
            job,
            contact,
            seat,
            children,
            dealer: dealer(seat, workers, restarts_max),
            lives: Vec::new(),
            settled: vec![None; count],
            has_ended: vec![false; count],
            journal_of: vec![journals.clone().unwrap_or_default(); count],
            journals,
            _private: private,
            backups: Backups::new(workers, plan.clock.staleness().clocks_max()),
            spares: Vec::new(),
            replaced: Vec::new(),
            retired: Vec::new(),
            started: Instant::now(),
            deaths,
        };
        for worker in 0..workers {
            let first = crew.begin(worker, 1)?;
            crew.lives.push(first);
        }
        for _ in 0..plan.backup {
            crew.begin_spare()?;
        }
        Ok(crew)
    }

    /// The numbers of its workers in their job.
    fn places(&self) -> Range<u32> {
        let first = self.seat.map_or(0, Seat::first);
        first..first + self.has_ended.len() as u32
    }

    /// The number of a worker in its job.
    fn place(&self, worker: usize) -> u32 {
        self.places().start + worker as u32
    }

    /// Speaks to the coordinator about what is dealt, and about how the job goes on.
    ///
    /// - Errors: it goes on no more.
    fn attend(&mut self, stop: &Stop) -> Result<(), String> {
        let Some(seat) = self.seat else { return Ok(()) };
        match seat.course() {
            Course::On if stop.asked() => seat.stop(),
            Course::On => {}
            Course::Stopped(_) => stop.ask(),
            Course::Over(why) => return Err(why),
        }
        let (dealt, epochs_dealt) = seat.take_dealt();
        for (worker, portion) in dealt {
            self.dealer.give(worker, portion);
        }
        self.dealer.note_epochs_dealt(epochs_dealt);
        for worker in 0..self.has_ended.len() {
            self.deal(worker)?;
            let wants = self.dealer.wants(worker).filter(|_| !self.has_ended[worker]);
            seat.note(worker, self.settled[worker], wants);
        }
        Ok(())
    }

    /// Deals to a worker what it has asked for, as far as there is something.
    fn deal(&mut self, worker: usize) -> Result<(), String> {
        loop {
            let dealt = match self.dealer.deal(worker) {
                Ok(Some(dealt)) => dealt,
                Ok(None) => return Ok(()),
                Err(error) => return Err(format!("worker {}: {error}", self.place(worker))),
            };
            let dealt = serde_json::to_string(&dealt).expect("numbers");
            self.children.child(self.lives[worker]).tell(&(dealt + "\n"));
        }
    }

    /// Begins a life of a worker. The child's number.
    fn begin(&mut self, worker: u32, life: u32) -> Result<usize, Failure> {
        let own = &self.journal_of[worker as usize];
        let journal = self.journals.is_some().then(|| own.clone());
        let place = self.place(worker as usize);
        let first = WorkerPlan::new(self.plan, self.job, place, self.contact);
        let life = life - 1 + self.seat.map_or(1, Seat::first_life);
        let splits = self.seat.map(|seat| seat.splits().clone());
        let known = self.seat.and_then(|seat| seat.known(worker as usize));
        let patience_ms = self.seat.map_or(0, Seat::patience_ms);
        let plan = WorkerPlan { life, journal, splits, known, patience_ms, ..first };
        let line = serde_json::to_string(&plan).map_err(Failure::failed)? + "\n";
        let name = format!("worker {place}");
        self.children.spawn(&name, &["worker".to_owned()], &line).map_err(Failure::failed)
    }

    /// Starts a process that waits for its plan.
    fn begin_spare(&mut self) -> Result<(), Failure> {
        let spare = self.children.spawn("spare worker", &["worker".to_owned()], "");
        self.spares.push(spare.map_err(Failure::failed)?);
        Ok(())
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Gives the place of a worker that is late to a spare, if there are both.
    fn back_up(&mut self) -> Result<(), Failure> {
        let Some(&spare) = self.spares.last() else { return Ok(()) };
        let Some(worker) = self.backups.late(self.now()) else { return Ok(()) };
        self.spares.pop();
        let life = self.dealer.hand_over(worker);
        let takes_over = Some(self.journal_of[worker].clone());
        let first = WorkerPlan::new(self.plan, self.job, worker as u32, self.contact);
        let journal = self.journal_for(worker, life);
        let plan = WorkerPlan { life, journal, takes_over, ..first };
        let line = serde_json::to_string(&plan).map_err(Failure::failed)? + "\n";
        let late = self.children.child(self.lives[worker]).name();
        let what = format!("is late with a step of worker {worker}; a spare does it, too");
        complain(&format!("gradwire: {late} {what}"));
        self.children.child(spare).tell(&line);
        let before = std::mem::replace(&mut self.lives[worker], spare);
        self.replaced.push((worker, before));
        self.begin_spare()
    }

    /// Where a life that takes over keeps its steps: the one before may still write.
    fn journal_for(&self, worker: usize, life: u32) -> Option<PathBuf> {
        let dir = self.journals.as_ref()?;
        Some(dir.join(format!("{JOURNAL_START}{worker}-life-{life}")))
    }

    /// A spare has a worker's place: the life before may go.
    fn took_over(&mut self, worker: usize, steps: u64) {
        self.backups.took_over(worker, steps, self.now());
        let life = 1 + self.dealer.restarts(worker) + self.dealer.handovers(worker);
        if let Some(journal) = self.journal_for(worker, life) {
            self.journal_of[worker] = journal;
        }
        self.end_replaced(worker);
    }

    /// Ends the life that a spare replaces, if there is one.
    fn end_replaced(&mut self, worker: usize) {
        for (_, number) in self.replaced.extract_if(.., |(one, _)| *one == worker) {
            let child = self.children.child(number);
            child.signal(Signal::KILL);
            child.ended(CAUSE_WAIT);
            self.retired.push(number);
        }
    }

    /// Notes how far a worker is.
    fn note(&mut self, worker: usize, report: &Report) {
        let now = self.now();
        match *report {
            Report::Stepped { steps } => self.backups.stepped(worker, steps, now),
            Report::TookOver { steps } => self.took_over(worker, steps),
            Report::Done(_) | Report::Failed { .. } => {
                self.has_ended[worker] = true;
                self.backups.ended(worker, now);
                self.end_replaced(worker);
            }
            Report::Reached(reached) => {
                self.settled[worker] = self.settled[worker].max(reached.settled);
                self.dealer.note_reached(worker, reached.done);
            }
            Report::Going { .. } | Report::Claim { .. } => {}
        }
    }

    fn hear(&mut self, number: usize, event: ChildEvent, stop: &Stop) -> Heard {
        let worker = self.lives.iter().position(|&life| life == number);
        match (worker, event) {
            (Some(worker), ChildEvent::Line(line)) => match serde_json::from_str(&line) {
                Ok(Report::Claim { epoch, reached }) => {
                    self.settled[worker] = self.settled[worker].max(reached.settled);
                    self.dealer.claim(worker, epoch, reached.done);
                    match self.deal(worker) {
                        Ok(()) => Heard::Nothing,
                        Err(why) => Heard::Death(why),
                    }
                }
                Ok(report) => {
                    self.note(worker, &report);
                    Heard::Report(worker, report)
                }
                Err(error) => {
                    let place = self.place(worker);
                    Heard::Death(format!("worker {place} speaks no JSON: {error}"))
                }
            },
            (Some(worker), ChildEvent::Ended) if self.has_ended[worker] => Heard::Nothing,
            (Some(worker), ChildEvent::Ended) => self.outlive(worker, stop),
            (None, ChildEvent::Ended) if self.is_no_news(number) => Heard::Nothing,
            (None, ChildEvent::Ended) => Heard::Death(obituary(self.children, number)),
            (None, ChildEvent::Line(_)) => Heard::Nothing,
        }
    }

    /// A worker died without a last word: its next life begins, if it has one.
    fn outlive(&mut self, worker: usize, stop: &Stop) -> Heard {
        let obituary = obituary(self.children, self.lives[worker]);
        if stop.asked() {
            return Heard::Death(obituary);
        }
        self.backups.life_over(worker);
        self.end_replaced(worker);
        match self.dealer.died(worker) {
            AfterDeath::Over { lives: 1 } => Heard::Death(obituary),
            AfterDeath::Over { lives } => {
                Heard::Death(format!("{obituary}; it had {lives} lives, and no more"))
            }
            AfterDeath::Restart { life } => {
                complain(&format!("gradwire: {obituary}; its life {life} begins"));
                match self.begin(worker as u32, life) {
                    Ok(number) => {
                        self.lives[worker] = number;
                        Heard::Nothing
                    }
                    Err(failure) => Heard::Death(format!("{obituary}; {failure}")),
                }
            }
        }
    }

    /// Whether the end of a child that is no worker's life matters to nobody: a life that was
    /// replaced, or a spare, without which the others go on.
    fn is_no_news(&mut self, number: usize) -> bool {
        let was_spare = self.spares.iter().position(|&spare| spare == number);
        was_spare.map(|at| self.spares.remove(at)).is_some()
            || self.retired.contains(&number)
            || self.replaced.iter().any(|&(_, replaced)| replaced == number)
    }

    /// Kills whose arranged death is due.
    fn kill_due(&mut self) {
        let elapsed = self.started.elapsed();
        while let Some(death) = self.deaths.pop_if(|death| death.at <= elapsed) {
            let worker = death.worker as usize;
            if !self.has_ended[worker] {
                self.children.child(self.lives[worker]).signal(Signal::KILL);
            }
        }
    }
}

/// What deals to so many workers: their part in a job of several hosts, or all of a job.
fn dealer(seat: Option<&Seat>, workers: u32, restarts_max: u32) -> Dealer {
    let Some(seat) = seat else { return Dealer::new(workers, restarts_max) };
    let mut dealer = Dealer::of_splits(workers, restarts_max);
    for (worker, open) in seat.held() {
        open.iter().for_each(|portion| dealer.give(worker, *portion));
    }
    dealer
}

/// How a child ended, with its name.
fn obituary(children: &mut Children, number: usize) -> String {
    let child = children.child(number);
    match child.ended(CAUSE_WAIT) {
        Some(status) => format!("{} died: {status}", child.name()),
        None => format!("{} closed its output", child.name()),
    }
}
