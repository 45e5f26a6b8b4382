//! Bytes on their way to a store: pieces of whole pages, at a page's boundary, as a disk wants them
//! that is written past the kernel's cache.
//!
//! Owns one piece. Filling pieces is left to `part_writer`, writing them to `backend`.
//!
//! Invariant: what is given out begins at a multiple of [`PAGE_BYTES`] in memory, and but for a
//! part's last piece has [`PIECE_BYTES`].

/// What memory, lengths and places in a file are a multiple of, in bytes: enough for any disk.
const PAGE_BYTES: usize = 4096;

/// What is written at once, in bytes: long enough for a disk to run at its full rate. Tests have
/// short files.
pub(crate) const PIECE_BYTES: usize = if cfg!(test) { 2 * PAGE_BYTES } else { 4 << 20 };

/// Bytes that are to be written. The default has no memory for any.
#[derive(Default)]
pub(crate) struct Piece {
    memory: Vec<u8>,
    /// Where the first one lies.
    first: usize,
    bytes: usize,
}

impl Piece {
    pub(crate) fn new() -> Piece {
        // Fresh zeros cost nothing until they are written.
        let memory = vec![0; PIECE_BYTES + PAGE_BYTES];
        let first = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Piece { memory, first, bytes: 0 }
    }

    /// Takes as many as there is room for. Returns the others.
    pub(crate) fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.bytes));
        let begin = self.first + self.bytes;
        self.memory[begin..begin + taken.len()].copy_from_slice(taken);
        self.bytes += taken.len();
        rest
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes == PIECE_BYTES
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.memory[self.first..self.first + self.bytes]
    }

    pub(crate) fn clear(&mut self) {
        self.bytes = 0;
    }
}
