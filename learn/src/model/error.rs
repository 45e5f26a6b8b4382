//! What can be wrong with a model directory, and where.
//!
//! Owns the typed errors of writing, reading and exporting, and their words.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a model was not written, read or exported.
///
/// After a failed write nothing at the target has changed, and the unfinished files are removed,
/// but for `Io` with the verb "make durable": then the new model is in its place, and a loss of
/// power may still undo that.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields of an error are documented by its variant")]
pub enum ModelError {
    /// The system refused. `message` is its own text, such as that the disk is full.
    Io { verb: &'static str, path: PathBuf, kind: io::ErrorKind, message: String },
    /// The target exists and replacing it would destroy something that is no model.
    NotAModel { path: PathBuf, found: String },
    /// `model.json` is missing: no model, or one whose writing was cut off.
    NoManifest { path: PathBuf },
    /// `model.json` is longer than `bytes_max`.
    ManifestTooLong { path: PathBuf, bytes_max: u64 },
    /// `model.json` is not what it should be. Line and column count from 1.
    Json { path: PathBuf, line: usize, column: usize, message: String },
    /// `model.json` belongs to something else.
    Format { path: PathBuf, expected: &'static str, found: String },
    /// Another version of the format. A newer gradwire wrote it.
    Version { path: PathBuf, expected: u32, found: u32 },
    /// Two places of a model disagree on a number.
    Disagree { path: PathBuf, what: String, expected: u64, found: u64 },
    /// A name in the manifest that no gradwire writes, such as one that leaves the directory.
    Name { path: PathBuf, what: &'static str, name: String },
    /// A part's file is shorter or longer than the manifest says: cut off, or changed.
    Length { path: PathBuf, expected_bytes: u64, found_bytes: u64 },
    /// A part's bytes are not the ones that were written.
    Checksum { path: PathBuf, expected: u32, found: u32 },
    /// The model's table is not the one that this run would make.
    TableDiffers { table: String, what: String, model: String, run: String },
    /// A key is twice in one table.
    DuplicateKey { path: PathBuf, table: String, key: u64 },
    /// The model has no table of this index.
    NoTable { path: PathBuf, index: usize, tables: usize },
    /// The place that an export goes to refused it.
    Output { kind: io::ErrorKind, message: String },
}

impl ModelError {
    /// The error of a system call, for `map_err`.
    pub(super) fn io(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> ModelError {
        move |error| ModelError::Io {
            verb,
            path: path.to_owned(),
            kind: error.kind(),
            message: error.to_string(),
        }
    }

    pub(super) fn json(path: &Path, error: &serde_json::Error) -> ModelError {
        let (line, column) = (error.line(), error.column());
        ModelError::Json { path: path.to_owned(), line, column, message: error.to_string() }
    }

    /// An error unless two numbers of a model agree.
    pub(super) fn unless_equal(
        path: &Path,
        what: impl FnOnce() -> String,
        expected: u64,
        found: u64,
    ) -> Result<(), ModelError> {
        if expected == found {
            return Ok(());
        }
        Err(ModelError::Disagree { path: path.to_owned(), what: what(), expected, found })
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelError::Io { verb, path, message, .. } => {
                write!(f, "cannot {verb} {}: {message}", path.display())
            }
            ModelError::NotAModel { path, found } => {
                write!(f, "{} exists and is no gradwire model: {found}", path.display())
            }
            ModelError::NoManifest { path } => {
                write!(f, "no gradwire model: {} does not exist", path.display())
            }
            ModelError::ManifestTooLong { path, bytes_max } => {
                write!(f, "{} is longer than {bytes_max} bytes", path.display())
            }
            // The library's message ends with line and column.
            ModelError::Json { path, message, .. } => write!(f, "{}: {message}", path.display()),
            ModelError::Format { path, expected, found } => {
                write!(f, "{}: expected format {expected:?}, found {found:?}", path.display())
            }
            ModelError::Version { path, expected, found } => write!(
                f,
                "{} has format version {found}, this gradwire reads {expected}",
                path.display()
            ),
            ModelError::Disagree { path, what, expected, found } => {
                write!(f, "{}: {what}: expected {expected}, found {found}", path.display())
            }
            ModelError::Name { path, what, name } => {
                write!(f, "{}: {name:?} cannot be the name of a {what}", path.display())
            }
            ModelError::Length { path, expected_bytes, found_bytes } => write!(
                f,
                "{} should have {expected_bytes} bytes and has {found_bytes}",
                path.display()
            ),
            ModelError::Checksum { path, expected, found } => write!(
                f,
                "{} was changed: its CRC-32C should be {expected:#010x} and is {found:#010x}",
                path.display()
            ),
            ModelError::TableDiffers { table, what, model, run } => write!(
                f,
                "table {table}: the model has {what} {model}, this run wants {what} {run}"
            ),
            ModelError::DuplicateKey { path, table, key } => {
                write!(f, "{}: table {table} has key {key} twice", path.display())
            }
            ModelError::NoTable { path, index, tables } => write!(
                f,
                "{} has {tables} tables, from index 0, and none of index {index}",
                path.display()
            ),
            ModelError::Output { message, .. } => write!(f, "cannot write the export: {message}"),
        }
    }
}

impl std::error::Error for ModelError {}
