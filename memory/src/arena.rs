//! A growing array that never moves: the rows and index lines of a table.
//!
//! Owns a range of addresses reserved once, of which a growing prefix is in use. Which items are
//! in use is left to `shard`, filling pages in ahead of need to `ahead`.
//!
//! All addresses are writable from the start, so that growing asks the kernel for nothing and waits
//! for nobody. Only where the kernel counts writable addresses as memory are they made writable in
//! steps.
//!
//! Invariant: `len * size_of::<T>() <= writable_bytes <= bytes reserved`; an item keeps its
//! address for the arena's life and is all zeros until it is written.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zerocopy::FromZeros;

use crate::ahead::{self, First};
use crate::map::{Access, HUGE_PAGE_BYTES, MapError, Mapping};
use crate::placement::{Locality, Pages, is_overcommit_strict};

/// Least that is made writable at once, in bytes, where that is done step by step.
const STEP_BYTES_MIN: usize = 4 << 20;

/// Most that is made writable ahead of need, in bytes. Between the two limits steps double.
const STEP_BYTES_MAX: usize = 64 << 20;

/// Why an arena did not grow. It is as it was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowError {
    /// More items than addresses were reserved for. The table is full.
    BeyondReserve {
        /// Items this call asked for.
        items_wanted: usize,
        /// Items the kernel gave addresses for.
        items_reserved: usize,
        /// Items `reserve` asked for; more than `items_reserved` if the kernel granted less.
        items_asked: usize,
    },
    /// The kernel would not make the pages writable (no memory, or too many mappings).
    Refused {
        /// Bytes usable so far.
        bytes_writable: usize,
        /// Bytes that were to be usable.
        bytes_wanted: usize,
        /// What the kernel said.
        errno: i32,
    },
}

impl fmt::Display for GrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BeyondReserve { items_wanted, items_reserved, items_asked } => {
                write!(f, "wanted {items_wanted} items, reserved {items_reserved}")?;
                if items_reserved < items_asked {
                    write!(f, " (asked for {items_asked}, the kernel granted less)")?;
                }
                Ok(())
            }
            Self::Refused { bytes_writable, bytes_wanted, errno } => {
                let why = io::Error::from_raw_os_error(errno);
                write!(f, "have {bytes_writable} bytes, wanted {bytes_wanted}: {why}")
            }
        }
    }
}

impl std::error::Error for GrowError {}

/// A contiguous array of `T` that grows in place. `T` is plain data for which zeros are a value.
///
/// The base is aligned to [`HUGE_PAGE_BYTES`]; huge pages are asked for past the first one's
/// bytes, so that a small table costs pages and not megabytes. Huge pages that an administrator has
/// set aside are used where there are enough for all items that it can grow to, since an address
/// that is in use cannot be exchanged for one of theirs.
#[derive(Debug)]
pub struct Arena<T> {
    /// Shared with the thread that fills pages in, which touches no byte.
    map: Arc<Mapping>,
    writable_bytes: usize,
    filled_bytes: Arc<AtomicUsize>,
    len: usize,
    items_asked: usize,
    items: PhantomData<T>,
}

