//! The files of the repository, read once.
//!
//! Owns which files count and what lies in them. What they must hold is left to `checks`.
//!
//! Invariant: paths are relative to the root, use `/`, and are sorted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Folders whose name starts with a dot are skipped, but for these.
const DOT_FOLDERS_KEPT: [&str; 3] = [".cargo", ".ci", ".github"];
/// Folders that builds and Python fill.
const FOLDERS_SKIPPED: [&str; 3] = ["target", "venv", "__pycache__"];
const DEPTH_MAX: usize = 16;

/// Every file below the root. A file that is no UTF-8 has no text, but its path resolves links.
pub(crate) struct Tree {
    files: BTreeMap<String, Option<String>>,
}

impl Tree {
    /// Reads every file below `root`.
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        read_folder(root, "", DEPTH_MAX, &mut files)?;
        Ok(Self { files })
    }

    /// A tree of the given paths and texts, for tests.
    #[cfg(test)]
    pub(crate) fn from_files(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), Some((*text).to_owned()));
        Self { files: files.iter().map(own).collect() }
    }

    /// Every file with text: its path and its text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// The files whose name ends in `.extension`.
    pub(crate) fn with_extension(&self, extension: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(move |(path, _)| {
            path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
        })
    }

    /// The text of the file at `path`.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Whether `path` names a file, or a folder with a file below it.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        self.files.contains_key(path) || self.files.keys().any(|file| file.starts_with(&folder))
    }
}

fn read_folder(
    folder: &Path,
    prefix: &str,
    depth_left: usize,
    files: &mut BTreeMap<String, Option<String>>,
) -> io::Result<()> {
    if depth_left == 0 {
        return Err(io::Error::other(format!("{prefix}: deeper than {DEPTH_MAX} folders")));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.insert(path, String::from_utf8(fs::read(entry.path())?).ok());
        } else if kind.is_dir() && is_ours(&name) {
            read_folder(&entry.path(), &format!("{path}/"), depth_left - 1, files)?;
        }
    }
    Ok(())
}

fn is_ours(folder: &str) -> bool {
    let hidden = folder.starts_with('.') && !DOT_FOLDERS_KEPT.contains(&folder);
    !hidden && !FOLDERS_SKIPPED.contains(&folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_the_files_below_it() {
        let tree = Tree::from_files(&[("docs/wire.md", "")]);
        assert!(tree.holds("docs") && tree.holds("docs/wire.md"));
        assert!(!tree.holds("doc") && !tree.holds("docs/wire"));
    }

    #[test]
    fn builds_and_the_history_are_no_part_of_the_tree() {
        assert!(is_ours(".ci") && is_ours("wire"));
        assert!(!is_ours(".git") && !is_ours("target"));
    }

    #[test]
    fn the_extension_is_what_follows_the_last_dot() {
        let tree = Tree::from_files(&[("a.rs", ""), ("a.rs.md", ""), ("rs", "")]);
        let found: Vec<&str> = tree.with_extension("rs").map(|(path, _)| path).collect();
        assert_eq!(found, ["a.rs"]);
    }
}
