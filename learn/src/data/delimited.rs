//! Rows whose cells stand between delimiters: CSV, TSV, and Criteo's files.
//!
//! Owns quotes as RFC 4180 has them, and the headers and kinds of columns. What a cell becomes is
//! left to `plan`.
//!
//! Invariant: a row that is kept has exactly as many cells as the plan has columns.

use super::csr::Builder;
use super::error::{Fault, Reason};
use super::label::{Labeller, finite, unreadable};
use super::number::{integer, number_f64};
use super::plan::{Action, Kind, bucket_key, category_key};
use super::text::{Quotes, first_line};

/// Rows looked at to tell what columns hold.
const PROBE_ROWS: usize = 1000;
const CRITEO_INTEGERS: usize = 13;
const CRITEO_CATEGORIES: usize = 26;

/// How rows are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) quotes: Quotes,
}

impl Dialect {
    pub(crate) const CSV: Dialect = Dialect { delimiter: b',', quotes: Quotes::Protect };
    pub(crate) const TSV: Dialect = Dialect { delimiter: b'\t', quotes: Quotes::Protect };
    pub(crate) const CRITEO: Dialect = Dialect { delimiter: b'\t', quotes: Quotes::Plain };
}

/// Reads the row `row`, without its newline. `scratch` holds what quoted cells spell.
pub(crate) fn row(
    row: &[u8],
    dialect: Dialect,
    actions: &[Action],
    labeller: Labeller,
    builder: &mut Builder,
    scratch: &mut Vec<u8>,
) -> Result<(), Fault> {
    let (mut at, mut label) = (0, None);
    for (index, &action) in actions.iter().enumerate() {
        if at > row.len() {
            let reason = Reason::Fields { expected: actions.len(), found: index };
            return Err(Fault::new(row.len(), reason));
        }
        let (cell, end) = cell(row, at, dialect, scratch)?;
        match action {
            _ if cell.is_empty() => {}
            Action::Ignore => {}
            Action::Label => label = Some(labeller.text(cell.trim_ascii(), at)?),
            Action::Category { seed } => builder.one(category_key(seed, cell)),
            Action::Number { key } => {
                builder.value(key, finite(cell.trim_ascii(), at, "a number")?);
            }
            Action::Bucket { seed } => builder.one(bucket_key(seed, whole(cell.trim_ascii(), at)?)),
        }
        at = end + 1;
    }
    if at <= row.len() {
        let rest = Cells { row, at, dialect, scratch }.count();
        let reason = Reason::Fields { expected: actions.len(), found: actions.len() + rest };
        return Err(Fault::new(at, reason));
    }
    let label = label.map_or_else(|| labeller.missing(|| unreadable("a label", b"", 0)), Ok)?;
    builder.end_row(label, 1.0);
    Ok(())
}

/// A whole number, maybe written with a point.
fn whole(cell: &[u8], at: usize) -> Result<i64, Fault> {
    integer(cell)
        .or_else(|| number_f64(cell).filter(|n| n.is_finite()).map(|n| n.floor() as i64))
        .ok_or_else(|| unreadable("a whole number", cell, at))
}

/// What the cell at `at` spells, and where it ends: at a delimiter, or at the row's end.
#[inline]
fn cell<'a>(
    row: &'a [u8],
    at: usize,
    dialect: Dialect,
    scratch: &'a mut Vec<u8>,
) -> Result<(&'a [u8], usize), Fault> {
    if row.get(at) == Some(&b'"') && dialect.quotes == Quotes::Protect {
        return quoted_cell(row, at, dialect, scratch);
    }
    let rest = &row[at..];
    let len = rest.iter().position(|&byte| byte == dialect.delimiter).unwrap_or(rest.len());
    Ok((&rest[..len], at + len))
}

