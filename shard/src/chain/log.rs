//! The log: what a successor has not said that it has, in order, to be sent again.
//!
//! Owns the entries and their numbers, how a long message is cut into pieces, and the buffers. What
//! is acknowledged is left to `chain`.
//!
//! Invariant: entries are numbered without gaps; `bytes` is what they take.

use std::collections::VecDeque;

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{FRAME_BYTES_MAX, Flags, HEADER_BYTES, Header, Kind, Seal, Time};
use zerocopy::IntoBytes;

/// What a log may take, in bytes; one operation may pass it.
pub(super) const LOG_BYTES_MAX: usize = 32 << 20;

/// Entries that a log may have: receivers tell numbers apart by 16 bits.
pub(super) const LOG_ENTRIES_MAX: usize = 1 << 14;

/// Buffers that are kept for further entries.
const SPARE_MAX: usize = 64;
/// What they may take together, in bytes: a fresh buffer costs a page fault for each 4 KiB of it.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// A message to a successor.
#[derive(Debug)]
pub(super) struct Entry {
    header: Header,
    body: Vec<u8>,
    /// Whether it is, or is a piece of, an operation.
    pub(super) is_operation: bool,
    /// When it was first sent.
    pub(super) first_sent: Option<Time>,
}

/// What is kept for a successor.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The number of the first entry, or of the next one.
    first: u64,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    /// A message that is cut into pieces.
    long: Vec<u8>,
    message_bytes_max: usize,
    isa: Isa,
}

/// Whether an entry belongs to the order that all servers of a chain share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is an operation.
    Operation,
    /// It fills one server.
    Fill,
}

impl Log {
    /// An empty log whose first entry has the number 1.
    ///
    /// - `message_bytes_max`: the longest message that any server of the chain takes.
    pub(super) fn new(isa: Isa, message_bytes_max: usize) -> Log {
        let (entries, spare, long) = Default::default();
        let (first, bytes, spare_bytes) = (1, 0, 0);
        Log { entries, first, bytes, spare, spare_bytes, long, message_bytes_max, isa }
    }

    /// The number of the first entry, or of the next one.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the last entry, or of the one before the first.
    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= LOG_BYTES_MAX || self.entries.len() >= LOG_ENTRIES_MAX
    }

    /// The entry of this number.
    pub(super) fn get(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    /// Forgets all; the next entry has this number.
    pub(super) fn restart(&mut self, first: u64) {
        self.entries.clear();
        (self.first, self.bytes) = (first, 0);
    }

    /// Takes out what fills one server: operations alone remain, and the last is `last`.
    pub(super) fn keep_operations(&mut self, last: u64) {
        self.entries.retain(|entry| entry.is_operation);
        self.bytes = self.entries.iter().map(|entry| entry.body.len()).sum();
        self.first = last + 1 - self.entries.len() as u64;
    }

    /// Adds a message, in pieces if it is longer than a message may be. How many entries it is.
    pub(super) fn append(&mut self, header: Header, body: [&[u8]; 2], part: Part) -> u64 {
        // Of flags the tick alone is the message's own; the others are its way's.
        let tick = if header.flags().has(Flags::TICK) { Flags::TICK } else { Flags::NONE };
        let header = Header { flags: tick.get(), body_crc: 0, credit: 0, ..header };
        let bytes = body[0].len() + body[1].len();
        if HEADER_BYTES + bytes <= self.message_bytes_max {
            self.add(header, body, part);
            return 1;
        }
        assert!(HEADER_BYTES + bytes <= FRAME_BYTES_MAX, "`wire` bounds what a message stands for");
        let mut long = std::mem::take(&mut self.long);
        long.clear();
        long.resize(HEADER_BYTES, 0);
        long.extend_from_slice(body[0]);
        long.extend_from_slice(body[1]);
        let isa = self.isa;
        wire::seal(&mut long, header, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
        let piece_bytes = (self.message_bytes_max - HEADER_BYTES) / 8 * 8;
        let pieces = long.len().div_ceil(piece_bytes);
        for (number, piece) in long.chunks(piece_bytes).enumerate() {
            let more = if number + 1 < pieces { Flags::MORE } else { Flags::NONE };
            let continues = if number > 0 { Flags::CONTINUES } else { Flags::NONE };
            let flags = more.with(continues).get();
            self.add(Header { flags, ..Header::new(Kind::Part) }, [piece, &[]], part);
        }
        self.long = long;
        pieces as u64
    }

    /// Adds an entry as a predecessor sent it.
    pub(super) fn copy(&mut self, header: Header, body: &[u8]) {
        let own = [Flags::TICK, Flags::MORE, Flags::CONTINUES];
        let flags = own.into_iter().filter(|&flag| header.flags().has(flag));
        let flags = flags.fold(Flags::NONE, Flags::with).get();
        self.add(Header { flags, body_crc: 0, ..header }, [body, &[]], Part::Operation);
    }

    /// Takes out the entries up to this number. The last operation among them was first sent then.
    pub(super) fn received(&mut self, upto: u64) -> Option<Time> {
        let mut first_sent = None;
        while self.first <= upto
            && let Some(entry) = self.entries.pop_front()
        {
            self.first += 1;
            self.bytes -= entry.body.len();
            if entry.is_operation {
                first_sent = entry.first_sent.or(first_sent);
            }
            let spare_bytes = self.spare_bytes + entry.body.capacity();
            if self.spare.len() < SPARE_MAX && spare_bytes <= SPARE_BYTES_MAX {
                self.spare_bytes = spare_bytes;
                self.spare.push(entry.body);
            }
        }
        first_sent
    }

    fn add(&mut self, header: Header, parts: [&[u8]; 2], part: Part) {
        let mut body = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= body.capacity();
        body.clear();
        body.extend_from_slice(parts[0]);
        body.extend_from_slice(parts[1]);
        self.bytes += body.len();
        let is_operation = part == Part::Operation;
        self.entries.push_back(Entry { header, body, is_operation, first_sent: None });
    }
}

impl Entry {
    /// Length of its message in bytes.
    pub(super) fn message_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Writes its message, by a number of the link's.
    pub(super) fn write(&self, out: &mut [u8], number: u64, epoch: u64, seal: Seal, isa: Isa) {
        out[HEADER_BYTES..].copy_from_slice(self.body.as_bytes());
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
