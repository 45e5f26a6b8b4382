//! Memory windows: keys by which one queue pair alone may write to a part of registered memory.
//!
//! Owns a window of type 2B from made to freed. Which part it opens, and to whom, is left to the
//! holder; it is opened (*bound*) by a request of that queue pair: [`super::queue_pair`].
//!
//! A key of registered memory is good for every queue pair of its protection domain. That of a
//! window is good for the queue pair that bound it, and for none other, whoever learns it. A peer
//! may have it when the request is over, not before (InfiniBand specification 1.4, chapter 10,
//! memory windows).
//!
//! Order of ends: the queue pair is failed, so that nothing comes in by it; the window is freed,
//! bound as it is, which ends its key; then the queue pair is destroyed. Invalidating it by a
//! request would need a queue pair that works, which a lane that ends seldom has. Freed after the
//! queue pair, the key would be dead too by the specification, but soft-RoCE's windows keep their
//! queue pair, whose destruction waits for them in vain. For the same reason a window is made
//! after its queue pair: the kernel ends what a dead process left youngest first.
//!
//! Invariant: the memory outlives the window, which holds it: a device does not deregister what a
//! window is bound to.

use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use super::device::{Device, WindowCalls};
use super::error::{VerbsError, check, non_null};
use super::ffi::{self, ibv_mw, ibv_mw_bind_info};
use super::memory::Registered;

/// The part of a key that its owner chooses: the low bits. A new binding needs a new one.
const KEY_TAG_MASK: u32 = 0xFF;

/// A window over a part of registered memory. On drop it is freed, and its key is dead.
pub(crate) struct MemoryWindow {
    mw: NonNull<ibv_mw>,
    calls: WindowCalls,
    rkey: u32,
    address: u64,
    bytes: usize,
    memory: Rc<Registered>,
}

impl MemoryWindow {
    /// A window over `range`, not bound yet. The memory must be of [`Access::Windows`].
    ///
    /// - Errors: [`VerbsError::Call`]: the device has no windows, or no more of them.
    /// - Panics: if the range is not within.
    ///
    /// [`Access::Windows`]: super::memory::Access::Windows
    pub(crate) fn new(
        memory: &Rc<Registered>,
        range: Range<usize>,
    ) -> Result<MemoryWindow, VerbsError> {
        let part = memory.local(range);
        let (mw, calls) = allocate(memory.device())?;
        // SAFETY: `allocate` gave it, and nothing frees it before `drop`.
        let rkey = unsafe { (*mw.as_ptr()).rkey };
        let rkey = rkey & !KEY_TAG_MASK | rkey.wrapping_add(1) & KEY_TAG_MASK;
        let (address, bytes) = (part.address, part.bytes as usize);
        Ok(MemoryWindow { mw, calls, rkey, address, bytes, memory: Rc::clone(memory) })
    }

    /// Whether the device makes windows, by making one.
    ///
    /// Errors: [`VerbsError::Call`]: it does not.
    pub(crate) fn probe(device: &Device) -> Result<(), VerbsError> {
        let (mw, calls) = allocate(device)?;
        free(mw, calls, device);
        Ok(())
    }

    /// The key by which the peer names the part, once it is bound.
    pub(crate) fn rkey(&self) -> u32 {
        self.rkey
    }

    /// What a request to bind it names: the window, and what it opens for writing.
    pub(super) fn binding(&self) -> (NonNull<ibv_mw>, ibv_mw_bind_info) {
        let info = ibv_mw_bind_info {
            mr: self.memory.raw().as_ptr(),
            addr: self.address,
            length: self.bytes as u64,
            mw_access_flags: ffi::IBV_ACCESS_REMOTE_WRITE,
        };
        (self.mw, info)
    }
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        free(self.mw, self.calls, self.memory.device());
    }
}

fn allocate(device: &Device) -> Result<(NonNull<ibv_mw>, WindowCalls), VerbsError> {
    let failed = |errno| VerbsError::call("ibv_alloc_mw", device.name())(errno);
    let calls = device.window_calls().ok_or_else(|| failed(libc::EOPNOTSUPP))?;
    // SAFETY: the domain is alive, as the device is held, here and by the memory of each window.
    let mw = unsafe { (calls.alloc)(device.pd().as_ptr(), ffi::IBV_MW_TYPE_2) };
    Ok((non_null(mw).map_err(failed)?, calls))
}

/// Frees what `allocate` gave, the only time.
fn free(mw: NonNull<ibv_mw>, calls: WindowCalls, device: &Device) {
    // SAFETY: `allocate` gave it; `probe` and `drop`, the callers, each have it to themselves and
    // do not use it after.
    if let Err(errno) = check(unsafe { (calls.dealloc)(mw.as_ptr()) }) {
        tracing::debug!(device = device.name(), errno, "RDMA: a memory window is left over");
    }
}
