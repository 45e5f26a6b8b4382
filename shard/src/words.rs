//! Words: state as 64-bit numbers, one behind another.
//!
//! Owns reading them within their bounds. What they mean is left to whoever wrote them.

/// Words that are not read yet.
pub(crate) struct Words<'a>(&'a [u64]);

impl<'a> Words<'a> {
    /// All of them.
    pub(crate) fn new(words: &'a [u64]) -> Words<'a> {
        Words(words)
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Option<u64> {
        self.take(1).map(|one| one[0])
    }

    /// The next `count`.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u64]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    /// Whether all are read.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
