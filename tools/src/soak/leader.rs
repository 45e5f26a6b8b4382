//! Which coordinator of a soaked cluster leads.
//!
//! Owns asking for it, and waiting until it is another one. What befalls it is left to `faults`.

use std::time::{Duration, Instant};

use wire::{Ask, ClusterStatus, ToCoordinator, ToMember};

use crate::cluster::{Caller, Unfound, unexpected};
use crate::failure::Failure;
use crate::processes::ClusterProcesses;

/// How long a cluster may be without a coordinator that leads, while one stands by.
const LEADERLESS_MAX: Duration = Duration::from_secs(30);

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A coordinator that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    /// Which of the cluster's coordinators.
    pub(super) which: usize,
    /// Its term; 0: there is no other coordinator.
    pub(super) term: u64,
}

/// Who leads.
pub(super) fn leader(cluster: &ClusterProcesses) -> Result<Leader, Failure> {
    wait_for(cluster, &cluster.addresses, 0)
}

/// Waits until another one leads than this one, which is gone.
pub(super) fn wait_other(cluster: &ClusterProcesses, before: Leader) -> Result<Leader, Failure> {
    let mut others = cluster.addresses.clone();
    others.remove(before.which);
    wait_for(cluster, &others, before.term + 1)
}

/// Waits until one of these coordinators says that somebody leads in this term or a later one.
fn wait_for(
    cluster: &ClusterProcesses,
    asked: &[String],
    term_min: u64,
) -> Result<Leader, Failure> {
    let until = Instant::now() + LEADERLESS_MAX;
    let mut last = None;
    while Instant::now() < until {
        match status(asked, cluster.name()) {
            Ok(status) if status.term >= term_min => {
                let leads = |address: &String| status.leader.as_ref() == Some(address);
                let which = cluster.addresses.iter().position(leads).unwrap_or(0);
                return Ok(Leader { which, term: status.term });
            }
            Ok(_) => {}
            Err(failure) => last = Some(failure),
        }
        std::thread::sleep(ASK_EVERY);
    }
    let waited = LEADERLESS_MAX.as_secs();
    let why = last.map_or_else(String::new, |failure| format!(": {failure}"));
    Err(Failure::failed(format!("no coordinator leads after {waited} s{why}")))
}

fn status(asked: &[String], cluster: &str) -> Result<ClusterStatus, Failure> {
    let found = Caller::find(asked, cluster);
    let mut caller =
        found.map_err(|(Unfound::Silent(failure) | Unfound::Denied(failure))| failure)?;
    match caller.say(&ToCoordinator::Ask(Ask::Status))? {
        ToMember::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}
