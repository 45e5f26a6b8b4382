//! Blocks: some 4 MiB of whole messages, with a checksum.
//!
//! Owns a block's bytes, in memory and in a part: sum 0..16, index 16..24, payload bytes 24..28,
//! messages 28..32, then the payload, little-endian. A message stands there behind its length
//! of 8 bytes and is filled up with zeros to a multiple of 8. The sum covers all behind it,
//! seeded by the sum of the part's header: a block is good in its own part, at its own place.
//!
//! Invariant: messages begin at multiples of 8 bytes, in a part and in memory, so that they are
//! read in place.

use wire::FRAME_BYTES_MAX;
use zerocopy::IntoBytes;

use crate::error::Broken;
use crate::part::array;
use crate::sum::Sum;

/// Payload at which a block is closed, in bytes: long enough for a disk to run at its full rate,
/// short enough for a damage to be told from a place.
pub const BLOCK_BYTES: usize = 4 << 20;

/// Bytes of a block's header, which stand before its payload.
pub const BLOCK_HEAD_BYTES: usize = 32;

/// The longest payload, in bytes: one message of the longest.
pub(crate) const BLOCK_BYTES_MAX: usize = FRAME_BYTES_MAX + LENGTH_BYTES;

const LENGTH_BYTES: usize = 8;
const WORD_BYTES: usize = size_of::<u64>();

/// A block in memory.
#[derive(Debug, Default)]
pub struct Block {
    /// Header and payload; what lies behind `bytes` is of earlier blocks.
    words: Vec<u64>,
    /// Length of header and payload.
    bytes: usize,
}

impl Block {
    /// A block of messages that stand in memory as they do in a payload.
    ///
    /// - `words`: [`BLOCK_HEAD_BYTES`] of any content, `payload_bytes` of messages, each behind its
    ///   length in 8 bytes and filled up with zeros to a multiple of 8; what follows is not read.
    /// - `messages`: how many there are.
    /// - Panics: if `words` is shorter than that, or no payload is that long.
    pub fn of(words: Vec<u64>, payload_bytes: usize, messages: u32) -> Block {
        let bytes = BLOCK_HEAD_BYTES + payload_bytes;
        assert!(payload_bytes <= BLOCK_BYTES_MAX && payload_bytes.is_multiple_of(WORD_BYTES));
        assert!(bytes <= words.len() * WORD_BYTES, "{bytes} bytes of {} words", words.len());
        let mut block = Block { words, bytes };
        block.as_mut_bytes()[..BLOCK_HEAD_BYTES].fill(0);
        block.as_mut_bytes()[28..BLOCK_HEAD_BYTES].copy_from_slice(&messages.to_le_bytes());
        block
    }

    /// Its memory, to be used for something else.
    pub fn into_words(self) -> Vec<u64> {
        self.words
    }

