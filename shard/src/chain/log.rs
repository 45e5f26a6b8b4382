//! The log: what a successor has not said that it has, in order, to be sent again.
//!
//! Owns the entries and their numbers, how a long message is cut into pieces, the buffers, and how
//! many received messages are kept instead of a copy. What is acknowledged is left to `chain`.
//!
//! Invariant: entries are numbered without gaps; `bytes` is what they take, `kept_bytes` what of it
//! lies where it was received.

use std::collections::VecDeque;

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{FRAME_BYTES_MAX, Flags, HEADER_BYTES, Header, Kind, Seal, Time};

use super::entry::{Entry, Loan, Received, Rest};

/// What a log may take, in bytes; one operation may pass it.
pub(super) const LOG_BYTES_MAX: usize = 32 << 20;

/// Entries that a log may have: receivers tell numbers apart by 16 bits.
pub(super) const LOG_ENTRIES_MAX: usize = 1 << 14;

/// Buffers that are kept for further entries.
const SPARE_MAX: usize = 64;
/// What they may take together, in bytes: a fresh buffer costs a page fault for each 4 KiB of it.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// What received messages may take that are kept, in bytes; what is more is copied. Whoever sent
/// them has that much less room for others: half of what one connection has by default.
pub(super) const KEPT_BYTES_MAX: usize = 2 << 20;

/// What is kept for a successor.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The number of the first entry, or of the next one.
    first: u64,
    bytes: usize,
    kept_bytes: usize,
    /// The message that is handled, if it may be kept.
    loan: Option<Loan>,
    /// The entry that lacks the end of it.
    borrower: Option<u64>,
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
        Log {
            entries: VecDeque::new(),
            first: 1,
            bytes: 0,
            kept_bytes: 0,
            loan: None,
            borrower: None,
            spare: Vec::new(),
            spare_bytes: 0,
            long: Vec::new(),
            message_bytes_max,
            isa,
        }
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

    /// What of it was copied, in bytes: the rest is counted where it was received.
    pub(super) fn copied_bytes(&self) -> usize {
        self.bytes - self.kept_bytes
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
        (self.first, self.bytes, self.kept_bytes) = (first, 0, 0);
    }

    /// Takes out what fills one server: operations alone remain, and the last is `last`.
    pub(super) fn keep_operations(&mut self, last: u64) {
        self.entries.retain(|entry| entry.is_operation);
        self.bytes = self.entries.iter().map(Entry::body_bytes).sum();
        self.kept_bytes = self.entries.iter().map(Entry::kept_bytes).sum();
        self.first = last + 1 - self.entries.len() as u64;
    }

    /// This message is handled, and may be kept if what is appended lies in it.
    pub(super) fn lend(&mut self, message: &[u8]) {
        if self.kept_bytes + message.len() <= KEPT_BYTES_MAX {
            self.loan = Some(Loan::of(message));
        }
    }

    /// The message was handled.
    ///
    /// - `may_keep`: not, if it is to be handled again.
    /// - Result: the message, unless it is kept.
    pub(super) fn end_loan<M: Received + 'static>(
        &mut self,
        message: M,
        may_keep: bool,
    ) -> Option<M> {
        self.loan = None;
        let borrower = self.borrower.take();
        let Some(entry) = borrower.and_then(|number| self.get(number)) else {
            return Some(message);
        };
        if may_keep && let Some(rest) = &mut entry.rest {
            rest.message = Some(Box::new(message));
            return None;
        }
        let copied_bytes = entry.kept_bytes();
        entry.copy_rest(message.bytes());
        self.kept_bytes -= copied_bytes;
        Some(message)
    }

    /// Gives back all received messages: what they are kept for is copied.
    pub(super) fn let_go(&mut self) {
        self.entries.iter_mut().for_each(Entry::let_go);
        self.kept_bytes = self.entries.iter().map(Entry::kept_bytes).sum();
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
            self.bytes -= entry.body_bytes();
            self.kept_bytes -= entry.kept_bytes();
            if entry.is_operation {
                first_sent = entry.first_sent.or(first_sent);
            }
            let spare_bytes = self.spare_bytes + entry.copied.capacity();
            let is_full = self.spare.len() == SPARE_MAX || spare_bytes > SPARE_BYTES_MAX;
            if entry.copied.capacity() > 0 && !is_full {
                self.spare_bytes = spare_bytes;
                self.spare.push(entry.copied);
            }
        }
        first_sent
    }

    fn add(&mut self, header: Header, parts: [&[u8]; 2], part: Part) {
        let loan = self.loan.filter(|_| self.borrower.is_none());
        let borrowed = loan.and_then(|loan| loan.rest_of(parts));
        let copied = self.copy_of(&parts[..borrowed.as_ref().map_or(2, |&(count, _)| count)]);
        let rest = borrowed.map(|(_, range)| Rest { message: None, range });
        let borrows = rest.is_some();
        let is_operation = part == Part::Operation;
        let entry = Entry { header, copied, rest, is_operation, first_sent: None };
        self.bytes += entry.body_bytes();
        self.kept_bytes += entry.kept_bytes();
        self.entries.push_back(entry);
        if borrows {
            self.borrower = Some(self.last());
        }
    }

    /// Copies parts of a body.
    fn copy_of(&mut self, parts: &[&[u8]]) -> Vec<u8> {
        if parts.iter().all(|part| part.is_empty()) {
            return Vec::new();
        }
        let mut copied = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= copied.capacity();
        copied.clear();
        parts.iter().for_each(|part| copied.extend_from_slice(part));
        copied
    }
}
