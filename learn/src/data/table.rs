//! Rows of Parquet files.
//!
//! Owns reading row groups as a stream, and bringing columns to the few types that cells are made
//! from. What a cell becomes is left to `plan`.
//!
//! Invariant: a block's parts hold one array for each column that is not ignored, all as long as
//! the part has rows.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::csr::{Builder, Place};
use super::error::{DataError, Fault, Found, Reason, RowError, Spot};
use super::input::InputFile;
use super::label::Labeller;
use super::plan::{Action, Kind, Plan, bucket_key, category_key, plan};
use super::selection::Selection;
use super::spec::SourceSpec;

/// Rows of Parquet files.
#[derive(Debug, Default)]
pub(crate) struct TableBlock {
    parts: Vec<Part>,
}

/// Rows of one file.
#[derive(Debug)]
struct Part {
    path: Arc<str>,
    /// Number in its file, from 0.
    first_row: u64,
    rows: usize,
    cells: Vec<Cells>,
}

/// A column's cells, and where it stands in its file, from 0.
#[derive(Debug)]
struct Cells {
    column: usize,
    kind: CellKind,
}

#[derive(Debug)]
enum CellKind {
    Label(Float64Array),
    WholeCategory { seed: u64, cells: Int64Array },
    TextCategory { seed: u64, cells: StringArray },
    Number { key: u64, cells: Float64Array },
    Bucket { seed: u64, cells: Int64Array },
}

/// What is read of a file.
pub(crate) struct TablePiece {
    pub(crate) file: InputFile,
    /// These of its row groups; none: all.
    pub(crate) groups: Option<Range<usize>>,
}

/// Reads files one after the other and cuts them into blocks.
pub(crate) struct TableReader {
    waiting: VecDeque<TablePiece>,
    current: Option<OpenTable>,
    schema: Vec<(String, DataType)>,
    actions: Vec<Action>,
    rows_per_block: usize,
}

struct OpenTable {
    file: InputFile,
    reader: ParquetRecordBatchReader,
    /// What was decoded but did not fit into the last block.
    rest: Option<RecordBatch>,
    rows_read: u64,
    rows_total: u64,
}

impl TableReader {
    /// Opens `files`, at least one, and decides what their columns mean. Returns the count of rows
    /// of all files, too.
    pub(crate) fn open(
        files: Vec<InputFile>,
        spec: &SourceSpec,
    ) -> Result<(TableReader, Plan, u64), DataError> {
        let mut rows_total = 0;
        for file in &files {
            rows_total += row_groups(file)?.iter().map(|(_, rows)| rows).sum::<u64>();
        }
        let (mut reader, plan) = TableReader::open_none(&files[0], spec)?;
        let piece = |file| TablePiece { file, groups: None };
        reader.enter(files.into_iter().map(piece).collect());
        Ok((reader, plan, rows_total))
    }

    /// Decides by its first file what a source's columns mean. Nothing is read before
    /// [`TableReader::enter`].
    pub(crate) fn open_none(
        first: &InputFile,
        spec: &SourceSpec,
    ) -> Result<(TableReader, Plan), DataError> {
        let schema = columns_of(builder(first)?.schema());
        let (names, kinds): (Vec<String>, Vec<Kind>) =
            schema.iter().map(|(name, data_type)| (name.clone(), kind_of(data_type))).unzip();
        let plan = plan(&names, &kinds, &spec.columns, spec.labels).map_err(|message| {
            DataError::Parquet { path: first.path.clone(), column: None, message }
        })?;
        let actions = plan.actions.clone();
        for ((name, data_type), action) in schema.iter().zip(&actions) {
            if data_type.is_nested() && *action != Action::Ignore {
                let message = format!("expected numbers or text, found {data_type}; ignore it");
                return Err(column_error(&first.path, name, message));
            }
        }
        let (rows_per_block, waiting) = (spec.batch_rows, VecDeque::new());
        Ok((TableReader { waiting, current: None, schema, actions, rows_per_block }, plan))
    }

    /// Reads these from now on.
    pub(crate) fn enter(&mut self, pieces: VecDeque<TablePiece>) {
        (self.waiting, self.current) = (pieces, None);
    }

    /// Fills `block` with the next rows and returns how many. Fewer than asked for only at the end.
    pub(crate) fn read(&mut self, block: &mut TableBlock) -> Result<u64, DataError> {
        block.parts.clear();
        let mut rows = 0;
        while rows < self.rows_per_block {
            if self.current.is_none() {
                let Some(piece) = self.waiting.pop_front() else { break };
                self.current = Some(self.open_table(piece)?);
            }
            let table = self.current.as_mut().expect("opened above");
            let Some(batch) = table.next(self.rows_per_block - rows)? else {
                self.current = None;
                continue;
            };
            let first_row = table.rows_read - batch.num_rows() as u64;
            rows += batch.num_rows();
            let path = table.file.path.clone();
            block.parts.push(self.part(path, first_row, &batch)?);
        }
        Ok(rows as u64)
    }