    /// Its messages, in the order in which they were appended.
    pub fn messages(&self) -> Messages<'_> {
        Messages { rest: self.payload() }
    }

    /// Bytes of all messages with their lengths.
    pub fn payload_bytes(&self) -> usize {
        self.bytes.saturating_sub(BLOCK_HEAD_BYTES)
    }

    /// Makes it an empty one.
    pub(crate) fn clear(&mut self) {
        self.resize(BLOCK_HEAD_BYTES);
        self.as_mut_bytes().fill(0);
    }

    /// Whether a message of this length still belongs here.
    pub(crate) fn has_room(&self, message_bytes: usize) -> bool {
        let payload_bytes = self.payload_bytes();
        payload_bytes == 0 || payload_bytes + space(message_bytes) <= BLOCK_BYTES
    }

    /// Appends a message, of [`FRAME_BYTES_MAX`] bytes at most.
    pub(crate) fn push(&mut self, message: &[u8]) {
        let begin = self.bytes;
        self.resize(begin + space(message.len()));
        let place = &mut self.as_mut_bytes()[begin..];
        let (length, place) = place.split_at_mut(LENGTH_BYTES);
        length.copy_from_slice(&(message.len() as u64).to_le_bytes());
        let (place, padding) = place.split_at_mut(message.len());
        place.copy_from_slice(message);
        padding.fill(0);
        let messages = self.message_count() + 1;
        self.as_mut_bytes()[28..BLOCK_HEAD_BYTES].copy_from_slice(&messages.to_le_bytes());
    }

    /// Completes the header. Returns the sum.
    pub(crate) fn seal(&mut self, head: Sum, index: u64) -> Sum {
        let payload_bytes = self.payload_bytes() as u32;
        let bytes = self.as_mut_bytes();
        bytes[16..24].copy_from_slice(&index.to_le_bytes());
        bytes[24..28].copy_from_slice(&payload_bytes.to_le_bytes());
        let sum = Sum::within(head, &bytes[Sum::BYTES..]);
        bytes[..Sum::BYTES].copy_from_slice(&sum.to_bytes());
        sum
    }

    /// Makes room for a block whose header is `head`, of which the payload is to be read.
    ///
    /// - Returns the place of the payload, or nothing if there are no blocks of that length.
    pub(crate) fn begin_read(&mut self, head: &[u8; BLOCK_HEAD_BYTES]) -> Option<&mut [u8]> {
        let payload_bytes = u32::from_le_bytes(array(&head[24..28])) as usize;
        if payload_bytes > BLOCK_BYTES_MAX || !payload_bytes.is_multiple_of(WORD_BYTES) {
            return None;
        }
        self.resize(BLOCK_HEAD_BYTES + payload_bytes);
        let (place, payload) = self.as_mut_bytes().split_at_mut(BLOCK_HEAD_BYTES);
        place.copy_from_slice(head);
        Some(payload)
    }

    /// Checks what was read as block `index` of the part `head`, from `offset` of `object` on.
    /// Returns its sum.
    pub(crate) fn check(
        &self,
        head: Sum,
        index: u64,
        offset: u64,
        object: impl Fn() -> String,
    ) -> Result<Sum, Broken> {
        let bytes = self.as_bytes();
        let promised = Sum::from_bytes(array(bytes));
        let computed = Sum::within(head, &bytes[Sum::BYTES..]);
        if promised != computed {
            let bytes = self.bytes as u64;
            return Err(Broken::Damaged { object: object(), offset, bytes, promised, computed });
        }
        let wrong = |at, what| Broken::Shape { object: object(), offset: offset + at, what };
        if u64::from_le_bytes(array(&bytes[16..24])) != index {
            return Err(wrong(16, "another block's index: blocks were swapped"));
        }
        let mut messages = self.messages();
        if messages.by_ref().count() != self.message_count() as usize || !messages.rest.is_empty() {
            return Err(wrong(28, "lengths of messages do not make the block"));
        }
        Ok(promised)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.bytes]
    }

    pub(crate) fn message_count(&self) -> u32 {
        u32::from_le_bytes(array(&self.as_bytes()[28..]))
    }

    fn payload(&self) -> &[u8] {
        &self.as_bytes()[BLOCK_HEAD_BYTES..]
    }

    fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.bytes]
    }

    /// The buffer only grows, and mostly at once to what all blocks need. Fresh zeros cost nothing
    /// until they are written.
    fn resize(&mut self, bytes: usize) {
        debug_assert!(bytes.is_multiple_of(WORD_BYTES) && bytes >= BLOCK_HEAD_BYTES);
        if bytes > self.words.len() * WORD_BYTES {
            let mut grown = vec![0; bytes.max(BLOCK_HEAD_BYTES + BLOCK_BYTES) / WORD_BYTES];
            let held = self.bytes / WORD_BYTES;
            grown[..held].copy_from_slice(&self.words[..held]);
            self.words = grown;
        }
        self.bytes = bytes;
    }
}

/// The messages of a block; see [`Block::messages`]. Each begins at a multiple of 8 bytes.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<LENGTH_BYTES>()?;
        let bytes = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        if bytes > rest.len() {
            return None;
        }
        let (message, rest) = rest.split_at_checked(bytes.next_multiple_of(WORD_BYTES))?;
        self.rest = rest;
        Some(&message[..bytes])
    }
}

/// What a message of this length takes in a payload.
fn space(message_bytes: usize) -> usize {
    LENGTH_BYTES + message_bytes.next_multiple_of(WORD_BYTES)
}
