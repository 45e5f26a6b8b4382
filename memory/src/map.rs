//! A private anonymous mapping: the one place that asks the kernel for pages and gives them back.
//!
//! Owns a range of addresses from `mmap` to `munmap`. Which of its bytes are in use, and by whom,
//! is left to `Region`, `Arena` and `SlotPool`; which pages are to be had, to `placement`.
//!
//! Invariant: `base..base + bytes` belongs to this mapping alone until it is dropped; `base` is a
//! multiple of the alignment asked for; a byte reads zero until it is written.

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::placement::{self, Locality, Pages};

/// Size of a base page, in bytes. A kernel with larger pages rounds up by itself.
pub const PAGE_BYTES: usize = 4096;

/// Size and alignment of a transparent huge page on x86-64 and aarch64 (4 KiB granule), in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Why memory could not be mapped. Nothing was mapped; the caller asks for less, or reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No bytes were asked for, and a mapping has at least one.
    Empty,
    /// `count` items of `item_bytes` each do not fit an address space.
    TooLarge {
        /// Items asked for.
        count: usize,
        /// Size of one item, in bytes.
        item_bytes: usize,
    },
    /// The kernel refused (a limit on address space, or no memory).
    Refused {
        /// Bytes asked for first.
        bytes_first: usize,
        /// Bytes asked for last; less than `bytes_first` where smaller sizes were tried too.
        bytes_last: usize,
        /// What the kernel said.
        errno: i32,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => write!(f, "asked for a mapping of 0 bytes"),
            Self::TooLarge { count, item_bytes } => {
                write!(f, "{count} items of {item_bytes} bytes do not fit the address space")
            }
            Self::Refused { bytes_first, bytes_last, errno } => {
                let why = io::Error::from_raw_os_error(errno);
                write!(f, "asked the kernel for {bytes_first} bytes, ")?;
                if bytes_last < bytes_first {
                    write!(f, "then for less down to {bytes_last} bytes, ")?;
                }
                write!(f, "and was refused: {why}")
            }
        }
    }
}

impl std::error::Error for MapError {}

/// What may be done to the pages of a fresh mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Addresses only: touching them faults until `Mapping::commit`.
    Reserved,
    /// Readable and writable, and memory only where they are touched: the kernel counts none of it
    /// beforehand, unless it counts strictly.
    Uncounted,
    /// Readable and writable.
    ReadWrite,
}

/// A range of addresses that nobody else has. Unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    pages: Pages,
    locality: Locality,
}

