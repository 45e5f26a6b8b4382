//! The workers of a run as processes, and their lives.
//!
//! Owns starting them, dealing batches to them over pipes, and starting again who died where the
//! servers keep its place. Which batch and which life is next is left to `dealer`, what reports
//! mean to `workers`.
//!
//! Invariant: a worker has one life at a time; the one before is reaped when the next begins, and
//! fenced by the shards.

use std::time::Instant;

use launch::{ChildEvent, Children, Signal};
use worker::JobId;

use super::board::Board;
use super::cluster::{Contact, PrivateDir};
use super::dealer::{AfterDeath, Dealer};
use super::plan::{Death, Plan};
use super::workers::{CAUSE_WAIT, Done, Heard, Report, WorkerPlan, gather};
use crate::failure::Failure;
use crate::output::complain;
use crate::signals::Stop;

/// Runs the workers as processes.
pub(crate) fn run_processes(
    plan: &Plan,
    job: JobId,
    contact: &Contact,
    children: &mut Children,
    stop: &Stop,
    board: &mut Board,
) -> Result<Vec<Done>, Failure> {
    let mut crew = Crew::start(plan, job, contact, children)?;
    let mut told = false;
    let mut done = gather(plan, board, stop, |wait| {
        if stop.asked() && !told {
            told = true;
            crew.lives.iter().for_each(|&life| crew.children.child(life).tell("stop\n"));
        }
        crew.kill_due();
        match crew.children.next(wait) {
            Some((number, event)) => crew.hear(number, event, stop),
            None => Heard::Nothing,
        }
    })?;
    for (worker, done) in done.iter_mut().enumerate() {
        done.restarts = crew.dealer.restarts(worker);
    }
    Ok(done)
}

/// The processes.
struct Crew<'a> {
    plan: &'a Plan,
    job: JobId,
    contact: &'a Contact,
    children: &'a mut Children,
    dealer: Dealer,
    /// By worker: the child that is its life now.
    lives: Vec<usize>,
    /// By worker: whether it has said its last word, so that its end is no news.
    has_ended: Vec<bool>,
    /// Where workers keep their steps, if there are later lives.
    journals: Option<PrivateDir>,
    started: Instant,
    /// Arranged ones that are to come, the next one last.
    deaths: Vec<Death>,
}

impl<'a> Crew<'a> {
    fn start(
        plan: &'a Plan,
        job: JobId,
        contact: &'a Contact,
        children: &'a mut Children,
    ) -> Result<Crew<'a>, Failure> {
        // Without a coordinator the servers end the job when a worker's link is lost.
        let restarts_max = if contact.coordinated.is_some() { plan.restarts } else { 0 };
        let journals = (restarts_max > 0).then(|| PrivateDir::new("journals")).transpose()?;
        let mut deaths = plan.drill.as_ref().map_or(Vec::new(), |drill| drill.deaths.clone());
        deaths.sort_by_key(|death| std::cmp::Reverse(death.at));
        let mut crew = Crew {
            plan,
            job,
            contact,
            children,
            dealer: Dealer::new(plan.workers, restarts_max),
            lives: Vec::new(),
            has_ended: vec![false; plan.workers as usize],
            journals,
            started: Instant::now(),
            deaths,
        };
        for worker in 0..plan.workers {
            let first = crew.begin(worker, 1)?;
            crew.lives.push(first);
        }
        Ok(crew)
    }

    /// Begins a life of a worker. The child's number.
    fn begin(&mut self, worker: u32, life: u32) -> Result<usize, Failure> {
        let journal = self.journals.as_ref().map(|dir| dir.path().to_owned());
        let first = WorkerPlan::new(self.plan, self.job, worker, self.contact);
        let plan = WorkerPlan { life, journal, ..first };
        let line = serde_json::to_string(&plan).map_err(Failure::failed)? + "\n";
        let name = format!("worker {worker}");
        self.children.spawn(&name, &["worker".to_owned()], &line).map_err(Failure::failed)
    }

    fn hear(&mut self, number: usize, event: ChildEvent, stop: &Stop) -> Heard {
        let worker = self.lives.iter().position(|&life| life == number);
        match (worker, event) {
            (Some(worker), ChildEvent::Line(line)) => match serde_json::from_str(&line) {
                Ok(Report::Claim { epoch, done }) => match self.dealer.claim(worker, epoch, done) {
                    Ok(dealt) => {
                        let dealt = serde_json::to_string(&dealt).expect("two numbers");
                        self.children.child(number).tell(&(dealt + "\n"));
                        Heard::Nothing
                    }
                    Err(error) => Heard::Death(format!("worker {worker}: {error}")),
                },
                Ok(report) => {
                    let is_last = matches!(report, Report::Done(_) | Report::Failed { .. });
                    self.has_ended[worker] |= is_last;
                    Heard::Report(worker, report)
                }
                Err(error) => Heard::Death(format!("worker {worker} speaks no JSON: {error}")),
            },
            (Some(worker), ChildEvent::Ended) if self.has_ended[worker] => Heard::Nothing,
            (Some(worker), ChildEvent::Ended) => self.outlive(worker, stop),
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

/// How a child ended, with its name.
fn obituary(children: &mut Children, number: usize) -> String {
    let child = children.child(number);
    match child.ended(CAUSE_WAIT) {
        Some(status) => format!("{} died: {status}", child.name()),
        None => format!("{} closed its output", child.name()),
    }
}
