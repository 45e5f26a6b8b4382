//! The walk of a batch through lines of one row each.
//!
//! Owns the order of its looks at lines. What a directory says is left to `lines::alone`.
//!
//! Invariant: a search looks at a key's home, and past it only at lines that the home's directory
//! names by the key's tag.

use super::{BLOCK_KEYS, KEYS_AHEAD, Keys, Lane, Lines, Take, select};
use crate::lanes::prefetch;
use crate::lines::alone::{self, first_entry, named, named_line};
use crate::lines::{Line, NO_KEY, Shape};

/// What is known of a key whose home the cache was asked for.
#[derive(Clone, Copy, Default)]
struct Asked {
    home: u32,
    tag: u8,
}

/// As `super::pipeline`: a key that is not at home is late if the directory names its tag, and is
/// looked at a block later. Only a late key whose tag was another key's is searched by branches.
/// How many keys were absent.
#[inline(always)]
pub(super) fn pipeline<const WORDS: usize, Out, T: Take<Out>>(
    keys: Keys<'_>,
    mut out: Out,
) -> usize {
    let Keys { lines: Lines { lines, shape, .. }, wanted, count } = keys;
    let mut asked = [Asked::default(); KEYS_AHEAD];
    for (asked, &key) in asked.iter_mut().zip(wanted) {
        *asked = ask(lines, shape, key);
    }
    // Of this block and the one before: late keys by their place in the batch, with their line.
    let mut late = [[0_u32; 2]; 2 * BLOCK_KEYS];
    let (mut late_before, mut absent) = (0, 0);
    // One block more, to look at the late keys of the last one.
    for block in 0..=count.div_ceil(BLOCK_KEYS) {
        let first_late = block % 2 * BLOCK_KEYS;
        let mut late_now = 0;
        for index in block * BLOCK_KEYS..count.min((block + 1) * BLOCK_KEYS) {
            let Asked { home, tag } = asked[index % KEYS_AHEAD];
            if let Some(&key) = wanted.get(index + KEYS_AHEAD) {
                asked[index % KEYS_AHEAD] = ask(lines, shape, key);
            }
            let line = &lines[home as usize];
            let lane = lane_of(line, wanted[index]);
            T::take::<1, WORDS>(&mut out, index, (line, home), lane);
            let named = named(line, tag);
            let there = named_line(line, home, first_entry(named));
            let is_late = !lane.is_held & (named != 0);
            late[first_late + late_now % BLOCK_KEYS] = [index as u32, there];
            late_now += usize::from(is_late);
            absent += usize::from(!lane.is_held & (named == 0));
            prefetch(lines, select(is_late, there, home) as usize);
        }
        let before = BLOCK_KEYS - first_late;
        for at in before..before + late_before {
            let [index, there] = late[at % late.len()];
            let (index, line) = (index as usize, &lines[there as usize]);
            let lane = lane_of(line, wanted[index]);
            T::take::<1, WORDS>(&mut out, index, (line, there), lane);
            if !lane.is_held {
                match further(lines, shape, wanted[index]) {
                    Some(there) => {
                        let line = &lines[there as usize];
                        let lane = lane_of(line, wanted[index]);
                        T::take::<1, WORDS>(&mut out, index, (line, there), lane);
                    }
                    None => absent += 1,
                }
            }
        }
        late_before = late_now;
    }
    absent
}

/// The line of a key whose tag is another key's too.
#[cold]
#[inline(never)]
fn further(lines: &[Line], shape: Shape, key: u64) -> Option<u32> {
    alone::find(lines, shape, key).map(|line| line as u32) // `LINES_MAX` fits.
}

/// The home and the tag of a key; the home is asked for.
#[inline(always)]
fn ask(lines: &[Line], shape: Shape, key: u64) -> Asked {
    let number = shape.number(key);
    let home = shape.home(number);
    prefetch(lines, home);
    Asked { home: home as u32, tag: alone::tag(number) } // `LINES_MAX` fits.
}

#[inline(always)]
fn lane_of(line: &Line, key: u64) -> Lane {
    Lane { number: 0, is_held: (line[0] == key.wrapping_add(1)) & (key != NO_KEY) }
}
