//! Frames: a message's bytes on the heap, 64-byte aligned, charged to an account while they live.
//!
//! Owns the alignment and the accounts. How much an account may hold is left to the endpoint.
//!
//! Invariant: an account's sum is that of its charges alive; dropping a frame is all that paying
//! back takes.

use std::cell::Cell;
use std::rc::Rc;

/// Where every frame starts, in bytes.
const ALIGN_BYTES: usize = 64;

/// What an acquired frame is filled with, so that whoever relies on zeros is found.
const STALE: u8 = 0xDB;

/// Bytes that begin at a multiple of [`ALIGN_BYTES`].
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    first: usize,
    bytes: usize,
}

/// A sum of bytes that several hold parts of.
#[derive(Clone, Debug, Default)]
pub(super) struct Account(Rc<Cell<usize>>);

/// A part of an account's sum, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Account,
    bytes: usize,
}

/// A message to be.
#[derive(Debug)]
pub(crate) struct SendFrame {
    pub(super) buffer: Buffer,
    pub(super) charge: Charge,
    /// Which place in the outbox waits for it.
    pub(super) place: u64,
    /// The outbox holds a weak one: when this is gone, so is the slot.
    pub(super) _alive: Rc<()>,
}

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct RecvFrame {
    pub(super) buffer: Buffer,
    /// What its reader owes until it is dropped.
    pub(super) _held: Charge,
}

impl SendFrame {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }
}

impl RecvFrame {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }
}

impl Buffer {
    /// A buffer of `bytes` bytes full of junk.
    pub(super) fn stale(bytes: usize) -> Buffer {
        let memory = vec![STALE; bytes + ALIGN_BYTES - 1];
        // The heap block stays where it is when the `Vec` moves, and nothing here grows it.
        let first = memory.as_ptr().addr().wrapping_neg() % ALIGN_BYTES;
        Buffer { memory, first, bytes }
    }

    /// A buffer with a copy of `source`.
    pub(super) fn copied(source: &[u8]) -> Buffer {
        let mut buffer = Buffer::stale(source.len());
        buffer.bytes_mut().copy_from_slice(source);
        buffer
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.first..][..self.bytes]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.first..][..self.bytes]
    }

    /// Cuts it to its first `bytes` bytes, which must not be more than it has.
    pub(super) fn truncate(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "cut {} bytes to {bytes}", self.bytes);
        self.bytes = bytes;
    }
}

impl Account {
    /// The sum of the charges alive, in bytes.
    pub(super) fn sum_bytes(&self) -> usize {
        self.0.get()
    }

    /// Whether `bytes` more fit under `bytes_max`. One charge always fits an empty account, so
    /// that a bound below the longest message slows and never stops.
    pub(super) fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        let sum_bytes = self.sum_bytes();
        sum_bytes == 0 || sum_bytes.saturating_add(bytes) <= bytes_max
    }

    /// Adds a charge.
    pub(super) fn charge(&self, bytes: usize) -> Charge {
        self.0.set(self.0.get() + bytes);
        Charge { account: self.clone(), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Account(sum) = &self.account;
        sum.set(sum.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_begins_at_a_multiple_of_64_and_stays_there_when_moved() {
        for bytes in [0, 1, 63, 64, 65, 4096, 1 << 20] {
            let buffer = Buffer::stale(bytes);
            let address = buffer.bytes().as_ptr().addr();
            assert!(address.is_multiple_of(ALIGN_BYTES), "{bytes} bytes at {address:#x}");
            assert_eq!(buffer.bytes().len(), bytes);
            let moved = Box::new(buffer);
            assert_eq!(moved.bytes().as_ptr().addr(), address);
        }
    }

    #[test]
    fn an_account_is_the_sum_of_the_charges_alive() {
        let account = Account::default();
        let first = account.charge(100);
        let second = account.charge(28);
        assert_eq!(account.sum_bytes(), 128);
        assert!(!account.has_room(1, 128));
        drop(first);
        assert_eq!(account.sum_bytes(), 28);
        drop(second);
        assert!(account.has_room(1000, 128), "an empty account takes one charge of any size");
    }
}
