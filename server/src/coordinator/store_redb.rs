//! The log of placements and the records of jobs in one file of this machine, by redb.
//!
//! Owns the file's tables and what they are checked for. One process has it open at a time, which
//! the file's lock sees to; what a crash leaves is the last entry that was appended.
//!
//! Invariant: an entry is JSON behind its checksum, and one that does not match is an error. A file
//! of which a call has failed is not written again: `renewal` has a new one take its place.

mod renewal;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use kernels::Isa;
use kernels::crc32c::crc32c;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::Epoch;

use self::renewal::Known;
use super::jobs::{JobRecord, JobWrite};
use super::store::{Entry, HISTORY_MAX, Store, StoreError};

/// The file in the coordinator's directory.
pub const STORE_FILE: &str = "placements.redb";

/// The newest format that this build reads, and the one that it writes.
const FORMAT: u32 = 1;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const JOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("jobs");

/// Bytes of a checksum, before each entry.
const CHECKSUM_BYTES: usize = size_of::<u32>();

/// A log in a file.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    database: Database,
    cluster_id: u64,
    known: Known,
    /// A call to the file has failed.
    is_suspect: bool,
}

impl RedbStore {
    /// Opens the store of a cluster in a directory, or makes one where there is none.
    ///
    /// # Errors
    ///
    /// The directory cannot be written, or its store is open elsewhere, another cluster's, of a
    /// newer build, or damaged.
    pub fn open(directory: &Path, cluster: &str) -> Result<RedbStore, StoreError> {
        let path = directory.join(STORE_FILE);
        let disk = |error: std::io::Error| StoreError::Disk {
            path: path.clone(),
            what: error.to_string(),
        };
        std::fs::create_dir_all(directory).map_err(disk)?;
        let is_new = std::fs::metadata(&path).map_or(true, |file| file.len() == 0);
        let database = Database::create(&path).map_err(|error| cannot_open(&path, error))?;
        let known = Known::default();
        let mut store = RedbStore { path, database, cluster_id: 0, known, is_suspect: false };
        if is_new {
            store.found(cluster)?;
        }
        store.check(cluster)?;
        store.known = Known::of(&store.database).map_err(|error| store.error_of(error))?;
        Ok(store)
    }

    /// Writes what names the cluster.
    fn found(&self, cluster: &str) -> Result<(), StoreError> {
        // No secret: it only tells two clusters of one name apart.
        let cluster_id = RandomState::new().build_hasher().finish();
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
                meta.insert("cluster", cluster.as_bytes())?;
                meta.insert("cluster_id", cluster_id.to_le_bytes().as_slice())?;
                transaction.open_table(ENTRIES)?;
            }
            transaction.commit()?;
            Ok(self.sync_directory()?)
        };
        write().map_err(|error| self.error_of(error))
    }

    /// Has the file's name survive as well.
    fn sync_directory(&self) -> std::io::Result<()> {
        std::fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Reads what names the cluster.
    fn check(&mut self, cluster: &str) -> Result<(), StoreError> {
        let format = u32::from_le_bytes(self.meta("format")?);
        if format > FORMAT {
            let path = self.path.clone();
            return Err(StoreError::NewerFormat { path, theirs: format, ours: FORMAT });
        }
        let theirs = self.meta_bytes("cluster")?;
        if theirs != cluster.as_bytes() {
            let (path, ours) = (self.path.clone(), cluster.to_owned());
            let theirs = String::from_utf8_lossy(&theirs).into_owned();
            return Err(StoreError::OtherCluster { path, theirs, ours });
        }
        self.cluster_id = u64::from_le_bytes(self.meta("cluster_id")?);
        Ok(())
    }

    fn meta<const N: usize>(&self, name: &str) -> Result<[u8; N], StoreError> {
        let bytes = self.meta_bytes(name)?;
        let what = || format!("'{name}' has {} bytes; it has {N}", bytes.len());
        <[u8; N]>::try_from(bytes.as_slice()).map_err(|_| self.damaged(what()))
    }

    fn meta_bytes(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = match self.database.begin_read()?.open_table(META) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(name)?.map(|value| value.value().to_vec()))
        };
        let found = read().map_err(|error| self.error_of(error))?;
        found.ok_or_else(|| self.damaged(format!("'{name}' is missing")))
    }

    /// The newest `count_max` entries, the newest first.
    fn newest_bytes(&mut self, count_max: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.renew()?;
        let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let entries = self.database.begin_read()?.open_table(ENTRIES)?;
            let newest = entries.iter()?.rev().take(count_max);
            newest
                .map(|entry| {
                    let (epoch, bytes) = entry?;
                    Ok((epoch.value(), bytes.value().to_vec()))
                })
                .collect()
        };
        let found = read();
        self.said(found)
    }

    fn entry(&self, epoch: u64, bytes: &[u8]) -> Result<Entry, StoreError> {
        let wrong = |what: &str| self.damaged(format!("entry {epoch} {what}"));
        let entry: Entry = unsealed(bytes).map_err(|what| wrong(&what))?;
        entry.placement.check().map_err(|error| wrong(&error.to_string()))?;
        if entry.placement.epoch.get() != epoch {
            return Err(wrong("has another epoch"));
        }
        Ok(entry)
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what }
    }

    /// What the file has said, and whether it is to be trusted any longer.
    fn said<T>(&mut self, result: Result<T, redb::Error>) -> Result<T, StoreError> {
        result.map_err(|error| {
            let error = self.error_of(error);
            self.is_suspect |= matches!(error, StoreError::Disk { .. });
            error
        })
    }

    fn error_of(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Corrupted(what) => self.damaged(what),
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableIsMultimap(_)) => self.damaged(error.to_string()),
            error => StoreError::Disk { path: self.path.clone(), what: error.to_string() },
        }
    }
}

