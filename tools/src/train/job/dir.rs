//! The directory of a launcher: who it is in its job, and its workers' journals.
//!
//! Owns finding the one that a life before has left, and that nobody else uses it meanwhile.
//!
//! Invariant: the launcher's number and its workers' journals lie together, so that whoever has the
//! one has the others.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use learn::JOURNAL_START;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Launchers of one job on one host, where no directory is named.
const LAUNCHERS_MAX: u32 = 16;

/// Held while the directory is in use.
const LOCK: &str = "lock";

/// Says who the launcher is.
const LAUNCHER: &str = "launcher.json";

/// Below it, the journals of its workers.
const JOURNALS: &str = "journals";

/// A launcher's directory, locked.
#[derive(Debug)]
pub(super) struct JobDir {
    path: PathBuf,
    /// Whether it was named, and is to stay.
    is_named: bool,
    holder: u64,
    /// Whether its launcher has just drawn its number.
    is_new: bool,
    _lock: File,
}

/// Who the launcher is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Launcher {
    cluster: String,
    job: String,
    holder: u64,
}

/// Why a directory is not taken.
enum Untaken {
    InUse,
    Failed(Failure),
}

impl JobDir {
    /// The directory that is named; else one that a life before has left, or a new one.
    pub(super) fn open(named: Option<&Path>, cluster: &str, job: &str) -> Result<JobDir, Failure> {
        if let Some(path) = named {
            return JobDir::take(path, true, cluster, job).map_err(|untaken| match untaken {
                Untaken::InUse => Failure::failed(format!(
                    "{}: another launcher uses it; name another --job-dir",
                    path.display()
                )),
                Untaken::Failed(failure) => failure,
            });
        }
        let user = rustix::process::getuid().as_raw();
        let cluster_word: String =
            cluster.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '_' }).collect();
        let base = format!("gradwire-job-{user}-{cluster_word}-{job}");
        let path = |number: u32| std::env::temp_dir().join(format!("{base}-{number}"));
        let mut all: Vec<PathBuf> = (0..LAUNCHERS_MAX).map(path).collect();
        // One that was left comes before one that is made.
        all.sort_by_key(|path| !path.join(LAUNCHER).exists());
        for path in &all {
            match JobDir::take(path, false, cluster, job) {
                Ok(dir) => return Ok(dir),
                Err(Untaken::InUse) => {}
                Err(Untaken::Failed(failure)) => return Err(failure),
            }
        }
        Err(Failure::failed(format!(
            "{LAUNCHERS_MAX} launchers of job {job} run on this host; name a --job-dir for more"
        )))
    }

    fn take(path: &Path, is_named: bool, cluster: &str, job: &str) -> Result<JobDir, Untaken> {
        let failed = |error: io::Error| failed(path, &error);
        DirBuilder::new().recursive(is_named).mode(0o700).create(path).or_else(|error| {
            let is_there = error.kind() == io::ErrorKind::AlreadyExists;
            if is_there { Ok(()) } else { Err(failed(error)) }
        })?;
        let found = path.symlink_metadata().map_err(failed)?;
        let is_ours = found.is_dir() && found.uid() == rustix::process::getuid().as_raw();
        if !is_named && !is_ours {
            let why = format!("{}: it is another user's; name a --job-dir", path.display());
            return Err(Untaken::Failed(Failure::failed(why)));
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Untaken::InUse),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever had it may have removed it just now.
        let here = lock_path.metadata().map(|there| there.ino()).ok();
        if here != Some(lock.metadata().map_err(failed)?.ino()) {
            return Err(Untaken::InUse);
        }
        let is_new = !path.join(LAUNCHER).exists();
        if is_new {
            check_free(&path.join(JOURNALS))?;
        }
        let holder = launcher(path, cluster, job)?;
        std::fs::create_dir_all(path.join(JOURNALS)).map_err(failed)?;
        Ok(JobDir { path: path.to_owned(), is_named, holder, is_new, _lock: lock })
    }

    /// The launcher's number.
    pub(super) fn holder(&self) -> u64 {
        self.holder
    }

    /// Whether no life before has left it: it has drawn its number just now.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where its workers' journals lie.
    pub(super) fn journals(&self) -> PathBuf {
        self.path.join(JOURNALS)
    }

    /// Drops journals that are there from another job.
    pub(super) fn begin(&self) -> Result<(), Failure> {
        let dir = self.journals();
        let made = std::fs::remove_dir_all(&dir).and_then(|()| std::fs::create_dir(&dir));
        made.map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))
    }

    /// The job is over: a launcher that begins here takes part in another one.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(self.path.join(LAUNCHER));
        let _ = std::fs::remove_dir_all(self.journals());
        if !self.is_named {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Refuses a directory for journals with what no launcher has left there: it would be removed.
fn check_free(journals: &Path) -> Result<(), Untaken> {
    let entries = match journals.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(journals, &error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| failed(journals, &error))?.path();
        let name = path.file_name().and_then(OsStr::to_str);
        if !name.is_some_and(|name| name.starts_with(JOURNAL_START)) {
            let why =
                format!("{}: it is no worker's journal; name another --job-dir", path.display());
            return Err(Untaken::Failed(Failure::failed(why)));
        }
    }
    Ok(())
}

