//! A list of peers on which each is once.
//!
//! Owns the numbers, nothing of the peers.
//!
//! Invariant: `is_on[number]` says whether `numbers` has it.

/// Peers that something is to be done for.
#[derive(Debug, Default)]
pub(super) struct Roll {
    numbers: Vec<u32>,
    is_on: Vec<bool>,
}

impl Roll {
    /// Puts a peer on it, unless it is there.
    pub(super) fn add(&mut self, number: u32) {
        let index = number as usize;
        if self.is_on.len() <= index {
            self.is_on.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.is_on[index], true) {
            self.numbers.push(number);
        }
    }

    /// Takes one off.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let number = self.numbers.pop()?;
        self.is_on[number as usize] = false;
        Some(number)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether nobody is on it.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The one at this index.
    pub(super) fn get(&self, index: usize) -> u32 {
        self.numbers[index]
    }

    /// Takes the one at this index off; the last comes to its place.
    pub(super) fn swap_remove(&mut self, index: usize) {
        let number = self.numbers.swap_remove(index);
        self.is_on[number as usize] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_on_a_roll_once_and_may_come_again_after_it_left() {
        let mut roll = Roll::default();
        [3, 1, 3, 2].into_iter().for_each(|number| roll.add(number));
        assert_eq!((roll.len(), roll.pop()), (3, Some(2)));
        roll.swap_remove(0);
        assert_eq!(roll.get(0), 1);
        roll.add(3);
        assert_eq!((roll.pop(), roll.pop(), roll.pop()), (Some(3), Some(1), None));
        assert!(roll.is_empty());
    }
}
