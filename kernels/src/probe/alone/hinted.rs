//! Lines of one row each by hints to the cache, some keys ahead of the one at work.
//!
//! Owns how far ahead. Which line a home names is left to `lines::alone`.
//!
//! Invariant: the one of `alone`.

use super::super::{Keys, Lines, Take, select};
use super::{further, lane_of};
use crate::lanes::prefetch;
use crate::lines::alone::{first_entry, named, named_line, tag};
use crate::lines::{Line, Shape};

/// Keys between the one whose home the cache is asked for and the one whose home is looked at, and
/// as many to the one that is taken from its line.
const KEYS_AHEAD: usize = 24;
/// Keys that are hashed together. In tests, few enough for several blocks in short batches.
const BLOCK_KEYS: usize = if cfg!(test) { 32 } else { 64 };

/// As `alone::pipeline`, in three steps for each key: its home is asked for; the home is looked at,
/// and the line that it names asked for, if the key is not at home; the key is taken from its line.
/// Only where that line has another key of the same tag the search goes on by branches. How many
/// keys were absent.
///
/// Keys are hashed a block at a time. A block is short, so that lines are on their way while the
/// next one is hashed.
#[inline(always)]
pub(super) fn pipeline<const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    mut out: Out,
) -> usize {
    let Keys { lines: Lines { lines, shape, .. }, wanted, count } = keys;
    let mut homes = [0_u32; BLOCK_KEYS + 2 * KEYS_AHEAD];
    let mut tags = [0_u8; BLOCK_KEYS + 2 * KEYS_AHEAD];
    let mut places = [0_u32; BLOCK_KEYS + KEYS_AHEAD];
    hash(shape, wanted, &mut homes[BLOCK_KEYS..], &mut tags[BLOCK_KEYS..]);
    homes[BLOCK_KEYS..].iter().for_each(|&home| prefetch(lines, home as usize));
    for (at, &key) in wanted.iter().enumerate().take(KEYS_AHEAD) {
        let at = BLOCK_KEYS + at;
        places[at] = look(lines, homes[at], tags[at], key);
    }
    let mut absent = 0;
    for start in (0..count).step_by(BLOCK_KEYS) {
        homes.copy_within(BLOCK_KEYS.., 0);
        tags.copy_within(BLOCK_KEYS.., 0);
        places.copy_within(BLOCK_KEYS.., 0);
        let next = wanted.get(start + 2 * KEYS_AHEAD..).unwrap_or_default();
        hash(shape, next, &mut homes[2 * KEYS_AHEAD..], &mut tags[2 * KEYS_AHEAD..]);
        let block = &wanted[start..count.min(start + BLOCK_KEYS)];
        for (at, &key) in block.iter().enumerate() {
            prefetch(lines, homes[at + 2 * KEYS_AHEAD] as usize);
            let next = at + KEYS_AHEAD;
            // Past the batch's end any key will do.
            let ahead = wanted[(start + next).min(wanted.len() - 1)];
            places[next] = look(lines, homes[next], tags[next], ahead);
            let mut number = places[at];
            let mut lane = lane_of(&lines[number as usize], key);
            if (number != homes[at]) & !lane.is_held {
                number = further(lines, shape, key).unwrap_or(number);
                lane = lane_of(&lines[number as usize], key);
            }
            T::take::<1, WORDS>(&mut out, start + at, (&lines[number as usize], number), lane);
            absent += usize::from(!lane.is_held);
        }
    }
    absent
}

/// The homes of keys, and what directories know the keys by; of fewer keys, those of the first.
#[inline(always)]
fn hash(shape: Shape, keys: &[u64], homes: &mut [u32], tags: &mut [u8]) {
    for ((home, tag_of), &key) in homes.iter_mut().zip(tags).zip(keys) {
        let number = shape.number(key);
        *home = shape.home(number) as u32; // `LINES_MAX` fits.
        *tag_of = tag(number);
    }
}

/// Decides, by a look at its home, which line to take a key from: the home, or the first that the
/// home names by the key's tag, which is asked for.
#[inline(always)]
fn look(lines: &[Line], home: u32, tag: u8, key: u64) -> u32 {
    let line = &lines[home as usize];
    let named = named(line, tag);
    let there = named_line(line, home, first_entry(named));
    let is_named = (line[0] != key.wrapping_add(1)) & (named != 0);
    let place = select(is_named, there, home);
    prefetch(lines, place as usize);
    place
}
