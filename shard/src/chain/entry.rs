//! An entry of the log: a message to a successor, and where its bytes lie.
//!
//! Owns what of a message is copied and what stays in the message that was received, which is kept
//! then. Which entries there are is left to `log`.
//!
//! Invariant: an entry's bytes are those that were done here, as long as it lives.

use std::fmt;
use std::ops::Range;

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{HEADER_BYTES, Header, Kind, Seal, Time};

/// A message that was received, in memory that is the receiver's until this is dropped.
pub trait Received: fmt::Debug {
    /// All of it.
    fn bytes(&self) -> &[u8];
}

/// A message to a successor.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) header: Header,
    /// What was copied of the body: the beginning, or all of it.
    pub(super) copied: Vec<u8>,
    pub(super) rest: Option<Rest>,
    /// Whether it is, or is a piece of, an operation.
    pub(super) is_operation: bool,
    /// When it was first sent.
    pub(super) first_sent: Option<Time>,
}

/// The end of a body, where it was received.
#[derive(Debug)]
pub(super) struct Rest {
    /// None while it is handled.
    pub(super) message: Option<Box<dyn Received>>,
    pub(super) range: Range<usize>,
}

/// Where a message lies that is handled and may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    address: usize,
    bytes: usize,
}

impl Loan {
    pub(super) fn of(message: &[u8]) -> Loan {
        Loan { address: message.as_ptr().addr(), bytes: message.len() }
    }

    /// Which end of a body lies in the message, whole parts of it one behind the other: how many
    /// parts are to be copied, and where in the message the rest is.
    pub(super) fn rest_of(&self, parts: [&[u8]; 2]) -> Option<(usize, Range<usize>)> {
        let [first, second] = parts.map(|part| self.place(part));
        match (first, second) {
            (Some(first), Some(second)) if first.end == second.start => {
                Some((0, first.start..second.end))
            }
            (Some(first), _) if parts[1].is_empty() => Some((0, first)),
            (_, Some(second)) => Some((1, second)),
            _ => None,
        }
    }

    /// Where in the message a part lies.
    fn place(&self, part: &[u8]) -> Option<Range<usize>> {
        let start = part.as_ptr().addr().checked_sub(self.address)?;
        let end = start + part.len();
        (!part.is_empty() && end <= self.bytes).then_some(start..end)
    }
}

impl Entry {
    /// Length of its message in bytes.
    pub(super) fn message_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes()
    }

    /// Length of its body in bytes.
    pub(super) fn body_bytes(&self) -> usize {
        self.copied.len() + self.kept_bytes()
    }

    /// How much of it lies where it was received, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.range.len())
    }

    /// Copies what lies in this message: it is not kept.
    pub(super) fn copy_rest(&mut self, message: &[u8]) {
        if let Some(rest) = self.rest.take() {
            self.copied.extend_from_slice(&message[rest.range]);
        }
    }

    /// Keeps no message any more.
    pub(super) fn let_go(&mut self) {
        let kept = self.rest.as_mut().and_then(|rest| rest.message.take());
        if let Some(message) = kept {
            self.copy_rest(message.bytes());
        }
    }

    /// Writes its message, by a number of the link's.
    pub(super) fn write(&self, out: &mut [u8], number: u64, epoch: u64, seal: Seal, isa: Isa) {
        let (copied, rest) = out[HEADER_BYTES..].split_at_mut(self.copied.len());
        copied.copy_from_slice(&self.copied);
        if let Some(Rest { message, range }) = &self.rest {
            let message = message.as_ref().expect("nothing is sent while a message is handled");
            rest.copy_from_slice(&message.bytes()[range.clone()]);
        }
        let mut header = Header { epoch, credit: number as u16, ..self.header };
        if is_of_chains(header.kind()) {
            header.sequence = number;
        }
        wire::seal(out, header, seal, |bytes| crc32c(isa, 0, bytes));
    }
}

/// Whether messages of this kind are between servers alone, and have their number in `sequence`.
pub(super) fn is_of_chains(kind: Kind) -> bool {
    use Kind::{Counts, Filled, Nothing, Page, Part, State};
    matches!(kind, Nothing | State | Page | Counts | Filled | Part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_body_are_found_in_their_message_and_nowhere_else() {
        let (message, other) = ([0; 64], [0; 64]);
        let loan = Loan::of(&message);
        let body = &message[24..];
        assert_eq!(loan.rest_of([body, &[]]), Some((0, 24..64)), "all of it");
        assert_eq!(loan.rest_of([&body[..16], &body[16..]]), Some((0, 24..64)), "in two parts");
        assert_eq!(loan.rest_of([&other, &body[8..]]), Some((1, 32..64)), "the second");
        let apart = loan.rest_of([&body[..8], &body[16..]]);
        assert_eq!(apart, Some((1, 40..64)), "the second, with something between them");
        assert_eq!(loan.rest_of([&body[..8], &other]), None, "the end lies elsewhere");
        assert_eq!(loan.rest_of([&other, &[]]), None);
        assert_eq!(loan.rest_of([&[], &[]]), None);
    }
}