/// What lies behind its checksum.
fn unsealed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let Some((checksum, json)) = bytes.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Err("is cut short".to_owned());
    };
    if checksum_of(json) != u32::from_le_bytes(*checksum) {
        return Err("does not match its checksum".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// JSON behind its checksum.
fn sealed<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let mut bytes = checksum_of(&json).to_le_bytes().to_vec();
    bytes.extend_from_slice(&json);
    Ok(bytes)
}

fn checksum_of(json: &[u8]) -> u32 {
    crc32c(Isa::detect(), 0, json)
}

fn cannot_open(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            StoreError::Disk { path, what: error.to_string() }
        }
        error => StoreError::Damaged { path, what: error.to_string() },
    }
}

impl Store for RedbStore {
    fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    fn newest(&mut self) -> Result<Option<Entry>, StoreError> {
        let newest = self.newest_bytes(1)?;
        newest.first().map(|(epoch, bytes)| self.entry(*epoch, bytes)).transpose()
    }

    fn append(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.renew()?;
        let epoch = entry.placement.epoch.get();
        let bytes = sealed(entry).map_err(|what| self.damaged(what))?;
        let write = || -> Result<Option<u64>, redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut entries = transaction.open_table(ENTRIES)?;
                let newest = entries.last()?.map_or(0, |(epoch, _)| epoch.value());
                if newest + 1 != epoch {
                    return Ok(Some(newest));
                }
                entries.insert(epoch, bytes.as_slice())?;
                let oldest_kept = epoch.saturating_sub(HISTORY_MAX - 1);
                entries.retain_in(..oldest_kept, |_, _| false)?;
            }
            transaction.commit()?;
            Ok(None)
        };
        let written = write();
        match self.said(written)? {
            None => {
                self.known.newest = epoch;
                Ok(())
            }
            Some(newest) => {
                let (ours, theirs) = (Epoch::new(epoch.saturating_sub(1)), Epoch::new(newest));
                Err(StoreError::Conflict { ours, theirs })
            }
        }
    }

    fn history(&mut self, count_max: usize) -> Result<Vec<(Epoch, String)>, StoreError> {
        let newest = self.newest_bytes(count_max)?;
        let read = newest.iter().map(|(epoch, bytes)| {
            let entry = self.entry(*epoch, bytes)?;
            Ok((entry.placement.epoch, entry.placement.cause))
        });
        read.collect()
    }

    fn jobs(&mut self) -> Result<Vec<JobRecord>, StoreError> {
        let wrong = |name: &str, what: String| self.damaged(format!("job {name} {what}"));
        let job = |(name, bytes): (&String, &Vec<u8>)| {
            let job: JobRecord = unsealed(bytes).map_err(|what| wrong(name, what))?;
            job.check(name).map_err(|what| wrong(name, what))?;
            Ok(job)
        };
        self.known.jobs.iter().map(job).collect()
    }

    fn keep_job(&mut self, write: &JobWrite) -> Result<(), StoreError> {
        self.renew()?;
        let JobWrite { record, after, forgotten } = write;
        let bytes = sealed(record).map_err(|what| self.damaged(what))?;
        let version = |bytes: &[u8]| {
            let there: Result<JobRecord, String> = unsealed(bytes);
            there.map(|there| there.version)
        };
        let write = || -> Result<Result<(), u64>, redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut jobs = transaction.open_table(JOBS)?;
                let there = jobs.get(record.name.as_str())?.map(|there| version(there.value()));
                let there = there.transpose().map_err(redb::Error::Corrupted)?.unwrap_or(0);
                if there != *after {
                    return Ok(Err(there));
                }
                jobs.insert(record.name.as_str(), bytes.as_slice())?;
                for name in forgotten {
                    jobs.remove(name.as_str())?;
                }
            }
            transaction.commit()?;
            Ok(Ok(()))
        };
        let written = write();
        match self.said(written)? {
            Ok(()) => {
                self.known.jobs.retain(|name, _| !forgotten.contains(name));
                self.known.jobs.insert(record.name.clone(), bytes);
                Ok(())
            }
            Err(theirs) => {
                let (job, ours) = (record.name.clone(), *after);
                Err(StoreError::JobConflict { job, ours, theirs })
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use wire::{JobBid, Placement};

    use super::*;

    pub(super) fn entry(epoch: u64) -> Entry {
        let cause = format!("cause {epoch}");
        let placement = Placement { epoch: Epoch::new(epoch), cause, ..Placement::default() };
        Entry { placement, numbers_given: epoch as u32, ..Entry::default() }
    }

    #[test]
    fn what_was_appended_is_there_after_a_crash() {
        let directory = tempfile::tempdir().expect("a directory");
        let copied = tempfile::tempdir().expect("a directory");
        let mut store = RedbStore::open(directory.path(), "ctr").expect("new");
        assert_eq!(store.newest(), Ok(None));
        (1..=3).for_each(|epoch| store.append(&entry(epoch)).expect("appended"));
        // What a crash leaves: the file as it stands, with nothing closed.
        let file = directory.path().join(STORE_FILE);
        std::fs::copy(&file, copied.path().join(STORE_FILE)).expect("copied");
        let mut reopened = RedbStore::open(copied.path(), "ctr").expect("opens");
        assert_eq!(reopened.newest(), Ok(Some(entry(3))));
        assert_eq!(reopened.cluster_id(), store.cluster_id());
        let history = reopened.history(2).expect("read");
        assert_eq!(history, [3, 2].map(|epoch| (Epoch::new(epoch), format!("cause {epoch}"))));
    }

    #[test]
    fn an_entry_after_one_that_the_writer_does_not_know_is_a_conflict() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = RedbStore::open(directory.path(), "ctr").expect("new");
        store.append(&entry(1)).expect("appended");
        let conflict = |ours, theirs| {
            Err(StoreError::Conflict { ours: Epoch::new(ours), theirs: Epoch::new(theirs) })
        };
        assert_eq!(store.append(&entry(1)), conflict(0, 1));
        assert_eq!(store.append(&entry(3)), conflict(2, 1));
        assert_eq!(store.newest(), Ok(Some(entry(1))));
    }

    pub(super) fn job(name: &str, version: u64) -> JobRecord {
        let bid =
            JobBid { host: "h".into(), workers: 2, wanted: 1, epochs: 1, ..JobBid::default() };
        JobRecord::new(name, version, &bid)
    }

    #[test]
    fn a_job_is_kept_after_the_record_that_the_writer_knows_and_after_no_other_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = RedbStore::open(directory.path(), "ctr").expect("new");
        assert_eq!(store.jobs(), Ok(Vec::new()), "as a store of before has none");
        let write = |name: &str, after, version, forgotten: &[&str]| {
            let forgotten = forgotten.iter().map(|&name| name.to_owned()).collect();
            JobWrite { record: job(name, version), after, forgotten }
        };
        store.keep_job(&write("a", 0, 2, &[])).expect("new");
        store.keep_job(&write("b", 0, 1, &[])).expect("new");
        store.keep_job(&write("a", 2, 5, &[])).expect("the next one");
        let conflict =
            |ours, theirs| Err(StoreError::JobConflict { job: "a".into(), ours, theirs });
        assert_eq!(store.keep_job(&write("a", 2, 6, &[])), conflict(2, 5));
        assert_eq!(store.keep_job(&write("a", 0, 1, &[])), conflict(0, 5));
        drop(store);
        let mut store = RedbStore::open(directory.path(), "ctr").expect("opens");
        assert_eq!(store.jobs(), Ok(vec![job("a", 5), job("b", 1)]));
        store.keep_job(&write("b", 1, 2, &["a"])).expect("the next one");
        assert_eq!(store.jobs(), Ok(vec![job("b", 2)]));
        assert_eq!(store.newest(), Ok(None), "the log of placements is apart");
    }

    #[test]
    fn old_entries_are_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = RedbStore::open(directory.path(), "ctr").expect("new");
        let last = HISTORY_MAX + 5;
        (1..=last).for_each(|epoch| store.append(&entry(epoch)).expect("appended"));
        let history = store.history(usize::MAX).expect("read");
        assert_eq!(history.len() as u64, HISTORY_MAX);
        assert_eq!(history[0].0, Epoch::new(last));
    }

    #[test]
    fn a_store_of_another_cluster_or_of_a_later_build_or_in_use_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(STORE_FILE);
        let store = RedbStore::open(directory.path(), "ctr").expect("new");
        let in_use = RedbStore::open(directory.path(), "ctr").expect_err("open twice");
        assert_eq!(in_use, StoreError::InUse { path: path.clone() });
        drop(store);
        let other = RedbStore::open(directory.path(), "ads").expect_err("another's");
        assert!(matches!(&other, StoreError::OtherCluster { .. }), "{other}");
        let database = Database::create(&path).expect("opens");
        let transaction = database.begin_write().expect("begins");
        let later = (FORMAT + 1).to_le_bytes();
        let mut meta = transaction.open_table(META).expect("opens");
        meta.insert("format", later.as_slice()).expect("written");
        drop(meta);
        transaction.commit().expect("committed");
        drop(database);
        let newer = RedbStore::open(directory.path(), "ctr").expect_err("newer");
        assert_eq!(newer, StoreError::NewerFormat { path, theirs: FORMAT + 1, ours: FORMAT });
    }

    #[test]
    fn a_damaged_file_is_one_clear_line_wherever_it_is_damaged() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = RedbStore::open(directory.path(), "ctr").expect("new");
        (1..=3).for_each(|epoch| store.append(&entry(epoch)).expect("appended"));
        drop(store);
        let whole = std::fs::read(directory.path().join(STORE_FILE)).expect("read");
        let used = whole.iter().rposition(|&byte| byte != 0).expect("written") + 1;
        let mut found = 0;
        for at in (0..used).step_by(used / 200 + 1) {
            let damaged = tempfile::tempdir().expect("a directory");
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(damaged.path().join(STORE_FILE), bytes).expect("written");
            // No panic, and no entry that was never written.
            let opened = RedbStore::open(damaged.path(), "ctr");
            match opened.and_then(|mut store| store.newest()) {
                Ok(Some(newest)) => assert_eq!(newest, entry(newest.placement.epoch.get())),
                Ok(None) => {}
                Err(error) => {
                    found += 1;
                    assert_eq!(error.to_string().lines().count(), 1, "{error}");
                }
            }
        }
        assert!(found > 0);
        let text = tempfile::tempdir().expect("a directory");
        std::fs::write(text.path().join(STORE_FILE), "no database").expect("written");
        let error = RedbStore::open(text.path(), "ctr").expect_err("text");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}
