//! The numbers that one shard has learned for this worker's keys.
//!
//! Owns a table from key to number with linear probing, at most half full. When numbers are given
//! is left to `keys`; the shard's side is `shard::known_keys`.
//!
//! Invariant: numbers count from 0 without gaps in the order in which keys were learned, and a key
//! keeps its number until the next generation begins.

use kernels::hash::mix;

/// Marks a free place: no key is `u64::MAX`.
const FREE: u64 = u64::MAX;

/// Places of a table that is not empty, at least.
const PLACES_MIN: usize = 1024;

/// Numbers of keys, from 0.
#[derive(Clone, Debug)]
pub(crate) struct Dictionary {
    generation: u32,
    /// A power of two of them, or none.
    places: Vec<(u64, u32)>,
    len: usize,
}

impl Default for Dictionary {
    fn default() -> Dictionary {
        Dictionary { generation: 1, places: Vec::new(), len: 0 }
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
        self.places.fill((FREE, 0));
    }

    /// A key's number.
    pub(crate) fn number(&self, key: u64) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let (found, number) = self.places[self.place(key)];
        (found == key).then_some(number)
    }

    /// Gives the next number to a key that has none.
    pub(crate) fn learn(&mut self, key: u64) -> u32 {
        assert!(key != FREE, "the reserved key has no number");
        if 2 * (self.len + 1) > self.places.len() {
            self.grow();
        }
        let number = u32::try_from(self.len).expect("numbers are bounded far below");
        let place = self.place(key);
        debug_assert_eq!(self.places[place].0, FREE, "a key is learned once");
        self.places[place] = (key, number);
        self.len += 1;
        number
    }

    /// Where the key stands, or would.
    fn place(&self, key: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut place = mix(key) as usize & mask;
        while self.places[place].0 != key && self.places[place].0 != FREE {
            place = (place + 1) & mask;
        }
        place
    }

    fn grow(&mut self) {
        let places = (2 * self.places.len()).max(PLACES_MIN);
        let old = std::mem::replace(&mut self.places, vec![(FREE, 0); places]);
        for (key, number) in old.into_iter().filter(|&(key, _)| key != FREE) {
            let place = self.place(key);
            self.places[place] = (key, number);
        }
    }
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
