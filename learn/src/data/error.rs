//! What can be wrong with data, and where.
//!
//! Owns the typed errors of every reader and their words. Deciding whether a bad row ends the run
//! is left to `source`.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Why a source cannot be opened or cannot go on. A source that returned one stays at its end:
/// each later call returns the same error again.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "what a variant says of itself names its fields")]
pub enum DataError {
    /// The specification names no input.
    NoInput,
    /// A pattern matches no file.
    NoMatch { pattern: String },
    /// A pattern is malformed.
    Pattern { pattern: String, message: String },
    /// A file cannot be opened: it does not exist, or may not be read.
    Open { path: Arc<str>, kind: io::ErrorKind, message: String },
    /// The path is a directory. A pattern such as `folder/*` names its files.
    Directory { path: Arc<str> },
    /// The file holds no byte, or nothing but a header.
    Empty { path: Arc<str> },
    /// Reading or unpacking failed after `bytes` bytes of the file as it lies on disk.
    Read { path: Arc<str>, bytes: u64, kind: io::ErrorKind, message: String },
    /// The file ends inside a compressed frame, after `bytes` bytes on disk.
    Truncated { path: Arc<str>, bytes: u64 },
    /// Neither the name nor the first line tells the format. `--format` says it.
    UnknownFormat { path: Arc<str> },
    /// Inputs that do not go together, such as Parquet and text files in one source.
    MixedFormats { path: Arc<str>, expected: &'static str, found: &'static str },
    /// A setting of the specification that cannot be met.
    Setting { name: &'static str, message: String },
    /// A row is longer than `bytes_max` bytes. An unclosed quote makes such rows.
    RowTooLong { path: Arc<str>, spot: Spot, bytes_max: usize },
    /// A batch of `rows` rows needs more than `bytes_max` bytes. Fewer rows a batch help.
    BatchTooLarge { path: Arc<str>, spot: Spot, rows: usize, bytes_max: usize },
    /// The header of a file does not fit the specification.
    Header { path: Arc<str>, message: String },
    /// A bad row, where none is allowed.
    Row(RowError),
    /// One bad row more than the `allowed` ones.
    TooManyBadRows { allowed: u64, row: RowError },
    /// A Parquet file, or a column of it, cannot be read.
    Parquet { path: Arc<str>, column: Option<String>, message: String },
    /// A whole pass found no row.
    NoRows,
    /// A whole pass found one class only: nothing can be learned from it.
    OneClass { label: u8, rows: u64 },
    /// Several readers share the batches, and this one could not claim its next.
    NoClaim { reason: String },
    /// A thread of the reader died. This is a defect of this program.
    ThreadDied { thread: &'static str },
}

/// A row that cannot be used: where it lies, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct RowError {
    /// The file, as it was named.
    pub path: Arc<str>,
    /// Where in the file.
    pub spot: Spot,
    /// Byte in the line, from 1. In Parquet: the column, from 1.
    pub column: u64,
    /// What was expected and what was found.
    pub reason: Reason,
}

/// A place in a file. Who begins in the middle of one knows no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// Line in the unpacked file, from 1. In Parquet: the row, from 1.
    Line(u64),
    /// Byte in the file, from 0.
    Byte(u64),
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "what a variant says of itself names its fields")]
pub enum Reason {
    /// Something else was expected here.
    Expected { what: &'static str, found: Found },
    /// A label that is none of 0, 1, -1.
    Label { value: f32 },
    /// A number that is not finite.
    NotFinite { what: &'static str },
    /// An importance that is not positive.
    Importance { value: f32 },
    /// A feature number of 2^63 or more.
    FeatureNumber,
    /// A row of another count of fields than its header.
    Fields { expected: usize, found: usize },
}

/// What stood where something else was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This byte.
    Byte(u8),
    /// The end of the line.
    EndOfLine,
    /// An empty field or a null.
    Nothing,
}

/// A fault at a byte of a block, before its line is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) reason: Reason,
}

