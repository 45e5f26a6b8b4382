//! Quiet: a log that a crowd cannot flood.
//!
//! Owns how many lines about the same thing are written a second, and how many were not.

use std::time::Duration;

use wire::Time;

/// Lines about one thing that are written in each [`PERIOD`].
const LINES_MAX: u32 = 8;

/// How long a period is.
const PERIOD: Duration = Duration::from_secs(1);

/// Lines about one thing.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    period_began: Option<Time>,
    lines: u32,
    unsaid: u64,
}

impl Quiet {
    /// Whether one more line may be written at `now`; one that may not is counted.
    pub(crate) fn speaks(&mut self, now: Time) -> bool {
        if self.period_began.is_none_or(|began| now - began >= PERIOD) {
            (self.period_began, self.lines) = (Some(now), 0);
        }
        let speaks = self.lines < LINES_MAX;
        if speaks {
            self.lines += 1;
        } else {
            self.unsaid += 1;
        }
        speaks
    }

    /// How many lines were not written since this was asked last; to be told in the next one.
    pub(crate) fn take_unsaid(&mut self) -> u64 {
        std::mem::take(&mut self.unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_counted_and_told_in_the_next_period() {
        let (mut quiet, began) = (Quiet::default(), Time::default());
        let said = (0..100).filter(|_| quiet.speaks(began)).count();
        assert_eq!(said, LINES_MAX as usize);
        assert!(quiet.speaks(began + PERIOD));
        assert_eq!(quiet.take_unsaid(), 100 - u64::from(LINES_MAX));
        assert_eq!(quiet.take_unsaid(), 0);
    }
}
