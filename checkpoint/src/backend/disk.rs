//! The file operations that a directory of checkpoints needs.
//!
//! Owns the list of them, so that a test can fail each one and lose what was not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A file system, as far as checkpoints use it.
pub(crate) trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Fails if it is there.
    fn create_new(&self, path: &Path) -> io::Result<Self::File>;
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name; fails if there is something under it.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    fn entries(&self, path: &Path) -> io::Result<Vec<DiskEntry>>;
}

/// A file, written or read from its start.
pub(crate) trait DiskFile: Send + 'static {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// From now on it is written past the kernel's cache, in whole pages that lie at a page's
    /// boundary; or no longer. Fails where the file system knows no such way.
    fn set_direct(&mut self, is_direct: bool) -> io::Result<()>;
    /// Makes what was written durable. If it fails once, nothing written before is to be trusted.
    fn sync(&mut self) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
    /// Reads until `into` is full or the file ends.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskEntry {
    pub(crate) name: String,
    pub(crate) kind: DiskEntryKind,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskEntryKind {
    Dir,
    File { bytes: u64 },
}

/// The operating system's.
pub(crate) struct OsDisk;

impl Disk for OsDisk {
    type File = File;

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                // Removed since the listing began.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            let kind = match meta.is_dir() {
                true => DiskEntryKind::Dir,
                false => DiskEntryKind::File { bytes: meta.len() },
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DiskEntry { name, kind });
        }
        Ok(entries)
    }
}

impl DiskFile for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }

    fn set_direct(&mut self, is_direct: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&*self)?;
        flags.set(OFlags::DIRECT, is_direct);
        Ok(fcntl_setfl(&*self, flags)?)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < into.len() {
            match Read::read(self, &mut into[read..]) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}
