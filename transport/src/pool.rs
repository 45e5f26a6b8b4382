//! Slots from pools of a few sizes, which find their way back when they are dropped.
//!
//! Owns the free slots of one transport. Who fills them is left to the back ends.

/// A slot of some pool.
#[derive(Debug)]
pub(crate) struct PoolSlot(Vec<u8>);

impl PoolSlot {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
