//! Admission: each push of a worker is applied exactly once.
//!
//! Owns which sequences of one worker have been applied, in all of its lives, and the ticks that
//! wait for earlier pushes. What a push does is left to `table`.
//!
//! Invariant: every sequence up to `applied_upto` has been applied; beyond it, those whose bit in
//! `window` is set.

use wire::{Clock, Sequence};

use crate::words::Words;

/// How far a push may be ahead of the oldest one that is missing, in sequences.
pub const WINDOW_SEQUENCES: u64 = 1024;

const WORD_BITS: u64 = u64::BITS as u64;
const WINDOW_WORDS: usize = (WINDOW_SEQUENCES / WORD_BITS) as usize;

/// What to do with a push of some sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Apply it, then call [`Admission::applied`].
    Fresh,
    /// It was applied before.
    Duplicate,
    /// More than [`WINDOW_SEQUENCES`] ahead: nobody could remember it.
    TooNew { newest: Sequence },
}

/// The pushes of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admission {
    applied_upto: u64,
    window: [u64; WINDOW_WORDS],
    /// Ticks whose earlier pushes are missing: their sequence, and the clock they finish.
    ticks: Vec<(u64, Clock)>,
    /// The tick that counted last; 0 before the first.
    tick_sequence: u64,
}

impl Admission {
    /// What to do with this sequence; it counts from 1.
    pub(crate) fn verdict(&self, sequence: Sequence) -> Verdict {
        let number = sequence.get();
        let newest = self.applied_upto + WINDOW_SEQUENCES;
        if number <= self.applied_upto {
            Verdict::Duplicate
        } else if number > newest {
            Verdict::TooNew { newest: Sequence::new(newest) }
        } else if self.window[word(number)] & bit(number) != 0 {
            Verdict::Duplicate
        } else {
            Verdict::Fresh
        }
    }

    /// Whether everything up to a sequence is applied of which these are the low bits: it is less
    /// than 2^15 away.
    pub(crate) fn has_applied_upto(&self, low_bits: u16) -> bool {
        low_bits.wrapping_sub(self.applied_upto as u16) as i16 <= 0
    }

    /// Remembers that this fresh sequence was applied, and that it finished `tick` if there is
    /// one. Returns the newest clock that is finished now, if this finished any.
    pub(crate) fn applied(&mut self, sequence: Sequence, tick: Option<Clock>) -> Option<Clock> {
        let number = sequence.get();
        debug_assert_eq!(self.verdict(sequence), Verdict::Fresh);
        if let Some(clock) = tick {
            self.ticks.push((number, clock));
        }
        if number != self.applied_upto + 1 {
            self.window[word(number)] |= bit(number);
            return None;
        }
        self.applied_upto = number;
        while self.window[word(self.applied_upto + 1)] & bit(self.applied_upto + 1) != 0 {
            self.applied_upto += 1;
            self.window[word(self.applied_upto)] &= !bit(self.applied_upto);
        }
        self.finished()
    }

    /// The sequence of the push whose tick counted last; 0 before the first. What a later life of
    /// the worker pushes first has the next one.
    pub(crate) fn tick_sequence(&self) -> u64 {
        self.tick_sequence
    }

    /// Writes it as words; [`Admission::read`] reads them.
    pub(crate) fn write(&self, words: &mut Vec<u64>) {
        words.push(self.applied_upto);
        words.push(self.tick_sequence);
        words.extend_from_slice(&self.window);
        words.push(self.ticks.len() as u64);
        words.extend(self.ticks.iter().flat_map(|&(number, clock)| [number, clock.get()]));
    }

    /// Reads what [`Admission::write`] wrote; `None` if it is something else.
    pub(crate) fn read(words: &mut Words<'_>) -> Option<Admission> {
        let (applied_upto, tick_sequence) = (words.next()?, words.next()?);
        let window = words.take(WINDOW_WORDS)?.try_into().ok()?;
        let count = words.next().filter(|&count| count <= WINDOW_SEQUENCES)?;
        let mut ticks = Vec::new();
        for _ in 0..count {
            ticks.push((words.next()?, Clock::new(words.next()?)));
        }
        // Sequences count on from here and must not overflow.
        let is_possible = applied_upto <= u64::MAX / 2 && tick_sequence <= applied_upto;
        is_possible.then_some(Admission { applied_upto, window, ticks, tick_sequence })
    }

    /// The newest clock whose pushes have all been applied; forgets it and those before.
    fn finished(&mut self) -> Option<Clock> {
        let upto = self.applied_upto;
        let done = |&&(number, _): &&(u64, Clock)| number <= upto;
        let &(number, clock) = self.ticks.iter().filter(done).max_by_key(|&&(_, clock)| clock)?;
        self.tick_sequence = self.tick_sequence.max(number);
        self.ticks.retain(|&(number, _)| number > upto);
        Some(clock)
    }
}

fn word(number: u64) -> usize {
    (number % WINDOW_SEQUENCES / WORD_BITS) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number)
    }

    #[test]
    fn a_tick_counts_only_once_every_push_before_it_is_there() {
        let mut admission = Admission::default();
        assert_eq!(admission.applied(sequence(3), Some(Clock::new(1))), None);
        assert_eq!(admission.applied(sequence(1), None), None);
        assert_eq!(admission.applied(sequence(2), None), Some(Clock::new(1)));
        assert_eq!(admission.applied(sequence(4), Some(Clock::new(2))), Some(Clock::new(2)));
    }

    #[test]
    fn low_bits_tell_whether_all_up_to_a_sequence_is_applied_also_where_they_begin_anew() {
        let mut admission = Admission { applied_upto: 65_534, ..Admission::default() };
        assert!(admission.has_applied_upto(65_534) && !admission.has_applied_upto(65_535));
        admission.applied(sequence(65_536), None);
        assert!(!admission.has_applied_upto(0), "the one before is missing");
        admission.applied(sequence(65_535), None);
        assert!(admission.has_applied_upto(0) && !admission.has_applied_upto(1));
    }

    #[test]
    fn the_window_ends_where_it_says() {
        let admission = Admission::default();
        assert_eq!(admission.verdict(sequence(WINDOW_SEQUENCES)), Verdict::Fresh);
        let newest = sequence(WINDOW_SEQUENCES);
        assert_eq!(admission.verdict(sequence(WINDOW_SEQUENCES + 1)), Verdict::TooNew { newest });
    }

    proptest! {
        #[test]
        fn each_sequence_is_fresh_once_in_whatever_order_they_come(
            picks in proptest::collection::vec(1_u64..4000, 0..6000),
        ) {
            let mut admission = Admission::default();
            let mut seen = HashSet::new();
            for (turn, pick) in picks.into_iter().enumerate() {
                // Mostly near the front, so that the watermark moves.
                let number = if turn % 3 == 0 { pick } else { admission.applied_upto + pick % 9 };
                let number = sequence(number.max(1));
                match admission.verdict(number) {
                    Verdict::Fresh => {
                        prop_assert!(seen.insert(number), "{number} twice");
                        admission.applied(number, None);
                    }
                    Verdict::Duplicate => prop_assert!(seen.contains(&number), "{number} lost"),
                    Verdict::TooNew { newest } => prop_assert!(number > newest),
                }
            }
        }
    }
}
