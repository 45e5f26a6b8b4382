//! Whole rows on the wire: what a scan answers and a load writes, and how many there are.
//!
//! Owns the cursor, the view and the size. Rows come in the shard's own order, so their keys are
//! not sorted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a [`TableSize`] in bytes.
pub const SIZE_BODY_BYTES: usize = 40;

/// How large one shard's part of a table is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TableSize {
    /// Rows.
    pub rows: u64,
    /// Bytes of the index, free places included, of the rows, padding included, and of what
    /// counts the pushes of absent keys.
    pub bytes: u64,
    /// Rows that pushes have added, those that began afresh included.
    pub rows_admitted: u64,
    /// Deltas that were dropped since their keys were not admitted.
    pub deltas_dropped: u64,
    /// Rows that have expired, or had to make room. One that is too old and was not come by yet is
    /// a row, and none of these.
    pub rows_expired: u64,
}

impl TableSize {
    /// What two parts of a table come to together.
    #[must_use]
    pub const fn plus(self, other: TableSize) -> TableSize {
        TableSize {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            rows_admitted: self.rows_admitted + other.rows_admitted,
            deltas_dropped: self.deltas_dropped + other.deltas_dropped,
            rows_expired: self.rows_expired + other.rows_expired,
        }
    }
}

const _: () = assert!(size_of::<TableSize>() == SIZE_BODY_BYTES);

/// Where a scan goes on. Opaque to everyone but the shard that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanCursor(u64);

impl ScanCursor {
    /// The beginning of the table.
    pub const START: ScanCursor = ScanCursor(0);
    /// No row is left.
    pub const END: ScanCursor = ScanCursor(u64::MAX);

    /// The cursor with this number.
    pub const fn new(raw: u64) -> ScanCursor {
        ScanCursor(raw)
    }

    /// The number, as it stands in the header's `clock`.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Keys and their whole rows: value and state columns as the shard holds them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowsView<'a> {
    /// Distinct keys, in no order.
    pub keys: &'a [u64],
    /// `[keys.len() * width]` f32: row after row.
    pub rows: &'a [f32],
}