impl Fault {
    #[cold]
    pub(crate) fn new(at: usize, reason: Reason) -> Fault {
        Fault { at, reason }
    }

    /// `what` was expected at byte `at` of `bytes`.
    #[cold]
    pub(crate) fn expected(what: &'static str, bytes: &[u8], at: usize) -> Fault {
        let found = match bytes.get(at) {
            None | Some(b'\n') => Found::EndOfLine,
            Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => Found::EndOfLine,
            Some(&byte) => Found::Byte(byte),
        };
        Fault { at, reason: Reason::Expected { what, found } }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Byte(byte) => write!(f, "'{}'", byte.escape_ascii()),
            Found::EndOfLine => f.write_str("the end of the line"),
            Found::Nothing => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Expected { what, found } => write!(f, "expected {what}, found {found}"),
            Reason::Label { value } => write!(f, "expected a label of 0, 1 or -1, found {value}"),
            Reason::NotFinite { what } => write!(f, "{what} is not a finite number"),
            Reason::Importance { value } => {
                write!(f, "expected an importance above 0, found {value}")
            }
            Reason::FeatureNumber => f.write_str("expected a feature number below 2^63"),
            Reason::Fields { expected, found } => {
                write!(f, "expected {expected} fields, found {found}")
            }
        }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, self.spot)?;
        if matches!(self.spot, Spot::Line(_)) {
            write!(f, ":{}", self.column)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spot::Line(line) => write!(f, ":{line}"),
            Spot::Byte(byte) => write!(f, ": byte {byte}"),
        }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::NoInput => f.write_str("no input is named"),
            DataError::NoMatch { pattern } => write!(f, "no file matches '{pattern}'"),
            DataError::Pattern { pattern, message } => write!(f, "pattern '{pattern}': {message}"),
            DataError::Open { path, message, .. } => write!(f, "{path}: cannot open: {message}"),
            DataError::Directory { path } => {
                write!(f, "{path}: is a directory; '{path}/*' would name its files")
            }
            DataError::Empty { path } => write!(f, "{path}: holds no rows"),
            DataError::Read { path, bytes, message, .. } => {
                write!(f, "{path}: reading failed after {bytes} bytes on disk: {message}")
            }
            DataError::Truncated { path, bytes } => {
                write!(f, "{path}: the compressed file is cut off after {bytes} bytes")
            }
            DataError::UnknownFormat { path } => write!(
                f,
                "{path}: neither the file's name nor its first line tells the format; \
                 expected vw, libsvm, csv, criteo or parquet"
            ),
            DataError::MixedFormats { path, expected, found } => {
                write!(f, "{path}: expected {expected} like the inputs before it, found {found}")
            }
            DataError::Setting { name, message } => write!(f, "{name}: {message}"),
            DataError::RowTooLong { path, spot, bytes_max } => write!(
                f,
                "{path}{spot}: the row is longer than {bytes_max} bytes (an unclosed quote?)"
            ),
            DataError::BatchTooLarge { path, spot, rows, bytes_max } => write!(
                f,
                "{path}{spot}: {rows} rows are longer than {bytes_max} bytes; \
                 make the batches smaller"
            ),
            DataError::Header { path, message } => write!(f, "{path}:1: {message}"),
            DataError::Row(row) => row.fmt(f),
            DataError::TooManyBadRows { allowed, row } => {
                write!(f, "{row} (one bad row more than the {allowed} allowed)")
            }
            DataError::Parquet { path, column, message } => {
                write!(f, "{path}")?;
                column.as_ref().map_or(Ok(()), |column| write!(f, ": column '{column}'"))?;
                write!(f, ": {message}")
            }
            DataError::NoRows => f.write_str("the data holds no rows"),
            DataError::OneClass { label, rows } => {
                write!(f, "all {rows} rows have the label {label}: nothing to learn")
            }
            DataError::NoClaim { reason } => write!(f, "no batch could be claimed: {reason}"),
            DataError::ThreadDied { thread } => write!(f, "the {thread} thread died"),
        }
    }
}

impl std::error::Error for DataError {}
