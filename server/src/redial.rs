//! Redial: when the link to a successor is tried again, and when the coordinator hears of it.
//!
//! Owns the pace. Making a link is left to `chain_links`, and in a simulation to that.
//!
//! Invariant: what was said to be lost is said to be back once the successor has spoken, and not
//! before: a door that opens is no server that works.

use std::time::Duration;

use wire::{Epoch, Time};

/// How long after a first failure it is tried again; twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(5);

/// The longest time between two tries.
pub(crate) const RETRY_MAX: Duration = Duration::from_millis(200);

/// Failures after which the coordinator hears of it, and of each so many more.
const FAILURES_A_REPORT: u32 = 3;

/// Links on which the successor did not say a word after which the coordinator hears of it, and of
/// each so many more.
const MUTE_LINKS_A_REPORT: u32 = 3;

/// How long a successor may not have heard that it is in the chain, before the coordinator hears of
/// it: far longer than a placement takes from one member to the other.
const UNHEARD_MAX: Duration = Duration::from_secs(2);

/// How a try to make a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The core has the link.
    Linked,
    /// The core has no room for it now.
    NoRoom,
    /// The successor is at this epoch of the chain, or was told of a later one and is loading.
    OtherEpoch(Epoch),
    /// The successor has not heard of the chain.
    Unheard,
    /// There is no way.
    Failed,
}

/// What follows from a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// After how long it is tried again; none if there is a link.
    pub after: Option<Duration>,
    /// Whether the coordinator is to hear that the successor is lost.
    pub is_lost: bool,
}

/// The tries to make one link, of one epoch of its chain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redial {
    /// Tries since the last link.
    tries: u32,
    /// Of these, those that found no way.
    failures: u32,
    /// Links that have ended without a word of the successor, one after the other.
    mute_links: u32,
    /// Whether it has spoken over the last link.
    has_spoken: bool,
    /// Since when the successor has not heard of the chain, or since that was last said.
    unheard_since: Option<Time>,
    /// Whether the coordinator was told that the successor is lost, and nothing since.
    is_lost: bool,
}

impl Redial {
    /// A try has ended.
    pub fn tried(&mut self, now: Time, tried: Tried) -> Again {
        if tried == Tried::Linked {
            (self.tries, self.failures, self.unheard_since) = (0, 0, None);
            return Again { after: None, is_lost: false };
        }
        let after = pause_after(self.tries);
        self.tries += 1;
        let unheard_since = self.unheard_since.filter(|_| tried == Tried::Unheard);
        let is_lost = match tried {
            Tried::Failed => {
                self.failures += 1;
                self.failures.is_multiple_of(FAILURES_A_REPORT)
            }
            Tried::Unheard => unheard_since.is_some_and(|since| now >= since + UNHEARD_MAX),
            Tried::Linked | Tried::NoRoom | Tried::OtherEpoch(_) => false,
        };
        let goes_on = unheard_since.filter(|_| !is_lost).unwrap_or(now);
        self.unheard_since = (tried == Tried::Unheard).then_some(goes_on);
        self.is_lost |= is_lost;
        Again { after: Some(after), is_lost }
    }

    /// The link is over. A successor that takes one link after the other and says nothing on any of
    /// them has a door that opens and nothing behind it: that is told as if it had no door.
    pub fn ended(&mut self) -> Again {
        if std::mem::take(&mut self.has_spoken) {
            self.mute_links = 0;
            return Again { after: Some(Duration::ZERO), is_lost: false };
        }
        let after = match self.mute_links {
            0 => Duration::ZERO,
            before => pause_after(before - 1),
        };
        self.mute_links = self.mute_links.saturating_add(1);
        let is_lost = self.mute_links.is_multiple_of(MUTE_LINKS_A_REPORT);
        self.is_lost |= is_lost;
        Again { after: Some(after), is_lost }
    }

    /// The successor has spoken over its link. Whether the coordinator is to hear that it is back.
    pub fn heard(&mut self) -> bool {
        (self.has_spoken, self.mute_links) = (true, 0);
        std::mem::take(&mut self.is_lost)
    }
}

/// The pause after so many tries before that failed, too.
fn pause_after(tries: u32) -> Duration {
    RETRY_FIRST.saturating_mul(2_u32.saturating_pow(tries)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Time = Time::from_nanos(1 << 40);

    /// Tries that end so, each when the one before said. After how long each was lost.
    fn losses(redial: &mut Redial, tried: Tried, tries: usize) -> Vec<Duration> {
        let mut now = BEGAN;
        let mut losses = Vec::new();
        for _ in 0..tries {
            let again = redial.tried(now, tried);
            losses.extend(again.is_lost.then(|| now - BEGAN));
            now = now + again.after.expect("there is no link");
        }
        losses
    }

    #[test]
    fn a_successor_that_cannot_be_reached_is_lost_after_a_few_tries() {
        let ms = Duration::from_millis;
        let losses = losses(&mut Redial::default(), Tried::Failed, 7);
        assert_eq!(losses, [ms(15), ms(155)]);
    }

    #[test]
    fn a_successor_that_has_not_heard_of_the_chain_is_given_time_and_not_a_number_of_tries() {
        let losses = losses(&mut Redial::default(), Tried::Unheard, 30);
        assert!(losses.first().is_some_and(|&after| after >= UNHEARD_MAX), "{losses:?}");
        assert!(losses[1] >= losses[0] + UNHEARD_MAX, "{losses:?}");
    }

    #[test]
    fn what_is_not_the_successor_s_fault_is_never_reported_and_counts_for_nothing() {
        let mut redial = Redial::default();
        let none: [Duration; 0] = [];
        assert_eq!(losses(&mut redial, Tried::OtherEpoch(Epoch::new(1)), 50), none);
        assert_eq!(losses(&mut redial, Tried::NoRoom, 50), none);
        assert_eq!(losses(&mut redial, Tried::Failed, 2), none);
    }

    #[test]
    fn who_was_lost_is_back_when_it_speaks_and_that_is_said_once() {
        let mut redial = Redial::default();
        redial.tried(BEGAN, Tried::Linked);
        assert!(!redial.heard(), "nobody has missed it");
        assert_eq!(losses(&mut redial, Tried::Failed, 3).len(), 1);
        assert_eq!(redial.tried(BEGAN, Tried::Linked), Again { after: None, is_lost: false });
        assert!(redial.heard());
        assert!(!redial.heard());
    }

    #[test]
    fn who_takes_links_and_says_nothing_is_lost_and_dialled_at_a_pace() {
        let mut redial = Redial::default();
        let mut pauses = Vec::new();
        let mut losses = Vec::new();
        for link in 1..=12 {
            redial.tried(BEGAN, Tried::Linked);
            let again = redial.ended();
            pauses.extend(again.after);
            losses.extend(again.is_lost.then_some(link));
        }
        assert_eq!(losses, [3, 6, 9, 12]);
        let ms = Duration::from_millis;
        assert_eq!(pauses[..4], [ms(0), ms(5), ms(10), ms(20)]);
        assert_eq!(pauses.last(), Some(&RETRY_MAX));
        assert!(redial.heard());
        let again = Again { after: Some(Duration::ZERO), is_lost: false };
        assert_eq!(redial.ended(), again, "one that has spoken is dialled at once");
        assert_eq!(redial.ended(), again, "and the first mute link is nothing yet");
    }
}