    fn open_table(&self, piece: TablePiece) -> Result<OpenTable, DataError> {
        let TablePiece { file, groups } = piece;
        let mut builder = builder(&file)?;
        let found = columns_of(builder.schema());
        if found != self.schema {
            let show = |columns: &[(String, DataType)]| {
                let columns = columns.iter().map(|(name, kind)| format!("{name} {kind}"));
                columns.collect::<Vec<_>>().join(", ")
            };
            let (expected, found) = (show(&self.schema), show(&found));
            let message = format!("expected the first file's columns {expected}, found {found}");
            let path = file.path.clone();
            return Err(DataError::Parquet { path, column: None, message });
        }
        let rows_total = builder.metadata().file_metadata().num_rows() as u64;
        let mut rows_read = 0;
        if let Some(groups) = groups {
            let all = builder.metadata().row_groups();
            let before = all.iter().take(groups.start).map(|group| group.num_rows() as u64);
            rows_read = before.sum();
            let is_there = groups.end <= all.len();
            let Some(groups) = is_there.then(|| groups.collect()) else {
                let message = "it has fewer row groups than when the job began".to_owned();
                return Err(DataError::Parquet { path: file.path, column: None, message });
            };
            builder = builder.with_row_groups(groups);
        }
        let wanted = (0..self.actions.len()).filter(|&at| self.actions[at] != Action::Ignore);
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let reader = builder.with_batch_size(self.rows_per_block).with_projection(mask).build();
        let reader = reader.map_err(|error| parquet_error(&file.path, &error))?;
        Ok(OpenTable { file, reader, rest: None, rows_read, rows_total })
    }

    fn part(&self, path: Arc<str>, first_row: u64, batch: &RecordBatch) -> Result<Part, DataError> {
        let wanted = self.actions.iter().enumerate().filter(|(_, a)| **a != Action::Ignore);
        let mut cells = Vec::with_capacity(batch.num_columns());
        for ((column, &action), array) in wanted.zip(batch.columns()) {
            let kind = cell_kind(action, array)
                .map_err(|message| column_error(&path, &self.schema[column].0, message))?;
            cells.push(Cells { column, kind });
        }
        Ok(Part { path, first_row, rows: batch.num_rows(), cells })
    }
}

impl OpenTable {
    /// The next rows, at most `rows_max`; none at the end.
    fn next(&mut self, rows_max: usize) -> Result<Option<RecordBatch>, DataError> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.reader.next() {
                None => return Ok(None),
                Some(Err(error)) => return Err(parquet_error(&self.file.path, &error)),
                Some(Ok(batch)) => batch,
            },
        };
        let taken = batch.slice(0, batch.num_rows().min(rows_max));
        if taken.num_rows() < batch.num_rows() {
            self.rest = Some(batch.slice(taken.num_rows(), batch.num_rows() - taken.num_rows()));
        }
        let bytes_at = |rows: u64| {
            (u128::from(self.file.bytes) * u128::from(rows) / u128::from(self.rows_total)) as u64
        };
        let rows = (self.rows_read + taken.num_rows() as u64).min(self.rows_total);
        let bytes = bytes_at(rows) - bytes_at(self.rows_read);
        self.file.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        self.rows_read = rows;
        Ok(Some(taken))
    }
}

/// Adds the rows of `block` to the batch under way, and those that are broken to `bad`.
pub(crate) fn parse(
    block: &TableBlock,
    place: Place,
    selection: &Selection,
    labeller: Labeller,
    builder: &mut Builder,
    bad: &mut Vec<RowError>,
) {
    let mut number = place.first_row;
    for part in &block.parts {
        for row in 0..part.rows {
            let kept = selection.keeps(number);
            number += 1;
            if !kept {
                continue;
            }
            if let Err(Fault { at, reason }) = parse_row(&part.cells, row, labeller, builder) {
                builder.drop_row();
                let spot = Spot::Line(part.first_row + row as u64 + 1);
                bad.push(RowError { path: part.path.clone(), spot, column: at as u64 + 1, reason });
            }
        }
    }
}

fn parse_row(
    cells: &[Cells],
    row: usize,
    labeller: Labeller,
    builder: &mut Builder,
) -> Result<(), Fault> {
    let nothing =
        |at| move || Fault::new(at, Reason::Expected { what: "a label", found: Found::Nothing });
    let mut label = None;
    for Cells { column, kind } in cells {
        match kind {
            CellKind::Label(cells) if cells.is_null(row) => {
                label = Some(labeller.missing(nothing(*column))?);
            }
            CellKind::Label(cells) => {
                let value = labeller.rule.apply(cells.value(row));
                label = Some(value.map_err(|reason| Fault::new(*column, reason))?);
            }
            CellKind::WholeCategory { seed, cells } if cells.is_valid(row) => {
                let mut digits = [0; DECIMAL_BYTES];
                builder.one(category_key(*seed, decimal_text(cells.value(row), &mut digits)));
            }
            // As in CSV, an empty text is no value.
            CellKind::TextCategory { seed, cells }
                if cells.is_valid(row) && !cells.value(row).is_empty() =>
            {
                builder.one(category_key(*seed, cells.value(row).as_bytes()));
            }
            CellKind::Number { key, cells } if cells.is_valid(row) => {
                let value = cells.value(row) as f32;
                if !value.is_finite() {
                    return Err(Fault::new(*column, Reason::NotFinite { what: "a number" }));
                }
                builder.value(*key, value);
            }
            CellKind::Bucket { seed, cells } if cells.is_valid(row) => {
                builder.one(bucket_key(*seed, cells.value(row)));
            }
            _ => {} // No value, no feature.
        }
    }
    let label = label.map_or_else(|| labeller.missing(nothing(0)), Ok)?;
    builder.end_row(label, 1.0);
    Ok(())
}

