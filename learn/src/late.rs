//! Lateness: from when on a step takes too long, by how long others took.
//!
//! Owns the last steps' times. What is done about a late one is left to whoever asks. No clock:
//! times are arguments.

/// How late a step must be, as a multiple of the median step.
const LATE_FACTOR: f64 = 1.5;

/// Steps that the median is taken over.
const RECENT_STEPS: usize = 64;

/// Steps before which nobody is called late.
const STEPS_MIN: usize = 8;

/// How long steps take.
#[derive(Clone, Debug, Default)]
pub struct Lateness {
    recent: Vec<f64>,
    noted: usize,
}

impl Lateness {
    /// A step has taken so many seconds.
    pub fn note(&mut self, seconds: f64) {
        match self.recent.get_mut(self.noted % RECENT_STEPS) {
            Some(recent) => *recent = seconds,
            None => self.recent.push(seconds),
        }
        self.noted += 1;
    }

    /// After how many seconds a step is late; none while too few were noted to tell.
    pub fn limit_seconds(&self) -> Option<f64> {
        if self.recent.len() < STEPS_MIN {
            return None;
        }
        let mut sorted = self.recent.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(LATE_FACTOR * sorted[sorted.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_late_by_the_median_of_the_last_ones() {
        let mut lateness = Lateness::default();
        (0..STEPS_MIN - 1).for_each(|_| lateness.note(1.0));
        assert_eq!(lateness.limit_seconds(), None);
        lateness.note(1000.0);
        assert_eq!(lateness.limit_seconds(), Some(1.5));
        (0..RECENT_STEPS).for_each(|_| lateness.note(2.0));
        assert_eq!(lateness.limit_seconds(), Some(3.0));
    }
}
