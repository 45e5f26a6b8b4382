//! Bytes on their way to a disk past the kernel's cache: whole pages, at a page's boundary.
//!
//! Owns one buffer. Writing it is left to `local`.
//!
//! Invariant: what is given out begins at a multiple of [`PAGE_BYTES`] in memory, and but for the
//! last time has [`GATHERED_BYTES`].

/// What memory, lengths and places in a file are a multiple of, in bytes: enough for any disk.
const PAGE_BYTES: usize = 4096;

/// What is written at once, in bytes: long enough for a disk to run at its full rate. Tests have
/// short files.
pub(super) const GATHERED_BYTES: usize = if cfg!(test) { 2 * PAGE_BYTES } else { 4 << 20 };

/// Bytes that are to be written.
pub(super) struct Gathered {
    memory: Vec<u8>,
    /// Where the first one lies.
    first: usize,
    bytes: usize,
}

impl Gathered {
    pub(super) fn new() -> Gathered {
        // Fresh zeros cost nothing until they are written.
        let memory = vec![0; GATHERED_BYTES + PAGE_BYTES];
        let first = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Gathered { memory, first, bytes: 0 }
    }

    /// Takes as many as there is room for. Returns the others.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(GATHERED_BYTES - self.bytes));
        let begin = self.first + self.bytes;
        self.memory[begin..begin + taken.len()].copy_from_slice(taken);
        self.bytes += taken.len();
        rest
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes == GATHERED_BYTES
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.memory[self.first..self.first + self.bytes]
    }

    pub(super) fn clear(&mut self) {
        self.bytes = 0;
    }
}