impl<T: FromZeros + Copy> Arena<T> {
    /// Reserves addresses for `items_max` items, and no memory. If the kernel refuses so many (a
    /// limit on address space), half as many are tried, and so on down to one huge page:
    /// [`Arena::items_max`] says what was granted.
    ///
    /// - Errors: [`MapError`], naming the first and the last size tried.
    /// - Panics: if `T` has no size, or is aligned to more than a huge page.
    pub fn reserve(items_max: usize) -> Result<Self, MapError> {
        const {
            assert!(size_of::<T>() > 0, "items without size need no arena");
            assert!(align_of::<T>() <= HUGE_PAGE_BYTES);
        }
        let too_large = MapError::TooLarge { count: items_max, item_bytes: size_of::<T>() };
        let bytes_first = items_max
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(HUGE_PAGE_BYTES))
            .ok_or(too_large)?;
        if let Some(map) = Mapping::on_pages_set_aside(bytes_first) {
            return Ok(Self::over(map, Access::ReadWrite, items_max));
        }
        let access = if is_overcommit_strict() { Access::Reserved } else { Access::Uncounted };
        let mut bytes = bytes_first;
        loop {
            match Mapping::new(bytes, HUGE_PAGE_BYTES, access) {
                Ok(map) => return Ok(Self::over(map, access, items_max)),
                Err(MapError::Refused { .. }) if bytes >= 2 * HUGE_PAGE_BYTES => {
                    bytes = (bytes / 2).next_multiple_of(HUGE_PAGE_BYTES);
                }
                Err(MapError::Refused { errno, .. }) => {
                    return Err(MapError::Refused { bytes_first, bytes_last: bytes, errno });
                }
                Err(MapError::TooLarge { .. }) => return Err(too_large),
                Err(MapError::Empty) => return Err(MapError::Empty),
            }
        }
    }

    fn over(mut map: Mapping, access: Access, items_asked: usize) -> Self {
        map.advise_huge_pages_after(HUGE_PAGE_BYTES);
        let writable_bytes = if access == Access::Reserved { 0 } else { map.bytes() };
        Self {
            map: Arc::new(map),
            writable_bytes,
            filled_bytes: Arc::default(),
            len: 0,
            items_asked,
            items: PhantomData,
        }
    }

    /// Which pages its items lie on: base pages as long as they fit one huge page.
    pub fn pages(&self) -> Pages {
        match self.map.pages() {
            Pages::Advised if self.len * size_of::<T>() <= HUGE_PAGE_BYTES => Pages::Base,
            pages => pages,
        }
    }

    /// Which memory node its pages come from: the caller's of [`Arena::reserve`].
    pub fn locality(&self) -> Locality {
        self.map.locality()
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many items it can grow to: what was asked for, or less where the kernel granted less.
    pub fn items_max(&self) -> usize {
        (self.map.bytes() / size_of::<T>()).min(self.items_asked)
    }

    /// Has a thread fill in the pages of items that will be needed, so that whoever touches them
    /// first need not wait for the kernel. The thread may be late, which costs time and no more.
    ///
    /// - `items`: past the length too; those past [`Arena::items_max`] are none.
    pub fn fill_ahead(&self, items: Range<usize>, first: First) {
        let byte = |item: usize| item.min(self.items_max()) * size_of::<T>();
        let range = byte(items.start)..byte(items.end).min(self.writable_bytes);
        if !range.is_empty() && self.map.pages() != Pages::SetAside {
            ahead::ask(&self.map, range, first, &self.filled_bytes);
        }
    }

    /// How many bytes were filled in on account of [`Arena::fill_ahead`].
    pub fn filled_bytes(&self) -> usize {
        self.filled_bytes.load(Ordering::Relaxed)
    }

    /// Makes the length at least `items`. Items keep their addresses; new ones are zeros.
    ///
    /// Errors: [`GrowError`]; the arena is then as before.
    pub fn grow_to(&mut self, items: usize) -> Result<(), GrowError> {
        if items <= self.len {
            return Ok(());
        }
        if items > self.items_max() {
            return Err(GrowError::BeyondReserve {
                items_wanted: items,
                items_reserved: self.items_max(),
                items_asked: self.items_asked,
            });
        }
        let bytes = items * size_of::<T>(); // At most the reservation: checked above.
        if bytes > self.writable_bytes {
            self.commit(bytes)?;
        }
        self.len = items;
        Ok(())
    }

    /// All items.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY:
        // - In bounds: `grow_to` alone sets `len`, and only to bytes that are readable.
        // - Aligned: `reserve` asks for 2 MiB and checks `align_of::<T>()` against it.
        // - Initialised: anonymous pages are zeros, a value of `T: FromZeros`; only
        //   `as_mut_slice` writes them, with values of `T`.
        // - Unaliased and alive: `&self` keeps `as_mut_slice`, `grow_to` and `drop` away.
        unsafe { slice::from_raw_parts(self.map.base().as_ptr().cast(), self.len) }
    }

    /// All items, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; `&mut self` makes this the only slice.
        unsafe { slice::from_raw_parts_mut(self.map.base().as_ptr().cast(), self.len) }
    }

    /// Makes at least `bytes` writable, in doubling steps, never past the reservation.
    #[cold]
    fn commit(&mut self, bytes: usize) -> Result<(), GrowError> {
        let bytes_writable = self.writable_bytes;
        let step_bytes = bytes_writable.clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        let bytes_wanted = bytes
            .max(bytes_writable + step_bytes)
            .next_multiple_of(HUGE_PAGE_BYTES)
            .min(self.map.bytes());
        self.map.commit(bytes_writable, bytes_wanted).map_err(|errno| {
            let errno = errno.raw_os_error();
            GrowError::Refused { bytes_writable, bytes_wanted, errno }
        })?;
        self.writable_bytes = bytes_wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_keeps_addresses_and_contents_and_adds_zeros() {
        let mut arena = Arena::<u64>::reserve(40_000_000).unwrap();
        assert!(arena.is_empty() && arena.as_slice().is_empty());
        let mut filled = 0;
        for items in [1, 7, 600_000, 600_001, 1_000_000, 20_000_000] {
            arena.grow_to(items).unwrap();
            assert_eq!(arena.len(), items);
            let (old, new) = arena.as_slice().split_at(filled);
            assert!(old.iter().enumerate().all(|(index, &item)| item == index as u64 + 1));
            assert!(new.iter().all(|&item| item == 0));
            for (index, item) in arena.as_mut_slice().iter_mut().enumerate().skip(filled) {
                *item = index as u64 + 1;
            }
            filled = items;
        }
    }

    #[test]
    fn the_base_is_aligned_to_a_huge_page_and_never_moves() {
        let mut arena = Arena::<[u64; 8]>::reserve(1 << 20).unwrap();
        arena.grow_to(1).unwrap();
        let base = arena.as_slice().as_ptr();
        assert!(base.addr().is_multiple_of(HUGE_PAGE_BYTES));
        arena.grow_to(1 << 20).unwrap();
        assert_eq!(arena.as_slice().as_ptr(), base);
    }

    #[test]
    fn an_arena_outgrows_base_pages_and_tells() {
        let mut arena = Arena::<u64>::reserve(1 << 30).unwrap();
        arena.grow_to(100).unwrap();
        if arena.pages() == Pages::SetAside {
            return; // This machine has 8 GiB of them.
        }
        assert_eq!(arena.pages(), Pages::Base);
        arena.grow_to(1 << 20).unwrap();
        // A kernel without transparent huge pages keeps to base pages.
        assert!(matches!(arena.pages(), Pages::Advised | Pages::Base), "{:?}", arena.pages());
        assert!(!matches!(arena.locality(), Locality::Refused { .. }), "{:?}", arena.locality());
    }

    #[test]
    fn an_arena_that_is_made_writable_step_by_step_grows_as_any_other() {
        let bytes = 100 * HUGE_PAGE_BYTES;
        let map = Mapping::new(bytes, HUGE_PAGE_BYTES, Access::Reserved).unwrap();
        let mut arena = Arena::<u64>::over(map, Access::Reserved, bytes / 8);
        for items in [1, 7, 600_000, 600_001, 1_000_000, bytes / 8] {
            arena.grow_to(items).unwrap();
            assert!(arena.writable_bytes >= items * 8 && arena.writable_bytes <= bytes);
            arena.as_mut_slice()[items - 1] = 5;
            assert_eq!(arena.as_slice()[items - 1], 5);
        }
        arena.grow_to(bytes / 8 + 1).unwrap_err();
    }

    #[test]
    fn pages_that_are_filled_in_ahead_are_zeros_and_hold_what_is_written_meanwhile() {
        let items = 3 * HUGE_PAGE_BYTES / 8;
        for first in [First::Low, First::High] {
            let mut arena = Arena::<u64>::reserve(items).unwrap();
            arena.grow_to(items).unwrap();
            arena.fill_ahead(10..usize::MAX, first);
            for (index, item) in arena.as_mut_slice().iter_mut().enumerate() {
                assert_eq!(std::mem::replace(item, index as u64), 0);
            }
            let asked = arena.pages() != Pages::SetAside;
            // Some kernels know no such advice: then nothing is ever filled in.
            for _ in 0..10_000 {
                if !asked || arena.filled_bytes() == items * 8 - 80 {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let filled = arena.filled_bytes();
            assert!(filled == 0 || filled == items * 8 - 80, "{filled}");
            assert!(arena.as_slice().iter().enumerate().all(|(at, &item)| item == at as u64));
        }
    }

    #[test]
    fn growing_to_fewer_items_changes_nothing() {
        let mut arena = Arena::<f32>::reserve(100).unwrap();
        arena.grow_to(10).unwrap();
        arena.grow_to(3).unwrap();
        assert_eq!(arena.len(), 10);
    }

    #[test]
    fn growing_beyond_the_reserve_names_both_numbers_and_leaves_the_arena_as_it_was() {
        let mut arena = Arena::<f32>::reserve(100).unwrap();
        arena.grow_to(100).unwrap();
        let error = arena.grow_to(101).unwrap_err();
        let want =
            GrowError::BeyondReserve { items_wanted: 101, items_reserved: 100, items_asked: 100 };
        assert_eq!(error, want);
        assert_eq!(error.to_string(), "wanted 101 items, reserved 100");
        assert_eq!(arena.len(), 100);
    }

    #[test]
    fn a_reservation_the_kernel_refuses_is_halved_until_it_is_granted() {
        let asked = 1 << 59; // Bytes: far over the 47 bits of addresses a process has.
        let mut arena = Arena::<u8>::reserve(asked).unwrap();
        assert!(arena.items_max() < asked);
        let error = arena.grow_to(asked).unwrap_err();
        assert!(error.to_string().contains("the kernel granted less"), "{error}");
        arena.grow_to(10).unwrap();
        assert_eq!(arena.as_slice(), [0; 10]);
    }

    #[test]
    fn a_reservation_of_nothing_or_of_too_much_is_refused() {
        assert_eq!(Arena::<u64>::reserve(0).unwrap_err(), MapError::Empty);
        let error = Arena::<u64>::reserve(usize::MAX).unwrap_err();
        assert_eq!(error, MapError::TooLarge { count: usize::MAX, item_bytes: 8 });
    }

    #[test]
    fn an_item_size_that_divides_no_page_fits_up_to_the_last_item() {
        let mut arena = Arena::<[u8; 12_289]>::reserve(1000).unwrap();
        arena.grow_to(1000).unwrap();
        arena.as_mut_slice()[999][12_288] = 1;
        assert_eq!(arena.items_max(), 1000);
    }
}
