//! Work: what a server says that it holds and has done, and how much that is a second.
//!
//! Owns the last two words of one server. Nothing is decided by it: it is for people.

use wire::{ServerWork, Time, WorkStatus};

/// What is known of one server's work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    last: Option<(ServerWork, Time)>,
    /// Keys pushed and pulled, a second, between the last two words.
    rates: Option<(f64, f64)>,
}

impl Work {
    /// Takes what it says.
    pub(super) fn note(&mut self, work: ServerWork, now: Time) {
        self.rates =
            self.last.and_then(|(before, at)| rates(before, work, (now - at).as_secs_f64()));
        self.last = Some((work, now));
    }

    /// For people; none before it has said anything.
    pub(super) fn status(&self) -> Option<WorkStatus> {
        let (work, _) = self.last?;
        Some(WorkStatus {
            held_bytes: work.held_bytes,
            rows: work.rows,
            keys_pushed_per_s: self.rates.map(|(pushed, _)| pushed),
            keys_pulled_per_s: self.rates.map(|(_, pulled)| pulled),
            hottest_ratio: f64::from(work.hottest_ppm) / 1e6,
        })
    }
}

/// None where no time has passed, or the server counts anew.
fn rates(before: ServerWork, now: ServerWork, seconds: f64) -> Option<(f64, f64)> {
    let pushed = now.keys_pushed.checked_sub(before.keys_pushed)?;
    let pulled = now.keys_pulled.checked_sub(before.keys_pulled)?;
    (seconds > 0.0).then(|| (pushed as f64 / seconds, pulled as f64 / seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(keys_pushed: u64, keys_pulled: u64) -> ServerWork {
        ServerWork { keys_pushed, keys_pulled, rows: 7, held_bytes: 640, hottest_ppm: 250_000 }
    }

    #[test]
    fn rates_are_between_the_last_two_words_and_none_of_a_server_that_counts_anew() {
        let mut known = Work::default();
        assert_eq!(known.status(), None);
        let rates = |known: &Work| {
            let status = known.status().expect("it was told");
            assert_eq!((status.rows, status.held_bytes, status.hottest_ratio), (7, 640, 0.25));
            (status.keys_pushed_per_s, status.keys_pulled_per_s)
        };
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        known.note(work(100, 10), at(1000));
        assert_eq!(rates(&known), (None, None));
        known.note(work(400, 20), at(3000));
        assert_eq!(rates(&known), (Some(150.0), Some(5.0)));
        known.note(work(400, 30), at(3500));
        assert_eq!(rates(&known), (Some(0.0), Some(20.0)));
        known.note(work(5, 30), at(4000));
        assert_eq!(rates(&known), (None, None), "it counts anew");
        known.note(work(6, 30), at(4000));
        assert_eq!(rates(&known), (None, None), "no time has passed");
    }
}
