//! A set of small numbers that is emptied in ascending order.
//!
//! Owns a bit for each number and, above, a bit for each word of those: many numbers are passed
//! over at once where none is in the set.
//!
//! Invariant: a bit above is set exactly if its word below is not zero.

/// Numbers that share a word.
const WORD: usize = u64::BITS as usize;

/// Some numbers below a bound.
#[derive(Debug, Default)]
pub(crate) struct NumberSet {
    words: Vec<u64>,
    above: Vec<u64>,
}

impl NumberSet {
    /// Lets numbers below `bound` in. It never shrinks.
    pub(crate) fn make_room(&mut self, bound: usize) {
        let words = bound.div_ceil(WORD).max(self.words.len());
        self.words.resize(words, 0);
        self.above.resize(words.div_ceil(WORD), 0);
    }

    /// Adds a number that is below the bound.
    #[inline]
    pub(crate) fn add(&mut self, number: u32) {
        let word = number as usize / WORD;
        self.words[word] |= 1 << (number as usize % WORD);
        self.above[word / WORD] |= 1 << (word % WORD);
    }

    /// Empties the set into `numbers`, which is overwritten.
    pub(crate) fn drain(&mut self, numbers: &mut Vec<u64>) {
        numbers.clear();
        for (first, above) in (0..).step_by(WORD).zip(&mut self.above) {
            for word in ones(std::mem::take(above)) {
                let word = first + word;
                let bits = std::mem::take(&mut self.words[word]);
                numbers.extend(ones(bits).map(|bit| (word * WORD + bit) as u64));
            }
        }
    }
}

/// The places of a word's set bits, from the lowest on.
#[inline]
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (place < WORD).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_added_comes_out_once_and_in_order(
            batches in prop::collection::vec(prop::collection::vec(0_u32..9000, 0..300), 1..5),
        ) {
            let (mut set, mut numbers) = (NumberSet::default(), vec![5]);
            set.make_room(9000);
            for batch in batches {
                batch.iter().for_each(|&number| set.add(number));
                set.drain(&mut numbers);
                let expected: BTreeSet<u64> = batch.into_iter().map(u64::from).collect();
                prop_assert!(numbers.iter().eq(expected.iter()));
            }
        }
    }
}
