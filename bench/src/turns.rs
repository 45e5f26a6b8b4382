//! How long a shard takes for requests of new keys, and for the growth of its tables between them.
//!
//! Owns the clock of this thread's processor time: what the kernel does for the thread counts, and
//! what other programs do on its processor does not.

use std::time::Duration;

use kernels::hash::mix;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::format::{columns, grouped};
use crate::stats::LatencyLog;

/// Keys of a request that creates rows.
pub(crate) const INSERTED_KEYS: usize = 256;

/// Words that a turn without growth writes to: some 30 us.
const NOISE_WORDS: u64 = 500;

/// Words of the memory that it writes to, more than caches hold: 128 MiB.
const NOISE_MEMORY_WORDS: usize = 16 << 20;

/// Bounds of the histogram, in microseconds: a turn of more than the last one counts as longer.
const BUCKETS_US: [u64; 11] = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Requests of 256 new keys each, and the parts of the table's growth between them, in microseconds
/// of this thread's processor time: what the kernel does for it counts, other programs do not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// Half of the requests took less.
    pub turn_us_p50: f64,
    /// One of a hundred took longer.
    pub turn_us_p99: f64,
    /// One of a thousand took longer.
    pub turn_us_p999: f64,
    /// The longest request.
    pub turn_us_max: f64,
    /// One of a thousand parts of a growth took longer.
    pub turn_us_p999_growth: f64,
    /// The longest part of a growth: what it adds to any turn of a server, which does one part and
    /// then looks for short requests again.
    pub turn_us_max_growth: f64,
    /// The longest of as many turns that write to memory which was there all along: what this
    /// machine adds to any turn. A host that stops a virtual processor, or moves the memory under
    /// it, does not take that from the processor's time.
    pub turn_us_max_noise: f64,
    /// How many took how long, in order.
    pub turn_histogram: Vec<TurnBucket>,
}

/// Turns that took up to so long, and longer than those of the bucket before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnBucket {
    /// In microseconds; none for all longer ones.
    pub up_to_us: Option<u64>,
    /// Requests.
    pub requests: u64,
    /// Parts of growths.
    pub growth_parts: u64,
}

/// What was timed.
#[derive(Debug)]
pub(crate) struct TurnsLog {
    requests: LatencyLog,
    growth: LatencyLog,
    noise: LatencyLog,
    memory: Vec<u64>,
}

impl TurnsLog {
    pub(crate) fn new() -> TurnsLog {
        TurnsLog {
            requests: LatencyLog::new(),
            growth: LatencyLog::new(),
            noise: LatencyLog::new(),
            memory: (0..NOISE_MEMORY_WORDS as u64).collect(), // All touched.
        }
    }

    /// Times one request, and then a turn that has nothing to do with it.
    pub(crate) fn request<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let result = time(&mut self.requests, work);
        let (memory, turn) = (&mut self.memory, self.noise.count_between_us(0, None));
        time(&mut self.noise, || {
            for number in turn * NOISE_WORDS..(turn + 1) * NOISE_WORDS {
                memory[mix(number) as usize % NOISE_MEMORY_WORDS] = number;
            }
        });
        result
    }

    /// Times one part of a growth.
    pub(crate) fn growth<T>(&mut self, work: impl FnOnce() -> T) -> T {
        time(&mut self.growth, work)
    }

    pub(crate) fn turns(&self) -> Turns {
        let TurnsLog { requests, growth, noise, .. } = self;
        let bounds = BUCKETS_US.into_iter().map(Some).chain([None]);
        let mut over_us = 0;
        let bucket = |up_to_us: Option<u64>| {
            let between = |log: &LatencyLog| log.count_between_us(over_us, up_to_us);
            let bucket =
                TurnBucket { up_to_us, requests: between(requests), growth_parts: between(growth) };
            over_us = up_to_us.unwrap_or(over_us);
            bucket
        };
        Turns {
            turn_us_p50: requests.quantile_us(0.5),
            turn_us_p99: requests.quantile_us(0.99),
            turn_us_p999: requests.quantile_us(0.999),
            turn_us_max: requests.quantile_us(1.0),
            turn_us_p999_growth: growth.quantile_us(0.999),
            turn_us_max_growth: growth.quantile_us(1.0),
            turn_us_max_noise: noise.quantile_us(1.0),
            turn_histogram: bounds.map(bucket).collect(),
        }
    }
}

impl Turns {
    /// The histogram as a table for people.
    pub(crate) fn render_table(&self) -> String {
        let mut rows = vec![["up to us", "requests", "growth parts"].map(str::to_owned).to_vec()];
        let is_used = |bucket: &TurnBucket| bucket.requests + bucket.growth_parts > 0;
        let used = self.turn_histogram.iter().rposition(is_used).map_or(0, |last| last + 1);
        for bucket in &self.turn_histogram[..used] {
            let bound = bucket.up_to_us.map_or("longer".to_owned(), |us| grouped(us as f64));
            let counts = [bucket.requests, bucket.growth_parts];
            let counts = counts.map(|count| grouped(count as f64));
            rows.push([vec![bound], counts.to_vec()].concat());
        }
        columns(&rows)
    }
}

fn time<T>(log: &mut LatencyLog, work: impl FnOnce() -> T) -> T {
    let before = processor_time();
    let result = work();
    log.record(processor_time() - before);
    result
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
    fn every_turn_is_in_one_bucket_and_the_longest_is_no_shorter_than_the_others() {
        let mut log = TurnsLog::new();
        let mut sum = 0;
        for count in 0..100_u64 {
            sum += log.request(|| (0..count * 1000).sum::<u64>());
            sum += log.growth(|| (0..count).sum::<u64>());
        }
        assert!(sum > 0);
        let turns = log.turns();
        assert!(turns.turn_us_p50 <= turns.turn_us_p99 && turns.turn_us_p99 <= turns.turn_us_p999);
        assert!(turns.turn_us_p999 <= turns.turn_us_max);
        assert!(turns.turn_us_p999_growth <= turns.turn_us_max_growth);
        let total =
            |count: fn(&TurnBucket) -> u64| turns.turn_histogram.iter().map(count).sum::<u64>();
        assert_eq!([total(|one| one.requests), total(|one| one.growth_parts)], [100, 100]);
        assert!(turns.render_table().contains("growth parts"));
    }

    #[test]
    fn a_turn_is_counted_by_its_bound() {
        let mut log = TurnsLog::new();
        for us in [5, 6, 10, 11, 200, 20_000] {
            log.requests.record(Duration::from_micros(us));
        }
        let counts = log.turns().turn_histogram.into_iter().map(|bucket| bucket.requests);
        assert_eq!(counts.collect::<Vec<_>>(), [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    }
}
