//! A directory of checkpoints.
//!
//! Owns the order of file operations by which a file is whole under its name or not there, whenever
//! the machine stops: temporary name, write, sync the file, final name, sync the directory.
//!
//! Invariant: after a sync that failed nothing of that file is used, and no second sync is asked:
//! the kernel may have dropped what it could not write, and would say that all is well.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Disk, DiskEntryKind, DiskFile};
use super::{Backend, Folder, New, Sink, Source, Stored};
use crate::error::StoreError;
use crate::layout::{CheckpointNumber, Object, folder, number_of};
use crate::piece::PIECE_BYTES;

/// What is written between two syncs where it goes by the kernel's cache, in bytes: a sync at the
/// end has little left to do, and a checkpoint does not fill the machine's memory with pages that
/// are to be written.
const SYNC_BYTES: u64 = 64 << 20;

/// How many temporary names are tried before something must be wrong.
const NAMES_MAX: u64 = 1000;

/// What temporary names end with, before a process and a number.
const TEMPORARY: &str = "tmp";

/// Numbers temporary names in this process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A directory of checkpoints on a disk.
pub(crate) struct Local<D> {
    disk: Arc<D>,
    root: PathBuf,
    place: String,
}

impl<D: Disk> Local<D> {
    pub(crate) fn new(disk: Arc<D>, root: PathBuf) -> Local<D> {
        let place = root.display().to_string();
        Local { disk, root, place }
    }

    fn folder(&self, number: CheckpointNumber) -> PathBuf {
        self.root.join(folder(number))
    }

    fn path(&self, object: &Object) -> PathBuf {
        self.folder(object.number).join(&object.file)
    }

    fn failed(&self, path: &Path, doing: &'static str) -> impl Fn(io::Error) -> StoreError {
        let object = path.display().to_string();
        move |error| failure(&object, doing, None, &error)
    }

    /// Makes the root and what is missing above it, each durable in its parent.
    fn make_root(&self) -> Result<(), StoreError> {
        let missing = self.root.ancestors().filter(|path| !path.as_os_str().is_empty());
        let missing = missing.take_while(|path| self.disk.entries(path).is_err());
        let missing: Vec<&Path> = missing.collect();
        for path in missing.into_iter().rev() {
            let made = self.disk.make_dir(path);
            let is_new = made.is_ok();
            if let Err(error) = made
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(self.failed(path, "make directory")(error));
            }
            if let Err(error) = self.sync_parent(path) {
                if is_new {
                    // It would be found, and be gone after a power cut with all that is in it.
                    let _ = self.disk.remove_dir(path);
                }
                return Err(error);
            }
        }
        // Whoever made it may have died before it was durable.
        self.sync_parent(&self.root)
    }

    fn sync_parent(&self, path: &Path) -> Result<(), StoreError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.disk.sync_dir(path).map_err(self.failed(path, "sync directory"))
    }

    /// Creates a file under a name that nobody else has.
    fn create_temporary(&self, path: &Path) -> Result<(PathBuf, D::File), StoreError> {
        for _ in 0..NAMES_MAX {
            let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(format!(".{TEMPORARY}-{}-{number}", std::process::id()));
            let temporary = PathBuf::from(temporary);
            match self.disk.create_new(&temporary) {
                Ok(file) => return Ok((temporary, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.failed(&temporary, "create")(error)),
            }
        }
        let why = format!("each of {NAMES_MAX} temporary names is taken");
        let object = path.display().to_string();
        Err(StoreError::Failed { object, doing: "create", offset: None, why })
    }
}

impl<D: Disk> Backend for Local<D> {
    fn place(&self) -> &str {
        &self.place
    }

    fn list(&self) -> Result<Vec<Folder>, StoreError> {
        let entries = self.disk.entries(&self.root).map_err(self.failed(&self.root, "list"))?;
        let numbers = entries.iter().filter(|entry| entry.kind == DiskEntryKind::Dir);
        let mut numbers: Vec<_> = numbers.filter_map(|entry| number_of(&entry.name)).collect();
        numbers.sort_unstable();
        let folder = |number| self.files(number).map(|files| Folder { number, files });
        numbers.into_iter().map(folder).collect()
    }

    fn files(&self, number: CheckpointNumber) -> Result<Vec<Stored>, StoreError> {
        let path = self.folder(number);
        let entries = match self.disk.entries(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(self.failed(&path, "list"))?,
        };
        let files = entries.into_iter().filter_map(|entry| match entry.kind {
            DiskEntryKind::File { bytes } => Some(Stored { file: entry.name, bytes }),
            DiskEntryKind::Dir => None,
        });
        Ok(files.collect())
    }

