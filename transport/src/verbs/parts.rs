//! Parts of registered memory: cut off large regions one after the other, each with one owner.
//!
//! Owns the regions of one device and one access, of which there are few however many peers there
//! are: a device's table of regions is small and registering is slow, so each further one is
//! several times as large. What lies in a part is left to its owner.
//!
//! Invariant: no two parts of an arena share a byte. `Arena::take` gives each byte out once, and
//! `Part::cut` uses the part up; a part does not come back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use memory::SLOT_ALIGN_BYTES;

use super::device::Device;
use super::error::VerbsError;
use super::memory::{Access, Local, Registered};
use super::window::MemoryWindow;

/// Regions of one arena. A core has two arenas for a device, one to send from and one for rings.
pub(super) const REGIONS_MAX: usize = 4;
/// From one region to the next.
const GROWTH_FACTOR: usize = 4;
/// Parts begin at multiples of this, in bytes.
const PART_ALIGN_BYTES: usize = SLOT_ALIGN_BYTES;

/// Registered regions that parts are cut off.
pub(crate) struct Arena {
    device: Device,
    access: Access,
    first_bytes: usize,
    regions: RefCell<Vec<Rc<Registered>>>,
    /// Of the newest region.
    used_bytes: Cell<usize>,
}

/// Some bytes of a registered region, owned; zeros at first. They stay registered and mapped while
/// it lives.
pub(crate) struct Part {
    region: Rc<Registered>,
    access: Access,
    offset: usize,
    bytes: usize,
}

impl Arena {
    /// No region yet; the first has `first_bytes`.
    pub(super) fn new(device: &Device, access: Access, first_bytes: usize) -> Arena {
        Arena {
            device: device.clone(),
            access,
            first_bytes,
            regions: RefCell::new(Vec::with_capacity(REGIONS_MAX)),
            used_bytes: Cell::new(0),
        }
    }

    /// How many regions there are; at most [`REGIONS_MAX`].
    pub(super) fn regions_count(&self) -> usize {
        self.regions.borrow().len()
    }

    /// A part of `bytes`, rounded up to whole cache lines.
    ///
    /// Errors: the device takes no more memory, or it is the last region and full.
    pub(crate) fn take(&self, bytes: usize) -> Result<Part, VerbsError> {
        let bytes = bytes.next_multiple_of(PART_ALIGN_BYTES);
        let mut regions = self.regions.borrow_mut();
        let left_bytes = regions.last().map_or(0, |region| region.bytes() - self.used_bytes.get());
        if left_bytes < bytes {
            if regions.len() == REGIONS_MAX {
                return Err(self.used_up());
            }
            let region = self.register(regions.last().map(|region| region.bytes()), bytes)?;
            regions.push(Rc::new(region));
            self.used_bytes.set(0);
        }
        let region = Rc::clone(regions.last().expect("it was just looked at or pushed"));
        let offset = self.used_bytes.get();
        self.used_bytes.set(offset + bytes);
        Ok(Part { region, access: self.access, offset, bytes })
    }

    /// A further region, at least `bytes` long; no longer than that if memory is scarce.
    fn register(&self, last_bytes: Option<usize>, bytes: usize) -> Result<Registered, VerbsError> {
        let wanted = last_bytes.map_or(self.first_bytes, |last| last * GROWTH_FACTOR);
        if wanted > bytes
            && let Ok(region) = Registered::register(&self.device, wanted, self.access)
        {
            return Ok(region);
        }
        Registered::register(&self.device, bytes, self.access)
    }

    fn used_up(&self) -> VerbsError {
        VerbsError::Limit {
            what: "registered regions of an arena",
            device: self.device.name().to_owned(),
            wanted: REGIONS_MAX as u32 + 1,
            limit: REGIONS_MAX as u32,
        }
    }
}

impl Part {
    /// Length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Address of its first byte, as a peer names it.
    pub(super) fn address(&self) -> u64 {
        self.region.address() + self.offset as u64
    }

    /// The key that a peer names its region by.
    pub(super) fn rkey(&self) -> u32 {
        self.region.rkey()
    }

    /// A window over all of it, which opens it to one queue pair.
    ///
    /// - Errors: as [`MemoryWindow::new`].
    /// - Panics: if peers may not write here, or by the region's key.
    pub(super) fn window(&self) -> Result<MemoryWindow, VerbsError> {
        assert_eq!(self.access, Access::Windows, "what is written through windows alone");
        MemoryWindow::new(&self.region, self.offset..self.offset + self.bytes)
    }

    /// What peers may do here.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Its first `bytes` bytes, for a work request.
    pub(crate) fn local(&self, bytes: usize) -> Local {
        assert!(bytes <= self.bytes, "{bytes} of {} bytes", self.bytes);
        self.region.local(self.offset..self.offset + bytes)
    }

    /// Cuts it into parts of `bytes` each; what is left over is lost.
    ///
    /// Panics: if `bytes` is no multiple of a cache line.
    pub(crate) fn cut(self, bytes: usize) -> impl Iterator<Item = Part> {
        assert!(bytes.is_multiple_of(PART_ALIGN_BYTES));
        (0..self.bytes / bytes).map(move |index| Part {
            region: Rc::clone(&self.region),
            access: self.access,
            offset: self.offset + index * bytes,
            bytes,
        })
    }

    /// All its bytes. Panics: if peers may write them.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.assert_own();
        // SAFETY: nobody else's, by the invariant above, and `&self` keeps `bytes_mut` away; no
        // peer's, since the region is registered for local access, as asserted; no request's of
        // this side, as none of ours fills memory: lanes only write from it.
        unsafe { self.region.slice(self.offset..self.offset + self.bytes) }
    }

    /// All its bytes, to write. Panics: if peers may write them too.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.assert_own();
        // SAFETY: as in `bytes`, and `&mut self` on the only part of these bytes. A device may
        // still read them for a request whose message the peer has already: what it sends again
        // then is thrown away there, by its packet numbers.
        unsafe { self.region.slice_mut(self.offset..self.offset + self.bytes) }
    }

    /// Bytes that a peer may write.
    ///
    /// # Safety
    /// The peer writes nothing there while the slice lives, by what the protocol with it allows.
    pub(super) unsafe fn written_by_peer(&self, offset: usize, bytes: usize) -> &[u8] {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset);
        let start = self.offset + offset;
        // SAFETY: no slice to write is made of it, since `bytes_mut` asserts that no peer may
        // write; the peer is this function's caller's promise.
        unsafe { self.region.slice(start..start + bytes) }
    }

    fn assert_own(&self) {
        assert_eq!(self.access, Access::Local, "bytes that peers may write have no owner here");
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} at {})", self.bytes, self.offset)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({:?})", self.access)
    }
}
