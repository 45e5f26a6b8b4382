//! A new file for a store whose file could not be written or read.
//!
//! Owns what is known to be durable, and the way from a file that is not to be trusted any more to
//! one that is. A kernel that could not write a page may forget so, and calls it clean: who asks
//! again is told that all is well. So nothing is asked of such a file again but what it holds, and
//! checksums say whether that is true.
//!
//! Invariant: a new file holds what was written durably, and nothing of the attempt that failed.
//!
//! Source: Rebello et al., Can Applications Recover from fsync Failures?, ATC 2020.

use std::collections::BTreeMap;
use std::path::Path;

use redb::{Database, ReadableTable};

use super::super::store::StoreError;
use super::{ENTRIES, JOBS, RedbStore, cannot_open};

/// What the new file is called until it takes the place of the one before.
const FRESH_EXTENSION: &str = "new";

/// What was written durably: so far as an attempt that failed may have left something else.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The newest entry's number.
    pub(super) newest: u64,
    /// All records of jobs, as they are stored.
    pub(super) jobs: BTreeMap<String, Vec<u8>>,
}

impl Known {
    /// What a file holds that was just opened.
    pub(super) fn of(database: &Database) -> Result<Known, redb::Error> {
        let transaction = database.begin_write()?;
        let newest = transaction.open_table(ENTRIES)?.last()?.map_or(0, |(epoch, _)| epoch.value());
        let jobs = transaction.open_table(JOBS)?;
        let jobs = jobs.iter()?.map(|job| {
            let (name, bytes) = job?;
            Ok((name.value().to_owned(), bytes.value().to_vec()))
        });
        Ok(Known { newest, jobs: jobs.collect::<Result<_, redb::Error>>()? })
    }