// SAFETY: the range belongs to this value alone and not to the thread that mapped it; `munmap`,
// `mprotect` and `madvise` may be called from any thread.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives out addresses and the kernel calls below, which the kernel serialises;
// reading or writing through an address is the owner's unsafe block, with its own proof.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps at least `bytes` (rounded up to whole pages), aligned to `align_bytes`.
    ///
    /// Panics: if `align_bytes` is not a power of two of at least a page.
    pub(crate) fn new(bytes: usize, align_bytes: usize, access: Access) -> Result<Self, MapError> {
        assert!(align_bytes.is_power_of_two() && align_bytes >= PAGE_BYTES);
        if bytes == 0 {
            return Err(MapError::Empty);
        }
        let too_large = MapError::TooLarge { count: bytes, item_bytes: 1 };
        let bytes = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(too_large)?;
        let slack_bytes = align_bytes - PAGE_BYTES;
        let whole_bytes = bytes.checked_add(slack_bytes).ok_or(too_large)?;
        if isize::try_from(whole_bytes).is_err() {
            return Err(too_large);
        }
        let mut whole = Self::map(whole_bytes, access).map_err(|errno| MapError::Refused {
            bytes_first: whole_bytes,
            bytes_last: whole_bytes,
            errno: errno.raw_os_error(),
        })?;
        let head_bytes = whole.base.as_ptr().align_offset(align_bytes);
        assert!(head_bytes <= slack_bytes, "page-aligned base needs at most the slack");
        whole.cut_head(head_bytes);
        whole.cut_tail(bytes);
        whole.locality = placement::prefer_own_node(whole.base, whole.bytes);
        Ok(whole)
    }

    /// As [`Mapping::new`] with [`Access::ReadWrite`], on the largest pages that are to be had, if
    /// it is at least one huge page long, and then aligned to one.
    pub(crate) fn on_huge_pages(bytes: usize, align_bytes: usize) -> Result<Self, MapError> {
        if bytes < HUGE_PAGE_BYTES {
            return Self::new(bytes, align_bytes, Access::ReadWrite);
        }
        if let Some(map) = Self::on_pages_set_aside(bytes) {
            return Ok(map);
        }
        let mut map = Self::new(bytes, align_bytes.max(HUGE_PAGE_BYTES), Access::ReadWrite)?;
        map.advise_huge_pages_after(0);
        Ok(map)
    }

    /// At least `bytes`, readable and writable, on huge pages that an administrator has set aside;
    /// nothing, where there are not as many. All are touched at once: a page that this process may
    /// not have after all (a control group can say so) would end it when it is touched later.
    pub(crate) fn on_pages_set_aside(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)?;
        if bytes == 0 || !placement::are_pages_set_aside(bytes) {
            return None;
        }
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        // SAFETY: no fixed address is asked for, so the kernel picks a range nobody uses.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, rights, flags) };
        let base = NonNull::new(base.ok()?.cast::<u8>()).expect("mmap never answers null");
        let mut map = Self { base, bytes, pages: Pages::SetAside, locality: Locality::OneNode };
        map.locality = placement::prefer_own_node(base, bytes);
        let first = base.as_ptr().cast::<c_void>();
        // SAFETY: the range is this mapping's own and zeros; this touches it and changes no byte.
        unsafe { rustix::mm::madvise(first, bytes, Advice::LinuxPopulateWrite) }.ok()?;
        Some(map)
    }

    /// Which pages it has been given so far.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// Which memory node its pages come from.
    pub(crate) fn locality(&self) -> Locality {
        self.locality
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Size in bytes, whole pages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes `from..to` (byte offsets, whole pages) readable and writable.
    ///
    /// Panics: if the range is not within the mapping or not whole pages.
    pub(crate) fn commit(&self, from: usize, to: usize) -> Result<(), Errno> {
        assert!(from <= to && to <= self.bytes, "{from}..{to} of {} bytes", self.bytes);
        assert!(from.is_multiple_of(PAGE_BYTES) && to.is_multiple_of(PAGE_BYTES));
        if self.pages == Pages::SetAside {
            return Ok(()); // Readable and writable since it was mapped.
        }
        let first = self.base.as_ptr().wrapping_add(from).cast::<c_void>();
        // SAFETY: `from..to` lies in this mapping (asserted above), and only gains rights: no
        // reference anywhere relies on a page being out of reach.
        unsafe {
            rustix::mm::mprotect(first, to - from, MprotectFlags::READ | MprotectFlags::WRITE)
        }
    }

    /// Asks for huge pages under the mapping, but for so many first bytes (whole pages). A kernel
    /// built without them says no, which costs speed and nothing else: [`Mapping::pages`] tells.
    ///
    /// Panics: if there are not so many bytes, or they are not whole pages.
    pub(crate) fn advise_huge_pages_after(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes && bytes.is_multiple_of(PAGE_BYTES));
        if self.pages == Pages::SetAside || bytes == self.bytes {
            return;
        }
        let first = self.base.as_ptr().wrapping_add(bytes).cast::<c_void>();
        let rest = self.bytes - bytes;
        // SAFETY: the range is this mapping's own, and this advice changes no byte of it.
        let taken = unsafe { rustix::mm::madvise(first, rest, Advice::LinuxHugepage) };
        if taken.is_ok() {
            self.pages = Pages::Advised;
        }
    }

    /// Has the kernel fill in the pages that `range` (byte offsets) lies on, as a write to each
    /// would, and changes no byte.
    ///
    /// Errors: of the kernel; some pages may be filled in then.
    ///
    /// Panics: if the range is not within the mapping.
    pub(crate) fn populate(&self, range: Range<usize>) -> Result<(), Errno> {
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let end = range.end.next_multiple_of(PAGE_BYTES);
        assert!(start <= end && end <= self.bytes, "{range:?} of {} bytes", self.bytes);
        let first = self.base.as_ptr().wrapping_add(start).cast::<c_void>();
        // SAFETY: the range is this mapping's own; filling in is what a first touch does, and the
        // kernel does it once for threads that touch a page at the same time.
        unsafe { rustix::mm::madvise(first, end - start, Advice::LinuxPopulateWrite) }
    }

    fn map(bytes: usize, access: Access) -> Result<Self, Errno> {
        let (rights, flags) = match access {
            Access::Reserved => (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE),
            Access::Uncounted => {
                (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE)
            }
            Access::ReadWrite => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE),
        };
        // SAFETY: no fixed address is asked for, so the kernel picks a range nobody uses.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, rights, flags) }?;
        let base = NonNull::new(base.cast::<u8>()).expect("mmap never answers null by itself");
        Ok(Self { base, bytes, pages: Pages::Base, locality: Locality::OneNode })
    }

    /// Gives the first `bytes` back, so that the mapping starts after them.
    fn cut_head(&mut self, bytes: usize) {
        let head = self.base;
        assert!(bytes < self.bytes);
        self.base = NonNull::new(head.as_ptr().wrapping_add(bytes)).expect("inside the mapping");
        self.bytes -= bytes;
        // SAFETY: called by `new` alone, on a mapping no one has seen yet; the line above took
        // `bytes` from it, so neither a slice nor `drop` reaches them any more.
        unsafe { unmap(head, bytes) };
    }

    /// Gives back all but the first `bytes_kept`.
    fn cut_tail(&mut self, bytes_kept: usize) {
        assert!(bytes_kept <= self.bytes);
        let tail = self.base.as_ptr().wrapping_add(bytes_kept);
        let tail = NonNull::new(tail).expect("inside the mapping, or its end");
        let tail_bytes = self.bytes - bytes_kept;
        self.bytes = bytes_kept;
        // SAFETY: as in `cut_head`: unseen so far, and out of `self` by the line above.
        unsafe { unmap(tail, tail_bytes) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours (invariant), and slices into it borrow the owner of `self`.
        unsafe { unmap(self.base, self.bytes) };
    }
}

