//! The load: one worker that pushes, and an observer that pulls one key after another.
//!
//! Owns what they do and count. When they do it is left to the command.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bench::Random;
use worker::{Session, Then};

use super::{PUSH_KEYS, TABLE, WAIT_MAX};
use crate::failure::Failure;

/// Messages of pushes that are not answered yet.
const OUTSTANDING_MAX: usize = 8;

/// Between two probes, and two pushes of a job that all but sleeps.
const PAUSE: Duration = Duration::from_millis(1);

/// What the threads of the load share.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) filled: AtomicBool,
    pub(super) sleeps: AtomicBool,
    pub(super) over: AtomicBool,
    rows_pushed: AtomicU64,
    probes_us: Mutex<Vec<f64>>,
}

impl Load {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Makes all rows, and then pushes to rows all over the table.
    pub(super) fn push(&self, session: &mut Session, rows: u64, dim: u16) -> Result<(), Failure> {
        let mut random = Random::new(1);
        let stride = (rows / PUSH_KEYS).max(1);
        let (mut made, mut pushes) = (0, 0);
        while !self.is_over() {
            let sleeps = self.sleeps.load(Ordering::Relaxed);
            let wanted = if sleeps { 1 } else { PUSH_KEYS };
            let first = if made < rows { made / PUSH_KEYS } else { random.below(stride) };
            let keys: Vec<u64> = (0..wanted).map(|at| first + at * stride).collect();
            let split = session.split(&keys).map_err(Failure::failed)?;
            let deltas = Rc::new(vec![1.0; keys.len() * usize::from(dim)]);
            session.push(TABLE, &split, deltas, dim, Then::Tick).map_err(Failure::failed)?;
            let deadline = session.now() + WAIT_MAX;
            session.wait_pushes(OUTSTANDING_MAX, deadline).map_err(Failure::failed)?;
            self.rows_pushed.fetch_add(wanted, Ordering::Relaxed);
            made += wanted;
            pushes += 1;
            self.filled.store(made >= rows, Ordering::Relaxed);
            if sleeps {
                thread::sleep(PAUSE);
            }
        }
        tracing::debug!(pushes, "the load is over");
        Ok(())
    }

    /// Pulls one key, time and again.
    pub(super) fn probe(&self, session: &mut Session, rows: u64, dim: u16) -> Result<(), Failure> {
        let mut random = Random::new(2);
        while !self.is_over() {
            let begun = Instant::now();
            let split = session.split(&[random.below(rows)]).map_err(Failure::failed)?;
            let ticket = session.pull(TABLE, &split, dim).map_err(Failure::failed)?;
            let deadline = session.now() + WAIT_MAX;
            let values = session.wait_pull(ticket, deadline).map_err(Failure::failed)?;
            session.recycle(values);
            let took_us = begun.elapsed().as_secs_f64() * 1e6;
            self.probes_us.lock().unwrap_or_else(PoisonError::into_inner).push(took_us);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Rows a second while something is done, and of its probes the p99 and the longest.
    pub(super) fn beside<T>(
        &self,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<(T, f64, [f64; 2]), Failure> {
        let take =
            || std::mem::take(&mut *self.probes_us.lock().unwrap_or_else(PoisonError::into_inner));
        take();
        let (begun, before) = (Instant::now(), self.rows_pushed.load(Ordering::Relaxed));
        let done = work()?;
        let pushed = self.rows_pushed.load(Ordering::Relaxed) - before;
        let rate = pushed as f64 / begun.elapsed().as_secs_f64();
        let mut probes = take();
        probes.sort_by(f64::total_cmp);
        let at = |share: f64| probes.get((probes.len() as f64 * share) as usize).copied();
        let longest = probes.last().copied().unwrap_or(0.0);
        Ok((done, rate, [at(0.99).unwrap_or(longest), longest]))
    }
}
