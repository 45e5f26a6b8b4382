//! The numbers that one shard has learned for this worker's keys.
//!
//! Owns a table from key to number with linear probing, at most half full. When numbers are given
//! is left to `keys`; the shard's side is `shard::known_keys`.
//!
//! Invariant: numbers count from 0 without gaps in the order in which keys were learned, and a key
//! keeps its number until the next generation begins.

use kernels::hash::mix;
use memory::Arena;
use wire::NUMBERS_MAX;
use zerocopy::FromZeros;

/// Places of a table that is not empty, at least.
const PLACES_MIN: usize = 1024;

/// Numbers of keys, from 0.
#[derive(Debug)]
pub(crate) struct Dictionary {
    generation: u32,
    /// A power of two of them, in huge pages once they are many: searches go everywhere.
    places: Option<Arena<Place>>,
    len: usize,
}

/// A key and its number, or free. Twelve bytes, so that more of them share a line of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(C)]
struct Place {
    /// The halves of the key plus one, so that fresh memory is free places: no key is `u64::MAX`.
    low: u32,
    high: u32,
    number: u32,
}

impl Place {
    #[inline]
    fn new(key: u64, number: u32) -> Place {
        let name = key + 1;
        Place { low: name as u32, high: (name >> u32::BITS) as u32, number }
    }

    #[inline]
    fn name(self) -> u64 {
        u64::from(self.high) << u32::BITS | u64::from(self.low)
    }
}

impl Default for Dictionary {
    fn default() -> Dictionary {
        Dictionary { generation: 1, places: None, len: 0 }
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
        self.places = None;
    }

    /// Makes room for so many more keys, up to [`NUMBERS_MAX`] in all. Whether the kernel gave the
    /// memory; else nothing changed.
    pub(crate) fn has_room(&mut self, more: usize) -> bool {
        let keys = (self.len + more).min(NUMBERS_MAX);
        let places = (2 * keys).next_power_of_two().max(PLACES_MIN);
        if self.places().len() >= places {
            return true;
        }
        let Ok(mut fresh) = Arena::reserve(places) else { return false };
        if fresh.grow_to(places).is_err() {
            return false;
        }
        let taken = self.places().iter().filter(|place| **place != Place::default());
        for &place in taken {
            let at = find(fresh.as_slice(), place.name());
            fresh.as_mut_slice()[at] = place;
        }
        self.places = Some(fresh);
        true
    }

    /// A key's number.
    #[inline]
    pub(crate) fn number(&self, key: u64) -> Option<u32> {
        let places = self.places();
        if places.is_empty() {
            return None;
        }
        let found = places[find(places, key + 1)];
        (found.name() == key + 1).then_some(found.number)
    }

    /// Gives the next number to a key that has none, after [`Dictionary::has_room`].
    pub(crate) fn learn(&mut self, key: u64) -> u32 {
        assert!(key != u64::MAX, "the reserved key has no number");
        let number = u32::try_from(self.len).expect("numbers are bounded far below");
        let places = self.places.as_mut().expect("room was made").as_mut_slice();
        let at = find(places, key + 1);
        debug_assert_eq!(places[at], Place::default(), "a key is learned once");
        places[at] = Place::new(key, number);
        self.len += 1;
        number
    }

    fn places(&self) -> &[Place] {
        self.places.as_ref().map_or(&[], Arena::as_slice)
    }
}

/// Where the key of this name stands, or would. One place at least is free.
#[inline]
fn find(places: &[Place], name: u64) -> usize {
    let mask = places.len() - 1;
    let mut at = mix(name) as usize & mask;
    while places[at].name() != name && places[at].name() != 0 {
        at = (at + 1) & mask;
    }
    at
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
