//! Memory that rows, index lines and messages lie in: aligned, zero-filled, on huge pages.
//!
//! Owns every mapping the data path uses. What the bytes mean is left to `shard` and `wire`;
//! memory that a second process also maps is left to `transport`.
//!
//! Invariant: a byte has one owner at a time, and it is the owner's borrow that a slice lives by.
//! Nothing here moves or copies what a caller stored.
//!
//! Unsafe home 1 of 3. Linux only.

mod ahead;
mod arena;
mod map;
mod placement;
mod region;
mod slots;

pub use ahead::{First, start_filling};
pub use arena::{Arena, GrowError};
pub use map::{HUGE_PAGE_BYTES, MapError, PAGE_BYTES};
pub use placement::{Locality, Pages, own_node};
pub use region::Region;
pub use slots::{SLOT_ALIGN_BYTES, Slot, SlotPool};
