//! The walk of a batch through lines of one row each.
//!
//! Owns the order of its looks at lines. What a directory says is left to `lines::alone`.
//!
//! Invariant: a search looks at a key's home, and past it only at lines that the home's directory
//! names by the key's tag.

use super::{Keys, Lane, Lines, Take, select};
use crate::lanes::prefetch;
use crate::lines::alone::{self, first_entry, named, named_line};
use crate::lines::{Line, NO_KEY, Shape};

/// Keys between the one whose home the cache is asked for and the one whose home is looked at, and
/// as many to the one that is taken from its line.
const KEYS_AHEAD: usize = 16;
/// Keys under way, and some more for a power of two.
const KEYS_UNDER_WAY: usize = 64;

/// How far a search is.
#[derive(Clone, Copy, Default)]
struct Search {
    /// The home, and after a look at it the line to take the key from.
    line: u32,
    tag: u8,
    /// Whether the home named that line.
    is_named: bool,
}

/// As `super::pipeline`, in three steps for each key: its home is asked for; the home is looked at,
/// and the line that it names asked for, if the key is not at home; the key is taken from its line.
/// Only where that line has another key of the same tag the search goes on by branches. How many
/// keys were absent.
#[inline(always)]
pub(super) fn pipeline<const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    mut out: Out,
) -> usize {
    let Keys { lines: Lines { lines, shape, .. }, wanted, count } = keys;
    let mut searches = [Search::default(); KEYS_UNDER_WAY];
    for (search, &key) in searches.iter_mut().zip(wanted).take(2 * KEYS_AHEAD) {
        *search = ask(lines, shape, key);
    }
    for (search, &key) in searches.iter_mut().zip(wanted).take(KEYS_AHEAD) {
        *search = look(lines, *search, key);
    }
    let mut absent = 0;
    for index in 0..count {
        let key = wanted[index];
        let Search { line: number, is_named, .. } = searches[index % KEYS_UNDER_WAY];
        let line = &lines[number as usize];
        let lane = lane_of(line, key);
        T::take::<1, WORDS>(&mut out, index, (line, number), lane);
        absent += usize::from(!lane.is_held);
        if is_named & !lane.is_held {
            if let Some(number) = further(lines, shape, key) {
                let line = &lines[number as usize];
                T::take::<1, WORDS>(&mut out, index, (line, number), lane_of(line, key));
                absent -= 1;
            }
        }
        if let Some(&key) = wanted.get(index + KEYS_AHEAD) {
            let search = &mut searches[(index + KEYS_AHEAD) % KEYS_UNDER_WAY];
            *search = look(lines, *search, key);
        }
        if let Some(&key) = wanted.get(index + 2 * KEYS_AHEAD) {
            searches[(index + 2 * KEYS_AHEAD) % KEYS_UNDER_WAY] = ask(lines, shape, key);
        }
    }
    absent
}

/// The home and the tag of a key; the home is asked for.
#[inline(always)]
fn ask(lines: &[Line], shape: Shape, key: u64) -> Search {
    let number = shape.number(key);
    let home = shape.home(number);
    prefetch(lines, home);
    // `LINES_MAX` fits.
    Search { line: home as u32, tag: alone::tag(number), is_named: false }
}

/// The line to take a key from: its home, or the first that its home names by the key's tag, which
/// is asked for.
#[inline(always)]
fn look(lines: &[Line], search: Search, key: u64) -> Search {
    let home = &lines[search.line as usize];
    let named = named(home, search.tag);
    let there = named_line(home, search.line, first_entry(named));
    let is_named = !lane_of(home, key).is_held & (named != 0);
    let line = select(is_named, there, search.line);
    prefetch(lines, line as usize);
    Search { line, is_named, ..search }
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