/// Unmaps `bytes` at `first`; nothing if `bytes` is 0. Panics if the kernel refuses, which it does
/// only for a range that was never a mapping.
///
/// # Safety
/// The range is mapped, belongs to the caller and is not used again.
unsafe fn unmap(first: NonNull<u8>, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // SAFETY: the caller's promise, passed on.
    let done = unsafe { rustix::mm::munmap(first.as_ptr().cast(), bytes) };
    assert!(done.is_ok(), "munmap of {bytes} bytes: {done:?}");
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_size_starts_at_its_alignment_and_has_whole_pages() {
        for bytes in [1, PAGE_BYTES, PAGE_BYTES + 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1] {
            for align_bytes in [PAGE_BYTES, 64 * PAGE_BYTES, HUGE_PAGE_BYTES] {
                let map = Mapping::new(bytes, align_bytes, Access::ReadWrite).unwrap();
                assert!(map.base().addr().get().is_multiple_of(align_bytes));
                assert_eq!(map.bytes(), bytes.next_multiple_of(PAGE_BYTES));
            }
        }
    }

    #[test]
    fn a_mapping_of_a_huge_page_or_more_tells_which_pages_it_has() {
        for bytes in [HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1, 5 * HUGE_PAGE_BYTES] {
            let map = Mapping::on_huge_pages(bytes, PAGE_BYTES).unwrap();
            assert!(map.base().addr().get().is_multiple_of(HUGE_PAGE_BYTES));
            assert!(map.bytes() >= bytes);
        }
        let small = Mapping::on_huge_pages(HUGE_PAGE_BYTES - 1, PAGE_BYTES).unwrap();
        assert_eq!(small.pages(), Pages::Base);
    }

    #[test]
    fn more_huge_pages_than_are_set_aside_are_not_mapped() {
        assert!(Mapping::on_pages_set_aside(1 << 50).is_none());
        assert!(Mapping::on_pages_set_aside(usize::MAX).is_none());
        assert!(Mapping::on_pages_set_aside(0).is_none());
    }

    #[test]
    fn huge_pages_that_are_set_aside_are_used_and_given_back() {
        let bytes = 3 * HUGE_PAGE_BYTES;
        if !placement::are_pages_set_aside(bytes) {
            let why = "this machine has set no three huge pages aside";
            let test = "huge_pages_that_are_set_aside_are_used_and_given_back";
            // Past the harness's capture: a skip is to be seen.
            let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
            return;
        }
        for _ in 0..100 {
            let mut map = Mapping::on_pages_set_aside(bytes - 1).expect("they are given back");
            assert_eq!((map.pages(), map.bytes()), (Pages::SetAside, bytes));
            assert!(map.base().addr().get().is_multiple_of(HUGE_PAGE_BYTES));
            map.commit(0, bytes).unwrap();
            map.advise_huge_pages_after(0);
            assert_eq!(map.pages(), Pages::SetAside);
        }
    }

    #[test]
    fn a_size_beyond_the_address_space_is_refused_with_the_number() {
        let error = Mapping::new(usize::MAX, PAGE_BYTES, Access::ReadWrite).unwrap_err();
        assert_eq!(error, MapError::TooLarge { count: usize::MAX, item_bytes: 1 });
        let bytes = 1 << 60;
        let error = Mapping::new(bytes, PAGE_BYTES, Access::Reserved).unwrap_err();
        let MapError::Refused { bytes_first, bytes_last, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((bytes_first, bytes_last), (bytes, bytes));
        assert!(error.to_string().contains(&bytes.to_string()));
    }
}
