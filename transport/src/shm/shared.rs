//! The memory of a pair: two control pages and two rings in one sealed memfd.
//!
//! Owns the mapping and its layout:
//!
//! ```text
//! 0            4096         8192                    8192 + ring_bytes
//! | control A  | control B  | ring A, which A fills | ring B, which B fills |
//! ```
//!
//! What lies in a ring is left to `ring`, who rings which bell to `bell`.
//!
//! Invariant: the mapping has `LAYOUT_BYTES + 2 * ring_bytes` bytes, and the memory under it can
//! neither shrink nor grow, so touching it never faults. Rings start 64-byte aligned.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::error::ShmError;

/// The least size of a ring, in bytes.
pub const RING_BYTES_MIN: usize = 4 << 10;

/// The most that a ring may have, in bytes: a length in it fits 32 bits.
pub const RING_BYTES_MAX: usize = 1 << 30;

/// Size of one control page, in bytes.
const CONTROL_BYTES: usize = 4096;

/// What comes before the rings, in bytes.
const LAYOUT_BYTES: usize = 2 * CONTROL_BYTES;

/// Without these the owner could cut the memory under a reader, who would die of `SIGBUS`.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// One of the two ends of a pair, and the ring that it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who made the memory.
    A = 0,
    /// Who was given it.
    B = 1,
}

impl Side {
    /// The other end.
    pub(super) fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

/// What one end tells the other outside of the rings. The peer clears `asleep` when it rings.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Control {
    /// Not 0: this end sleeps, or is about to, until its bell is rung.
    pub(super) asleep: AtomicU32,
    /// Not 0: this end has found its ring full and waits for the peer to release records.
    pub(super) wants_space: AtomicU32,
    /// Not 0: this end is gone.
    pub(super) closed: AtomicU32,
}

/// One end's mapping of the pair's memory.
#[derive(Debug)]
pub(super) struct Shared {
    base: NonNull<u8>,
    ring_bytes: usize,
}

// SAFETY: the range belongs to this value and not to the thread that mapped it; `munmap` in `drop`
// may be called from any thread.
unsafe impl Send for Shared {}
// SAFETY: `&Shared` gives out atomics (`control`) and addresses (`ring_at`); who reads or writes
// through an address has an unsafe block with its own proof.
unsafe impl Sync for Shared {}

impl Shared {
    /// Memory for two rings, all zeros, sealed and committed: a full machine says so here and not
    /// by a signal later.
    ///
    /// - Errors: the size is no power of two in bounds, or the kernel refuses.
    pub(super) fn create(ring_bytes: usize) -> Result<OwnedFd, ShmError> {
        let bytes = memory_bytes(ring_bytes as u64)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("gradwire-rings", flags)
            .map_err(ShmError::os("memfd_create"))?;
        rustix::fs::ftruncate(&memory, bytes).map_err(ShmError::os("ftruncate"))?;
        rustix::fs::fallocate(&memory, FallocateFlags::empty(), 0, bytes)
            .map_err(ShmError::os("fallocate"))?;
        rustix::fs::fcntl_add_seals(&memory, SEALS).map_err(ShmError::os("F_ADD_SEALS"))?;
        Ok(memory)
    }

