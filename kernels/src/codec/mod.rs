//! Codecs: keys and values in fewer bytes, and which rows are worth sending at all.
//!
//! Owns what encoded bytes mean, bit by bit, and what is wrong with bytes that mean nothing. Which
//! codec a message uses, and its framing, is left to `wire`; who keeps residuals to `worker`.
//!
//! Invariant: what a decoder accepts it writes in full; it never panics on bytes, and writes no
//! number that is not finite unless the codec carries one as itself (`F32`, `Bf16`, `F16`).

mod block;
mod columns;
pub(crate) mod draw;
mod feedback;
mod keys;
mod low;
mod narrow;
mod select;
mod sign;
mod values;

use std::fmt;

pub use columns::{RowShape, join_columns, split_columns};
pub use draw::Rounding;
pub use feedback::encode_with_feedback;
pub use keys::{pack_keys, packed_keys_bytes_max, unpack_keys};
pub use select::{
    bitmap_words, compress_rows, count_kept, expand_rows, keep_above, keep_nonzero, keep_top,
};
pub use values::{
    VALUES_BLOCK, ValueCodec, decode_values, encode_values, encoded_values_bytes_max,
};

/// What is wrong with encoded bytes. What the decoder has written by then means nothing; the
/// caller drops the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// The bytes end before what they encode does.
    TooShort {
        /// Bytes that are left where the next part begins.
        have_bytes: usize,
        /// Bytes that this part has, at least.
        need_bytes: usize,
    },
    /// A part of the keys says that it holds more of them than its block has left.
    TooMany {
        /// Index of the part's first key.
        index: usize,
        /// Keys that the part says it holds.
        count: usize,
        /// Keys that the block has left.
        left: usize,
    },
    /// A part's unary numbers are longer than any encoder's, or end between two bytes in ones.
    Unary {
        /// Index of the part's first key.
        index: usize,
    },
    /// A part's keys are not strictly ascending, not above those before, or one is `u64::MAX`.
    NotAscending {
        /// Index of the part's first key.
        index: usize,
    },
    /// A block's scale is no number that a scale can be, or its largest value would be infinite.
    Scale {
        /// Index of the block.
        block: usize,
        /// The scale's bits: the upper half of an f32.
        bits: u16,
    },
    /// A bitmap is not as long as its rows need, or keeps a row that there is not.
    Bitmap {
        /// Words that it has.
        words: usize,
        /// Rows that it is about.
        rows: usize,
    },
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { have_bytes, need_bytes } => {
                write!(f, "{have_bytes} bytes are left, at least {need_bytes} are needed")
            }
            Self::TooMany { index, count, left } => {
                write!(f, "part at key {index} holds {count} keys, its block has {left} left")
            }
            Self::Unary { index } => write!(f, "part at key {index} has no end of its unary part"),
            Self::NotAscending { index } => write!(f, "keys from {index} on do not ascend"),
            Self::Scale { block, bits } => {
                write!(f, "block {block} has {bits:#06x} for a scale, which none is")
            }
            Self::Bitmap { words, rows } => {
                write!(f, "bitmap of {words} words is none of {rows} rows")
            }
        }
    }
}

impl std::error::Error for Damaged {}
