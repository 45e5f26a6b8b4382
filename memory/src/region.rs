//! A fixed block of memory with one owner.
//!
//! Owns whole pages from the kernel; what lies in them is left to the caller.
//!
//! Invariant: the address never changes while the region lives, and every byte is initialised.

use std::slice;

use crate::map::{MapError, Mapping, PAGE_BYTES};
use crate::placement::{Locality, Pages};

/// Bytes of zeros at a page-aligned address; at a 2 MiB-aligned one, on huge pages where the
/// kernel grants them, from [`HUGE_PAGE_BYTES`](crate::HUGE_PAGE_BYTES) up.
#[derive(Debug)]
pub struct Region {
    map: Mapping,
    bytes: usize,
}

impl Region {
    /// Maps `bytes` of zeros. Pages become resident when they are first touched.
    ///
    /// Errors: [`MapError`], naming the bytes asked for.
    pub fn anonymous(bytes: usize) -> Result<Self, MapError> {
        let map = Mapping::on_huge_pages(bytes, PAGE_BYTES)?;
        Ok(Self { map, bytes })
    }

    /// Which pages it has been given.
    pub fn pages(&self) -> Pages {
        self.map.pages()
    }

    /// Which memory node its pages come from: the caller's of [`Region::anonymous`].
    pub fn locality(&self) -> Locality {
        self.map.locality()
    }

    /// How many bytes were asked for; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY:
        // - In bounds: `anonymous` mapped at least `bytes`, readable and writable.
        // - Initialised: anonymous pages are zeros until `bytes_mut` writes them.
        // - Unaliased and alive: `&self` keeps `bytes_mut` and `drop` away while the slice lives.
        unsafe { slice::from_raw_parts(self.map.base().as_ptr(), self.bytes) }
    }

    /// All bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only slice.
        unsafe { slice::from_raw_parts_mut(self.map.base().as_ptr(), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::HUGE_PAGE_BYTES;

    #[test]
    fn a_region_is_zero_filled_aligned_and_keeps_what_is_written() {
        for bytes in [1, 100, PAGE_BYTES, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, 5_000_000] {
            let mut region = Region::anonymous(bytes).unwrap();
            assert_eq!((region.len(), region.bytes().len()), (bytes, bytes));
            assert!(region.bytes().iter().all(|&byte| byte == 0));
            let align = if bytes < HUGE_PAGE_BYTES { PAGE_BYTES } else { HUGE_PAGE_BYTES };
            assert!(region.bytes().as_ptr().addr().is_multiple_of(align));
            region.bytes_mut()[bytes - 1] = 7;
            assert_eq!(region.bytes()[bytes - 1], 7);
        }
    }

    #[test]
    fn a_region_of_no_bytes_is_refused() {
        assert_eq!(Region::anonymous(0).unwrap_err(), MapError::Empty);
    }

    #[test]
    fn a_region_may_move_to_another_thread() {
        let mut region = Region::anonymous(64).unwrap();
        region.bytes_mut()[3] = 9;
        let seen = std::thread::spawn(move || region.bytes()[3]).join().unwrap();
        assert_eq!(seen, 9);
    }
}
