//! Pulls of one key by somebody else, while the run's own worker pushes as fast as it can.
//!
//! Owns a second session, on its own thread and its own connection: an observer's, which takes part
//! in no clock. The load is open loop: pulls are due at a fixed low rate, whatever became of those
//! before, and each is timed from when it was due, so that a stall counts for everyone it delays.
//!
//! The thread shares the worker's processor, since the server's is busy. What the kernel takes to
//! give it the processor is the client's and not the server's, so it asks for precedence over the
//! pushing thread and for exact timers; [`Precedence`] says whether it was given.
//!
//! Invariant: nothing is timed before the connection is warm, nor after the pushes have ended.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use launch::Local;
use rustix::process::setpriority_process;
use rustix::thread::set_current_timer_slack;
use serde::{Deserialize, Serialize};
use wire::{Incarnation, TableId, WorkerId};
use worker::{Servers, Session, WorkerError};

use crate::error::{BenchError, Doing};
use crate::stats::LatencyLog;

/// Pulls that are due a second: few enough to leave the pushes their speed.
const PULLS_PER_S: u32 = 1000;

/// Pulls before the first that counts.
const WARM_UP_PULLS: usize = 16;

/// How long any one pull may take.
const PULL_MAX: Duration = Duration::from_secs(10);

/// How long the thread may take to connect.
const START_MAX: Duration = Duration::from_secs(30);

/// The niceness that goes before all others.
const NICENESS_FIRST: i32 = -20;

/// How late a timer may be, in nanoseconds: as little as the kernel can.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// What is pulled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SinglePulls<'a> {
    pub(crate) table: TableId,
    /// Asked for in turn.
    pub(crate) keys: &'a [u64],
    /// Values a key.
    pub(crate) width: u16,
}

/// Whether the pulling thread goes before the pushing one on the processor that they share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precedence {
    /// It does: latencies are the server's and the link's.
    Given,
    /// The kernel does not allow it: latencies hold waits for the processor as well.
    #[default]
    Denied,
}

/// A thread that pulls until it is told to stop.
pub(crate) struct Bystander<'scope> {
    stop: Arc<AtomicBool>,
    /// None once it was waited for.
    thread: Option<ScopedJoinHandle<'scope, Result<Seen, BenchError>>>,
}

/// What the bystander saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Median and 99th percentile.
    pub(crate) pull_rtt_us: [f64; 2],
    pub(crate) precedence: Precedence,
}

impl<'scope> Bystander<'scope> {
    /// Starts the thread and waits until its connection is warm.
    pub(crate) fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        local: &'env Local,
        pulls: SinglePulls<'env>,
    ) -> Bystander<'scope> {
        let (ready, started) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = scope.spawn(move || watch(local, pulls, &ready, &stopped));
        // A thread that failed hangs up; `finish` says why.
        let _ = started.recv_timeout(START_MAX);
        Bystander { stop, thread: Some(thread) }
    }

    /// Ends the thread.
    ///
    /// - Errors: there was no session, or a pull failed.
    /// - Panics: if the thread did.
    pub(crate) fn finish(mut self) -> Result<Seen, BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only this takes it");
        match thread.join() {
            Ok(seen) => seen,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Bystander<'_> {
    /// The scope waits for the thread, which waits for this.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(
    local: &Local,
    pulls: SinglePulls<'_>,
    ready: &SyncSender<()>,
    stopped: &AtomicBool,
) -> Result<Seen, BenchError> {
    let precedence = take_precedence();
    let mut session = local.session(WorkerId::OBSERVER, Incarnation::new(1))?;
    let failed = |error| BenchError::Worker { doing: Doing::UnderPush, error };
    for &key in pulls.keys.iter().take(WARM_UP_PULLS) {
        pull(&mut session, &pulls, key).map_err(failed)?;
    }
    let _ = ready.send(());
    let (interval, mut log) = (Duration::from_secs(1) / PULLS_PER_S, LatencyLog::new());
    let mut due = Instant::now() + interval;
    for &key in pulls.keys.iter().cycle() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        pull(&mut session, &pulls, key).map_err(failed)?;
        log.record(due.elapsed());
        due += interval;
    }
    Ok(Seen { pull_rtt_us: log.p50_p99_us(), precedence })
}

fn pull(session: &mut Session, pulls: &SinglePulls<'_>, key: u64) -> Result<(), WorkerError> {
    let split = session.split(&[key])?;
    let ticket = session.pull(pulls.table, &split, pulls.width)?;
    let values = session.wait_pull(ticket, session.now() + PULL_MAX)?;
    session.recycle(values);
    Ok(())
}

/// Puts the calling thread before all others of its processor, where the kernel allows it.
fn take_precedence() -> Precedence {
    let first = setpriority_process(None, NICENESS_FIRST);
    match first.and_then(|()| set_current_timer_slack(Some(TIMER_SLACK_NS))) {
        Ok(()) => Precedence::Given,
        Err(_) => Precedence::Denied,
    }
}
