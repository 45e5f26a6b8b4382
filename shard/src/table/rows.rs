//! Rows that are too wide to lie with their keys: an arena of them, and the free ones.
//!
//! Owns which row numbers are in use, and that pages for more rows are filled in ahead of need.
//! What lies in a row is left to the rule.
//!
//! Invariant: a free row names the next free one in its first 32 bits; a row that is handed out
//! is zeros.

use kernels::MISSING;
use memory::{Arena, First, HUGE_PAGE_BYTES};

use super::index::NoMemory;

/// Most bytes of rows to come whose pages are filled in ahead; below it, as many as there are.
const AHEAD_BYTES_MAX: usize = 32 << 20;

/// Bytes of rows before any page is filled in ahead: a small table costs pages and not megabytes.
const AHEAD_FROM_BYTES: usize = 512 << 10;

/// The rows of one table.
#[derive(Debug)]
pub(crate) struct RowArena {
    floats: Arena<f32>,
    stride: usize,
    /// Floats whose pages are there or asked for.
    filled: usize,
    /// Rows that were ever handed out.
    rows: usize,
    /// The row that was freed last, or [`MISSING`].
    free: u32,
    free_count: usize,
}

impl RowArena {
    /// No row yet of at most `rows_max`; fewer where the kernel has fewer addresses.
    pub(crate) fn new(width: usize, rows_max: usize) -> Result<RowArena, NoMemory> {
        let stride = stride(width);
        let rows_max = rows_max.clamp(1, MISSING as usize);
        let floats = Arena::reserve(rows_max * stride).map_err(|_| NoMemory)?;
        Ok(RowArena { floats, stride, filled: 0, rows: 0, free: MISSING, free_count: 0 })
    }

    /// How many rows there can be.
    pub(crate) fn rows_max(&self) -> usize {
        self.floats.items_max() / self.stride
    }

    /// How many were ever handed out: numbers of rows are below it.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// From one row to the next, in f32.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn floats(&self) -> &[f32] {
        self.floats.as_slice()
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        self.floats.as_mut_slice()
    }

    /// Makes room for so many more rows, so that [`RowArena::add`] cannot fail.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        let rows = self.rows + more.saturating_sub(self.free_count);
        self.floats.grow_to(rows * self.stride).map_err(|_| NoMemory)?;
        self.fill_ahead(rows * self.stride);
        Ok(())
    }

    /// What reserving so many more rows would add, in bytes.
    pub(crate) fn growth_bytes(&self, more: usize) -> usize {
        more.saturating_sub(self.free_count) * self.stride * size_of::<f32>()
    }

    /// Asks for pages of rows to come, whole huge ones.
    fn fill_ahead(&mut self, floats: usize) {
        const PAGE_FLOATS: usize = HUGE_PAGE_BYTES / size_of::<f32>();
        let bytes = floats * size_of::<f32>();
        let ahead = bytes.min(AHEAD_BYTES_MAX) / size_of::<f32>();
        if bytes >= AHEAD_FROM_BYTES && floats + ahead > self.filled {
            let wanted = (floats + ahead).next_multiple_of(PAGE_FLOATS);
            self.floats.fill_ahead(self.filled.max(floats)..wanted, First::Low);
            self.filled = wanted;
        }
    }

    /// The row that [`RowArena::add`] gives next.
    pub(crate) fn next(&self) -> u32 {
        if self.free == MISSING {
            return u32::try_from(self.rows).expect("rows_max fits 32 bits");
        }
        self.free
    }

    /// A row of zeros, after [`RowArena::reserve`].
    pub(crate) fn add(&mut self) -> u32 {
        let row = self.next();
        if self.free == MISSING {
            self.rows += 1;
            return row;
        }
        let start = row as usize * self.stride;
        let floats = &mut self.floats.as_mut_slice()[start..start + self.stride];
        self.free = floats[0].to_bits();
        self.free_count -= 1;
        floats.fill(0.0);
        row
    }

    /// Gives a row back.
    pub(crate) fn free(&mut self, row: u32) {
        self.floats.as_mut_slice()[row as usize * self.stride] = f32::from_bits(self.free);
        self.free = row;
        self.free_count += 1;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows * self.stride * size_of::<f32>()
    }
}

/// Distance of rows: a power of two up to one cache line, whole lines above, so that a small row
/// never lies across two lines.
pub(crate) fn stride(row_width: usize) -> usize {
    const LINE_FLOATS: usize = 16;
    if row_width <= LINE_FLOATS {
        row_width.next_power_of_two()
    } else {
        row_width.next_multiple_of(LINE_FLOATS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_freed_are_handed_out_again_as_zeros() {
        let mut rows = RowArena::new(3, 10).expect("a small arena");
        rows.reserve(4).expect("room");
        assert_eq!([rows.add(), rows.add(), rows.add()], [0, 1, 2]);
        rows.floats_mut().fill(7.0);
        rows.free(0);
        rows.free(2);
        rows.reserve(3).expect("room");
        assert_eq!([rows.add(), rows.add(), rows.add()], [2, 0, 3]);
        assert_eq!(rows.floats()[..4], [0.0; 4]);
        assert_eq!(rows.floats()[4..8], [7.0; 4]);
        assert_eq!(rows.floats()[8..12], [0.0; 4]);
        assert_eq!(rows.bytes(), 4 * 4 * 4);
    }
}
