//! Pulls of one key by somebody else, while the run's own worker pushes as fast as it can.
//!
//! Owns a second session, on its own thread and its own connection: an observer's, which takes part
//! in no clock. The load is open loop: pulls are due at a fixed low rate, whatever became of those
//! before, and each is timed from when it was due, so that a stall counts for everyone it delays.
//! Pings that are due in the same way, of a far end that has nothing else to do, show how much of
//! that the machine does by itself: whatever else it runs, and its host.
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
use transport::Limits;
use transport::tcp::TcpBackend;
use wire::{Incarnation, TableId, WorkerId};
use worker::{Servers, Session, WorkerError};

use crate::error::{BenchError, Doing};
use crate::machine::Places;
use crate::roofs::Wire;
use crate::stats::LatencyLog;

/// Questions that are due a second: few enough to leave the pushes their speed.
const QUESTIONS_PER_S: u32 = 1000;

/// Questions before the first that counts.
const WARM_UP_QUESTIONS: usize = 16;

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

/// A thread that asks until it is told to stop.
pub(crate) struct Bystander<'scope> {
    stop: Arc<AtomicBool>,
    /// None once it was waited for.
    thread: Option<ScopedJoinHandle<'scope, Result<Seen, BenchError>>>,
}

/// What the bystander saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Median and 99th percentile, from when a question was due until its answer was there.
    pub(crate) rtt_us: [f64; 2],
    pub(crate) precedence: Precedence,
}

impl<'scope> Bystander<'scope> {
    /// Starts a thread that pulls, and waits until its connection is warm.
    pub(crate) fn pulling<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        local: &'env Local,
        pulls: SinglePulls<'env>,
    ) -> Bystander<'scope> {
        Bystander::start(scope, move || {
            let mut session = local.session(WorkerId::OBSERVER, Incarnation::new(1))?;
            let mut keys = pulls.keys.iter().cycle();
            Ok(move || {
                let key = keys.next().expect("a run has keys");
                let failed = |error| BenchError::Worker { doing: Doing::UnderPush, error };
                pull(&mut session, &pulls, *key).map_err(failed)
            })
        })
    }

    /// Starts a thread that pings a far end of its own, on the server's processor, and waits until
    /// the connection is warm.
    pub(crate) fn pinging<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        backend: Option<TcpBackend>,
        limits: Limits,
        places: Places,
    ) -> Bystander<'scope> {
        Bystander::start(scope, move || {
            let mut wire = Wire::between(backend, limits, places)?;
            Ok(move || Ok(wire.ping()?))
        })
    }

    /// - `begin`: run on the thread, makes what asks once and waits for the answer.
    fn start<A: FnMut() -> Result<(), BenchError>>(
        scope: &'scope Scope<'scope, '_>,
        begin: impl FnOnce() -> Result<A, BenchError> + Send + 'scope,
    ) -> Bystander<'scope> {
        let (ready, started) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = scope.spawn(move || {
            let precedence = take_precedence();
            ask(begin()?, precedence, &ready, &stopped)
        });
        // A thread that failed hangs up; `finish` says why.
        let _ = started.recv_timeout(START_MAX);
        Bystander { stop, thread: Some(thread) }
    }

    /// Ends the thread.
    ///
    /// - Errors: there was no connection, or a question failed.
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

/// Asks at a fixed rate until it is told to stop.
fn ask(
    mut question: impl FnMut() -> Result<(), BenchError>,
    precedence: Precedence,
    ready: &SyncSender<()>,
    stopped: &AtomicBool,
) -> Result<Seen, BenchError> {
    for _ in 0..WARM_UP_QUESTIONS {
        question()?;
    }
    let _ = ready.send(());
    let (interval, mut log) = (Duration::from_secs(1) / QUESTIONS_PER_S, LatencyLog::new());
    let mut due = Instant::now() + interval;
    loop {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stopped.load(Ordering::Relaxed) {
            return Ok(Seen { rtt_us: log.p50_p99_us(), precedence });
        }
        question()?;
        log.record(due.elapsed());
        due += interval;
    }
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