/// The number of the launcher that a directory is of; a new one is drawn.
fn launcher(path: &Path, cluster: &str, job: &str) -> Result<u64, Untaken> {
    let file = path.join(LAUNCHER);
    let wrong =
        |why: String| Untaken::Failed(Failure::failed(format!("{}: {why}", file.display())));
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let holder = RandomState::new().build_hasher().finish();
            let launcher = Launcher { cluster: cluster.to_owned(), job: job.to_owned(), holder };
            let text =
                serde_json::to_string(&launcher).map_err(|error| wrong(error.to_string()))?;
            let fresh = path.join("launcher.new");
            let written = std::fs::write(&fresh, text);
            let written = written.and_then(|()| std::fs::rename(&fresh, &file));
            written.map_err(|error| failed(&file, &error))?;
            return Ok(holder);
        }
        Err(error) => return Err(failed(&file, &error)),
    };
    let found: Launcher = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if found.cluster != cluster || found.job != job {
        let Launcher { cluster: theirs, job: other, .. } = found;
        return Err(wrong(format!(
            "it is of job {other} of cluster {theirs}, not of job {job} of {cluster}; name another \
             --job-dir"
        )));
    }
    Ok(found.holder)
}

fn failed(path: &Path, error: &io::Error) -> Untaken {
    Untaken::Failed(Failure::failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_launchers_at_a_time_and_the_next_life_finds_its_number() {
        let above = tempfile::tempdir().expect("a directory");
        let path = above.path().join("a/b");
        let first = JobDir::open(Some(&path), "c", "ctr").expect("new");
        let second = JobDir::open(Some(&path), "c", "ctr").expect_err("in use").to_string();
        assert!(second.contains("another launcher uses it"), "{second}");
        let holder = first.holder();
        drop(first);
        let again = JobDir::open(Some(&path), "c", "ctr").expect("left");
        assert_eq!(again.holder(), holder);
        drop(again);
        let other = JobDir::open(Some(&path), "c", "ads").expect_err("another job's").to_string();
        assert!(other.contains("it is of job ctr"), "{other}");
    }

    #[test]
    fn a_directory_that_was_forgotten_is_another_launchers() {
        let above = tempfile::tempdir().expect("a directory");
        let first = JobDir::open(Some(above.path()), "c", "ctr").expect("new");
        std::fs::write(first.journals().join("worker-0-0"), "a step").expect("written");
        let holder = first.holder();
        first.forget();
        drop(first);
        let next = JobDir::open(Some(above.path()), "c", "ads").expect("free");
        assert_ne!(next.holder(), holder);
        assert_eq!(next.journals().read_dir().expect("made").count(), 0);
    }

    #[test]
    fn what_no_launcher_has_left_is_not_removed() {
        let above = tempfile::tempdir().expect("a directory");
        let theirs = above.path().join("journals/notes.txt");
        std::fs::create_dir(above.path().join("journals")).expect("made");
        std::fs::write(&theirs, "mine").expect("written");
        let refused = JobDir::open(Some(above.path()), "c", "ctr").expect_err("in the way");
        let refused = refused.to_string();
        assert!(refused.contains("notes.txt: it is no worker's journal"), "{refused}");
        assert!(theirs.exists() && !above.path().join(LAUNCHER).exists());
        std::fs::rename(theirs, above.path().join("journals/worker-0-life-1")).expect("renamed");
        JobDir::open(Some(above.path()), "c", "ctr").expect("a life before was ended amid its end");
    }
}
