//! Registered memory: bytes that a device reads and writes by itself.
//!
//! Owns the mapping and its registration. Which part is whose, and when, is left to the holder: by
//! the promises that [`Registered::slice`] and [`Registered::slice_mut`] ask for.
//!
//! Invariant: the bytes are mapped for as long as they are registered. A peer that breaks the
//! protocol may write what it likes into memory it has the key of; that is the price of RDMA, and
//! why what is read there is copied or checked as any bytes of a peer are.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};

use memory::Region;
use rustix::process::{Resource, getrlimit};

use super::device::Device;
use super::error::{VerbsError, check, non_null};
use super::ffi::{self, ibv_mr};

/// What may be done to registered memory besides by this device's own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: this side's requests read it and fill it.
    Local,
    /// Nothing by its own rkey. Memory windows let peers write parts of it.
    Windows,
    /// Whoever has the rkey and a connected queue pair may write it.
    RemoteWrite,
    /// ... and read it.
    RemoteReadWrite,
}

/// A part of registered memory, as a work request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(super) address: u64,
    pub(super) bytes: u32,
    pub(super) lkey: u32,
}

/// Registered memory, zeros at first. On drop it is deregistered, then unmapped, whatever is under
/// way: requests that name it then fail.
pub(crate) struct Registered {
    mr: NonNull<ibv_mr>,
    /// Of the region's first byte, from its only `&mut` borrow.
    first: NonNull<u8>,
    bytes: usize,
    lkey: u32,
    rkey: u32,
    region: ManuallyDrop<Region>,
    device: Device,
}

// SAFETY: the region and the registration belong to no thread: the library's functions may be
// called from any, and `Region` is `Send` itself.
unsafe impl Send for Registered {}
// SAFETY: `&Registered` gives numbers, and bytes by unsafe functions alone, whose callers promise
// that nobody else, of any thread, has them.
unsafe impl Sync for Registered {}

impl Registered {
    /// Maps and registers `bytes`: all of them are in memory then, and stay.
    ///
    /// Errors: [`VerbsError::Memory`], [`VerbsError::Register`].
    pub(crate) fn register(
        device: &Device,
        bytes: usize,
        access: Access,
    ) -> Result<Registered, VerbsError> {
        let mut region = Region::anonymous(bytes).map_err(VerbsError::Memory)?;
        let first = NonNull::from(region.bytes_mut()).cast::<u8>();
        let rights = match access {
            Access::Local => ffi::IBV_ACCESS_LOCAL_WRITE,
            Access::Windows => ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_MW_BIND,
            Access::RemoteWrite => ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_REMOTE_WRITE,
            Access::RemoteReadWrite => {
                ffi::IBV_ACCESS_LOCAL_WRITE
                    | ffi::IBV_ACCESS_REMOTE_WRITE
                    | ffi::IBV_ACCESS_REMOTE_READ
            }
        };
        let rights = i32::try_from(rights).expect("three low bits");
        let (library, pd) = (device.library(), device.pd().as_ptr());
        // SAFETY: the domain is the device's, which this value holds; the region is mapped until
        // `drop` has deregistered it.
        let mr = unsafe { (library.reg_mr)(pd, first.as_ptr().cast(), bytes, rights) };
        let mr = non_null(mr).map_err(|errno| VerbsError::Register {
            device: device.name().to_owned(),
            bytes,
            locked_bytes_max: getrlimit(Resource::Memlock).current,
            errno,
        })?;
        // SAFETY: `reg_mr` gave it, and nothing frees it before `drop`.
        let keys = unsafe { mr.as_ref() };
        let (lkey, rkey) = (keys.lkey, keys.rkey);
        let region = ManuallyDrop::new(region);
        Ok(Registered { mr, first, bytes, lkey, rkey, region, device: device.clone() })
    }

    /// Size, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address of the first byte, as a peer names it.
    pub(crate) fn address(&self) -> u64 {
        self.first.addr().get() as u64
    }

