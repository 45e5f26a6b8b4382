//! A range of a text file's bytes, made into whole lines.
//!
//! Owns where a range's first line begins and where its last one ends. Which ranges there are is
//! left to `splits`, and what a line means to `text`.
//!
//! Invariant: a line belongs to the range in which its first byte lies. So ranges that follow each
//! other give each line of the file once, wherever they meet.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is read at a time where the end of a line is looked for: some rows.
const PROBE_BYTES: usize = 4 << 10;

/// The lines of a file whose first bytes lie in a range.
#[derive(Debug)]
pub(crate) struct LineRange {
    file: File,
    /// Of the byte that is read next.
    at: u64,
    /// The range's end.
    to: u64,
    is_over: bool,
    /// Count what is read.
    counts: [Arc<AtomicU64>; 2],
}

impl LineRange {
    /// The lines that begin in `range`.
    pub(crate) fn new(
        file: File,
        range: Range<u64>,
        counts: [Arc<AtomicU64>; 2],
    ) -> io::Result<LineRange> {
        let Range { start, end: to } = range;
        let mut lines = LineRange { file, at: start, to, is_over: start >= to, counts };
        if start > 0 {
            lines.find_first()?;
        }
        Ok(lines)
    }

    /// Where in the file the first of its lines begins, before anything was read.
    pub(crate) fn start(&self) -> u64 {
        self.at
    }

    /// Goes to the first line that begins in the range: a line begins behind a newline.
    fn find_first(&mut self) -> io::Result<()> {
        let mut probe = [0; PROBE_BYTES];
        self.at -= 1;
        while !self.is_over {
            // A newline at the range's last byte has its line begin behind the range.
            let left = (self.to - 1).saturating_sub(self.at).min(PROBE_BYTES as u64) as usize;
            let count = self.read_here(&mut probe[..left])?;
            match memchr::memchr(b'\n', &probe[..count]) {
                Some(newline) => {
                    self.at += newline as u64 + 1;
                    return Ok(());
                }
                None if count == 0 => self.is_over = true,
                None => self.at += count as u64,
            }
        }
        Ok(())
    }

    fn read_here(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.file.read_at(buffer, self.at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.counts.iter().for_each(|all| {
                        all.fetch_add(count as u64, Ordering::Relaxed);
                    });
                    return Ok(count);
                }
            }
        }
    }
}

impl Read for LineRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over || buffer.is_empty() {
            return Ok(0);
        }
        // So far all is its own: the line of the range's last byte begins in it, or before.
        let own = (self.to - 1).saturating_sub(self.at).min(buffer.len() as u64) as usize;
        // Never a few bytes alone: who reads looks for a mark at a file's beginning.
        let asked = own.max(buffer.len().min(PROBE_BYTES));
        let mut count = self.read_here(&mut buffer[..asked])?;
        self.is_over = count == 0;
        let rest = &buffer[own.min(count)..count];
        if let Some(newline) = memchr::memchr(b'\n', rest) {
            (count, self.is_over) = (own + newline + 1, true);
        }
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn lines(file: &File, range: Range<u64>) -> (u64, Vec<u8>) {
        let file = file.try_clone().unwrap();
        let mut lines = LineRange::new(file, range, Default::default()).unwrap();
        let (start, mut bytes) = (lines.start(), Vec::new());
        lines.read_to_end(&mut bytes).unwrap();
        (start, bytes)
    }

    proptest! {
        #[test]
        fn ranges_that_follow_each_other_give_the_text_once_and_cut_no_line(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 1..200),
            long in 0_usize..3,
            cuts in proptest::collection::btree_set(0_u64..200, 0..12),
        ) {
            // Some lines are longer than what is read at a time.
            let mut text = text;
            for place in 0..long {
                let at = text.len() / (place + 1) - 1;
                text.splice(at..at, std::iter::repeat_n(b'b', PROBE_BYTES + 77));
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&text).unwrap();
            let len = text.len() as u64;
            let spread = |cut: u64| if long > 0 { cut * len / 200 } else { cut };
            let inner = cuts.into_iter().map(spread).filter(|&cut| cut > 0 && cut < len);
            let ends: Vec<u64> = inner.chain([len]).collect();
            let (mut from, mut all) = (0, Vec::new());
            for to in ends {
                let (start, own) = lines(&file, from..to);
                if !own.is_empty() {
                    prop_assert_eq!(start, all.len() as u64);
                    prop_assert!((from..to).contains(&start), "{} {}..{}", start, from, to);
                }
                all.extend(own);
                prop_assert!(all.is_empty() || all.len() == text.len() || all.ends_with(b"\n"));
                from = to;
            }
            prop_assert_eq!(all, text);
        }
    }
}
