//! Opening a source's inputs: what its reader thread draws blocks from.
//!
//! Owns the choice between text, tables and generated rows, and all that can be found wrong before
//! the first batch. Threads are left to `source`.
//!
//! Invariant: blocks come in the order of the inputs, each with as many rows as were asked for,
//! but for the last.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::DataError;
use super::generate::{self, Criteo};
use super::input::{InputFile, Unpacked, expand, is_parquet};
use super::layout::{format_of_name, format_of_text, text_layout};
use super::parse::{Content, Rows};
use super::spec::{ColumnSpec, Format, SourceSpec};
use super::splits::{Split, Splits};
use super::table::{TableBlock, TablePiece, TableReader};
use super::text::{TextBlock, TextPiece, TextReader};

/// An open source, before its threads start.
pub(crate) struct Opened {
    pub(crate) feed: Feed,
    pub(crate) rows: Rows,
    pub(crate) columns: Option<ColumnSpec>,
    pub(crate) bytes_total: u64,
    pub(crate) rows_total: Option<u64>,
}

/// Where blocks come from.
pub(crate) enum Feed {
    Text(Box<TextReader>),
    Table(Box<TableReader>),
    Generated { rows_left: u64, rows_per_block: u64 },
}

impl Feed {
    /// Reads a split from now on.
    ///
    /// - `files`: all files of the source.
    pub(crate) fn enter(&mut self, split: &Split, files: &[InputFile]) {
        let pieces = split.pieces.iter();
        match self {
            Feed::Text(reader) => {
                let pieces = pieces.map(|piece| TextPiece {
                    file: files[piece.file as usize].clone(),
                    number: piece.file,
                    range: (!piece.is_whole).then_some(piece.from..piece.to),
                });
                reader.enter(pieces.collect());
            }
            Feed::Table(reader) => {
                let pieces = pieces.map(|piece| TablePiece {
                    file: files[piece.file as usize].clone(),
                    groups: Some(piece.from as usize..piece.to as usize),
                });
                reader.enter(pieces.collect());
            }
            Feed::Generated { rows_left, .. } => {
                *rows_left = pieces.map(|piece| piece.to - piece.from).sum();
            }
        }
    }

    /// Fills `content` with the next rows, and returns how many: none at the end.
    pub(crate) fn read(&mut self, content: &mut Content) -> Result<u64, DataError> {
        match self {
            Feed::Text(reader) => {
                if !matches!(content, Content::Text(_)) {
                    *content = Content::Text(TextBlock::default());
                }
                let Content::Text(block) = content else { unreachable!("made so above") };
                reader.read(block)?;
                Ok(block.rows.len() as u64)
            }
            Feed::Table(reader) => {
                let mut block = TableBlock::default();
                let rows = reader.read(&mut block)?;
                *content = Content::Table(block);
                Ok(rows)
            }
            Feed::Generated { rows_left, rows_per_block } => {
                *content = Content::Generated;
                let rows = (*rows_left).min(*rows_per_block);
                *rows_left -= rows;
                Ok(rows)
            }
        }
    }
}

/// Opens the inputs of `spec`. What is read of them is added to `bytes_read`.
pub(crate) fn open(spec: &SourceSpec, bytes_read: &Arc<AtomicU64>) -> Result<Opened, DataError> {
    spec.check()?;
    if let Some(input) = spec.inputs.iter().find(|input| input.starts_with(generate::PREFIX)) {
        return open_generated(input, spec);
    }
    let files = expand(&spec.inputs, bytes_read)?;
    let mut first = files[0].open()?;
    let format = format_of(spec, &mut first)?;
    check_names(&files, format)?;
    if format == Format::Parquet {
        drop(first);
        bytes_read.store(0, Ordering::Relaxed); // `TableReader` opens its files anew.
        return open_table(files, spec);
    }
    open_text(files, first, format, spec)
}

/// Opens a source of which splits are read, one after the other: see [`Feed::enter`].
pub(crate) fn open_splits(
    spec: &SourceSpec,
    splits: &Splits,
    bytes_read: &Arc<AtomicU64>,
) -> Result<Opened, DataError> {
    spec.check()?;
    let files = splits.files(bytes_read);
    let Some(first_file) = files.first() else {
        let input = spec.inputs.first().ok_or(DataError::NoInput)?;
        return open_generated(input, spec);
    };
    let mut first = first_file.open()?;
    let format = format_of(spec, &mut first)?;
    check_names(&files, format)?;
    if format != Format::Parquet {
        return open_text(files, first, format, spec);
    }
    drop(first);
    bytes_read.store(0, Ordering::Relaxed); // `TableReader` counts what it has decoded.
    let (reader, plan) = TableReader::open_none(first_file, spec)?;
    Ok(Opened {
        feed: Feed::Table(Box::new(reader)),
        rows: Rows::Table,
        columns: Some(plan.columns),
        bytes_total: splits.bytes(),
        rows_total: None,
    })
}

fn open_generated(input: &str, spec: &SourceSpec) -> Result<Opened, DataError> {
    if spec.inputs.len() > 1 {
        let message = format!("expected no input beside the generator '{input}'");
        return Err(DataError::Setting { name: "input", message });
    }
    let criteo = Criteo::parse(input)?;
    Ok(Opened {
        feed: Feed::Generated { rows_left: criteo.rows, rows_per_block: spec.batch_rows as u64 },
        rows_total: Some(criteo.rows),
        rows: Rows::Generated(criteo),
        columns: None,
        bytes_total: 0,
    })
}

/// The format that is set, or that the first file's name tells, or its beginning.
pub(crate) fn format_of(spec: &SourceSpec, first: &mut Unpacked) -> Result<Format, DataError> {
    let path = first.path().clone();
    let head = first.head()?;
    let parquet = is_parquet(head).then_some(Format::Parquet);
    let told = parquet.or(spec.format).or_else(|| format_of_name(&path));
    told.or_else(|| format_of_text(head)).ok_or(DataError::UnknownFormat { path })
}

/// Refuses a file whose name tells another format than the first file has.
fn check_names(files: &[InputFile], format: Format) -> Result<(), DataError> {
    let is_parquet = |format: Format| format == Format::Parquet;
    for file in &files[1..] {
        let told = format_of_name(&file.path);
        if let Some(found) = told.filter(|&told| is_parquet(told) != is_parquet(format)) {
            let (path, expected) = (file.path.clone(), format.name());
            return Err(DataError::MixedFormats { path, expected, found: found.name() });
        }
    }
    Ok(())
}

fn open_text(
    files: Vec<InputFile>,
    mut first: Unpacked,
    format: Format,
    spec: &SourceSpec,
) -> Result<Opened, DataError> {
    let path = first.path().clone();
    let layout = text_layout(format, spec, &path, first.head()?)?;
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let piece = |(number, file)| TextPiece { file, number, range: None };
    let waiting: VecDeque<TextPiece> = (0..).zip(files).skip(1).map(piece).collect();
    let reader = TextReader::new(first, waiting, layout.rules, spec.batch_rows);
    Ok(Opened {
        feed: Feed::Text(Box::new(reader)),
        rows: Rows::Text(layout.rows),
        columns: layout.columns,
        bytes_total,
        rows_total: None,
    })
}

fn open_table(files: Vec<InputFile>, spec: &SourceSpec) -> Result<Opened, DataError> {
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let (reader, plan, rows_total) = TableReader::open(files, spec)?;
    Ok(Opened {
        feed: Feed::Table(Box::new(reader)),
        rows: Rows::Table,
        columns: Some(plan.columns),
        bytes_total,
        rows_total: Some(rows_total),
    })
}
