//! The faults of a soak: servers, coordinators and workers that are killed, or stopped for a while,
//! one after another.
//!
//! Owns who is next and when. Starting processes is left to `processes`, what becomes of the load
//! to the crate `bench`.
//!
//! Invariant: nobody is harmed before every shard has all of its replicas again: with k of them,
//! k - 1 failures at a time are promised to be survived, and no more.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::{Random, SoakLoad};
use launch::Signal;
use serde::Serialize;
use worker::Watch;

use super::SoakArgs;
use super::leader::{leader, wait_other};
use super::workers::SoakWorkers;
use crate::failure::Failure;
use crate::processes::ClusterProcesses;

/// How long a stopped server sleeps, at least and at most.
const STOP_MS_MIN: u64 = 20;
const STOP_MS_MAX: u64 = 2000;

/// As long for a coordinator that leads; one that stands by leads after a second.
const LEADER_STOP_MS_MAX: u64 = 4000;

/// How long a killed process may take to end.
const END_MAX: Duration = Duration::from_secs(5);

/// What can befall a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultFlag {
    /// A server is killed, as by `kill -9`, and another one started.
    Kill,
    /// A server is stopped for 20 ms to 2 s, and goes on.
    Stop,
    /// The coordinator that leads is killed, and started again once another one leads if one stands
    /// by.
    #[value(alias = "kill-coordinator")]
    Coordinator,
    /// The coordinator that leads is stopped for 20 ms to 4 s, and goes on.
    StopCoordinator,
    /// A server and the coordinator that leads are killed at one moment, and started again.
    KillTogether,
    /// A worker is killed, and its next life takes its place. Workers are processes then.
    KillWorker,
}

impl FaultFlag {
    /// Whether it takes a server away.
    pub(super) fn harms_servers(self) -> bool {
        matches!(self, FaultFlag::Kill | FaultFlag::Stop | FaultFlag::KillTogether)
    }
}

/// A fault that was caused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caused {
    pub(crate) fault: FaultFlag,
    /// Since the start of the load.
    pub(crate) at: Duration,
    /// Until every shard had all of its replicas again, or the worker's next life had joined.
    pub(crate) whole_after: Duration,
    /// Whether another coordinator led after it than before.
    pub(crate) is_takeover: bool,
    /// After how long it was seen to lead, if the one before was killed.
    pub(crate) led_after: Option<Duration>,
}

/// Who causes faults in a cluster.
pub(crate) struct Saboteur<'a> {
    pub(crate) plan: &'a SoakArgs,
    pub(crate) cluster: ClusterProcesses,
    /// The workers, if they are processes.
    pub(crate) workers: Option<SoakWorkers>,
}

impl Saboteur<'_> {
    /// Causes faults until the time is over. What was caused.
    pub(crate) fn disturb(
        &mut self,
        load: &SoakLoad,
        placements: &Watch,
        mut told: impl FnMut(&Caused),
    ) -> Result<Vec<Caused>, Failure> {
        let mut caused = Vec::new();
        let mut random = Random::new(self.plan.seed);
        let until = load.started + self.plan.duration.0;
        while Instant::now() < until && !load.over.load(Ordering::Relaxed) {
            // Between half and one and a half of the time, so that no phase is spared.
            let pause = self.plan.every.0.mul_f64(0.5 + random.unit());
            let wake = Instant::now() + pause;
            if wake >= until {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                break;
            }
            std::thread::sleep(pause);
            let fault = self.plan.faults[random.below(self.plan.faults.len() as u64) as usize];
            let one = self.cause(fault, &mut random, load, placements)?;
            told(&one);
            caused.push(one);
        }
        Ok(caused)
    }

    fn cause(
        &mut self,
        fault: FaultFlag,
        random: &mut Random,
        load: &SoakLoad,
        placements: &Watch,
    ) -> Result<Caused, Failure> {
        let began = Instant::now();
        let at = load.started.elapsed();
        if fault != FaultFlag::KillWorker {
            load.note_fault(); // Nobody but the worker itself sees its own death.
        }
        let before = placements.newest().map_or(0, |placement| placement.epoch.get());
        let cluster = &mut self.cluster;
        let (mut led_after, mut woke_to_another) = (None, false);
        let victim = random.below(cluster.servers.len() as u64) as usize;
        match fault {
            FaultFlag::Kill => {
                let number = cluster.servers.swap_remove(victim);
                cluster.children.child(number).signal(Signal::KILL);
                cluster.start_server()?;
                cluster.wait_whole(placements, before)?;
            }
            FaultFlag::Stop => {
                let number = cluster.servers[victim];
                let asleep = STOP_MS_MIN + random.below(STOP_MS_MAX - STOP_MS_MIN);
                cluster.children.child(number).signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(asleep));
                cluster.children.child(number).signal(Signal::CONT);
                cluster.wait_whole(placements, 0)?;
            }
            FaultFlag::Coordinator => {
                led_after = kill_leader(cluster, None)?;
                cluster.wait_whole(placements, 0)?;
            }
            FaultFlag::KillTogether => {
                let number = cluster.servers.swap_remove(victim);
                led_after = kill_leader(cluster, Some(number))?;
                cluster.start_server()?;
                cluster.wait_whole(placements, before)?;
            }
            FaultFlag::StopCoordinator => {
                woke_to_another = stop_leader(cluster, random)?;
                cluster.wait_whole(placements, 0)?;
            }
            FaultFlag::KillWorker => {
                let workers = self.workers.as_mut();
                let workers = workers.expect("they are processes if this is among the faults");
                workers.kill(random.below(workers.count()) as usize)?;
            }
        }
        let is_takeover = led_after.is_some() || woke_to_another;
        Ok(Caused { fault, at, whole_after: began.elapsed(), is_takeover, led_after })
    }
}

/// Kills the coordinator that leads, and starts it again. After how long another one was seen to
/// lead; none where no other one stands by.
///
/// - `beside`: another process that is killed at the same moment.
fn kill_leader(
    cluster: &mut ClusterProcesses,
    beside: Option<usize>,
) -> Result<Option<Duration>, Failure> {
    let before = leader(cluster)?;
    let coordinator = cluster.coordinators[before.which];
    let killed = Instant::now();
    for number in [Some(coordinator), beside].into_iter().flatten() {
        cluster.children.child(number).signal(Signal::KILL);
    }
    cluster.children.child(coordinator).ended(END_MAX); // Until then it holds its log.
    let mut led_after = None;
    if cluster.coordinators.len() > 1 {
        wait_other(cluster, before)?;
        led_after = Some(killed.elapsed());
    }
    cluster.restart_coordinator(before.which)?;
    Ok(led_after)
}

/// Stops the coordinator that leads for a while. Whether another one led afterwards.
fn stop_leader(cluster: &mut ClusterProcesses, random: &mut Random) -> Result<bool, Failure> {
    let before = leader(cluster)?;
    let number = cluster.coordinators[before.which];
    let asleep = STOP_MS_MIN + random.below(LEADER_STOP_MS_MAX - STOP_MS_MIN);
    cluster.children.child(number).signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(asleep));
    cluster.children.child(number).signal(Signal::CONT);
    Ok(leader(cluster)?.term > before.term)
}
