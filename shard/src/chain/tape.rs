//! Tapes: what a recording has, as whole messages, on its way to who writes it down.
//!
//! Owns how messages lie on a tape, and the bound of what waits. What they say is left to `record`.
//!
//! Invariant: tapes are taken in the order in which they were written; if a message found no room,
//! [`Tapes::is_over`] says so, and none is added behind it.

use std::collections::VecDeque;

use kernels::Isa;
use kernels::crc32c::crc32c;
use wire::{Clock, HEADER_BYTES, Header, Keyed, Kind, Seal};
use zerocopy::IntoBytes;

use super::coded::{Form, PageWriter};
use crate::table::{Page, Paper};

/// What may wait to be taken at most, in bytes; beyond it the recording ends.
pub(super) const WAITING_BYTES_MAX: usize = if cfg!(test) { 64 << 20 } else { 512 << 20 };

/// A tape is full at so many bytes, room in front included; one message may pass it.
pub const TAPE_BYTES: usize = 1 << 20;

/// Room in front of a tape's messages, for whoever writes it down, in bytes.
pub const TAPE_HEAD_BYTES: usize = 32;

/// The same in words.
const HEAD_WORDS: usize = TAPE_HEAD_BYTES / LENGTH_BYTES;

/// Bytes of a message's length on a tape.
const LENGTH_BYTES: usize = size_of::<u64>();

/// Pages that are made so are the only message of a full tape, without being copied.
pub(super) const PAPER: Paper = {
    let head_words = HEAD_WORDS + 1 + HEADER_BYTES / LENGTH_BYTES;
    Paper { head_words, bytes: TAPE_BYTES - head_words * LENGTH_BYTES }
};

/// Whole messages of a recording, in their order, each behind its length in bytes and filled up
/// with zeros to a multiple of 8; in front of the first there is room, [`TAPE_HEAD_BYTES`].
#[derive(Debug, Default)]
pub struct Tape {
    /// Lengths and messages, each at a multiple of 8 bytes; then what is left of earlier ones.
    words: Vec<u64>,
    /// Words in use, the room in front included.
    used: usize,
    count: u32,
    /// Of a page, its only message, that may be written in fewer bytes.
    form: Option<Form>,
    /// What the shard had come to.
    pub reached: Reached,
}

/// What a shard has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The slowest worker's clock; the highest there is where nobody takes part.
    pub clock: Clock,
    /// How many rows it has.
    pub rows: u64,
    /// How many operations it has applied.
    pub position: u64,
    /// Whether the recording is whole. Until then all else is what the shard had come to when its
    /// recording was asked for, and from its cut on what it had come to there.
    pub is_whole: bool,
    /// The checkpoint since which it has the changes; none: it has everything.
    pub base: Option<u64>,
    /// The order in which rows are recorded: a shard with the same one takes them in fastest.
    pub seed: u64,
}

/// The messages of a tape; see [`Tape::messages`].
#[derive(Clone, Debug)]
pub struct TapeMessages<'a> {
    rest: &'a [u8],
}

/// Tapes that are written, and those that wait to be taken.
#[derive(Debug)]
pub(super) struct Tapes {
    isa: Isa,
    /// The tape that is being written.
    current: Tape,
    full: VecDeque<Tape>,
    /// Of all tapes.
    bytes: usize,
    /// What may wait to be taken.
    bytes_max: usize,
    /// What tapes that are full from now on say.
    pub(super) reached: Reached,
    /// Whether something did not find room.
    is_over: bool,
}

impl Tape {
    /// Its messages, each at a multiple of 8 bytes.
    pub fn messages(&self) -> TapeMessages<'_> {
        TapeMessages { rest: self.words[HEAD_WORDS.min(self.used)..self.used].as_bytes() }
    }

    /// What its messages take with their lengths, in bytes.
    pub fn bytes(&self) -> usize {
        self.used.saturating_sub(HEAD_WORDS) * LENGTH_BYTES
    }

    /// How many messages it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its memory: [`TAPE_HEAD_BYTES`] of room, [`Tape::bytes`] of messages, and what nobody reads.
    pub fn into_words(self) -> Vec<u64> {
        self.words
    }

    /// Has its page, if it has one whose rows may be rounded, written as `writer` does.
    pub fn write_page(&mut self, writer: &mut PageWriter) {
        if writer.values.is_exact() {
            return;
        }
        let Some(form) = self.form.take() else { return };
        let bytes = self.words[HEAD_WORDS] as usize;
        let message = &mut self.words[HEAD_WORDS + 1..].as_mut_bytes()[..bytes];
        let (header, bytes) = writer.write(message, form);
        wire::seal(&mut message[..bytes], header, Seal::HeaderOnly, |it| crc32c(form.isa, 0, it));
        let filled = bytes.next_multiple_of(LENGTH_BYTES);
        message[bytes..filled].fill(0);
        self.words[HEAD_WORDS] = bytes as u64;
        self.used = HEAD_WORDS + 1 + filled / LENGTH_BYTES;
    }

    /// Whether a message of so many words, its length included, still belongs here.
    fn has_room(&self, words: usize) -> bool {
        self.count == 0 || (self.used + words) * LENGTH_BYTES <= TAPE_BYTES
    }

    /// Makes room for so many words: of a new tape by memory that the kernel zeroes as it is used.
    fn grow(&mut self, words: usize) {
        let words = words.max(TAPE_BYTES / LENGTH_BYTES);
        if self.words.is_empty() {
            self.words = vec![0; words];
        } else {
            self.words.resize(words, 0);
        }
    }

    /// Room for a message of so many bytes at its end.
    fn add(&mut self, bytes: usize) -> &mut [u8] {
        let begin = self.used.max(HEAD_WORDS);
        let end = begin + 1 + bytes.div_ceil(LENGTH_BYTES);
        if end > self.words.len() {
            self.grow(end);
        }
        self.words[end - 1] = 0; // What fills the message up.
        self.words[begin] = bytes as u64;
        (self.used, self.count) = (end, self.count + 1);
        &mut self.words[begin + 1..end].as_mut_bytes()[..bytes]
    }
}

