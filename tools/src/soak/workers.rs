//! The workers of a soak as processes, so that they can be killed too.
//!
//! Owns both ends of their pipes: starting them, killing one and beginning its next life, and what
//! the process itself does. What it pushes and compares is `bench::soak_work`.
//!
//! Invariant: a worker has one life at a time, and all of its lives push the same steps.

use std::io::{self, BufRead};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::{SoakLoad, SoakTally, soak_work};
use launch::{ChildEvent, Children, Signal};
use serde::{Deserialize, Serialize};
use worker::{Incarnation, JobId, WorkerId};

use super::end_when_asked;
use crate::failure::Failure;
use crate::flags::AcknowledgeFlag;
use crate::output;
use crate::reach::{cluster_of, watch};
use crate::signals::Stop;
use crate::train::child::watch_parent;

/// How long a worker may take to begin, and to compare in the end.
const WORD_MAX: Duration = Duration::from_secs(60);

/// What a worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SoakWorkerPlan {
    pub(crate) coordinators: Vec<String>,
    pub(crate) cluster: String,
    pub(crate) job: u64,
    /// How many take part in the job.
    pub(crate) workers: u32,
    pub(crate) keys: u64,
    pub(crate) seed: u64,
    /// As the flag says it.
    pub(crate) acknowledge: String,
    pub(crate) aggregate: bool,
    pub(crate) worker: u32,
    pub(crate) life: u32,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// It has joined.
    Begun,
    /// It has compared.
    Ended(SoakTally),
    /// It cannot go on.
    Failed(String),
}

/// The processes; killed when this is dropped.
pub(crate) struct SoakWorkers {
    plan: SoakWorkerPlan,
    children: Children,
    /// By worker.
    lives: Vec<Life>,
    tallies: Vec<Option<SoakTally>>,
}

/// A worker's life now.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// Its child.
    number: usize,
    /// Which of its lives.
    life: u32,
    has_begun: bool,
}

impl SoakWorkers {
    /// Starts so many workers and waits until all have joined.
    ///
    /// - `plan`: whose, and of which life, is filled in.
    pub(crate) fn start(plan: SoakWorkerPlan, count: u32) -> Result<SoakWorkers, Failure> {
        let (lives, tallies) = (Vec::new(), vec![None; count as usize]);
        let mut workers = SoakWorkers { plan, children: Children::new(), lives, tallies };
        for worker in 0..count {
            let first = workers.begin(worker, learn::INCARNATION.get())?;
            workers.lives.push(first);
        }
        for worker in 0..count as usize {
            workers.wait_begun(worker)?;
        }
        Ok(workers)
    }

    /// Kills a worker, and waits until its next life has joined.
    pub(crate) fn kill(&mut self, worker: usize) -> Result<(), Failure> {
        let Life { number, life, .. } = self.lives[worker];
        self.children.child(number).signal(Signal::KILL);
        self.children.child(number).ended(WORD_MAX);
        self.lives[worker] = self.begin(worker as u32, life + 1)?;
        self.wait_begun(worker)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.lives.len() as u64
    }

    /// Has all of them finish, and waits for what they found.
    pub(crate) fn finish(mut self) -> Result<Vec<SoakTally>, Failure> {
        for &Life { number, .. } in &self.lives {
            self.children.child(number).tell("stop\n");
        }
        let until = Instant::now() + WORD_MAX;
        while self.tallies.iter().any(Option::is_none) {
            self.hear("finish", until)?;
        }
        Ok(self.tallies.into_iter().flatten().collect())
    }

    fn begin(&mut self, worker: u32, life: u32) -> Result<Life, Failure> {
        let plan = SoakWorkerPlan { worker, life, ..self.plan.clone() };
        let line = serde_json::to_string(&plan).map_err(Failure::failed)? + "\n";
        let name = format!("worker {worker}");
        let arguments = ["soak-worker".to_owned()];
        let number = self.children.spawn(&name, &arguments, &line).map_err(Failure::failed)?;
        Ok(Life { number, life, has_begun: false })
    }

    fn wait_begun(&mut self, worker: usize) -> Result<(), Failure> {
        let until = Instant::now() + WORD_MAX;
        while !self.lives[worker].has_begun {
            self.hear("begin", until)?;
        }
        Ok(())
    }

    /// Takes the next word in, from whomever.
    fn hear(&mut self, awaited: &str, until: Instant) -> Result<(), Failure> {
        let left = until.saturating_duration_since(Instant::now());
        let Some((number, event)) = self.children.next(left) else {
            let waited = WORD_MAX.as_secs();
            return Err(Failure::failed(format!("workers do not {awaited} within {waited} s")));
        };
        let worker = self.lives.iter().position(|life| life.number == number);
        match (worker, event) {
            (Some(worker), ChildEvent::Line(line)) => match serde_json::from_str(&line) {
                Ok(Word::Begun) => {
                    self.lives[worker].has_begun = true;
                    Ok(())
                }
                Ok(Word::Ended(tally)) => {
                    self.tallies[worker] = Some(tally);
                    Ok(())
                }
                Ok(Word::Failed(why)) => Err(Failure::failed(format!("worker {worker}: {why}"))),
                Err(error) => Err(Failure::failed(format!("worker {worker}: {error}"))),
            },
            (Some(worker), ChildEvent::Ended) if self.tallies[worker].is_none() => {
                let name = self.children.child(number).name();
                Err(Failure::failed(format!("{name} ended without a word")))
            }
            // A former life, whose last words may come late.
            (_, _) => Ok(()),
        }
    }
}

/// Works as the plan on standard input says.
pub(crate) fn run_child() -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::failed)?;
    let plan: SoakWorkerPlan = serde_json::from_str(&line)
        .map_err(|error| Failure::usage(format!("the plan on standard input: {error}")))?;
    watch_parent(stop.clone(), None)?;
    match work(&plan, &stop) {
        Ok(tally) => output::json(&Word::Ended(tally)),
        Err(failure) => output::json(&Word::Failed(failure.to_string())),
    }
}

fn work(plan: &SoakWorkerPlan, stop: &Stop) -> Result<SoakTally, Failure> {
    let acknowledge: AcknowledgeFlag = plan.acknowledge.parse().map_err(Failure::usage)?;
    let placements = watch(&plan.coordinators, &plan.cluster)?;
    let load = &SoakLoad {
        cluster: cluster_of(&placements, WorkerId::OBSERVER),
        job: JobId::new(plan.job),
        workers: plan.workers,
        keys: plan.keys,
        seed: plan.seed,
        acknowledge: acknowledge.0,
        aggregate: plan.aggregate,
        started: Instant::now(),
        over: AtomicBool::new(false),
        probes: Mutex::default(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| end_when_asked(load, stop));
        let begun = || drop(output::json(&Word::Begun));
        let tally = soak_work(load, plan.worker, Incarnation::new(plan.life), begun);
        load.over.store(true, Ordering::Relaxed);
        tally.map_err(Failure::failed)
    })
}
