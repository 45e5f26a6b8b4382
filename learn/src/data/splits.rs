//! Splits: the parts of a source that readers on several hosts take, one at a time.
//!
//! Owns where a source is cut, told by the names and lengths of its files. Opening a split's files
//! at the right place is left to `feed`, and who takes which split to the caller.
//!
//! Invariant: equal files, specifications and counts of workers give equal splits, on every host;
//! each row lies in one split.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::feed::format_of;
use super::generate::{Criteo, PREFIX};
use super::hash::hash_bytes;
use super::input::{InputFile, Unpacked, expand};
use super::layout::text_layout;
use super::spec::{Format, SourceSpec};
use super::table::row_groups;
use super::text::Quotes;

/// Splits that each worker has on average, where the data allows it: at the end of an epoch a
/// worker waits for one split of another one, at most a sixteenth of its own work.
pub const SPLITS_PER_WORKER: u64 = 16;
/// Shortest split, in bytes as they lie on disk: each is a write of the coordinator's store.
pub const SPLIT_BYTES_MIN: u64 = 1 << 20;
/// Longest split of data that can be cut anywhere, in bytes: what is read again after a death.
pub const SPLIT_BYTES_MAX: u64 = 64 << 20;
/// Batches that a split has at least, where the data allows it: its last one is short.
pub const SPLIT_BATCHES_LEAST: u64 = 8;

/// Bits of a batch's number that count batches within a split; those above are the split's number.
pub const SPLIT_BATCH_BITS: u32 = 30;

/// What a made-up row would take as text, in bytes.
const GENERATED_ROW_BYTES: u64 = 256;

/// All splits of a source, numbered from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splits {
    files: Vec<SplitFile>,
    splits: Vec<Split>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SplitFile {
    path: String,
    bytes: u64,
}

/// What is read as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Split {
    /// Of tables and generators: its first row's number in the source. Of text: 0.
    pub(crate) first_row: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// A part of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// Which of the source's files.
    pub(crate) file: u32,
    /// From here: a byte of text, a row group of a table, a row of a generator.
    pub(crate) from: u64,
    /// Up to here, exclusive.
    pub(crate) to: u64,
    /// Whether it is all of the file, which may be packed then.
    pub(crate) is_whole: bool,
}

/// What a file may be cut into.
struct Unit {
    file: u32,
    from: u64,
    to: u64,
    /// What it takes on disk, in bytes.
    bytes: u64,
    rows: u64,
}

impl Splits {
    /// The splits of a source for so many workers.
    ///
    /// - Errors: files that are missing or unreadable, and what is wrong with the specification.
    pub fn of(spec: &SourceSpec, workers: u32) -> Result<Splits, DataError> {
        Splits::of_length(spec, &|bytes, row_bytes| split_bytes(bytes, row_bytes, spec, workers))
    }

    /// The splits of a source, each about as long as `length` says.
    pub(crate) fn of_length(spec: &SourceSpec, length: Length<'_>) -> Result<Splits, DataError> {
        spec.check()?;
        if let Some(input) = spec.inputs.iter().find(|input| input.starts_with(PREFIX)) {
            let rows = Criteo::parse(input)?.rows;
            return Ok(Splits { files: Vec::new(), splits: of_rows(rows, length) });
        }
        let files = expand(&spec.inputs, &Arc::default())?;
        let mut first = files[0].open()?;
        let format = format_of(spec, &mut first)?;
        let splits = match format {
            Format::Parquet => of_tables(&files, length)?,
            _ => of_texts(&files, &mut first, format, spec, length)?,
        };
        let file = |file: &InputFile| SplitFile { path: file.path.to_string(), bytes: file.bytes };
        Ok(Splits { files: files.iter().map(file).collect(), splits })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.splits.len() as u64
    }

