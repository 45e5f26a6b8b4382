//! Which rows have changed since a moment: what a recording of changes is made of.
//!
//! Owns a bit for each line of the index where rows lie in lines, else for each row of the arena,
//! and the keys that were taken out. When a moment begins, and what is made of it, is left to
//! `fill` and `chain`.
//!
//! A bit of a line goes with a row that moves to another one, and is never taken away: more rows
//! than have changed may seem so, fewer never.
//!
//! Invariant: of a row that is not what it was at the moment the bit is set, or its key is named as
//! gone; or [`Touched::is_whole`] says no.

/// Keys of a table that may be named as gone, 8 MiB; beyond it changes are not known any more.
const GONE_MAX: usize = 1 << 20;

/// What has changed in one table.
#[derive(Debug)]
pub(super) struct Touched {
    /// A place of the table, shifted by this, is the number of its bit.
    shift: u32,
    /// Since the moment.
    since: Bits,
    gone: Vec<u64>,
    /// More are gone than are named.
    is_lost: bool,
    /// What the walk of a recording of changes takes: what had changed until the moment.
    wanted: Option<Bits>,
}

/// A row per number; those beyond the last word are not set.
#[derive(Debug, Default)]
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    #[inline]
    fn set(&mut self, number: usize) {
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
    fn has(&self, number: usize) -> bool {
        self.words.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

impl Touched {
    /// Nothing has changed yet.
    ///
    /// - `shift`: of places. 0: numbers of rows.
    pub(super) fn new(shift: u32) -> Touched {
        let (since, gone) = (Bits::default(), Vec::new());
        Touched { shift, since, gone, is_lost: false, wanted: None }
    }

    /// Whether it is known what has changed.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_lost
    }

    /// A moment begins; what has changed until now is what a walk takes from now on.
    ///
    /// - Result: the keys that are gone.
    pub(super) fn begin(&mut self) -> Vec<u64> {
        self.wanted = Some(std::mem::take(&mut self.since));
        self.is_lost = false;
        std::mem::take(&mut self.gone)
    }

    /// The walk is over, done or not.
    pub(super) fn end_walk(&mut self) {
        self.wanted = None;
    }

    /// Whether a walk takes a part of the rows only.
    pub(super) fn is_walked(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether the walk takes the row at this place.
    #[inline]
    pub(super) fn is_wanted(&self, place: u32) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.has(place as usize >> self.shift))
    }

    /// How many lines from this one on the walk may pass over, if rows lie in lines.
    pub(super) fn unwanted_from(&self, line: usize, lines_max: usize) -> usize {
        let Some(wanted) = self.wanted.as_ref().filter(|_| self.is_by_line()) else { return 0 };
        (line..line + lines_max).take_while(|&line| !wanted.has(line)).count()
    }

    /// Rows at these places change.
    #[inline]
    pub(super) fn touch(&mut self, at: &[u32]) {
        at.iter().for_each(|&place| self.since.set(place as usize >> self.shift));
    }

    /// A row at this place is new, or another one than it was: a copy cannot have it.
    pub(super) fn renew(&mut self, place: u32) {
        let number = place as usize >> self.shift;
        self.since.set(number);
        if let Some(wanted) = &mut self.wanted {
            wanted.set(number);
        }
    }

    /// A row has come from one line to another. Whether the walk was to take it.
    pub(super) fn moved(&mut self, from: usize, to: usize) -> bool {
        if !self.is_by_line() {
            return true; // By lines it is not known.
        }
        if self.since.has(from) {
            self.since.set(to);
        }
        match &mut self.wanted {
            Some(wanted) if wanted.has(from) => {
                wanted.set(to);
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// A row has come to a line that lay in none.
    pub(super) fn added(&mut self, line: usize) {
        if self.is_by_line() {
            self.since.set(line);
            self.wanted.iter_mut().for_each(|wanted| wanted.set(line));
        }
    }

    /// A key was taken out.
    pub(super) fn removed(&mut self, key: u64) {
        if self.gone.len() < GONE_MAX {
            self.gone.push(key);
        } else {
            self.is_lost = true;
        }
    }

    fn is_by_line(&self) -> bool {
        self.shift > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of words of a line.
    const SHIFT: u32 = 4;

    #[test]
    fn what_moves_takes_its_bits_along_and_the_walk_has_what_changed_before_its_moment() {
        let mut touched = Touched::new(SHIFT);
        touched.touch(&[3 << SHIFT, (700 << SHIFT) + 5]);
        assert!(touched.moved(3, 9), "without a walk all is taken");
        assert!(touched.begin().is_empty());
        let wanted = |touched: &Touched, lines: [usize; 5]| {
            lines.map(|line| touched.is_wanted((line << SHIFT) as u32))
        };
        assert_eq!(wanted(&touched, [3, 9, 700, 4, 90_000]), [true, true, true, false, false]);
        touched.touch(&[4 << SHIFT]);
        assert!(!touched.moved(4, 6) && touched.moved(9, 8));
        touched.added(90_000);
        assert_eq!(wanted(&touched, [4, 6, 8, 9, 90_000]), [false, false, true, true, true]);
        assert_eq!([touched.unwanted_from(10, 50), touched.unwanted_from(650, 100)], [50, 50]);
        touched.end_walk();
        touched.begin();
        assert_eq!(wanted(&touched, [3, 4, 6, 8, 90_000]), [false, true, true, false, true]);
    }

    #[test]
    fn more_keys_that_are_gone_than_are_named_are_known_to_be_missing() {
        let mut touched = Touched::new(0);
        (0..GONE_MAX as u64).for_each(|key| touched.removed(key));
        assert!(touched.is_whole());
        touched.removed(7);
        assert!(!touched.is_whole());
        assert_eq!(touched.begin().len(), GONE_MAX);
        assert!(touched.is_whole());
    }
}