    /// Maps memory that [`Shared::create`] made, here or in another process.
    ///
    /// - Errors: seals or size are not as `create` makes them, or the kernel refuses.
    pub(super) fn map(memory: impl AsFd, ring_bytes: u64) -> Result<Shared, ShmError> {
        let bytes_wanted = memory_bytes(ring_bytes)?;
        let seals = rustix::fs::fcntl_get_seals(&memory).map_err(ShmError::os("F_GET_SEALS"))?;
        if !seals.contains(SEALS) {
            let (seals, seals_wanted) = (seals.bits(), SEALS.bits());
            return Err(ShmError::Unsealed { seals, seals_wanted });
        }
        let stat = rustix::fs::fstat(&memory).map_err(ShmError::os("fstat"))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes != bytes_wanted {
            return Err(ShmError::MemoryBytes { bytes, bytes_wanted });
        }
        let (rights, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice takes nobody's memory.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), bytes as usize, rights, flags, &memory, 0) };
        let base = base.map_err(ShmError::os("mmap"))?;
        let base = NonNull::new(base.cast()).expect("mmap at no fixed address is not null");
        Ok(Shared { base, ring_bytes: ring_bytes as usize })
    }

    /// Size of one ring, in bytes: a power of two.
    pub(super) fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// What this end tells the other.
    pub(super) fn control(&self, side: Side) -> &Control {
        let first = self.base.as_ptr().wrapping_add(side as usize * CONTROL_BYTES);
        // SAFETY:
        // - In bounds and aligned: page 0 or 1 of a mapping that begins with `LAYOUT_BYTES`.
        // - Initialised: `create` makes zeros, and any bits are an `AtomicU32`.
        // - Unaliased: `ring_at` gives out no address before the rings, so these bytes are only
        //   ever atomics, here and in the peer.
        // - Alive: unmapped by `drop`, which `&self` keeps away.
        unsafe { &*first.cast::<Control>() }
    }

    /// The address of `bytes` bytes from `offset` on in the ring that `filler` fills.
    ///
    /// Panics: if they do not all lie in the ring.
    pub(super) fn ring_at(&self, filler: Side, offset: usize, bytes: usize) -> *mut u8 {
        let inside = offset <= self.ring_bytes && bytes <= self.ring_bytes - offset;
        assert!(inside, "{bytes} bytes at {offset} of a ring of {}", self.ring_bytes);
        let ring = LAYOUT_BYTES + filler as usize * self.ring_bytes;
        self.base.as_ptr().wrapping_add(ring + offset)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let bytes = LAYOUT_BYTES + 2 * self.ring_bytes;
        // SAFETY: exactly the range that `map` mapped; what `control` lends and the records in
        // `ring` borrow this value or share its ownership, so none is left.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), bytes) };
        assert_eq!(result, Ok(()), "munmap of {bytes} bytes that mmap gave");
    }
}

/// Size of the memory for two such rings, in bytes.
fn memory_bytes(ring_bytes: u64) -> Result<u64, ShmError> {
    let (ring_bytes_min, ring_bytes_max) = (RING_BYTES_MIN, RING_BYTES_MAX);
    let bounds = ring_bytes_min as u64..=ring_bytes_max as u64;
    if !ring_bytes.is_power_of_two() || !bounds.contains(&ring_bytes) {
        return Err(ShmError::RingBytes { ring_bytes, ring_bytes_min, ring_bytes_max });
    }
    Ok(LAYOUT_BYTES as u64 + 2 * ring_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_an_odd_size_is_refused_with_the_bounds() {
        for ring_bytes in [0, 2048, 5000, RING_BYTES_MAX * 2] {
            let error = Shared::create(ring_bytes).unwrap_err();
            assert!(matches!(error, ShmError::RingBytes { ring_bytes: found, .. }
                if found == ring_bytes as u64));
        }
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("unsealed", flags).unwrap();
        rustix::fs::ftruncate(&memory, (LAYOUT_BYTES + 2 * RING_BYTES_MIN) as u64).unwrap();
        let error = Shared::map(&memory, RING_BYTES_MIN as u64).unwrap_err();
        let want = ShmError::Unsealed { seals: 0, seals_wanted: SEALS.bits() };
        assert_eq!(error, want);
        rustix::fs::fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SEAL).unwrap();
        let error = Shared::map(&memory, RING_BYTES_MIN as u64).unwrap_err();
        assert!(matches!(error, ShmError::Unsealed { .. }), "{error}");
    }

    #[test]
    fn memory_of_another_size_is_refused_with_both_sizes() {
        let memory = Shared::create(RING_BYTES_MIN).unwrap();
        let error = Shared::map(&memory, 2 * RING_BYTES_MIN as u64).unwrap_err();
        let want = ShmError::MemoryBytes { bytes: 16_384, bytes_wanted: 24_576 };
        assert_eq!(error, want);
    }

    #[test]
    fn sealed_memory_cannot_be_cut_any_more() {
        let memory = Shared::create(RING_BYTES_MIN).unwrap();
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
        assert!(rustix::fs::ftruncate(&memory, 1 << 20).is_err());
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads_at_another_address() {
        let memory = Shared::create(RING_BYTES_MIN).unwrap();
        let one = Shared::map(&memory, RING_BYTES_MIN as u64).unwrap();
        let other = Shared::map(&memory, RING_BYTES_MIN as u64).unwrap();
        one.control(Side::B).closed.store(7, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(other.control(Side::B).closed.load(std::sync::atomic::Ordering::SeqCst), 7);
        assert_ne!(one.ring_at(Side::A, 0, 1), other.ring_at(Side::A, 0, 1));
    }

    #[test]
    #[should_panic(expected = "of a ring of 4096")]
    fn an_address_beyond_the_ring_is_not_given() {
        let memory = Shared::create(RING_BYTES_MIN).unwrap();
        let shared = Shared::map(&memory, RING_BYTES_MIN as u64).unwrap();
        shared.ring_at(Side::A, 64, RING_BYTES_MIN);
    }
}