    /// The key that a peer names this memory by.
    pub(crate) fn rkey(&self) -> u32 {
        self.rkey
    }

    /// For what opens a part of it, and does not outlive it.
    pub(super) fn raw(&self) -> NonNull<ibv_mr> {
        self.mr
    }

    /// Whose it is registered with.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// A part of it, for a work request.
    ///
    /// Panics: if it is not within, or longer than a request can name.
    pub(crate) fn local(&self, range: Range<usize>) -> Local {
        self.assert_within(&range);
        let bytes = u32::try_from(range.len()).expect("a request names less than 4 GiB");
        Local { address: self.address() + range.start as u64, bytes, lkey: self.lkey }
    }

    /// The bytes at `range`.
    ///
    /// Panics: if it is not within.
    ///
    /// # Safety
    /// While the slice lives, nobody writes there: there is no [`Registered::slice_mut`] of any of
    /// the bytes, no request of this side that fills them is posted, and no peer writes them by
    /// what the protocol with it allows.
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &[u8] {
        self.assert_within(&range);
        let first = self.first.as_ptr().wrapping_add(range.start);
        // SAFETY:
        // - In bounds: asserted, of a region of `bytes`.
        // - Initialised: a region is zeros until it is written.
        // - Unaliased: the caller's promise; the region itself is not borrowed after `register`.
        // - Alive: the region is unmapped by `drop`, and the slice borrows `self`.
        unsafe { slice::from_raw_parts(first, range.len()) }
    }

    /// The bytes at `range`, to write.
    ///
    /// Panics: if it is not within.
    ///
    /// # Safety
    /// As for [`Registered::slice`], and there is no other slice of any of the bytes. A device may
    /// read them: what it sends then is what was there, or part of it.
    #[expect(clippy::mut_from_ref, reason = "parts have owners of their own: the caller's promise")]
    pub(crate) unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [u8] {
        self.assert_within(&range);
        let first = self.first.as_ptr().wrapping_add(range.start);
        // SAFETY: as in `slice`; that it is the only one is the caller's promise.
        unsafe { slice::from_raw_parts_mut(first, range.len()) }
    }

    /// The byte at `index`, as it is now: a device may be writing it.
    ///
    /// Panics: if it is not within.
    ///
    /// # Safety
    /// There is no [`Registered::slice_mut`] of it.
    pub(crate) unsafe fn load_byte(&self, index: usize) -> u8 {
        self.assert_within(&(index..index + 1));
        let at = self.first.as_ptr().wrapping_add(index);
        // SAFETY: in bounds and alive as in `slice`; a byte has no alignment; this process touches
        // it by atomics alone while this lives, by the caller's promise.
        let byte = unsafe { AtomicU8::from_ptr(at) };
        byte.load(Ordering::Acquire)
    }

    /// Makes the byte at `index` `value`: a device may be reading it.
    ///
    /// Panics: if it is not within.
    ///
    /// # Safety
    /// There is no slice of it.
    pub(crate) unsafe fn store_byte(&self, index: usize, value: u8) {
        self.assert_within(&(index..index + 1));
        let at = self.first.as_ptr().wrapping_add(index);
        // SAFETY: as in `load_byte`.
        let byte = unsafe { AtomicU8::from_ptr(at) };
        byte.store(value, Ordering::Release);
    }

    fn assert_within(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.bytes,
            "{range:?} of {} registered bytes",
            self.bytes
        );
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: `register` made it, and it is deregistered this once.
        let answer = unsafe { (self.device.library().dereg_mr)(self.mr.as_ptr()) };
        if let Err(errno) = check(answer) {
            // The device may still write there: the mapping stays, for good.
            let (device, bytes) = (self.device.name(), self.bytes);
            tracing::warn!(device, bytes, errno, "RDMA: registered memory is lost");
            return;
        }
        // SAFETY: dropped this once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.region) };
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registered({} bytes with {})", self.bytes, self.device.name())
    }
}
