//! Failure detector: for how long a server may be silent before it is suspected.
//!
//! Owns the estimate over one server's beats: mean and mean deviation of the gaps, each a moving
//! one, as TCP estimates its round trips (Jacobson, "Congestion Avoidance and Control", 1988). What
//! a suspicion leads to is left to `machine`. Silence is the slow way to notice: a process that
//! dies closes its link, and the coordinator then asks at its place at once.
//!
//! Invariant: the patience lies between [`PATIENCE_MIN`] and [`PATIENCE_MAX`], whatever was seen.

use std::time::Duration;

use wire::Time;

/// How often servers beat.
pub const BEAT_EVERY: Duration = Duration::from_millis(20);

/// Least silence that is suspicious: a process that stands still for 100 ms is late by that, a beat
/// and a busy scheduler, and is not to lose its shards.
pub const PATIENCE_MIN: Duration = Duration::from_millis(200);

/// Most silence that is not suspicious, however irregular the beats were.
pub const PATIENCE_MAX: Duration = Duration::from_millis(1000);

/// Deviations beyond the mean that are still borne.
const DEVIATIONS: f64 = 8.0;

/// Share of a new gap in the mean and in the deviation. Smaller than TCP's: a beat comes 50 times
/// a second, and an outlier shall be remembered for about one.
const SHARE: f64 = 1.0 / 32.0;

/// What is known of one server's beats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detector {
    heard_at: Time,
    gap_mean_ns: f64,
    gap_deviation_ns: f64,
}

impl Detector {
    /// A server that was just heard for the first time.
    pub(super) fn new(now: Time) -> Detector {
        let gap_mean_ns = nanos(BEAT_EVERY);
        Detector { heard_at: now, gap_mean_ns, gap_deviation_ns: gap_mean_ns }
    }

    /// It beats.
    pub(super) fn heard(&mut self, now: Time) {
        let gap_ns = nanos(now - self.heard_at);
        let off_ns = (gap_ns - self.gap_mean_ns).abs();
        self.gap_mean_ns += SHARE * (gap_ns - self.gap_mean_ns);
        self.gap_deviation_ns += SHARE * (off_ns - self.gap_deviation_ns);
        self.heard_at = now;
    }

    /// It has a new link: its silence until now was the link's.
    pub(super) fn link_made(&mut self, now: Time) {
        self.heard_at = now;
    }

    /// The coordinator itself stood still for so long, and heard nobody.
    pub(super) fn forgive(&mut self, stood_still: Duration) {
        self.heard_at = self.heard_at + stood_still;
    }

    /// For how long it has been silent.
    pub(super) fn silence(&self, now: Time) -> Duration {
        now - self.heard_at
    }

    /// Mean time between its beats.
    pub(super) fn gap(&self) -> Duration {
        Duration::from_nanos(self.gap_mean_ns as u64)
    }

    /// The silence from which on it is suspected.
    pub(super) fn patience(&self) -> Duration {
        let borne_ns = self.gap_mean_ns + DEVIATIONS * self.gap_deviation_ns;
        // Gaps are finite and not negative, so that the cast only rounds.
        Duration::from_nanos(borne_ns as u64).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// Whether it is silent for longer than it may be.
    pub(super) fn is_suspicious(&self, now: Time) -> bool {
        self.silence(now) > self.patience()
    }
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds beats with these gaps, in ms, and says whether one of them was suspicious when it
    /// ended.
    fn suspected(detector: &mut Detector, now: &mut Time, gaps_ms: &[u64]) -> bool {
        let mut suspected = false;
        for &gap_ms in gaps_ms {
            *now = *now + Duration::from_millis(gap_ms);
            suspected |= detector.is_suspicious(*now);
            detector.heard(*now);
        }
        suspected
    }

    proptest! {
        #[test]
        fn standing_still_for_100_ms_is_never_suspicious(
            gaps_ms in proptest::collection::vec(
                prop_oneof![9 => 1_u64..60, 1 => 100_u64..=160], 1..500),
        ) {
            let (mut detector, mut now) = (Detector::new(Time::default()), Time::default());
            prop_assert!(!suspected(&mut detector, &mut now, &gaps_ms));
        }

        #[test]
        fn silence_is_suspicious_within_the_most_patience_whatever_came_before(
            gaps_ms in proptest::collection::vec(0_u64..100_000, 0..200),
        ) {
            let (mut detector, mut now) = (Detector::new(Time::default()), Time::default());
            suspected(&mut detector, &mut now, &gaps_ms);
            let patience = detector.patience();
            prop_assert!((PATIENCE_MIN..=PATIENCE_MAX).contains(&patience), "{patience:?}");
            prop_assert!(detector.is_suspicious(now + patience + Duration::from_nanos(1)));
        }
    }

    #[test]
    fn a_steady_server_is_suspected_after_the_least_patience() {
        let (mut detector, mut now) = (Detector::new(Time::default()), Time::default());
        assert!(!suspected(&mut detector, &mut now, &[19, 20, 21, 20, 22, 18].repeat(20)));
        assert_eq!(detector.patience(), PATIENCE_MIN);
    }

    #[test]
    fn irregular_beats_make_patient_and_steady_ones_impatient_again() {
        let (mut detector, mut now) = (Detector::new(Time::default()), Time::default());
        suspected(&mut detector, &mut now, &[5, 150].repeat(50));
        assert!(detector.patience() > PATIENCE_MIN * 2, "{:?}", detector.patience());
        suspected(&mut detector, &mut now, &[20; 300]);
        assert_eq!(detector.patience(), PATIENCE_MIN);
    }

    #[test]
    fn a_coordinator_that_stood_still_blames_nobody() {
        let mut detector = Detector::new(Time::default());
        let now = Time::default() + Duration::from_secs(5);
        detector.forgive(Duration::from_secs(5));
        assert!(!detector.is_suspicious(now));
    }
}
