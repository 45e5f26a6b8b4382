//! Putting a finished directory where the model shall be.
//!
//! Owns what may be replaced, and the renames that replace it. Writing the files is left to
//! `writer`.
//!
//! Invariant: at every moment the target is what it was, or the whole new model. Only on a file
//! system that cannot exchange two directories is it absent for a moment between two renames.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, RenameFlags, access, renameat_with};
use rustix::io::Errno;

use super::ModelError;
use super::manifest::{MANIFEST_FILE, is_manifest, is_part_file};
use super::whole_file::{beside, parent, sync_dir};

/// An error, unless a model could be put at `dir` now: it does not exist, or is empty, or holds
/// a gradwire model and nothing else, and its parent may be written to. Changes nothing, so a run
/// can ask before it trains.
pub fn check_target(dir: &Path) -> Result<(), ModelError> {
    let target = resolve(dir)?;
    inspect(&target)?;
    let parent = parent(&target);
    access(parent, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|errno| ModelError::io("write to", parent)(errno.into()))
}

/// What a new model would replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Absent,
    Empty,
    Model,
}

/// The path without symbolic links, so that a link to a model stays one.
pub(super) fn resolve(dir: &Path) -> Result<PathBuf, ModelError> {
    match fs::canonicalize(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other.map_err(ModelError::io("open", dir)),
    }
    if fs::symlink_metadata(dir).is_ok() {
        let found = "it is a link to nothing".to_owned();
        return Err(ModelError::NotAModel { path: dir.to_owned(), found });
    }
    let above = parent(dir);
    let resolved = fs::canonicalize(above).map_err(ModelError::io("open", above))?;
    match dir.file_name() {
        Some(name) => Ok(resolved.join(name)),
        None => Err(ModelError::io("open", dir)(ErrorKind::NotFound.into())),
    }
}

/// What is at the target, or an error where it must not be replaced.
pub(super) fn inspect(target: &Path) -> Result<Target, ModelError> {
    let refuse = |found: String| Err(ModelError::NotAModel { path: target.to_owned(), found });
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Target::Absent),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return refuse("it is a file".to_owned());
        }
        Err(error) => return Err(ModelError::io("read", target)(error)),
    };
    let mut is_empty = true;
    for entry in entries {
        let name = entry.map_err(ModelError::io("read", target))?.file_name();
        is_empty = false;
        let is_known = |name: &str| name == MANIFEST_FILE || is_part_file(name);
        if !name.to_str().is_some_and(is_known) {
            return refuse(format!("it holds {name:?}"));
        }
    }
    if is_empty {
        return Ok(Target::Empty);
    }
    if !is_manifest(&target.join(MANIFEST_FILE)) {
        return refuse(format!("it has no {MANIFEST_FILE} of one"));
    }
    Ok(Target::Model)
}

/// Puts the directory `new` at `target`, beside which it lies. Returns where the model that was
/// there is now. After an error both are where they were.
pub(super) fn swap(new: &Path, target: &Path) -> Result<Option<PathBuf>, ModelError> {
    if inspect(target)? == Target::Model {
        return exchange(new, target).map(Some);
    }
    // Renaming over an empty directory replaces it.
    fs::rename(new, target).map_err(ModelError::io("move the new model to", target))?;
    Ok(None)
}

/// Makes a swap durable, and only then removes the old model.
pub(super) fn settle(target: &Path, old: Option<&Path>) -> Result<(), ModelError> {
    let parent = parent(target);
    sync_dir(parent).map_err(ModelError::io("make durable", parent))?;
    if let Some(old) = old
        && let Err(error) = fs::remove_dir_all(old)
    {
        tracing::warn!(path = %old.display(), %error, "the replaced model cannot be removed");
    }
    Ok(())
}

/// Exchanges the two; returns where the old model is now.
fn exchange(new: &Path, target: &Path) -> Result<PathBuf, ModelError> {
    match renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(new.to_owned()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => move_aside(new, target),
        Err(errno) => Err(ModelError::io("move the new model to", target)(errno.into())),
    }
}

/// The way of file systems that cannot exchange, such as NFS.
fn move_aside(new: &Path, target: &Path) -> Result<PathBuf, ModelError> {
    let old = beside(new, ".old");
    fs::rename(target, &old).map_err(ModelError::io("move aside", target))?;
    let Err(error) = fs::rename(new, target) else { return Ok(old) };
    // What there is to say, the first error says.
    let _ = fs::rename(&old, target);
    Err(ModelError::io("move the new model to", target)(error))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_all, save, saved};
    use super::*;

    #[test]
    fn a_model_is_moved_aside_where_directories_cannot_be_exchanged() {
        let dir = saved(2);
        let (new, target) = (dir.path().join("n"), dir.path().join("m"));
        save(&new, 3);
        let old = move_aside(&new, &target).unwrap();
        assert_eq!(read_all(&target).unwrap().0.len(), 3);
        assert_eq!(read_all(&old).unwrap().0.len(), 2);
    }

    #[test]
    fn what_is_no_model_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        for name in ["notes", "foreign", "headless", "mixed"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("notes/notes.txt"), "text").unwrap();
        fs::write(at("foreign/model.json"), r#"{"format": "keras"}"#).unwrap();
        fs::write(at("headless/part-00000.rows"), "").unwrap();
        let whole = r#"{"format": "gradwire-model", "format_version": 7}"#;
        fs::write(at("mixed/model.json"), whole).unwrap();
        assert_eq!(check_target(&at("mixed")), Ok(()));
        fs::write(at("mixed/notes.txt"), "text").unwrap();
        for name in ["file", "link", "notes", "foreign", "headless", "mixed"] {
            let refused = check_target(&at(name)).unwrap_err();
            assert!(matches!(refused, ModelError::NotAModel { .. }), "{name}: {refused}");
            assert!(refused.to_string().contains("exists and is no gradwire model"));
        }
        assert_eq!(check_target(&at("absent")), Ok(()));
        let no_parent = check_target(&at("absent/model")).unwrap_err();
        assert!(matches!(no_parent, ModelError::Io { kind: ErrorKind::NotFound, .. }));
    }

    #[test]
    fn a_link_to_a_model_stays_a_link_and_its_model_is_replaced() {
        let dir = saved(2);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("m", &link).unwrap();
        save(&link, 3);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read_all(&dir.path().join("m")).unwrap().0.len(), 3);
    }
}
