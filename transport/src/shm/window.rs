//! Which records of a ring this end holds, as this end alone knows it.
//!
//! Owns the private list of records from the oldest still in use to the newest. What the peer can
//! write is left to `ring`: nothing here lies in shared memory, so no peer can make two records
//! that overlap.
//!
//! Invariant: the records of a window follow one another from `first` to `end` without a gap, and
//! `end - first` plus room for the next header is at most the size of the ring.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Records start at a multiple of this, so do their messages: one cache line, in bytes.
pub(super) const RECORD_ALIGN_BYTES: usize = 64;

/// Size of a record's header, in bytes.
pub(super) const HEAD_BYTES: usize = RECORD_ALIGN_BYTES;

/// Most records of one ring that are in use at a time, fillers and skipped ones included.
pub(super) const RECORDS_MAX: usize = 4096;

/// In a span: its record's owner is done with it. Spans are multiples of 64, so the bit is free.
const SETTLED: u32 = 1;

/// What a window shares with the slots over its records: each says here that it is done.
pub(super) struct Spans(Box<[AtomicU32]>);

impl Spans {
    /// The owner of record `index`, of `span_bytes`, touches its bytes no more.
    pub(super) fn settle(&self, index: usize, span_bytes: usize) {
        // A store, since the record's only owner says it: nobody else writes this entry until then.
        self.0[index].store(span_bytes as u32 | SETTLED, Ordering::Release);
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spans").field(&self.0.len()).finish()
    }
}

/// The oldest record of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oldest {
    /// There is no record.
    None,
    /// Its owner still has it.
    InUse,
    /// Its owner is done with it.
    Settled,
}

/// The records in use, in the order of their positions. A position counts bytes since the start
/// of the first lap.
#[derive(Debug)]
pub(super) struct Window {
    spans: Arc<Spans>,
    ring_bytes: u64,
    first: u64,
    end: u64,
    first_count: usize,
    end_count: usize,
}

impl Window {
    /// No record yet, in a ring of so many bytes.
    pub(super) fn new(ring_bytes: usize) -> Window {
        let spans = (0..RECORDS_MAX).map(|_| AtomicU32::new(0)).collect();
        Window {
            spans: Arc::new(Spans(spans)),
            ring_bytes: ring_bytes as u64,
            first: 0,
            end: 0,
            first_count: 0,
            end_count: 0,
        }
    }

    /// For the slots over the records.
    pub(super) fn spans(&self) -> Arc<Spans> {
        Arc::clone(&self.spans)
    }

    /// Position of the oldest record.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Position of the next record.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// From the oldest record to the end of the newest, in bytes.
    pub(super) fn bytes(&self) -> usize {
        (self.end - self.first) as usize
    }

    /// Whether `records` more, of `bytes` together, lie in the ring beside those in use, with the
    /// header after them.
    pub(super) fn fits(&self, records: usize, bytes: usize) -> bool {
        let bytes_after = self.bytes() + bytes + HEAD_BYTES;
        let records_after = self.end_count - self.first_count + records;
        bytes_after as u64 <= self.ring_bytes && records_after <= RECORDS_MAX
    }

    /// Adds a record of `span_bytes`, header included. Its position and its index.
    ///
    /// Panics: if it does not fit, or its length is no multiple of [`RECORD_ALIGN_BYTES`].
    pub(super) fn push(&mut self, span_bytes: usize) -> (u64, usize) {
        assert!(span_bytes.is_multiple_of(RECORD_ALIGN_BYTES) && self.fits(1, span_bytes));
        let (position, index) = (self.end, self.end_count % RECORDS_MAX);
        // Relaxed: the slot that is built after this and says `settle` goes to another thread, if
        // it does, by something that orders.
        self.spans.0[index].store(span_bytes as u32, Ordering::Relaxed);
        self.end += span_bytes as u64;
        self.end_count += 1;
        (position, index)
    }

    /// How it stands with the oldest record.
    pub(super) fn oldest(&self) -> Oldest {
        if self.first_count == self.end_count {
            return Oldest::None;
        }
        match self.oldest_span() & SETTLED {
            0 => Oldest::InUse,
            _ => Oldest::Settled,
        }
    }

    /// Forgets the oldest record.
    ///
    /// Panics: if its owner still has it.
    pub(super) fn pop(&mut self) {
        assert_eq!(self.oldest(), Oldest::Settled);
        self.first += u64::from(self.oldest_span() & !SETTLED);
        self.first_count += 1;
    }

    fn oldest_span(&self) -> u32 {
        // Acquire: with `settle`, the owner's last access comes before any use of these bytes.
        self.spans.0[self.first_count % RECORDS_MAX].load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_leave_in_order_however_they_are_settled() {
        let mut window = Window::new(4096);
        let spans = window.spans();
        let (_, one) = window.push(64);
        let (position, two) = window.push(128);
        assert_eq!(position, 64);
        spans.settle(two, 128);
        assert_eq!(window.oldest(), Oldest::InUse);
        spans.settle(one, 64);
        window.pop();
        assert_eq!((window.first(), window.oldest()), (64, Oldest::Settled));
        window.pop();
        assert_eq!((window.first(), window.bytes(), window.oldest()), (192, 0, Oldest::None));
    }

    #[test]
    fn room_for_the_next_header_is_kept() {
        let window = Window::new(4096);
        assert!(window.fits(1, 4096 - 64));
        assert!(!window.fits(1, 4096));
    }

    #[test]
    fn no_more_records_than_the_limit_are_in_use() {
        let mut window = Window::new(64 * 2 * RECORDS_MAX);
        for _ in 0..RECORDS_MAX {
            window.push(64);
        }
        assert!(!window.fits(1, 64));
        window.spans().settle(0, 64);
        window.pop();
        assert!(window.fits(1, 64));
    }
}
