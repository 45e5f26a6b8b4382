//! Which peers a sender waits for: those whose `acquire` found no credit.
//!
//! Owns the list. What credit is, is left to the back ends.
//!
//! Invariant: a peer is on the list once at most, and leaves it when `park` has told of it.

/// The peers that were refused a slot for want of credit, with the bytes asked for.
#[derive(Debug, Default)]
pub(crate) struct Starved(Vec<(u32, usize)>);

impl Starved {
    /// Notes a refusal.
    pub(crate) fn note(&mut self, peer: u32, bytes: usize) {
        if !self.0.iter().any(|&(known, _)| known == peer) {
            self.0.push((peer, bytes));
        }
    }

    /// Takes those off that `has_credit` again. Returns how many they are.
    pub(crate) fn take_fed(&mut self, mut has_credit: impl FnMut(u32, usize) -> bool) -> usize {
        let starved = self.0.len();
        self.0.retain(|&(peer, bytes)| !has_credit(peer, bytes));
        starved - self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_told_of_once_for_however_many_refusals() {
        let mut starved = Starved::default();
        starved.note(3, 100);
        starved.note(3, 200);
        starved.note(4, 100);
        assert_eq!(starved.take_fed(|_, _| false), 0);
        assert_eq!(starved.take_fed(|peer, bytes| (peer, bytes) == (3, 100)), 1);
        assert_eq!(starved.take_fed(|_, _| true), 1);
        assert_eq!(starved.take_fed(|_, _| true), 0);
    }
}
