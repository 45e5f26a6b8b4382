//! The walk of a batch through lines of one row each.
//!
//! Owns which of two walks is taken, which find the same. What a directory says is left to
//! `lines::alone`.
//!
//! Hints to the cache let the processor work while lines are on their way: a tenth more keys a
//! second, until the table is so large that each line costs a walk through page tables which no
//! cache holds either. Then few hints are under way at once, and loads find twice as many keys
//! (decision 0011).
//!
//! Invariant: a search looks at a key's home, and past it only at lines that the home's directory
//! names by the key's tag.

mod hinted;
mod loaded;

use super::{Keys, Lane, Take};
use crate::lines::alone;
use crate::lines::{Line, NO_KEY, Shape};

/// Lines up to which hints do better: 1 GiB. The two were even at 700 MB. In tests, few enough for
/// both walks to be taken.
const HINTED_LINES_MAX: usize = if cfg!(test) { 40 } else { 1 << 24 };

/// As `super::pipeline`. How many keys were absent.
#[inline(always)]
pub(super) fn pipeline<const WORDS: usize, Out, T: Take<Out>>(keys: Keys<'_>, out: Out) -> usize {
    if keys.lines.lines.len() <= HINTED_LINES_MAX {
        hinted::pipeline::<WORDS, Out, T>(keys, out)
    } else {
        loaded::pipeline::<WORDS, Out, T>(keys, out)
    }
}

/// The line of a key whose tag is another key's too.
#[cold]
#[inline(never)]
fn further(lines: &[Line], shape: Shape, key: u64) -> Option<u32> {
    alone::find(lines, shape, key).map(|line| line as u32) // `LINES_MAX` fits.
}

#[inline(always)]
fn lane_of(line: &Line, key: u64) -> Lane {
    Lane { number: 0, is_held: (line[0] == key.wrapping_add(1)) & (key != NO_KEY) }
}
