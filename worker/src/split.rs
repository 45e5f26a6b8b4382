//! Splits sorted keys by the shards that own them.
//!
//! Owns [`Split`] and the buffers behind it, which are used again once nobody holds them.
//!
//! Invariant: a split's keys stand shard by shard, strictly ascending within each, and
//! `positions` says where each stood among the caller's keys; with one shard it is empty, since
//! nothing moved.

use std::cell::{Ref, RefCell};
use std::ops::Range;
use std::rc::Rc;

use wire::{Key, Keys, ListHead, Malformed, Routing, ShardId};

use crate::codec::Listed;

/// The most keys in one split.
pub(crate) const KEYS_MAX: usize = 1 << 28;

/// Splits whose buffers are kept for the next ones.
const SPLITS_POOLED_MAX: usize = 64;

/// Keys of one pull or push, grouped by shard.
#[derive(Debug, Default)]
pub struct Split {
    keys: Vec<u64>,
    positions: Vec<u32>,
    /// Where each shard's keys begin in `keys`, and the end of the last one's.
    starts: Vec<u32>,
    /// The pulls whose keys shards have kept as lists.
    listed: RefCell<Vec<Listed>>,
    /// By grouped key: whether the values that were pulled last are zero. Empty if nobody asked.
    at_zero: RefCell<Vec<bool>>,
}

impl Split {
    /// How many keys there are on all shards.
    pub fn keys_count(&self) -> usize {
        self.keys.len()
    }

    /// The keys that this shard owns, strictly ascending.
    pub fn keys_of(&self, shard: ShardId) -> &[u64] {
        &self.keys[self.range_of(shard.index())]
    }

    /// Writes the keys in the order in which they were split.
    ///
    /// - Panics: if `keys` has another length.
    pub fn copy_keys(&self, keys: &mut [u64]) {
        assert_eq!(keys.len(), self.keys.len(), "one place a key");
        match self.positions.is_empty() {
            true => keys.copy_from_slice(&self.keys),
            false => {
                let places = self.positions.iter().zip(&self.keys);
                places.for_each(|(&place, &key)| keys[place as usize] = key);
            }
        }
    }

    /// Where a shard's keys stand among the grouped ones.
    pub(crate) fn range_of(&self, shard: usize) -> Range<usize> {
        self.starts[shard] as usize..self.starts[shard + 1] as usize
    }

    /// Grouped keys.
    pub(crate) fn keys_at(&self, range: Range<usize>) -> &[u64] {
        &self.keys[range]
    }

    /// Where grouped keys stood among the caller's; `None` if they stand where they stood.
    pub(crate) fn positions_at(&self, range: Range<usize>) -> Option<&[u32]> {
        (!self.positions.is_empty()).then(|| &self.positions[range])
    }

    /// Notes that a shard has kept the keys of a pull.
    pub(crate) fn note_listed(&self, listed: Listed) {
        let mut all = self.listed.borrow_mut();
        all.retain(|one| (one.shard, one.start) != (listed.shard, listed.start));
        all.push(listed);
    }

    /// The list in which a shard has all of these grouped keys.
    pub(crate) fn list_of(&self, shard: usize, range: &Range<usize>) -> Option<ListHead> {
        let all = self.listed.borrow();
        let holds =
            |one: &&Listed| one.shard == shard && one.start <= range.start && range.end <= one.end;
        let one = all.iter().rev().find(holds)?;
        let first = u32::try_from(range.start - one.start).expect("`KEYS_MAX` fits 32 bits");
        Some(ListHead { pull: one.pull.get(), first, reserved: 0 })
    }

    /// Notes which grouped keys in `range` have been pulled as zeros.
    pub(crate) fn note_at_zero(&self, range: Range<usize>, zeros: impl Iterator<Item = bool>) {
        let mut all = self.at_zero.borrow_mut();
        all.resize(self.keys.len(), false);
        all[range].iter_mut().zip(zeros).for_each(|(at, zero)| *at = zero);
    }

    /// By grouped key: whether its pulled values are zero; nothing where none were looked at.
    pub(crate) fn at_zero(&self) -> Ref<'_, [bool]> {
        Ref::map(self.at_zero.borrow(), Vec::as_slice)
    }
}

/// Makes splits for one routing table.
pub(crate) struct Splitter {
    routing: Routing,
    owners: Vec<u16>,
    pool: Vec<Rc<Split>>,
}

