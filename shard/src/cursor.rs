//! The cursor of a scan: where the next part begins, and by which order of rows.
//!
//! Owns how a line and the table's changes are one number. What the number means to whoever scans
//! is left to `wire`.
//!
//! Invariant: a cursor that was written before a row moved is refused.

use wire::{Refusal, ScanCursor};

/// Bits of a cursor that count lines; those above hold the low bits of how often rows moved.
const CURSOR_LINE_BITS: u32 = 32;

/// The cursor behind so many lines of the table.
pub(crate) fn write_cursor(line: usize, lines: usize, changes: u64) -> ScanCursor {
    if line >= lines {
        return ScanCursor::END;
    }
    // A table has fewer lines than the bits count, so no cursor but the end is all ones.
    ScanCursor::new(changes << CURSOR_LINE_BITS | line as u64)
}

/// The line at which a cursor goes on.
///
/// - Errors: [`Refusal::CursorStale`], if rows have moved since it was written.
pub(crate) fn read_cursor(
    cursor: ScanCursor,
    lines: usize,
    changes: u64,
) -> Result<usize, Refusal> {
    if cursor == ScanCursor::START {
        return Ok(0);
    }
    let line = (cursor.get() & ((1 << CURSOR_LINE_BITS) - 1)) as usize;
    let same_rows = cursor.get() >> CURSOR_LINE_BITS == changes & u64::from(u32::MAX);
    if same_rows && line < lines { Ok(line) } else { Err(Refusal::CursorStale) }
}
