//! How long a shard takes for requests of new keys, while its tables grow.
//!
//! Owns the clock of this thread's processor time: what the kernel does for the thread counts, and
//! what other programs do on its processor does not.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::stats::LatencyLog;

/// Keys of a request that creates rows.
pub(crate) const INSERTED_KEYS: usize = 256;

/// Requests of 256 new keys each, in microseconds of this thread's processor time: what the kernel
/// does for it counts, other programs do not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// Half of the requests took less.
    pub turn_us_p50: f64,
    /// One of a hundred took longer.
    pub turn_us_p99: f64,
    /// One of a thousand took longer.
    pub turn_us_p999: f64,
    /// The longest one, insertion included: more than the table's growth added to any.
    pub turn_us_max_growth: f64,
}

/// The requests that were timed.
#[derive(Debug)]
pub(crate) struct TurnsLog(LatencyLog);

impl TurnsLog {
    pub(crate) fn new() -> TurnsLog {
        TurnsLog(LatencyLog::new())
    }

    /// Times one request.
    pub(crate) fn time<T>(&mut self, request: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let result = request();
        self.0.record(processor_time() - before);
        result
    }

    pub(crate) fn turns(&self) -> Turns {
        let TurnsLog(log) = self;
        Turns {
            turn_us_p50: log.quantile_us(0.5),
            turn_us_p99: log.quantile_us(0.99),
            turn_us_p999: log.quantile_us(0.999),
            turn_us_max_growth: log.quantile_us(1.0),
        }
    }
}

/// What this thread has computed so far, the kernel's work for it included.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_request_is_no_shorter_than_the_others() {
        let mut log = TurnsLog::new();
        let sums = (0..100_u64).map(|count| log.time(|| (0..count * 100).sum::<u64>()));
        assert!(sums.sum::<u64>() > 0);
        let Turns { turn_us_p50, turn_us_p99, turn_us_p999, turn_us_max_growth } = log.turns();
        assert!(turn_us_p50 <= turn_us_p99 && turn_us_p99 <= turn_us_p999);
        assert!(turn_us_p999 <= turn_us_max_growth);
    }
}
