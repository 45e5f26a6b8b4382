//! From the names of inputs to streams of unpacked bytes.
//!
//! Owns patterns, opening, and unpacking, told by the first bytes of a file and not by its name.
//! Cutting the bytes into rows is left to `text`.
//!
//! Invariant: a stream's end is the end of its file's last whole frame, or an error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::DataError;
use super::lines::LineRange;

/// What is asked of the disk at a time.
const DISK_BYTES: usize = 256 << 10;
/// How much of a file is looked at before it is read: enough for a header and many rows.
const HEAD_BYTES: usize = 256 << 10;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const PARQUET_MAGIC: [u8; 4] = *b"PAR1";
/// The longest of those.
const MAGIC_BYTES: usize = 4;

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    pub(crate) path: Arc<str>,
    /// Its length on disk; 0 if it is a pipe.
    pub(crate) bytes: u64,
    /// Counts what was read of all files.
    pub(crate) bytes_read: Arc<AtomicU64>,
}

/// The files that paths and patterns name, in order.
pub(crate) fn expand(
    inputs: &[String],
    bytes_read: &Arc<AtomicU64>,
) -> Result<Vec<InputFile>, DataError> {
    let mut files = Vec::new();
    for input in inputs {
        let has_pattern = input.contains(['*', '?', '[']);
        if !has_pattern || std::fs::exists(input).unwrap_or(false) {
            files.push(InputFile::new(input, bytes_read)?);
            continue;
        }
        let bad = |message: String| DataError::Pattern { pattern: input.clone(), message };
        let paths = glob::glob(input).map_err(|error| bad(error.to_string()))?;
        let before = files.len();
        for path in paths {
            let path = path.map_err(|error| bad(error.to_string()))?;
            files.push(InputFile::new(&path.to_string_lossy(), bytes_read)?);
        }
        if files.len() == before {
            return Err(DataError::NoMatch { pattern: input.clone() });
        }
    }
    if files.is_empty() { Err(DataError::NoInput) } else { Ok(files) }
}

impl InputFile {
    fn new(path: &str, bytes_read: &Arc<AtomicU64>) -> Result<InputFile, DataError> {
        let path: Arc<str> = path.into();
        let metadata = std::fs::metadata(&*path).map_err(|error| open_error(&path, &error))?;
        if metadata.is_dir() {
            return Err(DataError::Directory { path });
        }
        let bytes = metadata.len();
        Ok(InputFile { path, bytes, bytes_read: bytes_read.clone() })
    }

    /// Opens the file and finds out how it is packed.
    pub(crate) fn open(&self) -> Result<Unpacked, DataError> {
        let file = File::open(&*self.path).map_err(|error| open_error(&self.path, &error))?;
        let mut unpacked = Unpacked::memory(&self.path, Vec::new());
        let (own, all) = (unpacked.own_bytes.clone(), self.bytes_read.clone());
        let counting = Counting { file, own, all };
        let mut disk = BufReader::with_capacity(DISK_BYTES, counting);
        let start = disk.fill_buf().map_err(|error| unpacked.read_error(&error))?;
        unpacked.stream = if is_zstd(start) {
            let decoder = zstd::stream::read::Decoder::with_buffer(disk);
            Box::new(decoder.map_err(|error| unpacked.read_error(&error))?)
        } else if start.starts_with(&GZIP_MAGIC) {
            Box::new(flate2::bufread::MultiGzDecoder::new(disk))
        } else {
            Box::new(disk)
        };
        Ok(unpacked)
    }

    /// Opens the lines that begin in `range` of a file that is not packed. Also where the first of
    /// them begins.
    pub(crate) fn open_range(&self, range: Range<u64>) -> Result<(Unpacked, u64), DataError> {
        let file = File::open(&*self.path).map_err(|error| open_error(&self.path, &error))?;
        let mut unpacked = Unpacked::memory(&self.path, Vec::new());
        let counts = [unpacked.own_bytes.clone(), self.bytes_read.clone()];
        let lines = LineRange::new(file, range, counts);
        let lines = lines.map_err(|error| unpacked.read_error(&error))?;
        let start = lines.start();
        unpacked.stream = Box::new(lines);
        Ok((unpacked, start))
    }

    /// Whether the file is packed, and so can be read from its beginning alone.
    pub(crate) fn is_packed(&self) -> Result<bool, DataError> {
        let file = File::open(&*self.path).map_err(|error| open_error(&self.path, &error))?;
        let mut start = Vec::with_capacity(MAGIC_BYTES);
        let read = file.take(MAGIC_BYTES as u64).read_to_end(&mut start);
        read.map_err(|error| Unpacked::memory(&self.path, Vec::new()).read_error(&error))?;
        Ok(is_zstd(&start) || start.starts_with(&GZIP_MAGIC))
    }
}

fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(&ZSTD_MAGIC) || is_skippable(start)
}

/// Whether a zstd file starts with a frame that holds no data: `0x184D2A50` to `0x184D2A5F`.
fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn open_error(path: &Arc<str>, error: &io::Error) -> DataError {
    let message = plain_message(error);
    DataError::Open { path: path.clone(), kind: error.kind(), message }
}

/// The error's words without the number that the operating system gave it.
fn plain_message(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// The unpacked bytes of one file.
pub(crate) struct Unpacked {
    path: Arc<str>,
    stream: Box<dyn Read + Send>,
    own_bytes: Arc<AtomicU64>,
    head: Vec<u8>,
    head_at: usize,
}

impl Unpacked {
    /// Bytes that lie in memory, under the name that messages give them.
    pub(crate) fn memory(name: &str, bytes: Vec<u8>) -> Unpacked {
        Unpacked {
            path: name.into(),
            stream: Box::new(io::empty()),
            own_bytes: Arc::default(),
            head: bytes,
            head_at: 0,
        }
    }

    pub(crate) fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The first bytes, which `read` will give all the same. An empty file is an error.
    pub(crate) fn head(&mut self) -> Result<&[u8], DataError> {
        let mut head = vec![0; HEAD_BYTES];
        let mut len = 0;
        while len < HEAD_BYTES {
            match self.read(&mut head[len..])? {
                0 => break,
                count => len += count,
            }
        }
        if len == 0 {
            return Err(DataError::Empty { path: self.path.clone() });
        }
        head.truncate(len);
        (self.head, self.head_at) = (head, 0);
        Ok(&self.head)
    }

    /// Reads some bytes: none at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, DataError> {
        let mut head = &self.head[self.head_at..];
        if !head.is_empty() {
            let count = head.read(buffer).expect("a slice can be read");
            self.head_at += count;
            return Ok(count);
        }
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|error| self.read_error(&error)),
            }
        }
    }

    #[cold]
    fn read_error(&self, error: &io::Error) -> DataError {
        let (path, bytes) = (self.path.clone(), self.own_bytes.load(Ordering::Relaxed));
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return DataError::Truncated { path, bytes };
        }
        DataError::Read { path, bytes, kind: error.kind(), message: error.to_string() }
    }
}

/// Whether `head` is a Parquet file's.
pub(crate) fn is_parquet(head: &[u8]) -> bool {
    head.starts_with(&PARQUET_MAGIC)
}

/// A file that counts what is read of it.
struct Counting {
    file: File,
    own: Arc<AtomicU64>,
    all: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.own.fetch_add(count as u64, Ordering::Relaxed);
        self.all.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
