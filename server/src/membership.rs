//! Membership: a server in a cluster, told by its coordinator which shards it holds.
//!
//! Owns what joins a server and its agent: placements to the cores, reports to the coordinator.
//! The link is `agent`'s, what a placement means for a shard `chains`'.
//!
//! Invariant: a placement is only acted on under the number that the coordinator has given last.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wire::{ChainReport, Denial, Observation, ServerId};

use crate::agent::{Agent, AgentEvent, AgentSpec, AgentView, Reporter};
use crate::core_thread::Server;
use crate::report::Report;

/// How soon the thread of reports notices that it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often the coordinator is told what this server holds and has done.
const WORK_EVERY: Duration = Duration::from_secs(1);

/// A server's part in a cluster; dropped, it ends, and to the cluster the server is gone.
#[derive(Debug)]
pub struct Membership {
    agent: Option<Agent>,
    told: Arc<Told>,
    reports: Option<JoinHandle<()>>,
}

/// What the coordinator has said.
#[derive(Debug, Default)]
struct Told {
    ours: Mutex<Option<ServerId>>,
    denial: Mutex<Option<Denial>>,
    is_released: AtomicBool,
    is_over: AtomicBool,
}

impl Membership {
    /// Applies for membership, and goes on for as long as this lives.
    ///
    /// - Errors: there is no thread left.
    pub fn start(server: Arc<Server>, spec: AgentSpec) -> io::Result<Membership> {
        let told = Arc::new(Told::default());
        let (cores, noted) = (Arc::clone(&server), Arc::clone(&told));
        let agent = Agent::start(spec, move |event| noted.take(&cores, event))?;
        let (reporter, seen) = (agent.reporter(), Arc::clone(&told));
        let pass_on = move || pass_on(&server, &reporter, &seen);
        let reports = std::thread::Builder::new().name("reports".to_owned()).spawn(pass_on)?;
        Ok(Membership { agent: Some(agent), told, reports: Some(reports) })
    }

    /// This server's number, once it is a member.
    pub fn server(&self) -> Option<ServerId> {
        *self.told.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the coordinator does not take this server, if it does not; it is asked again.
    pub fn denial(&self) -> Option<Denial> {
        self.told.denial.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the link to the coordinator is.
    pub fn agent(&self) -> AgentView {
        self.agent.as_ref().map(Agent::view).unwrap_or_default()
    }

    /// Asks to hand all shards over; see [`Membership::is_released`].
    pub fn leave(&self) {
        if let Some(agent) = &self.agent {
            agent.leave();
        }
    }

    /// Whether this server holds nothing any more that others do not.
    pub fn is_released(&self) -> bool {
        self.told.is_released.load(Ordering::Relaxed)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.told.is_over.store(true, Ordering::Relaxed);
        drop(self.agent.take());
        if let Some(reports) = self.reports.take() {
            let _ = reports.join();
        }
    }
}

impl Told {
    /// Does what the coordinator says; on the agent's thread.
    fn take(&self, server: &Server, event: AgentEvent) {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            AgentEvent::Welcome { life, .. } => {
                *self.denial.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if ours.replace(life.server) != Some(life.server) {
                    tracing::info!(server = %life.server, "a member of the cluster");
                }
            }
            AgentEvent::Placement(placement) => {
                if let Some(ours) = *ours {
                    server.place(ours, &placement);
                }
            }
            // What it holds is dropped by the placement that follows under its next number.
            AgentEvent::Removed => {
                *ours = None;
                tracing::warn!("taken out of the cluster; applies again, with nothing");
            }
            AgentEvent::Record(order) => server.record(order),
            AgentEvent::Cut { number, clock } => server.cut_recordings(number, clock),
            AgentEvent::EndRecordings { number } => server.end_recordings(number),
            AgentEvent::Released => self.is_released.store(true, Ordering::Relaxed),
            AgentEvent::Denied(denial) => {
                tracing::warn!(%denial, "the coordinator says no");
                *self.denial.lock().unwrap_or_else(PoisonError::into_inner) = Some(denial);
            }
        }
    }
}

/// Passes on what the cores report until the membership is over.
fn pass_on(server: &Server, reporter: &Reporter, told: &Told) {
    let Some(reports) = server.reports() else { return };
    let mut work_at = Instant::now();
    while !told.is_over.load(Ordering::Relaxed) {
        if Instant::now() >= work_at {
            reporter.work(server.work());
            work_at = Instant::now() + WORK_EVERY;
        }
        let report = match reports.recv_timeout(LOOK_EVERY) {
            Ok(report) => report,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        tracing::info!(%report, "to be told");
        let (shard, chain, report) = match report {
            Report::Filled { shard, epoch } => (shard, epoch, ChainReport::Filled),
            Report::Refused { shard, epoch } => {
                let reason = "it differs from its predecessor".to_owned();
                (shard, epoch, ChainReport::Refused { reason })
            }
            Report::SuccessorLost { shard, epoch, server } => {
                reporter.suspect(server);
                (shard, epoch, ChainReport::SuccessorLost)
            }
            Report::SuccessorBack { shard, epoch } => (shard, epoch, ChainReport::SuccessorBack),
            Report::Stored(stored) => {
                reporter.stored(stored);
                continue;
            }
        };
        reporter.report(Observation { shard, chain, report });
    }
}
