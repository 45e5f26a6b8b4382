//! Pinning: which processor a thread stays on.
//!
//! Owns the calls. Who is pinned is left to whoever starts a thread.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Whether each core's thread stays on one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// The kernel moves it as it likes: other threads share the processors.
    Free,
    /// Shard `i` stays on the processor number `first + i`, counted from 0 and around, of those
    /// that this process may use.
    Pinned {
        /// The first shard's.
        first: usize,
    },
}

/// Keeps the calling thread on the processor number `index`, counted from 0 and around, of those
/// that it may use. Where the kernel says no, it runs where the kernel puts it.
pub fn pin(index: usize) {
    let processors = processors();
    let Some(&cpu) = processors.get(index % processors.len().max(1)) else { return };
    let mut one = CpuSet::new();
    one.set(cpu);
    if let Err(error) = sched_setaffinity(None, &one) {
        tracing::warn!(%error, cpu, "a thread is not pinned");
    }
}

/// The number that [`pin`] knows the processor by on which the calling thread runs.
pub fn processor_here() -> usize {
    let here = sched_getcpu();
    processors().iter().position(|&cpu| cpu == here).unwrap_or(0)
}

/// The processors that the calling thread may use, in order; none if the kernel does not say.
fn processors() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
}