const DECIMAL_BYTES: usize = 20;

/// `value` in decimal, at the end of `digits`.
#[inline]
fn decimal_text(value: i64, digits: &mut [u8; DECIMAL_BYTES]) -> &[u8] {
    let (mut at, mut rest) = (DECIMAL_BYTES, value.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

/// `array` as the type that `action` makes cells from. The error is a message about the column.
fn cell_kind(action: Action, array: &ArrayRef) -> Result<CellKind, String> {
    // Not safe: what cannot be cast is an error, and not silently no value.
    let cast = |to: DataType| {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(array, &to, &options).map_err(|error| error.to_string())
    };
    let whole = |array: &ArrayRef| array.as_primitive::<Int64Type>().clone();
    let real = |array: &ArrayRef| array.as_primitive::<Float64Type>().clone();
    let from = array.data_type();
    let is_value = matches!(action, Action::Label | Action::Number { .. } | Action::Bucket { .. });
    if is_value && from.is_temporal() {
        return Err(format!("expected numbers, found {from}"));
    }
    match action {
        Action::Ignore => panic!("an ignored column is not read: `open_table` leaves it out"),
        Action::Label if *from == DataType::Boolean => {
            Ok(CellKind::Label(real(&cast_twice(array, &DataType::Int8, &DataType::Float64)?)))
        }
        Action::Label => Ok(CellKind::Label(real(&cast(DataType::Float64)?))),
        Action::Category { seed } if from.is_integer() && *from != DataType::UInt64 => {
            Ok(CellKind::WholeCategory { seed, cells: whole(&cast(DataType::Int64)?) })
        }
        Action::Category { seed } => {
            let cells = cast(DataType::Utf8)?.as_string::<i32>().clone();
            Ok(CellKind::TextCategory { seed, cells })
        }
        Action::Number { key } => {
            Ok(CellKind::Number { key, cells: real(&cast(DataType::Float64)?) })
        }
        Action::Bucket { seed } if from.is_integer() => {
            Ok(CellKind::Bucket { seed, cells: whole(&cast(DataType::Int64)?) })
        }
        Action::Bucket { seed } => {
            let cells: Float64Array = real(&cast(DataType::Float64)?).unary(f64::floor);
            let cells =
                cast_twice(&(Arc::new(cells) as ArrayRef), &DataType::Float64, &DataType::Int64)?;
            Ok(CellKind::Bucket { seed, cells: whole(&cells) })
        }
    }
}

fn cast_twice(array: &ArrayRef, through: &DataType, to: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, through, &options)
        .and_then(|array| cast_with_options(&array, to, &options))
        .map_err(|error| error.to_string())
}

fn kind_of(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Dictionary(_, values) => kind_of(values),
        data_type if data_type.is_integer() => Kind::Whole,
        data_type if data_type.is_numeric() => Kind::Real,
        _ => Kind::Text,
    }
}

fn columns_of(schema: &Schema) -> Vec<(String, DataType)> {
    let field =
        |field: &Arc<arrow_schema::Field>| (field.name().clone(), field.data_type().clone());
    schema.fields().iter().map(field).collect()
}

/// The row groups of a file: the bytes of each on disk, and its rows.
pub(crate) fn row_groups(file: &InputFile) -> Result<Vec<(u64, u64)>, DataError> {
    let builder = builder(file)?;
    let groups = builder.metadata().row_groups().iter();
    let group = |bytes: i64, rows: i64| (bytes.max(0) as u64, rows.max(0) as u64);
    let groups: Vec<(u64, u64)> =
        groups.map(|one| group(one.compressed_size(), one.num_rows())).collect();
    if groups.iter().all(|&(_, rows)| rows == 0) {
        return Err(DataError::Empty { path: file.path.clone() });
    }
    Ok(groups)
}

fn builder(file: &InputFile) -> Result<ParquetRecordBatchReaderBuilder<File>, DataError> {
    let opened = File::open(&*file.path).map_err(|error| DataError::Open {
        path: file.path.clone(),
        kind: error.kind(),
        message: error.to_string(),
    })?;
    ParquetRecordBatchReaderBuilder::try_new(opened)
        .map_err(|error| parquet_error(&file.path, &error))
}

fn parquet_error(path: &Arc<str>, error: &dyn std::fmt::Display) -> DataError {
    let (path, message) = (path.clone(), error.to_string());
    DataError::Parquet { path, column: None, message }
}

fn column_error(path: &Arc<str>, name: &str, message: String) -> DataError {
    let column = Some(name.to_owned());
    DataError::Parquet { path: path.clone(), column, message }
}
