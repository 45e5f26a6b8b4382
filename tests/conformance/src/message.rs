//! Numbered messages whose every byte follows from the number.
//!
//! Owns filling and checking them, and the random numbers that choose their sizes.

use wire::{HEADER_BYTES, Header, Kind, Seal};

/// Odd, so that multiplying loses nothing. Source: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Makes `bytes`, at least a header long, the message of this number.
pub fn fill(bytes: &mut [u8], number: u64) {
    let (words, rest) = bytes[HEADER_BYTES..].as_chunks_mut();
    for (index, word) in words.iter_mut().enumerate() {
        *word = pattern(number, index).to_le_bytes();
    }
    rest.fill(number as u8);
    let mut header = Header::new(Kind::Push);
    header.sequence = number;
    wire::seal(bytes, header, Seal::HeaderOnly, |_| 0);
}

/// The number of a message. Panics: if a byte of it is not what [`fill`] made it.
pub fn number_of(bytes: &[u8]) -> u64 {
    let header = wire::read_header(bytes, |_| 0).expect("what arrives is what was posted");
    let number = header.sequence;
    let (words, rest) = bytes[HEADER_BYTES..].as_chunks();
    for (index, word) in words.iter().enumerate() {
        let found = u64::from_le_bytes(*word);
        assert_eq!(found, pattern(number, index), "word {index} of message {number}");
    }
    assert!(rest.iter().all(|&byte| byte == number as u8), "the end of message {number}");
    number
}

fn pattern(number: u64, index: usize) -> u64 {
    (number ^ GOLDEN).wrapping_mul(GOLDEN).wrapping_add(index as u64)
}

/// Random numbers that follow from a seed.
///
/// Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// A length of a message, from a bare header to `bytes_max`: mostly short, the extremes often.
    pub fn message_bytes(&mut self, bytes_max: usize) -> usize {
        let span = bytes_max - HEADER_BYTES;
        HEADER_BYTES
            + match self.below(8) {
                0 => 0,
                1 => span,
                2 | 3 => self.below(span + 1),
                _ => self.below(span.min(1000) + 1),
            }
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