fn quoted_cell<'a>(
    row: &[u8],
    at: usize,
    dialect: Dialect,
    scratch: &'a mut Vec<u8>,
) -> Result<(&'a [u8], usize), Fault> {
    scratch.clear();
    let mut start = at + 1;
    loop {
        let Some(len) = memchr::memchr(b'"', &row[start..]) else {
            // Where it was opened is what helps: the end may be many lines below.
            return Err(Fault { at, ..Fault::expected("a closing quote", row, row.len()) });
        };
        let quote = start + len;
        scratch.extend_from_slice(&row[start..quote]);
        match row.get(quote + 1) {
            Some(b'"') => scratch.push(b'"'),
            None => return Ok((scratch, quote + 1)),
            Some(&byte) if byte == dialect.delimiter => return Ok((scratch, quote + 1)),
            Some(_) => return Err(Fault::expected("a delimiter", row, quote + 1)),
        }
        start = quote + 2;
    }
}

/// The cells of a row, as they are spelled. A broken one is the last.
struct Cells<'a> {
    row: &'a [u8],
    at: usize,
    dialect: Dialect,
    scratch: &'a mut Vec<u8>,
}

impl Iterator for Cells<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.at > self.row.len() {
            return None;
        }
        let (text, end) = cell(self.row, self.at, self.dialect, self.scratch).ok()?;
        self.at = end + 1;
        Some(text.to_vec())
    }
}

/// The names and kinds of the columns of a file that starts with `head`, which may end within a
/// row, and the header line.
pub(crate) fn probe(head: &[u8], dialect: Dialect) -> (Vec<String>, Vec<Kind>, &[u8]) {
    let mut scratch = Vec::new();
    let mut cells = |row| {
        let cells = Cells { row, at: 0, dialect, scratch: &mut scratch };
        cells.map(|cell| String::from_utf8_lossy(cell.trim_ascii()).into_owned()).collect()
    };
    let (header, mut rest) = first_line(head, dialect.quotes);
    let names: Vec<String> = cells(header);
    let mut kinds = vec![None; names.len()];
    for _ in 0..PROBE_ROWS {
        let (line, after) = first_line(rest, dialect.quotes);
        if line.is_empty() {
            break;
        }
        let row: Vec<String> = cells(line);
        // The last row may be cut off; one that is too short tells nothing.
        if row.len() == names.len() {
            for (kind, cell) in kinds.iter_mut().zip(&row).filter(|(_, cell)| !cell.is_empty()) {
                *kind = Some(kind.map_or_else(|| kind_of(cell), |kind| wider(kind, kind_of(cell))));
            }
        }
        rest = after;
    }
    (names, kinds.into_iter().map(|kind| kind.unwrap_or(Kind::Text)).collect(), header)
}

fn kind_of(cell: &str) -> Kind {
    let is_number = cell.bytes().all(|byte| b"0123456789+-.eE".contains(&byte));
    match number_f64(cell.as_bytes()) {
        Some(_) if is_number && cell.contains(['.', 'e', 'E']) => Kind::Real,
        Some(_) if is_number => Kind::Whole,
        _ => Kind::Text,
    }
}

fn wider(a: Kind, b: Kind) -> Kind {
    match (a, b) {
        (Kind::Text, _) | (_, Kind::Text) => Kind::Text,
        (Kind::Real, _) | (_, Kind::Real) => Kind::Real,
        (Kind::Whole, Kind::Whole) => Kind::Whole,
    }
}

/// Criteo's columns, whose file has no header: `label`, `i1` to `i13`, `c1` to `c26`. A file of
/// rows without labels has the others.
pub(crate) fn criteo_names(head: &[u8]) -> Vec<String> {
    let (line, _) = first_line(head, Quotes::Plain);
    let cells = memchr::memchr_iter(b'\t', line).count() + 1;
    let has_label = cells != CRITEO_INTEGERS + CRITEO_CATEGORIES;
    let label = has_label.then(|| "label".to_owned());
    let integers = (1..=CRITEO_INTEGERS).map(|index| format!("i{index}"));
    let categories = (1..=CRITEO_CATEGORIES).map(|index| format!("c{index}"));
    label.into_iter().chain(integers).chain(categories).collect()
}

/// Whether `line` has as many cells as Criteo's rows.
pub(crate) fn is_criteo(line: &[u8]) -> bool {
    memchr::memchr_iter(b'\t', line).count() == CRITEO_INTEGERS + CRITEO_CATEGORIES
}
