//! Bits by number: which lines, or rows, something is so of.
//!
//! Owns their memory, which the kernel gives as it is written. What they mean is left to others.

/// A bit a number; those beyond the last word are not set.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// None is set; room for so many, which costs nothing before it is used.
    pub(super) fn zeros(count: usize) -> Bits {
        Bits { words: vec![0; count.div_ceil(64)] }
    }

    /// Takes what is set, and leaves none set in as much room.
    pub(super) fn take(&mut self) -> Bits {
        let zeros = Bits::zeros(64 * self.words.len());
        std::mem::replace(self, zeros)
    }

    #[inline]
    pub(super) fn set(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.words.len() {
            self.grow(word);
        }
        self.words[word] |= 1 << (number % 64);
    }

    #[cold]
    fn grow(&mut self, word: usize) {
        self.words.resize((word + 1).next_power_of_two(), 0);
    }

    #[inline]
    pub(super) fn has(&self, number: usize) -> bool {
        self.words.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// The first number from this one on that is set; `end` if none before it is.
    pub(super) fn next_set(&self, from: usize, end: usize) -> usize {
        self.next(from, end, |word| word)
    }

    /// The first number from this one on that is not set; `end` if all before it are.
    pub(super) fn next_unset(&self, from: usize, end: usize) -> usize {
        self.next(from, end, |word| !word)
    }

    /// The first number from this one on whose bit is set in what is made of its word.
    fn next(&self, from: usize, end: usize, of: impl Fn(u64) -> u64) -> usize {
        let mut at = from;
        while at < end {
            let word = self.words.get(at / 64).copied().unwrap_or(0);
            let rest = of(word) >> (at % 64);
            if rest != 0 {
                return end.min(at + rest.trailing_zeros() as usize);
            }
            at = (at / 64 + 1) * 64;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_that_is_set_is_found_or_the_end() {
        let mut bits = Bits::zeros(10);
        [3, 64, 200].into_iter().for_each(|number| bits.set(number));
        let next = |from, end| bits.next_set(from, end);
        assert_eq!([next(0, 500), next(3, 500), next(4, 500)], [3, 3, 64]);
        assert_eq!([next(65, 500), next(65, 150), next(201, 9000)], [200, 150, 9000]);
        assert_eq!(next(9000, 9000), 9000);
        let unset = |from, end| bits.next_unset(from, end);
        assert_eq!(
            [unset(3, 500), unset(5, 500), unset(64, 65), unset(200, 9000)],
            [4, 5, 65, 201]
        );
        let taken = bits.take();
        assert!(taken.has(200) && !bits.has(200));
    }
}
