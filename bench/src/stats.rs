//! What repeats add up to: a median with its spread, and percentiles of latencies.
//!
//! Invariant: percentiles are taken of one repeat's histogram and never averaged; over repeats
//! only medians are taken.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart, in nanoseconds; longer ones count as this one.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Decimal digits that a latency keeps.
const LATENCY_DIGITS: u8 = 3;

/// A figure over all repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of the repeats are below, half above.
    pub median: f64,
    /// Of the lowest repeat.
    pub min: f64,
    /// Of the highest repeat.
    pub max: f64,
}

impl Spread {
    /// Of one figure a repeat.
    ///
    /// Panics: if there is none.
    pub fn of(figures: &[f64]) -> Spread {
        let mut sorted = figures.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        Spread {
            median: sorted[low].midpoint(sorted[high]),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }
}

/// Latencies of one repeat.
#[derive(Debug)]
pub(crate) struct LatencyLog(Histogram<u64>);

impl LatencyLog {
    pub(crate) fn new() -> LatencyLog {
        let histogram = Histogram::new_with_max(LATENCY_NS_MAX, LATENCY_DIGITS);
        LatencyLog(histogram.expect("the bounds are in the histogram's range"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(latency_ns.max(1));
    }

    /// The latency that this part of all is not above, in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// How many latencies are longer than one bound and not longer than another, in microseconds.
    pub(crate) fn count_between_us(&self, over: u64, up_to: Option<u64>) -> u64 {
        let last = up_to.map_or(LATENCY_NS_MAX, |us| us * 1000);
        // Of a latency, so many digits are kept: the first one of a bucket may be a bound's own.
        let first = if over == 0 { 0 } else { self.0.highest_equivalent(over * 1000) + 1 };
        self.0.count_between(first, last)
    }

    pub(crate) fn p50_p99_us(&self) -> [f64; 2] {
        [self.quantile_us(0.5), self.quantile_us(0.99)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(&[5.0]).median, 5.0);
    }

    #[test]
    fn a_percentile_is_the_latency_that_so_many_do_not_exceed() {
        let mut log = LatencyLog::new();
        (1..=100).for_each(|us| log.record(Duration::from_micros(us)));
        let [p50, p99] = log.p50_p99_us();
        assert!((p50 - 50.0).abs() < 0.1, "{p50}");
        assert!((p99 - 99.0).abs() < 0.1, "{p99}");
    }
}
