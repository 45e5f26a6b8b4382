//! Slots: one block of memory cut into equal parts, each with one owner at a time.
//!
//! Owns the block and the slots that are free. Who fills a slot, and with what, is left to the
//! taker.
//!
//! Invariant: there is exactly one [`Slot`] value for each index of a pool, so two slots never
//! share a byte. `SlotPool::new` makes them all; nothing clones one.

use std::slice;
use std::sync::Arc;

use crate::map::{MapError, Mapping, PAGE_BYTES};

/// Slots start at, and are as long as, a multiple of this: one cache line, in bytes.
pub const SLOT_ALIGN_BYTES: usize = 64;

/// One part of a pool's memory, owned. It keeps the memory alive, may go to another thread, and
/// comes back by [`SlotPool::put`]; one that is dropped instead is lost to its pool.
#[derive(Debug)]
#[must_use = "a slot that is dropped is lost to its pool"]
pub struct Slot {
    map: Arc<Mapping>,
    index: usize,
    bytes: usize,
}

impl Slot {
    /// Which slot of its pool this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The slot's bytes, as they were last written; zeros at first.
    pub fn bytes(&self) -> &[u8] {
        let first = self.map.base().as_ptr().wrapping_add(self.index * self.bytes);
        // SAFETY:
        // - In bounds: only `SlotPool::new` builds a slot, `index < count` over a mapping of
        //   `count * bytes`, readable and writable.
        // - Initialised: anonymous pages are zeros until `bytes_mut` writes them.
        // - Unaliased: `new` builds one slot an index, `Slot` is not `Clone`, and other indices
        //   are other bytes; `&self` keeps this slot's `bytes_mut` away.
        // - Alive: `map` is unmapped when the last slot and the pool are gone.
        unsafe { slice::from_raw_parts(first, self.bytes) }
    }

    /// The slot's bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let first = self.map.base().as_ptr().wrapping_add(self.index * self.bytes);
        // SAFETY: as in `bytes`; `&mut self` on the only slot of this index.
        unsafe { slice::from_raw_parts_mut(first, self.bytes) }
    }
}

/// The free slots of one block of memory.
#[derive(Debug)]
pub struct SlotPool {
    map: Arc<Mapping>,
    free: Vec<Slot>,
    slots_max: usize,
    slot_bytes: usize,
}

impl SlotPool {
    /// Maps `slots_max` slots of `slot_bytes` each, all free, all zeros.
    ///
    /// - Errors: [`MapError`].
    /// - Panics: if `slot_bytes` is not a multiple of [`SLOT_ALIGN_BYTES`].
    pub fn new(slots_max: usize, slot_bytes: usize) -> Result<Self, MapError> {
        assert!(slot_bytes.is_multiple_of(SLOT_ALIGN_BYTES), "slot of {slot_bytes} bytes");
        let too_large = MapError::TooLarge { count: slots_max, item_bytes: slot_bytes };
        let bytes = slots_max.checked_mul(slot_bytes).ok_or(too_large)?;
        let map = Arc::new(Mapping::on_huge_pages(bytes, PAGE_BYTES)?);
        let slot = |index| Slot { map: Arc::clone(&map), index, bytes: slot_bytes };
        let free = (0..slots_max).rev().map(slot).collect(); // Taken from the end: 0 first.
        Ok(Self { map, free, slots_max, slot_bytes })
    }

    /// Takes a free slot, or none if all are out. Its bytes are what the last owner left.
    pub fn take(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    /// Takes a slot back. Allocates nothing.
    ///
    /// Panics: if the slot is another pool's.
    pub fn put(&mut self, slot: Slot) {
        assert!(Arc::ptr_eq(&self.map, &slot.map), "slot {} is another pool's", slot.index);
        self.free.push(slot);
    }

    /// How many slots are free now.
    pub fn slots_free(&self) -> usize {
        self.free.len()
    }

    /// How many slots there are in all.
    pub fn slots_max(&self) -> usize {
        self.slots_max
    }

    /// Size of a slot, in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_taken_together_never_share_a_byte() {
        let mut pool = SlotPool::new(100, 192).unwrap();
        let mut slots: Vec<Slot> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((slots.len(), pool.slots_free()), (100, 0));
        for slot in &mut slots {
            let mark = slot.index() as u8;
            assert!(slot.bytes().iter().all(|&byte| byte == 0));
            assert!(slot.bytes().as_ptr().addr().is_multiple_of(SLOT_ALIGN_BYTES));
            slot.bytes_mut().fill(mark);
        }
        for slot in slots {
            assert!(slot.bytes().iter().all(|&byte| byte == slot.index() as u8));
            pool.put(slot);
        }
        assert_eq!(pool.slots_free(), 100);
    }

    #[test]
    fn a_slot_put_back_is_taken_again_and_is_the_only_one_of_its_index() {
        let mut pool = SlotPool::new(2, 64).unwrap();
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        assert_ne!(first.index(), second.index());
        let index = first.index();
        pool.put(first);
        assert_eq!(pool.take().unwrap().index(), index);
    }

    #[test]
    fn a_slot_outlives_its_pool_and_its_thread() {
        let mut pool = SlotPool::new(2, 64).unwrap();
        let mut slot = pool.take().unwrap();
        drop(pool);
        let slot = std::thread::spawn(move || {
            slot.bytes_mut().fill(5);
            slot
        })
        .join()
        .unwrap();
        assert_eq!(slot.bytes(), [5; 64]);
    }

    #[test]
    #[should_panic(expected = "another pool's")]
    fn a_slot_of_another_pool_is_refused() {
        let mut other = SlotPool::new(1, 64).unwrap();
        let slot = other.take().unwrap();
        SlotPool::new(1, 64).unwrap().put(slot);
    }

    #[test]
    fn a_pool_that_fits_no_address_space_is_refused_with_both_numbers() {
        let error = SlotPool::new(usize::MAX, 64).unwrap_err();
        assert_eq!(error, MapError::TooLarge { count: usize::MAX, item_bytes: 64 });
    }
}
