//! Lines of one row each by hints to the cache, some keys ahead of the one at work.
//!
//! Owns how far ahead. Which line a home names is left to `lines::alone`.
//!
//! Invariant: the one of `alone`.

use super::super::{Keys, Lines, Take, select};
use super::{further, lane_of};
use crate::lanes::prefetch;
use crate::lines::alone::{self, first_entry, named, named_line};
use crate::lines::{Line, Shape};

/// Keys between the one whose home the cache is asked for and the one whose home is looked at, and
/// as many to the one that is taken from its line.
const KEYS_AHEAD: usize = 16;
/// Keys under way, and some more for a power of two.
const KEYS_UNDER_WAY: usize = 64;

/// The searches under way, each in the slot of its key's place in the batch.
struct Searches {
    /// The home, and after a look at it the line to take the key from.
    lines: [u32; KEYS_UNDER_WAY],
    tags: [u8; KEYS_UNDER_WAY],
    /// Whether the home named that line.
    are_named: [bool; KEYS_UNDER_WAY],
}

/// As `alone::pipeline`, in three steps for each key: its home is asked for; the home is looked at,
/// and the line that it names asked for, if the key is not at home; the key is taken from its line.
/// Only where that line has another key of the same tag the search goes on by branches. How many
/// keys were absent.
#[inline(always)]
pub(super) fn pipeline<const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    mut out: Out,
) -> usize {
    let Keys { lines: Lines { lines, shape, .. }, wanted, count } = keys;
    let mut searches = Searches {
        lines: [0; KEYS_UNDER_WAY],
        tags: [0; KEYS_UNDER_WAY],
        are_named: [false; KEYS_UNDER_WAY],
    };
    for (index, &key) in wanted.iter().enumerate().take(2 * KEYS_AHEAD) {
        searches.ask(index, lines, shape, key);
    }
    for (index, &key) in wanted.iter().enumerate().take(KEYS_AHEAD) {
        searches.look(index, lines, key);
    }
    let mut absent = 0;
    for (index, &key) in wanted[..count].iter().enumerate() {
        let mut number = searches.lines[index % KEYS_UNDER_WAY];
        let mut lane = lane_of(&lines[number as usize], key);
        if searches.are_named[index % KEYS_UNDER_WAY] & !lane.is_held {
            number = further(lines, shape, key).unwrap_or(number);
            lane = lane_of(&lines[number as usize], key);
        }
        T::take::<1, WORDS>(&mut out, index, (&lines[number as usize], number), lane);
        absent += usize::from(!lane.is_held);
        if let Some(&key) = wanted.get(index + KEYS_AHEAD) {
            searches.look(index + KEYS_AHEAD, lines, key);
        }
        if let Some(&key) = wanted.get(index + 2 * KEYS_AHEAD) {
            searches.ask(index + 2 * KEYS_AHEAD, lines, shape, key);
        }
    }
    absent
}

impl Searches {
    /// Asks for the home of a key.
    #[inline(always)]
    fn ask(&mut self, index: usize, lines: &[Line], shape: Shape, key: u64) {
        let number = shape.number(key);
        let home = shape.home(number);
        prefetch(lines, home);
        self.lines[index % KEYS_UNDER_WAY] = home as u32; // `LINES_MAX` fits.
        self.tags[index % KEYS_UNDER_WAY] = alone::tag(number);
    }

    /// Decides, by a look at its home, which line to take a key from: the home, or the first that
    /// the home names by the key's tag, which is asked for.
    #[inline(always)]
    fn look(&mut self, index: usize, lines: &[Line], key: u64) {
        let slot = index % KEYS_UNDER_WAY;
        let number = self.lines[slot];
        let home = &lines[number as usize];
        let named = named(home, self.tags[slot]);
        let there = named_line(home, number, first_entry(named));
        let is_named = (home[0] != key.wrapping_add(1)) & (named != 0);
        let line = select(is_named, there, number);
        prefetch(lines, line as usize);
        self.lines[slot] = line;
        self.are_named[slot] = is_named;
    }
}
