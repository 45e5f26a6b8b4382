//! Registered memory: bytes that a device reads and writes by itself.

use std::ops::Range;

use super::device::Device;
use super::error::VerbsError;

/// What may be done to registered memory besides by this device's own queue pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: this side's requests read it and fill it.
    Local,
    /// Whoever has the rkey and a queue pair of this device's may write it.
    RemoteWrite,
    /// ... and read it.
    RemoteReadWrite,
}

/// A part of registered memory, as a work request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    address: u64,
    bytes: u32,
    lkey: u32,
}

/// Registered memory, zeros at first. Deregistered, then unmapped on drop, whatever is under way:
/// requests that name it then fail.
pub(crate) struct Registered {
    device: Device,
}

impl Registered {
    /// Maps and registers `bytes`.
    pub(crate) fn register(
        device: &Device,
        bytes: usize,
        access: Access,
    ) -> Result<Registered, VerbsError> {
        let _ = (device, bytes, access);
        Err(VerbsError::Unwritten("Registered::register"))
    }

    /// Size, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        0
    }

    /// Address of the first byte, as a peer names it.
    pub(crate) fn address(&self) -> u64 {
        0
    }

    /// The key that a peer names this memory by.
    pub(crate) fn rkey(&self) -> u32 {
        0
    }

    /// The key that this side's requests name it by.
    pub(crate) fn lkey(&self) -> u32 {
        0
    }

    /// A part of it, for a work request. Panics: if it is not within.
    pub(crate) fn local(&self, range: Range<usize>) -> Local {
        let _ = (range, &self.device);
        Local { address: 0, bytes: 0, lkey: 0 }
    }

    /// The bytes at `range`. Panics: if it is not within.
    ///
    /// # Safety
    /// While the slice lives, nobody writes there: no other slice, no request of this side, and no
    /// peer, by what the protocol with it allows.
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &[u8] {
        let _ = range;
        &[]
    }

    /// The bytes at `range`, to write. Panics: if it is not within.
    ///
    /// # Safety
    /// As for [`Registered::slice`], and nobody reads there either but a device.
    #[expect(clippy::mut_from_ref, reason = "parts have owners of their own: the caller's promise")]
    pub(crate) unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [u8] {
        let _ = range;
        &mut []
    }
}