impl Splitter {
    pub(crate) fn new(routing: Routing) -> Splitter {
        Splitter { routing, owners: Vec::new(), pool: Vec::new() }
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Groups `keys`, at most [`KEYS_MAX`] of them, by shard.
    ///
    /// - Errors: the first key that is not above the one before it.
    pub(crate) fn split(&mut self, keys: &[u64]) -> Result<Rc<Split>, Malformed> {
        assert!(keys.len() <= KEYS_MAX, "{} keys in one split", keys.len());
        let keys = Keys::new(keys)?.as_slice();
        let mut shared = match self.pool.iter().position(|split| Rc::strong_count(split) == 1) {
            Some(free) => self.pool.swap_remove(free),
            None => Rc::new(Split::default()),
        };
        let split = Rc::get_mut(&mut shared).expect("a pooled split was held by the pool alone");
        split.listed.get_mut().clear();
        split.at_zero.get_mut().clear();
        match self.routing.shards() {
            1 => split.fill_one(keys),
            shards => split.fill(keys, shards, &self.routing, &mut self.owners),
        }
        if self.pool.len() < SPLITS_POOLED_MAX {
            self.pool.push(Rc::clone(&shared));
        }
        Ok(shared)
    }
}

#[allow(clippy::cast_possible_truncation)] // `Splitter::split` bounds the count by `KEYS_MAX`.
impl Split {
    fn fill_one(&mut self, keys: &[u64]) {
        self.keys.clear();
        self.keys.extend_from_slice(keys);
        self.positions.clear();
        self.starts.clear();
        self.starts.extend([0, keys.len() as u32]);
    }

    /// A counting sort by shard, which keeps the order within each.
    fn fill(&mut self, keys: &[u64], shards: usize, routing: &Routing, owners: &mut Vec<u16>) {
        // `starts[s + 1]` counts shard `s`, then is its start, and after the last pass its end.
        self.starts.clear();
        self.starts.resize(shards + 1, 0);
        owners.clear();
        owners.extend(keys.iter().map(|&key| {
            let shard = routing.shard_of(Key::new(key)).index();
            self.starts[shard + 1] += 1;
            shard as u16
        }));
        let mut start = 0;
        for count in &mut self.starts[1..] {
            start += std::mem::replace(count, start);
        }
        self.keys.resize(keys.len(), 0);
        self.positions.resize(keys.len(), 0);
        for ((position, &key), &shard) in (0..).zip(keys).zip(owners.iter()) {
            let next = &mut self.starts[usize::from(shard) + 1];
            self.keys[*next as usize] = key;
            self.positions[*next as usize] = position;
            *next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::Epoch;

    use super::*;

    fn splitter(shards: usize) -> Splitter {
        Splitter::new(Routing::new(Epoch::new(1), shards).expect("shards are in range"))
    }

    #[test]
    fn keys_out_of_order_are_refused_with_their_index() {
        let error = splitter(2).split(&[1, 3, 3]).expect_err("3 stands twice");
        assert_eq!(error, Malformed::Order { index: 2 });
    }

    #[test]
    fn a_split_that_nobody_holds_lends_its_buffers_to_the_next() {
        let mut splitter = splitter(2);
        let first = splitter.split(&[1, 2, 3]).expect("sorted");
        let held = splitter.split(&[4, 5]).expect("sorted");
        let buffer = first.keys.as_ptr();
        drop(first);
        let next = splitter.split(&[7, 8, 9]).expect("sorted");
        assert_eq!(next.keys.as_ptr(), buffer);
        assert_eq!(held.keys_count(), 2, "the one still held is untouched");
    }

    proptest! {
        #[test]
        fn each_key_goes_to_its_owner_once_and_remembers_its_position(
            keys in proptest::collection::btree_set(0..u64::MAX, 0..200), shards in 1_usize..9,
        ) {
            let keys: Vec<u64> = keys.into_iter().collect();
            let mut splitter = splitter(shards);
            let split = splitter.split(&keys).expect("a set is sorted");
            let mut seen = 0;
            for shard in 0..shards {
                let range = split.range_of(shard);
                seen += range.len();
                let grouped = split.keys_at(range.clone());
                prop_assert!(Keys::new(grouped).is_ok());
                for (index, &key) in grouped.iter().enumerate() {
                    let owner = splitter.routing().shard_of(Key::new(key));
                    prop_assert_eq!(owner.index(), shard);
                    if let Some(positions) = split.positions_at(range.clone()) {
                        prop_assert_eq!(keys[positions[index] as usize], key);
                    }
                }
            }
            prop_assert_eq!(seen, keys.len());
            let mut copied = vec![0; keys.len()];
            split.copy_keys(&mut copied);
            prop_assert_eq!(&copied, &keys);
            prop_assert_eq!(split.keys_count(), keys.len());
        }
    }
}
