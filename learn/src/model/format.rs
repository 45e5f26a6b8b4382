//! The bytes of a part file.
//!
//! Owns the header, and rows to bytes and back. Which file they lie in is left to `writer` and
//! `reader`.

use std::path::Path;

use super::ModelError;

/// Length of a part file's header.
pub const HEADER_BYTES: usize = 32;
/// Most f32 that a key may keep: bounds what one row takes in memory to 4 MiB.
pub const ROW_WIDTH_MAX: u32 = 1 << 20;

/// Bytes that are read or written by one system call, unless one row is longer.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"GRDWROWS";
const VERSION: u32 = 1;
const KEY_BYTES: usize = size_of::<u64>();
const VALUE_BYTES: usize = size_of::<f32>();

/// What a part file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) row_width: u32,
    pub(super) rows: u64,
}

/// Bytes of a row with its key.
pub(super) fn row_bytes(row_width: u32) -> usize {
    assert!(row_width <= ROW_WIDTH_MAX, "{row_width} f32 a key, {ROW_WIDTH_MAX} at most");
    KEY_BYTES + row_width as usize * VALUE_BYTES
}

/// Bytes of a file of so many rows, or `None` where no file is that long.
pub(super) fn file_bytes(rows: u64, row_width: u32) -> Option<u64> {
    rows.checked_mul(row_bytes(row_width) as u64)?.checked_add(HEADER_BYTES as u64)
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.row_width.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.rows.to_le_bytes());
        bytes
    }

    /// An error, unless these bytes of the file at `path` are this header's.
    pub(super) fn check(self, path: &Path, bytes: &[u8; HEADER_BYTES]) -> Result<(), ModelError> {
        let [magic, versions, rows, reserved] =
            [0, 1, 2, 3].map(|word| u64_of(&bytes[8 * word..][..8]));
        let (version, row_width) = (versions & u64::from(u32::MAX), versions >> 32);
        let fields = [
            ("magic", u64::from_le_bytes(MAGIC), magic),
            ("version of its format", u64::from(VERSION), version),
            ("row_width", u64::from(self.row_width), row_width),
            ("rows", self.rows, rows),
            ("reserved bytes", 0, reserved),
        ];
        for (name, expected, found) in fields {
            ModelError::unless_equal(path, || name.to_owned(), expected, found)?;
        }
        Ok(())
    }
}

/// Appends keys and their rows, `[keys, row_width]`, as they lie in a file.
pub(super) fn encode(keys: &[u64], rows: &[f32], row_width: u32, bytes: &mut Vec<u8>) {
    let (width, row_bytes) = (row_width as usize, row_bytes(row_width));
    let start = bytes.len();
    bytes.resize(start + keys.len() * row_bytes, 0);
    let records = bytes[start..].chunks_exact_mut(row_bytes);
    for (index, (record, key)) in records.zip(keys).enumerate() {
        let (key_bytes, row) = record.split_at_mut(KEY_BYTES);
        key_bytes.copy_from_slice(&key.to_le_bytes());
        let values = &rows[index * width..][..width];
        for (place, value) in row.as_chunks_mut::<VALUE_BYTES>().0.iter_mut().zip(values) {
            *place = value.to_le_bytes();
        }
    }
}

/// Appends the keys and rows that lie in `bytes`, a whole number of them.
pub(super) fn decode(bytes: &[u8], row_width: u32, keys: &mut Vec<u64>, rows: &mut Vec<f32>) {
    let (width, row_bytes) = (row_width as usize, row_bytes(row_width));
    let (keys_before, rows_before) = (keys.len(), rows.len());
    let count = bytes.len() / row_bytes;
    keys.resize(keys_before + count, 0);
    rows.resize(rows_before + count * width, 0.0);
    let rows = &mut rows[rows_before..];
    let records = bytes.chunks_exact(row_bytes).zip(&mut keys[keys_before..]);
    for (index, (record, key)) in records.enumerate() {
        let (key_bytes, row) = record.split_at(KEY_BYTES);
        *key = u64_of(key_bytes);
        let values = &mut rows[index * width..][..width];
        for (value, bytes) in values.iter_mut().zip(row.as_chunks::<VALUE_BYTES>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
}

/// The number in the first eight bytes.
fn u64_of(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    u64::from_le_bytes(words[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_come_back_with_their_bits(
            width in 0_u32..7, keys: Vec<u64>, seed: u64,
        ) {
            let count = keys.len() as u64 * u64::from(width);
            let bits = |i: u64| kernels::hash::mix(seed ^ i) as u32;
            let rows: Vec<f32> = (0..count).map(|i| f32::from_bits(bits(i))).collect();
            let (mut bytes, mut keys_read, mut rows_read) = (vec![], vec![], vec![]);
            encode(&keys, &rows, width, &mut bytes);
            decode(&bytes, width, &mut keys_read, &mut rows_read);
            prop_assert_eq!(keys_read, keys);
            let bits = |rows: &[f32]| rows.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&rows_read), bits(&rows));
        }
    }

    #[test]
    fn the_header_lies_as_it_is_drawn() {
        let bytes = Header { row_width: 3, rows: 0x0102 }.to_bytes();
        let expected = *b"GRDWROWS\x01\0\0\0\x03\0\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(bytes, expected);
    }
}
