//! The kernel's files, below a root that tests make up.
//!
//! Owns reading them: a text, a number, a list of names, a list such as `0-3,8`. What they mean is
//! left to who asks. What cannot be read is not there.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes of a file that are read: the kernel's own are far shorter.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most numbers of one list.
const LIST_NUMBERS_MAX: usize = 1 << 16;

/// Files below one root.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Files below `root`; of this machine, if that is `/`.
    pub(super) fn new(root: impl Into<PathBuf>) -> Tree {
        Tree { root: root.into() }
    }

    /// A file's text without the spaces around it; none if it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.at(path)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file's number; none if it has none.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// What stands behind `name` and a colon in a file of such lines.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let value = |line: &str| {
            Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned())
        };
        text.lines().find_map(value)
    }

    /// Names in a folder, sorted: those with numbers in them by the numbers. Empty if there is no
    /// such folder.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// The last part of what a link leads to.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether a device's file can be opened for reading and writing, as the library does.
    ///
    /// Errors: what the kernel says.
    pub(super) fn try_open(&self, path: &str) -> io::Result<()> {
        fs::OpenOptions::new().read(true).write(true).open(self.at(path)).map(drop)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }
}

/// The numbers of a list such as `0-3,8`; what is no list has none.
pub(super) fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    };
    let ranges: Option<Vec<_>> = list.trim().split(',').map(range).collect();
    ranges.unwrap_or_default().into_iter().flatten().take(LIST_NUMBERS_MAX).collect()
}

/// The word in brackets, as the kernel marks the choice that holds: `always [madvise] never`.
pub(super) fn chosen(words: &str) -> Option<&str> {
    words.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// Release numbers at the head of a kernel's name: `6.12.117+deb12-amd64` is (6, 12).
pub(super) fn release(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_choices_and_releases_are_read_and_nonsense_is_not() {
        assert_eq!(numbers("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers(""), [0_usize; 0]);
        assert_eq!(numbers("0-x"), [0_usize; 0]);
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("always"), None);
        assert_eq!(release("6.12.117+deb12-amd64"), Some((6, 12)));
        assert_eq!(release("nonsense"), None);
    }
}
