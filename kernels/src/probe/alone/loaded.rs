//! Lines of one row each by loads, in loops that do little else, a block of keys at a time; what
//! was loaded is worked on afterwards.
//!
//! Owns the blocks. Which line a home names is left to `lines::alone`.
//!
//! Invariant: the one of `alone`.

use std::hint::black_box;

use super::super::{Keys, Lines, Take, select};
use super::{further, lane_of};
use crate::lines::alone::{self, first_entry, named};
use crate::lines::{Line, Shape};

/// Keys whose lines are touched together: as many lines fit a first-level cache beside what is
/// made of them.
const BLOCK_KEYS: usize = 256;

/// As `alone::pipeline`, a block of keys at a time: all homes are looked at; keys that their homes
/// do not hold are given the line that the home names, and those lines are touched; each key is
/// taken from its line. Steps branch on what is found only where a home names two lines by one tag.
/// How many keys were absent.
#[inline(always)]
pub(super) fn pipeline<const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    mut out: Out,
) -> usize {
    let Keys { lines: Lines { lines, shape, .. }, wanted, count } = keys;
    let mut searches = Searches::new();
    let mut absent = 0;
    for (block, wanted) in wanted[..count].chunks(BLOCK_KEYS).enumerate() {
        searches.look_at_homes(lines, shape, wanted);
        searches.look_further(lines, shape, wanted);
        let (first, mut absent_here) = (block * BLOCK_KEYS, 0);
        for (index, (&key, &number)) in wanted.iter().zip(&searches.lines).enumerate() {
            let line = &lines[number as usize];
            let lane = lane_of(line, key);
            T::take::<1, WORDS>(&mut out, first + index, (line, number), lane);
            absent_here += usize::from(!lane.is_held);
        }
        absent += absent_here;
    }
    absent
}

/// The searches of one block's keys.
struct Searches {
    tags: [u8; BLOCK_KEYS],
    are_late: [bool; BLOCK_KEYS],
    /// The line that each key is taken from, if it is there: its home, until it is known better.
    lines: [u32; BLOCK_KEYS],
    /// Keys that their homes do not hold, and the lines to look at for them.
    late: [u8; BLOCK_KEYS],
    late_lines: [u32; BLOCK_KEYS],
}

impl Searches {
    #[inline(always)]
    const fn new() -> Searches {
        Searches {
            tags: [0; BLOCK_KEYS],
            are_late: [false; BLOCK_KEYS],
            lines: [0; BLOCK_KEYS],
            late: [0; BLOCK_KEYS],
            late_lines: [0; BLOCK_KEYS],
        }
    }

    #[inline(always)]
    fn look_at_homes(&mut self, lines: &[Line], shape: Shape, wanted: &[u64]) {
        let searches = self.tags.iter_mut().zip(&mut self.lines);
        for ((tag, line), &key) in searches.zip(wanted) {
            let number = shape.number(key);
            *tag = alone::tag(number);
            *line = shape.home(number) as u32; // `LINES_MAX` fits.
        }
        let homes = wanted.iter().zip(&self.lines).zip(&mut self.are_late);
        for ((&key, &home), is_late) in homes {
            *is_late = lines[home as usize][0] != key.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn look_further(&mut self, lines: &[Line], shape: Shape, wanted: &[u64]) {
        let mut late = 0;
        for (index, &is_late) in self.are_late[..wanted.len()].iter().enumerate() {
            self.late[late % BLOCK_KEYS] = index as u8; // Below `BLOCK_KEYS`.
            late += usize::from(is_late);
        }
        for (&index, line) in self.late[..late].iter().zip(&mut self.late_lines) {
            let index = usize::from(index);
            *line = named_line(lines, shape, wanted[index], (self.tags[index], self.lines[index]));
            self.lines[index] = *line;
        }
        touch(lines, &self.late_lines[..late]);
    }
}

/// Loads a word of each line, so that as many are on their way as the processor can have.
#[inline(always)]
fn touch(lines: &[Line], numbers: &[u32]) {
    let mut loaded = 0;
    for &number in numbers {
        loaded ^= lines[number as usize][0];
    }
    black_box(loaded);
}

/// The line that a home names by a key's tag; the home itself, if it names none.
#[inline(always)]
fn named_line(lines: &[Line], shape: Shape, key: u64, (tag, home): (u8, u32)) -> u32 {
    let line = &lines[home as usize];
    let named = named(line, tag);
    if named & named.wrapping_sub(1) != 0 {
        return further(lines, shape, key).unwrap_or(home);
    }
    let there = alone::named_line(line, home, first_entry(named));
    select(named != 0, there, home)
}
