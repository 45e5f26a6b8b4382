//! The machine of a run: what a report says of it, and which thread runs where.
//!
//! Owns reading `/proc` and pinning the thread that measures.
//!
//! Invariant: a thread that was pinned here may run where it could before, once its `Pinned` is
//! dropped.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// What a figure depends on besides the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This one. What the system does not tell reads `unknown`.
    pub fn detect() -> Machine {
        let unknown = || "unknown".to_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let cpu = model.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
        let release = fs::read_to_string("/proc/sys/kernel/osrelease");
        Machine {
            cpu: cpu.map_or_else(unknown, str::to_owned),
            cores: processors().len().max(1),
            kernel: release.map_or_else(|_| unknown(), |release| release.trim().to_owned()),
        }
    }
}

/// The processors that this thread may use, in order.
pub(crate) fn processors() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
}

/// Where the two threads of a measurement run: the server's side and the worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// Each on a processor of its own.
    Two { server: usize, worker: usize },
    /// There is but one processor, or the kernel does not say: wherever the kernel puts them.
    Shared,
}

impl Places {
    pub(crate) fn find() -> Places {
        match processors()[..] {
            [server, worker, ..] => Places::Two { server, worker },
            _ => Places::Shared,
        }
    }

    /// Keeps the calling thread on the worker's processor.
    pub(crate) fn pin_worker(self) -> Option<Pinned> {
        match self {
            Places::Two { worker, .. } => Pinned::to(worker),
            Places::Shared => None,
        }
    }

    /// Keeps the calling thread on the server's processor.
    pub(crate) fn pin_server(self) -> Option<Pinned> {
        match self {
            Places::Two { server, .. } => Pinned::to(server),
            Places::Shared => None,
        }
    }
}

/// The calling thread stays on one processor while this lives.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// None if the kernel says no; then the thread runs where the kernel puts it.
    fn to(cpu: usize) -> Option<Pinned> {
        let before = sched_getaffinity(None).ok()?;
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).ok()?;
        Some(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A kernel that says no leaves the thread where it is, which harms nothing.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_run_where_it_could_before_once_it_is_no_longer_pinned() {
        let before = processors();
        let pinned = Places::find().pin_worker();
        if pinned.is_some() {
            assert_eq!(processors().len(), 1);
        }
        drop(pinned);
        assert_eq!(processors(), before);
    }
}
