//! The numbers that one shard has learned for this worker's keys.
//!
//! Owns a table from key to number, in lines of five keys. When numbers are given is left to
//! `keys`; the shard's side is `shard::known_keys`.
//!
//! Invariant: numbers count from 0 without gaps in the order in which keys were learned, and a key
//! keeps its number until the next generation begins.

use kernels::hash::mix;
use kernels::prefetch;
use memory::Arena;
use zerocopy::FromZeros;

/// Keys that share a line of the cache.
const LINE_KEYS: usize = 5;

/// Keys a line, at most on average: few lines are full, so that a search mostly sees one.
const LINE_KEYS_MEAN_MAX: usize = 3;

/// Keys between the one that is searched and the one whose line the cache is asked for: as many
/// lines as a processor has under way.
const KEYS_AHEAD: usize = 16;

/// Lines of a table that is not empty, at least.
const LINES_MIN: usize = 256;

/// Numbers of keys, from 0.
#[derive(Debug)]
pub(crate) struct Dictionary {
    generation: u32,
    /// A power of two of them, in huge pages once they are many: searches go everywhere.
    lines: Option<Arena<Line>>,
    len: usize,
}

/// Some keys and their numbers. The first lanes are taken.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
struct Line {
    /// Keys plus one, so that fresh memory is free lanes: no key is `u64::MAX`.
    names: [u64; LINE_KEYS],
    numbers: [u32; LINE_KEYS],
    rest: u32,
}

impl Line {
    fn taken(&self) -> usize {
        self.names.iter().filter(|&&name| name != 0).count()
    }
}

impl Default for Dictionary {
    fn default() -> Dictionary {
        Dictionary { generation: 1, lines: None, len: 0 }
    }
}

impl Dictionary {
    /// Which dictionary this is; the first one is 1.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// How many keys have numbers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Forgets all numbers and begins the next generation.
    pub(crate) fn restart(&mut self) {
        self.generation += 1;
        self.len = 0;
        self.lines = None;
    }

    /// Makes room for so many more keys. Whether the kernel gave the memory; else nothing changed.
    pub(crate) fn has_room(&mut self, more: usize) -> bool {
        let keys = self.len + more;
        let lines = keys.div_ceil(LINE_KEYS_MEAN_MAX).next_power_of_two().max(LINES_MIN);
        if self.lines().len() >= lines {
            return true;
        }
        let Ok(mut fresh) = Arena::reserve(lines) else { return false };
        if fresh.grow_to(lines).is_err() {
            return false;
        }
        for line in self.lines() {
            for (&name, &number) in line.names.iter().zip(&line.numbers).take(line.taken()) {
                put(fresh.as_mut_slice(), name, number);
            }
        }
        self.lines = Some(fresh);
        true
    }

    /// Tells each key's number, if it has one, in the order of the keys.
    pub(crate) fn numbers(&self, keys: &[u64], mut tell: impl FnMut(u64, Option<u32>)) {
        let lines = self.lines();
        if lines.is_empty() {
            return keys.iter().for_each(|&key| tell(key, None));
        }
        let ask = |&key: &u64| prefetch(lines, home(lines, key.wrapping_add(1)));
        keys.iter().take(KEYS_AHEAD).for_each(ask);
        for (at, &key) in keys.iter().enumerate() {
            if let Some(ahead) = keys.get(at + KEYS_AHEAD) {
                ask(ahead);
            }
            tell(key, find(lines, key));
        }
    }

    /// A key's number.
    pub(crate) fn number(&self, key: u64) -> Option<u32> {
        let lines = self.lines();
        if lines.is_empty() { None } else { find(lines, key) }
    }

    /// Gives the next number to a key that has none, after [`Dictionary::has_room`].
    pub(crate) fn learn(&mut self, key: u64) -> u32 {
        assert!(key != u64::MAX, "the reserved key has no number");
        debug_assert_eq!(self.number(key), None, "a key is learned once");
        let number = u32::try_from(self.len).expect("numbers are bounded far below");
        let lines = self.lines.as_mut().expect("room was made").as_mut_slice();
        put(lines, key + 1, number);
        self.len += 1;
        number
    }

    fn lines(&self) -> &[Line] {
        self.lines.as_ref().map_or(&[], Arena::as_slice)
    }
}

/// The line in which a search begins.
#[inline]
fn home(lines: &[Line], name: u64) -> usize {
    mix(name) as usize & (lines.len() - 1)
}

/// A key's number in lines that are some.
#[inline]
fn find(lines: &[Line], key: u64) -> Option<u32> {
    debug_assert!(key != u64::MAX, "the reserved key has no number");
    let name = key.wrapping_add(1);
    let mut at = home(lines, name);
    loop {
        let line = &lines[at];
        // All lanes are looked at: a branch on each would be one that nobody foresees.
        let bit = |(lane, &own): (usize, &u64)| u32::from(own == name) << lane;
        let found = line.names.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit);
        if found != 0 {
            return Some(line.numbers[found.trailing_zeros() as usize % LINE_KEYS]);
        }
        if line.names[LINE_KEYS - 1] == 0 {
            return None;
        }
        at = (at + 1) & (lines.len() - 1);
    }
}

/// Writes a key that is absent to the first lane that is free from its home on. One at least is.
fn put(lines: &mut [Line], name: u64, number: u32) {
    let mut at = home(lines, name);
    while lines[at].names[LINE_KEYS - 1] != 0 {
        at = (at + 1) & (lines.len() - 1);
    }
    let line = &mut lines[at];
    let lane = line.taken();
    (line.names[lane], line.numbers[lane]) = (name, number);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_key_keeps_the_number_it_was_given(
            keys in proptest::collection::vec(0_u64..3000, 0..3000),
        ) {
            let mut dictionary = Dictionary::default();
            let mut numbers = HashMap::new();
            for key in keys {
                match dictionary.number(key) {
                    Some(number) => prop_assert_eq!(numbers.get(&key), Some(&number)),
                    None => {
                        prop_assert!(dictionary.has_room(1));
                        let number = dictionary.learn(key);
                        prop_assert_eq!(number as usize, numbers.len());
                        prop_assert!(numbers.insert(key, number).is_none());
                    }
                }
            }
            prop_assert_eq!(dictionary.len(), numbers.len());
            dictionary.restart();
            prop_assert!(numbers.keys().all(|&key| dictionary.number(key).is_none()));
            prop_assert_eq!((dictionary.generation(), dictionary.len()), (2, 0));
        }
    }
}
