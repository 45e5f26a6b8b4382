//! Copies that wait to be taken: keys, or numbers of lines, and what belongs to each, page by page.
//!
//! Owns how a page lies in its memory. What copies are of is left to `snapshot`, how much of them
//! may wait to who takes them.

use std::collections::VecDeque;

use zerocopy::{FromBytes, IntoBytes};

/// Pages whose memory is kept for further ones: more than a turn fills.
const SPARE_MAX: usize = 8;

/// How pages of copies are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paper {
    /// 64-bit words that are left free in front of a page, for whoever passes it on.
    pub(crate) head_words: usize,
    /// Keys and values of a page, in bytes; it has one key at least.
    pub(crate) bytes: usize,
}

/// Keys, or numbers of lines, and values of each.
#[derive(Debug)]
pub(crate) struct Page {
    /// What is left free, keys, and values, filled up with zeros; then what nobody reads.
    words: Vec<u64>,
    head_words: usize,
    count: usize,
    width: usize,
}

/// Copies in one order.
#[derive(Debug)]
pub(super) struct Copies {
    paper: Paper,
    /// Values of each key.
    width: usize,
    /// Keys of a page.
    capacity: usize,
    /// The page that is being filled: its values lie where they do if it has all keys.
    words: Vec<u64>,
    count: usize,
    full: VecDeque<Page>,
    spare: Vec<Vec<u64>>,
}

impl Page {
    /// Keys without values.
    pub(super) fn of_keys(head_words: usize, keys: impl ExactSizeIterator<Item = u64>) -> Page {
        let count = keys.len();
        let words = std::iter::repeat_n(0, head_words).chain(keys).collect();
        Page { words, head_words, count, width: 0 }
    }

    pub(crate) fn keys(&self) -> &[u64] {
        &self.words[self.head_words..][..self.count]
    }

    /// `[keys, width]`.
    #[cfg(test)]
    pub(crate) fn values(&self) -> &[f32] {
        let floats = <[f32]>::ref_from_bytes(self.words[self.head_words + self.count..].as_bytes());
        &floats.expect("words are aligned")[..self.count * self.width]
    }

    /// Values of each key.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Its memory, and how many words of that are in use: those in front, keys, and values.
    pub(crate) fn into_words(self) -> (Vec<u64>, usize) {
        let used = self.head_words + self.count + (self.count * self.width).div_ceil(2);
        (self.words, used)
    }
}

impl Copies {
    /// None yet. `width`: values of each.
    pub(super) fn new(paper: Paper, width: usize) -> Copies {
        let entry_bytes = size_of::<u64>() + width * size_of::<f32>();
        let capacity = (paper.bytes / entry_bytes).max(1);
        let (words, full, spare) = Default::default();
        Copies { paper, width, capacity, words, count: 0, full, spare }
    }

    /// Adds a copy of the first values.
    #[inline]
    pub(super) fn add(&mut self, key: u64, values: &[f32]) {
        if self.count == self.capacity || self.words.is_empty() {
            self.turn_over();
        }
        let body = &mut self.words[self.paper.head_words..];
        body[self.count] = key;
        let held = body[self.capacity..].as_mut_bytes();
        let held = <[f32]>::mut_from_bytes(held).expect("words are aligned");
        let start = self.count * self.width;
        held[start..start + self.width].copy_from_slice(&values[..self.width]);
        self.count += 1;
    }

    /// A page is full, and the next one begins.
    #[cold]
    fn turn_over(&mut self) {
        // New memory is zeroed by the kernel as it is used.
        let next = self.spare.pop().unwrap_or_else(|| vec![0; self.page_words()]);
        self.close();
        self.words = next;
    }

    /// The page that is being filled is full, as far as there is anything on it.
    pub(super) fn close(&mut self) {
        if self.count == 0 {
            return;
        }
        let (mut words, count) = (std::mem::take(&mut self.words), std::mem::take(&mut self.count));
        let Paper { head_words, .. } = self.paper;
        let values = head_words + self.capacity;
        let used = (count * self.width).div_ceil(2);
        words.copy_within(values..values + used, head_words + count);
        if count * self.width % 2 == 1 {
            let last = &mut words[head_words + count + used - 1].as_mut_bytes()[size_of::<f32>()..];
            last.fill(0);
        }
        self.full.push_back(Page { words, head_words, count, width: self.width });
    }

    /// Whether a page is full.
    pub(super) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// The next full page.
    pub(super) fn take(&mut self) -> Option<Page> {
        self.full.pop_front()
    }

    /// Memory of a page that was taken, for a further one. Given back if it is none of these
    /// pages', or not needed.
    pub(super) fn reuse(&mut self, words: Vec<u64>) -> Option<Vec<u64>> {
        if words.len() != self.page_words() || self.spare.len() >= SPARE_MAX {
            return Some(words);
        }
        self.spare.push(words);
        None
    }

    /// Memory of a page in words: the same whatever lies on it, unless that is one long row.
    fn page_words(&self) -> usize {
        let Paper { head_words, bytes } = self.paper;
        let body = self.capacity + (self.capacity * self.width).div_ceil(2);
        head_words + body.max(bytes / size_of::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_what_was_added_whether_they_are_full_or_not() {
        for width in 0..4 {
            let paper = Paper { head_words: 3, bytes: 5 * (8 + 4 * width) };
            let mut copies = Copies::new(paper, width);
            let values: Vec<f32> = (0..48).map(|value| value as f32).collect();
            (0..12).for_each(|key| copies.add(key, &values[key as usize * width..]));
            copies.close();
            let mut seen = (Vec::new(), Vec::new(), Vec::new());
            while let Some(page) = copies.take() {
                seen.0.extend_from_slice(page.keys());
                seen.1.extend_from_slice(page.values());
                let (words, used) = page.into_words();
                seen.2.push(used);
                let spilt = (seen.0.len() * width % 2 == 1).then(|| words[used - 1] >> 32);
                assert!(spilt.is_none_or(|rest| rest == 0), "what fills a page up is zero");
                assert_eq!(copies.reuse(words), None);
            }
            assert_eq!(seen.0, (0..12).collect::<Vec<u64>>());
            assert_eq!(seen.1, values[..12 * width]);
            let used = |count: usize| 3 + count + (count * width).div_ceil(2);
            assert_eq!(seen.2, [used(5), used(5), used(2)]);
        }
    }
}
