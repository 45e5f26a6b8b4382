//! The coordinators of a cluster, and which of them is to be asked next.
//!
//! Owns the order, and the pauses between attempts. Connecting and waiting are left to the callers.
//!
//! Invariant: whoever is named as the leader is asked at once, out of turn, but never twice without
//! a pause; the list goes on in turn.

use std::time::Duration;

/// The first pause after an attempt that failed; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The longest pause while somebody answers who stands by: one of them soon leads.
const PAUSE_STANDBY_MAX: Duration = Duration::from_millis(50);

/// Whom to ask, and when.
#[derive(Clone, Debug)]
pub struct Coordinators {
    addresses: Vec<String>,
    /// How many were taken from the list.
    turn: usize,
    /// Who leads, as the last one said.
    named: Option<String>,
    /// Whether the last one that was taken had been named.
    was_named: bool,
    pause: Duration,
}

impl Coordinators {
    /// Coordinators at these addresses, `host:port`.
    pub fn new(addresses: Vec<String>) -> Coordinators {
        Coordinators { addresses, turn: 0, named: None, was_named: false, pause: PAUSE_MIN }
    }

    /// The one to ask now; none: there are none.
    pub fn take(&mut self) -> Option<String> {
        let named = self.named.take();
        self.was_named = named.is_some();
        named.or_else(|| {
            let next = self.addresses.get(self.turn % self.addresses.len().max(1)).cloned();
            self.turn += 1;
            next
        })
    }

    /// The last one did its work for a while.
    pub fn served(&mut self) {
        self.pause = PAUSE_MIN;
    }

    /// The last one failed. Returns after which time the next one is to be asked.
    pub fn failed(&mut self) -> Duration {
        self.pause_of_at_most(PAUSE_MAX)
    }

    /// The last one stands by, and names who leads if it knows. Returns after which time the next
    /// one is to be asked.
    pub fn stands_by(&mut self, leader: Option<String>) -> Duration {
        if leader.is_some() && !self.was_named {
            self.named = leader;
            return Duration::ZERO;
        }
        self.pause_of_at_most(PAUSE_STANDBY_MAX)
    }

    fn pause_of_at_most(&mut self, pause_max: Duration) -> Duration {
        let pause = self.pause.min(pause_max);
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Coordinators {
        Coordinators::new(vec!["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn each_is_asked_in_turn_after_pauses_that_grow_to_a_bound() {
        let mut list = pair();
        let asked: Vec<_> = (0..5).filter_map(|_| list.take()).collect();
        assert_eq!(asked, ["a", "b", "a", "b", "a"]);
        let pauses: Vec<_> = (0..7).map(|_| list.failed().as_millis()).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500]);
        list.served();
        assert_eq!(list.failed(), PAUSE_MIN);
        assert_eq!(Coordinators::new(Vec::new()).take(), None);
    }

    #[test]
    fn who_is_named_is_asked_at_once_and_not_again_and_again() {
        let mut list = pair();
        assert_eq!(list.take().as_deref(), Some("a"));
        assert_eq!(list.stands_by(Some("c".to_owned())), Duration::ZERO);
        assert_eq!(list.take().as_deref(), Some("c"));
        // Two that name each other are asked no faster than others.
        assert_eq!(list.stands_by(Some("a".to_owned())), PAUSE_MIN);
        assert_eq!(list.take().as_deref(), Some("b"));
        let pauses: Vec<_> = (0..3).map(|_| list.stands_by(None).as_millis()).collect();
        assert_eq!(pauses, [40, 50, 50]);
    }
}
