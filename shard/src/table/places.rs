//! What a table tells of where its rows lie, and for how long that holds.
//!
//! Owns the types. What a place means is left to `table`.

/// Where a pull found the rows of its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// One a key, or `MISSING`.
    pub(crate) at: &'a [u32],
    /// `Table::changes` then: as long as it is the same now, rows lie where they lay.
    pub(crate) changes: u64,
}

/// Whether a scan will ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanGoesOn {
    /// There are rows left to read.
    Later,
    /// It has read all.
    No,
}