    /// Length of all files, in bytes; 0 for a generator.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// A number that differs where the splits do, or the names or lengths of the files.
    pub fn digest(&self) -> u64 {
        let text = serde_json::to_string(self).expect("numbers and names");
        hash_bytes(0, text.as_bytes())
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Split> {
        self.splits.get(usize::try_from(number).ok()?)
    }

    /// The files, whose reading is added to `bytes_read`.
    pub(crate) fn files(&self, bytes_read: &Arc<AtomicU64>) -> Vec<InputFile> {
        let file = |file: &SplitFile| {
            let path = file.path.as_str().into();
            InputFile { path, bytes: file.bytes, bytes_read: bytes_read.clone() }
        };
        self.files.iter().map(file).collect()
    }
}

/// How long splits shall be, in bytes, by the length of all data and of a row.
type Length<'a> = &'a dyn Fn(u64, u64) -> u64;

/// How long splits shall be, in bytes of data of `bytes` in all, whose rows take `row_bytes` each.
fn split_bytes(bytes: u64, row_bytes: u64, spec: &SourceSpec, workers: u32) -> u64 {
    let share = bytes / (u64::from(workers.max(1)) * SPLITS_PER_WORKER);
    let batches = (spec.batch_rows as u64 * SPLIT_BATCHES_LEAST).saturating_mul(row_bytes);
    share.clamp(SPLIT_BYTES_MIN, SPLIT_BYTES_MAX).max(batches)
}

fn of_rows(rows: u64, length: Length<'_>) -> Vec<Split> {
    let bytes = rows.saturating_mul(GENERATED_ROW_BYTES);
    let own = length(bytes, GENERATED_ROW_BYTES) / GENERATED_ROW_BYTES;
    let split = |from: u64| {
        let to = rows.min(from + own);
        Split { first_row: from, pieces: vec![Piece { file: 0, from, to, is_whole: false }] }
    };
    (0..rows).step_by(own as usize).map(split).collect()
}

/// Row groups are not cut.
fn of_tables(files: &[InputFile], length: Length<'_>) -> Result<Vec<Split>, DataError> {
    let mut units = Vec::new();
    for (number, file) in (0..).zip(files) {
        let groups = row_groups(file)?;
        units.extend((0..).zip(groups).map(|(from, (bytes, rows))| Unit {
            file: number,
            from,
            to: from + 1,
            bytes,
            rows,
        }));
    }
    let bytes: u64 = units.iter().map(|unit| unit.bytes).sum();
    let rows: u64 = units.iter().map(|unit| unit.rows).sum();
    let own = length(bytes, bytes / rows.max(1));
    Ok(gather(units.into_iter().map(|unit| (unit, false)), own))
}

fn of_texts(
    files: &[InputFile],
    first: &mut Unpacked,
    format: Format,
    spec: &SourceSpec,
    length: Length<'_>,
) -> Result<Vec<Split>, DataError> {
    let path = first.path().clone();
    let head = first.head()?;
    let quotes = text_layout(format, spec, &path, head)?.rules.quotes;
    let newlines = memchr::memchr_iter(b'\n', head).count().max(1);
    let row_bytes = (head.len() / newlines) as u64;
    let bytes = files.iter().map(|file| file.bytes).sum();
    let mut own = length(bytes, 0);
    let mut units = Vec::new();
    for (number, file) in (0..).zip(files) {
        let unit = Unit { file: number, from: 0, to: file.bytes, bytes: file.bytes, rows: 0 };
        // Where quotes may protect newlines, no byte tells whether a line begins behind it.
        let may_be_cut = quotes == Quotes::Plain && file.bytes > 0 && !file.is_packed()?;
        if may_be_cut {
            own = length(bytes, row_bytes);
        }
        units.push((unit, may_be_cut));
    }
    Ok(gather(units.into_iter(), own))
}

/// Puts units together until a split is as long as it shall be. Those that may be cut are.
fn gather(units: impl Iterator<Item = (Unit, bool)>, split_bytes: u64) -> Vec<Split> {
    let mut splits = Vec::new();
    let (mut split, mut filled, mut first_row) = (Split::default(), 0, 0);
    for (unit, may_be_cut) in units {
        let Unit { file, mut from, to, bytes, rows } = unit;
        let is_table = rows > 0;
        loop {
            let cut = if may_be_cut { to.min(from + (split_bytes - filled)) } else { to };
            let taken = if may_be_cut { cut - from } else { bytes };
            match split.pieces.last_mut() {
                // Row groups that follow each other are read as one.
                Some(last) if is_table && last.file == file => last.to = cut,
                _ => {
                    let is_whole = !is_table && from == 0 && cut == to;
                    split.pieces.push(Piece { file, from, to: cut, is_whole });
                }
            }
            (from, filled) = (cut, filled + taken);
            first_row += rows;
            if filled >= split_bytes {
                splits.push(std::mem::take(&mut split));
                (split.first_row, filled) = (first_row, 0);
            }
            if from >= to {
                break;
            }
        }
    }
    if !split.pieces.is_empty() {
        splits.push(split);
    }
    splits
}

/// The first batch number of a split.
pub fn split_batch(split: u64) -> u64 {
    split << SPLIT_BATCH_BITS
}

/// The split that a batch is of.
pub fn split_of(batch: u64) -> u64 {
    batch >> SPLIT_BATCH_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(files: &[(u64, bool)]) -> impl Iterator<Item = (Unit, bool)> {
        (0..).zip(files).map(|(file, &(bytes, may_be_cut))| {
            (Unit { file, from: 0, to: bytes, bytes, rows: 0 }, may_be_cut)
        })
    }

    fn pieces(splits: &[Split]) -> Vec<Vec<(u32, u64, u64, bool)>> {
        let piece = |piece: &Piece| (piece.file, piece.from, piece.to, piece.is_whole);
        splits.iter().map(|split| split.pieces.iter().map(piece).collect()).collect()
    }

    #[test]
    fn what_may_be_cut_is_and_what_is_short_goes_together() {
        let splits = gather(units(&[(25, true), (3, true), (30, false), (2, false)]), 10);
        let expected = [
            vec![(0, 0, 10, false)],
            vec![(0, 10, 20, false)],
            vec![(0, 20, 25, false), (1, 0, 3, true), (2, 0, 30, true)],
            vec![(3, 0, 2, true)],
        ];
        assert_eq!(pieces(&splits), expected);
    }

    #[test]
    fn row_groups_are_not_cut_and_those_of_one_file_are_read_as_one() {
        let unit =
            |file, from, bytes, rows| (Unit { file, from, to: from + 1, bytes, rows }, false);
        let groups = [unit(0, 0, 4, 10), unit(0, 1, 4, 10), unit(0, 2, 4, 5), unit(1, 0, 9, 7)];
        let splits = gather(groups.into_iter(), 8);
        assert_eq!(
            pieces(&splits),
            [vec![(0, 0, 2, false)], vec![(0, 2, 3, false), (1, 0, 1, false)]]
        );
        assert_eq!(splits.iter().map(|split| split.first_row).collect::<Vec<_>>(), [0, 20]);
    }

    #[test]
    fn splits_are_as_many_as_workers_need_and_neither_too_short_nor_too_long() {
        let spec = SourceSpec { batch_rows: 1000, ..SourceSpec::default() };
        let of = |bytes, workers| split_bytes(bytes, 0, &spec, workers);
        assert_eq!(of(1 << 30, 4), 16 << 20);
        assert_eq!((of(1 << 20, 4), of(1 << 40, 4)), (SPLIT_BYTES_MIN, SPLIT_BYTES_MAX));
        assert_eq!(split_bytes(1 << 30, 1 << 20, &spec, 4), 8000 << 20, "eight batches");
        let rows = of_rows(1_000_000, &|bytes, row_bytes| split_bytes(bytes, row_bytes, &spec, 4));
        assert_eq!(rows.len(), 64);
        assert_eq!(
            rows.iter().map(|split| split.pieces[0].to - split.first_row).sum::<u64>(),
            1_000_000
        );
    }
}
