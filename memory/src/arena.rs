//! A growing array that never moves: the rows and index lines of a table.
//!
//! Owns a range of addresses reserved once, of which a growing prefix is readable and writable.
//! Which items are in use is left to `shard`.
//!
//! Invariant: `len * size_of::<T>() <= bytes_committed <= bytes reserved`; an item keeps its
//! address for the arena's life and is all zeros until it is written.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::slice;

use zerocopy::FromZeros;

use crate::map::{Access, HUGE_PAGE_BYTES, MapError, Mapping};
use crate::placement::{Locality, Pages};

/// Least that one growth commits, in bytes.
const STEP_BYTES_MIN: usize = 4 << 20;

/// Most that one growth commits ahead of need, in bytes. Between the two limits steps double.
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
        bytes_committed: usize,
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
            Self::Refused { bytes_committed, bytes_wanted, errno } => {
                let why = io::Error::from_raw_os_error(errno);
                write!(f, "have {bytes_committed} bytes, wanted {bytes_wanted}: {why}")
            }
        }
    }
}

impl std::error::Error for GrowError {}

/// A contiguous array of `T` that grows in place. `T` is plain data for which zeros are a value.
///
/// The base is aligned to [`HUGE_PAGE_BYTES`]; huge pages are asked for once the array outgrows
/// one, so that a small table costs pages and not megabytes. Huge pages that an administrator has
/// set aside are used where there are enough for all items that it can grow to, since an address
/// that is in use cannot be exchanged for one of theirs.
#[derive(Debug)]
pub struct Arena<T> {
    map: Mapping,
    bytes_committed: usize,
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
            return Ok(Self::over(map, items_max));
        }
        let mut bytes = bytes_first;
        loop {
            match Mapping::new(bytes, HUGE_PAGE_BYTES, Access::Reserved) {
                Ok(map) => return Ok(Self::over(map, items_max)),
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

    fn over(map: Mapping, items_asked: usize) -> Self {
        Self { map, bytes_committed: 0, len: 0, items_asked, items: PhantomData }
    }

    /// Which pages it has been given so far.
    pub fn pages(&self) -> Pages {
        self.map.pages()
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

    /// How much memory it may use now, in bytes. Pages become resident when first touched.
    pub fn bytes_committed(&self) -> usize {
        self.bytes_committed
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
        if bytes > self.bytes_committed {
            self.commit(bytes)?;
        }
        if bytes > HUGE_PAGE_BYTES && self.len * size_of::<T>() <= HUGE_PAGE_BYTES {
            self.map.advise_huge_pages();
        }
        self.len = items;
        Ok(())
    }

    /// All items.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY:
        // - In bounds: `grow_to` alone sets `len`, after `commit` made so many bytes readable.
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

    /// Commits at least `bytes`, in doubling steps, never past the reservation.
    fn commit(&mut self, bytes: usize) -> Result<(), GrowError> {
        let step_bytes = self.bytes_committed.clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        let bytes_wanted = bytes
            .max(self.bytes_committed + step_bytes)
            .next_multiple_of(HUGE_PAGE_BYTES)
            .min(self.map.bytes());
        self.map.commit(self.bytes_committed, bytes_wanted).map_err(|errno| {
            let errno = errno.raw_os_error();
            GrowError::Refused { bytes_committed: self.bytes_committed, bytes_wanted, errno }
        })?;
        self.bytes_committed = bytes_wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_keeps_addresses_and_contents_and_adds_zeros() {
        let mut arena = Arena::<u64>::reserve(40_000_000).unwrap();
        assert!(arena.is_empty() && arena.as_slice().is_empty() && arena.bytes_committed() == 0);
        let mut filled = 0;
        for items in [1, 7, 600_000, 600_001, 1_000_000, 20_000_000] {
            arena.grow_to(items).unwrap();
            assert_eq!(arena.len(), items);
            assert!(arena.bytes_committed() >= items * 8);
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
