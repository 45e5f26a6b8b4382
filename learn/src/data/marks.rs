//! A walk over the marked bytes of a text.
//!
//! Owns the way from one mark to the next. Which bytes are marked is left to `kernels::scan`, and
//! what they mean to the formats.
//!
//! Invariant: places come in ascending order, each once.

use kernels::scan::BLOCK_BYTES;

/// The marks of a text that lie ahead.
#[derive(Clone, Debug)]
pub(crate) struct Marks<'a> {
    words: &'a [u64],
    /// The word under way, and what is left of it.
    at: usize,
    left: u64,
}

impl<'a> Marks<'a> {
    /// The marks from byte `start` on. `words` are those of the whole text.
    #[inline]
    pub(crate) fn from(words: &'a [u64], start: usize) -> Marks<'a> {
        let at = start / BLOCK_BYTES;
        let left = words.get(at).map_or(0, |word| word & (u64::MAX << (start % BLOCK_BYTES)));
        Marks { words, at, left }
    }
}

impl Iterator for Marks<'_> {
    type Item = usize;

    /// Where the next mark is, in bytes from the start of the text.
    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.left == 0 {
            self.left = *self.words.get(self.at + 1)?;
            self.at += 1;
        }
        let bit = self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(self.at * BLOCK_BYTES + bit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_are_walked_over_in_order_from_any_byte_on(
            words in prop::collection::vec(prop_oneof![any::<u64>(), Just(0)], 0..5),
            start in 0..400_usize,
        ) {
            let is_marked = |at: &usize| words[at / BLOCK_BYTES] >> (at % BLOCK_BYTES) & 1 == 1;
            let expected = (start..words.len() * BLOCK_BYTES).filter(is_marked);
            prop_assert!(Marks::from(&words, start).eq(expected));
        }
    }
}