impl<'a> Iterator for TapeMessages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<LENGTH_BYTES>()?;
        let bytes = u64::from_ne_bytes(*length) as usize;
        let (message, rest) = rest.split_at(bytes.next_multiple_of(LENGTH_BYTES));
        self.rest = rest;
        Some(&message[..bytes])
    }
}

impl Tapes {
    /// One without messages waits, which says what the shard had come to.
    pub(super) fn new(isa: Isa, reached: Reached) -> Tapes {
        Tapes {
            isa,
            current: Tape::default(),
            full: VecDeque::from([Tape { reached, ..Tape::default() }]),
            bytes: 0,
            bytes_max: WAITING_BYTES_MAX,
            reached,
            is_over: false,
        }
    }

    /// Says what the shard has come to, by a tape without messages: one, however often this is
    /// asked before it is taken.
    pub(super) fn tell(&mut self, reached: Reached) {
        match self.full.back_mut().filter(|last| last.count == 0) {
            Some(last) => last.reached = reached,
            None => self.full.push_back(Tape { reached, ..Tape::default() }),
        }
    }

    /// What waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What may wait, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// From now on no more than so many bytes may wait, and never more than
    /// [`WAITING_BYTES_MAX`]. What waits already is kept.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.min(WAITING_BYTES_MAX);
    }

    /// Whether something is missing that there was no room for.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Adds a page of [`PAPER`], whose body it is, if there is room.
    ///
    /// - `roundable`: numbers that a row begins with and that may be rounded.
    pub(super) fn append_page(&mut self, header: Header, page: Page, roundable: usize) {
        let (mut words, used) = page.into_words();
        let bytes = (used - HEAD_WORDS) * LENGTH_BYTES;
        if !self.has_room(bytes) {
            return;
        }
        self.close();
        let body_bytes = Keyed::message_bytes(header.keys as usize, header.width.into());
        words[HEAD_WORDS] = body_bytes as u64;
        let message = &mut words[HEAD_WORDS + 1..].as_mut_bytes()[..body_bytes];
        wire::seal(message, header, Seal::HeaderOnly, |bytes| crc32c(self.isa, 0, bytes));
        let form = (roundable > 0).then_some(Form { isa: self.isa, roundable });
        self.full.push_back(Tape { words, used, count: 1, form, reached: self.reached });
        self.bytes += bytes;
    }

    /// Whether there is room for so many bytes; if not, that is kept in mind.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.is_over |= self.bytes + bytes > self.bytes_max;
        !self.is_over
    }

    /// Adds a whole message, if there is room.
    pub(super) fn append(&mut self, header: Header, body: [&[u8]; 2]) {
        let header = Header { flags: 0, body_crc: 0, credit: 0, ..header };
        let bytes = HEADER_BYTES + body[0].len() + body[1].len();
        let words = 1 + bytes.div_ceil(LENGTH_BYTES);
        if !self.has_room(words * LENGTH_BYTES) {
            return;
        }
        if !self.current.has_room(words) {
            self.close();
        }
        let message = self.current.add(bytes);
        let (first, second) = message[HEADER_BYTES..].split_at_mut(body[0].len());
        first.copy_from_slice(body[0]);
        second.copy_from_slice(body[1]);
        let isa = self.isa;
        wire::seal(message, header, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
        self.bytes += words * LENGTH_BYTES;
    }

    /// The tape that is being written is full, as far as there is anything on it.
    fn close(&mut self) {
        if self.current.count > 0 {
            let full = std::mem::take(&mut self.current);
            self.full.push_back(Tape { reached: self.reached, ..full });
        }
    }

    /// The next one that is full; the last one once the recording is whole.
    pub(super) fn take(&mut self) -> Option<Tape> {
        if self.full.is_empty() && self.reached.is_whole {
            self.close();
        }
        let tape = self.full.pop_front();
        self.bytes -= tape.as_ref().map_or(0, Tape::bytes);
        tape
    }

    /// There was no room for this one: it is the next one again.
    pub(super) fn untake(&mut self, tape: Tape) {
        self.bytes += tape.bytes();
        self.full.push_front(tape);
    }
}

/// Names of the tables and of their rules, if this is the message that a recording begins with.
pub fn tables_of_state(message: &[u8]) -> Option<Vec<(String, String)>> {
    let is_state = message.get(..HEADER_BYTES).is_some_and(|head| {
        let header = head.first_chunk().map(Header::peek);
        matches!(header, Some(Ok(header)) if header.kind() == Kind::State)
    });
    is_state.then(|| super::state::tables_of(&message[HEADER_BYTES..]))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shard_has_come_to_waits_once_however_often_it_is_asked() {
        let reached = |position| Reached { position, ..Reached::default() };
        let mut tapes = Tapes::new(Isa::detect(), reached(1));
        (2..9).for_each(|position| tapes.tell(reached(position)));
        assert_eq!(tapes.take().map(|tape| tape.reached.position), Some(8));
        assert!(tapes.take().is_none());
        tapes.tell(reached(9));
        assert_eq!(tapes.take().map(|tape| (tape.reached.position, tape.count())), Some((9, 0)));
    }
}
