//! Checksums: xxh3 in 128 bits.
//!
//! Owns how a sum is written and read. What it covers is left to who computes it. It finds what
//! disks and networks do to bytes, not what a person does to them: `docs/decisions/0019`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use twox_hash::XxHash3_128;

/// A sum of bytes; 32 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sum(u128);

impl Sum {
    /// Bytes of a sum, little-endian.
    pub(crate) const BYTES: usize = 16;

    /// The sum of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Sum {
        Sum(XxHash3_128::oneshot(bytes))
    }

    /// The sum of these bytes, as part of what has the sum `whole`: the same bytes elsewhere have
    /// another one.
    pub(crate) fn within(whole: Sum, bytes: &[u8]) -> Sum {
        Sum(XxHash3_128::oneshot_with_seed(whole.0 as u64, bytes))
    }

    pub(crate) fn to_bytes(self) -> [u8; Sum::BYTES] {
        self.0.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; Sum::BYTES]) -> Sum {
        Sum(u128::from_le_bytes(bytes))
    }

    /// Reads what `Display` writes, and nothing else.
    pub fn from_text(text: &str) -> Option<Sum> {
        let sum = Sum(u128::from_str_radix(text, 16).ok()?);
        (sum.to_string() == text).then_some(sum)
    }
}

/// The root over the sums of a part: its header's and each block's.
#[derive(Clone)]
pub(crate) struct Root(twox_hash::xxhash3_128::Hasher);

impl Root {
    /// Begins with the sum of the part's header.
    pub(crate) fn new(head: Sum) -> Root {
        let mut root = Root(twox_hash::xxhash3_128::Hasher::new());
        root.add(head);
        root
    }

    /// Adds the sum of the next block.
    pub(crate) fn add(&mut self, sum: Sum) {
        self.0.write(&sum.to_bytes());
    }

    /// The root over what was added.
    pub(crate) fn sum(&self) -> Sum {
        Sum(self.0.finish_128())
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sum, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom(format!("'{text}' is no sum of 32 hexadecimal digits"));
        Sum::from_text(&text).ok_or_else(wrong)
    }
}