    /// Takes everything else out of a file.
    fn alone_in(&self, database: &Database) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            transaction.open_table(ENTRIES)?.retain_in(self.newest + 1.., |_, _| false)?;
            let mut jobs = transaction.open_table(JOBS)?;
            jobs.retain(|name, _| self.jobs.contains_key(name))?;
            for (name, bytes) in &self.jobs {
                jobs.insert(name.as_str(), bytes.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl RedbStore {
    /// Has all that is known to be durable in a new file, if a call to the one that there is has
    /// failed.
    ///
    /// - Errors: the new one cannot be written either, or the old one is damaged; then the next
    ///   call tries again.
    pub(super) fn renew(&mut self) -> Result<(), StoreError> {
        if !self.is_suspect {
            return Ok(());
        }
        let fresh = self.path.with_extension(FRESH_EXTENSION);
        let made = self.make_fresh(&fresh);
        if made.is_err() {
            // A disk that is full needs the room; where it is not there, so much the better.
            let _ = std::fs::remove_file(&fresh);
        }
        let database = made?;
        std::fs::rename(&fresh, &self.path).map_err(disk(&fresh))?;
        self.database = database; // Locked before it had the name: nobody else can have it open.
        self.sync_directory().map_err(disk(&self.path))?;
        self.is_suspect = false;
        let path = self.path.display();
        tracing::warn!(%path, "the store's file had failed: all that it held is in a new one");
        Ok(())
    }

    /// A durable file with all that is known to be durable, and nothing else.
    fn make_fresh(&self, fresh: &Path) -> Result<Database, StoreError> {
        // Not by a call that may share the old one's blocks.
        let held = std::fs::read(&self.path).map_err(disk(&self.path))?;
        std::fs::write(fresh, held).map_err(disk(fresh))?;
        let database = Database::create(fresh).map_err(|error| cannot_open(fresh, error))?;
        // The commit makes all of the file durable, what was copied included.
        self.known.alone_in(&database).map_err(|error| self.error_of(error))?;
        Ok(database)
    }
}

fn disk(path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    move |error| StoreError::Disk { path: path.to_owned(), what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::FileBackend;
    use wire::Epoch;

    use super::super::super::jobs::JobWrite;
    use super::super::super::store::Store;
    use super::super::tests::{entry, job};
    use super::super::{STORE_FILE, StoreError};
    use super::*;

    /// A file whose writes reach it, and whose every call to make them durable fails while `fails`.
    #[derive(Debug)]
    struct Failing {
        file: FileBackend,
        fails: Arc<AtomicBool>,
    }

    impl StorageBackend for Failing {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            match self.fails.load(Ordering::Relaxed) {
                true => Err(io::Error::from_raw_os_error(5)),
                false => self.file.sync_data(),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.file.write(offset, data)
        }
    }

    /// A store with three entries and a job, whose file fails from now on; and what ends that.
    fn failing(directory: &Path) -> (RedbStore, Arc<AtomicBool>) {
        let mut store = RedbStore::open(directory, "ctr").expect("new");
        (1..=3).for_each(|epoch| store.append(&entry(epoch)).expect("appended"));
        store.keep_job(&write(0, 1)).expect("kept");
        drop(store);
        let mut store = RedbStore::open(directory, "ctr").expect("opens");
        let fails = Arc::new(AtomicBool::new(false));
        let file = OpenOptions::new().read(true).write(true).open(directory.join(STORE_FILE));
        // The lock is the other's first.
        store.database = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .expect("memory");
        let file = FileBackend::new(file.expect("there")).expect("not locked");
        let backend = Failing { file, fails: Arc::clone(&fails) };
        store.database = Database::builder().create_with_backend(backend).expect("opens");
        fails.store(true, Ordering::Relaxed);
        (store, fails)
    }

    fn write(after: u64, version: u64) -> JobWrite {
        JobWrite { record: job("a", version), after, forgotten: Vec::new() }
    }

    #[test]
    fn a_file_that_fails_is_left_for_a_new_one_without_what_was_not_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut store, _fails) = failing(directory.path());
        let disk = |result: Result<(), StoreError>| {
            assert!(matches!(result, Err(StoreError::Disk { .. })), "{result:?}");
        };
        disk(store.append(&entry(4)));
        // The old file fails for ever, and its bytes may hold what was not made durable.
        let mut other = entry(4);
        other.placement.cause = "another one".to_owned();
        store.append(&other).expect("in a new file");
        assert_eq!(store.newest(), Ok(Some(other.clone())));
        assert_eq!(store.jobs(), Ok(vec![job("a", 1)]));
        let cluster_id = store.cluster_id();
        drop(store);
        let mut reopened = RedbStore::open(directory.path(), "ctr").expect("opens");
        assert_eq!(reopened.cluster_id(), cluster_id);
        assert_eq!(reopened.newest(), Ok(Some(other)));
        let causes: Vec<Epoch> =
            reopened.history(9).expect("read").into_iter().map(|(epoch, _)| epoch).collect();
        assert_eq!(causes, [4, 3, 2, 1].map(Epoch::new));
    }

    #[test]
    fn a_job_whose_record_was_not_written_has_the_one_before_in_the_new_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut store, _fails) = failing(directory.path());
        assert!(store.keep_job(&write(1, 2)).is_err());
        assert_eq!(store.jobs(), Ok(vec![job("a", 1)]));
        store.keep_job(&write(1, 3)).expect("after the one that was kept");
        assert_eq!(store.jobs(), Ok(vec![job("a", 3)]));
    }

    #[test]
    fn while_no_new_file_can_be_written_either_nothing_is_and_nothing_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut store, _fails) = failing(directory.path());
        assert!(store.append(&entry(4)).is_err());
        // A folder has the new file's name.
        let fresh = directory.path().join(STORE_FILE).with_extension(FRESH_EXTENSION);
        std::fs::create_dir(&fresh).expect("made");
        for _ in 0..2 {
            let error = store.append(&entry(4)).expect_err("no new file");
            assert!(error.to_string().contains("placements.new"), "{error}");
        }
        std::fs::remove_dir(&fresh).expect("removed");
        assert_eq!(store.newest(), Ok(Some(entry(3))));
        store.append(&entry(4)).expect("in a new file");
        assert!(!fresh.exists(), "it has the store's name");
    }
}