    fn claim(&self, number: CheckpointNumber) -> Result<New, StoreError> {
        self.make_root()?;
        let path = self.folder(number);
        match self.disk.make_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(New::Exists),
            made => {
                made.map_err(self.failed(&path, "make directory"))?;
                self.sync_dir(&self.root)?;
                Ok(New::Made)
            }
        }
    }

    fn create(&self, object: &Object) -> Result<Box<dyn Sink>, StoreError> {
        let path = self.path(object);
        let (temporary, file) = self.create_temporary(&path)?;
        let disk = Arc::clone(&self.disk);
        let (way, written, unsynced) = (Way::Untried, 0, 0);
        Ok(Box::new(LocalSink { disk, file, temporary, path, way, written, unsynced }))
    }

    fn put_new(&self, object: &Object, bytes: &[u8]) -> Result<New, StoreError> {
        let path = self.path(object);
        let (temporary, mut file) = self.create_temporary(&path)?;
        let name = temporary.display().to_string();
        let written =
            file.write_all(bytes).map_err(|error| failure(&name, "write", Some(0), &error));
        let offset = Some(bytes.len() as u64);
        let synced = written
            .and_then(|()| file.sync().map_err(|error| failure(&name, "sync", offset, &error)));
        drop(file);
        let linked = synced.and_then(|()| match self.disk.link(&temporary, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(New::Exists),
            linked => linked.map(|()| New::Made).map_err(self.failed(&path, "link")),
        });
        // What is left of it is removed with its checkpoint.
        let _ = self.disk.remove_file(&temporary);
        if linked? == New::Exists {
            return Ok(New::Exists);
        }
        if let Err(error) = self.sync_dir(&self.folder(object.number)) {
            // It may be gone after a power cut: nobody is to see it now.
            let _ = self.disk.remove_file(&path);
            return Err(error);
        }
        Ok(New::Made)
    }

    fn open(&self, object: &Object) -> Result<Box<dyn Source>, StoreError> {
        let path = self.path(object);
        let file = self.disk.open(&path).map_err(self.failed(&path, "open"))?;
        let bytes = file.bytes().map_err(self.failed(&path, "read length"))?;
        Ok(Box::new(LocalSource { file, path, bytes, offset: 0 }))
    }

    fn remove(&self, object: &Object) -> Result<(), StoreError> {
        let path = self.path(object);
        match self.disk.remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(self.failed(&path, "remove"))?;
                self.sync_dir(&self.folder(object.number))
            }
        }
    }

    fn remove_folder(&self, number: CheckpointNumber) -> Result<(), StoreError> {
        let path = self.folder(number);
        match self.disk.remove_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(self.failed(&path, "remove directory"))?;
                self.sync_dir(&self.root)
            }
        }
    }
}

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing was.
    Untried,
    /// Past the kernel's cache: a processor has a tenth of the work, and a disk goes at its rate.
    Direct,
    /// By the cache: the file system knows no other way.
    Cached,
}

struct LocalSink<D: Disk> {
    disk: Arc<D>,
    file: D::File,
    temporary: PathBuf,
    path: PathBuf,
    way: Way,
    written: u64,
    unsynced: u64,
}

impl<D: Disk> LocalSink<D> {
    fn failed(&self, path: &Path, doing: &'static str, error: &io::Error) -> StoreError {
        failure(&path.display().to_string(), doing, Some(self.written), error)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.file.sync().map_err(|error| self.failed(&self.temporary, "sync", &error))?;
        self.unsynced = 0;
        Ok(())
    }

    fn leave_direct(&mut self) -> Result<(), StoreError> {
        self.way = Way::Cached;
        let left = self.file.set_direct(false);
        left.map_err(|error| self.failed(&self.temporary, "write by the cache", &error))
    }
}

impl<D: Disk> Sink for LocalSink<D> {
    /// By the file's first bytes is decided in which way it is written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let is_whole = bytes.len() == PIECE_BYTES;
        if self.way == Way::Untried {
            let is_direct = is_whole && self.file.set_direct(true).is_ok();
            self.way = if is_direct { Way::Direct } else { Way::Cached };
        } else if self.way == Way::Direct && !is_whole {
            self.leave_direct()?; // The last bytes are no whole pages.
        }
        let mut written = self.file.write_all(bytes);
        let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        if self.written == 0 && self.way == Way::Direct && written.as_ref().is_err_and(is_refused) {
            self.leave_direct()?; // The file system has promised what it does not do.
            written = self.file.write_all(bytes);
        }
        written.map_err(|error| self.failed(&self.temporary, "write", &error))?;
        self.written += bytes.len() as u64;
        if self.way == Way::Cached {
            self.unsynced += bytes.len() as u64;
        }
        if self.unsynced >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let finished = self.sync().and_then(|()| {
            let renamed = self.disk.rename(&self.temporary, &self.path);
            renamed.map_err(|error| self.failed(&self.path, "rename", &error))
        });
        if finished.is_err() {
            self.abandon();
            return finished;
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.disk.sync_dir(folder).map_err(|error| self.failed(folder, "sync directory", &error))
    }

    fn abandon(self: Box<Self>) {
        // What is left of it is removed with its checkpoint.
        let _ = self.disk.remove_file(&self.temporary);
    }
}

struct LocalSource<F> {
    file: F,
    path: PathBuf,
    bytes: u64,
    offset: u64,
}

impl<F: DiskFile> Source for LocalSource<F> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, StoreError> {
        let read = self.file.read(into).map_err(|error| {
            failure(&self.path.display().to_string(), "read", Some(self.offset), &error)
        })?;
        self.offset += read as u64;
        Ok(read)
    }
}

fn failure(
    object: &str,
    doing: &'static str,
    offset: Option<u64>,
    error: &io::Error,
) -> StoreError {
    let object = object.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::Absent { object },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full { object, offset: offset.unwrap_or(0) }
        }
        _ => StoreError::Failed { object, doing, offset, why: error.to_string() },
    }
}
