//! From a block to a batch: the work of one parser thread.
//!
//! Owns which rows of a block are kept, and what is noted of a bad one. The grammar of a row is
//! left to the formats, and whether a bad row ends the run to `source`.
//!
//! Invariant: what a block gives depends on the block and the specification alone.

use kernels::Isa;
use kernels::scan::{self, Stops};

use super::csr::{Builder, Csr, Place};
use super::delimited;
use super::error::{DataError, Fault, RowError};
use super::generate::Criteo;
use super::input::Unpacked;
use super::label::Labeller;
use super::layout::{RowFormat, text_layout};
use super::libsvm;
use super::selection::Selection;
use super::spec::{Draw, Format, SourceSpec};
use super::table::{self, TableBlock};
use super::text::{TextBlock, TextReader};
use super::vw::{self, Line};

/// Parses `bytes`, all of it one block of a text file in `format`, as a source with this `spec`
/// would; its inputs, its batch size and its share do not matter. The first bad row is the error,
/// whatever `spec.bad_rows` says, and so are no rows at all.
pub fn parse_block(format: Format, spec: &SourceSpec, bytes: &[u8]) -> Result<Csr, DataError> {
    const NAME: &str = "block";
    if format == Format::Parquet {
        let message = "expected a text format, found parquet".to_owned();
        return Err(DataError::Setting { name: "format", message });
    }
    let layout = text_layout(format, spec, &NAME.into(), bytes)?;
    let unpacked = Unpacked::memory(NAME, bytes.to_vec());
    let mut block = TextBlock::default();
    TextReader::new(unpacked, Default::default(), layout.rules, usize::MAX).read(&mut block)?;
    let place = Place { source_rows: block.rows.len() as u32, ..Place::default() };
    let mut parser = Parser::new(spec, Rows::Text(layout.rows))?;
    let mut parsed = parser.parse(&Block { place, content: Content::Text(block) }, Csr::default());
    if parsed.bad.is_empty() { Ok(parsed.csr) } else { Err(DataError::Row(parsed.bad.remove(0))) }
}

/// Rows that a reader hands to a parser.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// The rows of a block, in the reader's form.
#[derive(Debug)]
pub(crate) enum Content {
    Text(TextBlock),
    Table(TableBlock),
    /// Rows that need no reading: the parser makes them.
    Generated,
}

impl Default for Content {
    fn default() -> Content {
        Content::Text(TextBlock::default())
    }
}

/// How the rows of a source are parsed.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Text(RowFormat),
    Table,
    Generated(Criteo),
}

/// What a block gave.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) csr: Csr,
    /// Rows that could not be used, in order.
    pub(crate) bad: Vec<RowError>,
}

/// The state of one parser thread. Between two blocks only its buffers are kept.
#[derive(Debug)]
pub(crate) struct Parser {
    rows: Rows,
    labeller: Labeller,
    selection: Selection,
    draw: Draw,
    builder: Builder,
    isa: Isa,
    marks: Vec<u64>,
    scratch: Vec<u8>,
}

impl Parser {
    pub(crate) fn new(spec: &SourceSpec, rows: Rows) -> Result<Parser, DataError> {
        Ok(Parser {
            rows,
            labeller: Labeller { rule: spec.columns.label_rule, labels: spec.labels },
            selection: Selection::new(spec)?,
            draw: spec.draw,
            builder: Builder::new(spec.intercept),
            isa: Isa::detect(),
            marks: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Parses one block into the buffers of `spare`.
    pub(crate) fn parse(&mut self, block: &Block, spare: Csr) -> Parsed {
        let place = block.place;
        self.builder.start(spare, place);
        let mut bad = Vec::new();
        match (&block.content, &self.rows) {
            (Content::Text(text), Rows::Text(_)) => self.parse_text(text, place, &mut bad),
            (Content::Table(block), Rows::Table) => {
                let Parser { selection, labeller, builder, .. } = self;
                table::parse(block, place, selection, *labeller, builder, &mut bad);
            }
            (Content::Generated, Rows::Generated(criteo)) => {
                let Place { first_row, source_rows, .. } = place;
                for row in (first_row..first_row + u64::from(source_rows))
                    .filter(|&row| self.selection.keeps(row))
                {
                    criteo.row(row, &mut self.builder);
                }
            }
            (content, rows) => panic!("a source of {rows:?} gave a block of {content:?}"),
        }
        Parsed { csr: self.builder.finish(), bad }
    }

    fn parse_text(&mut self, text: &TextBlock, place: Place, bad: &mut Vec<RowError>) {
        if matches!(self.rows, Rows::Text(RowFormat::Vw)) {
            scan::mark(self.isa, &text.bytes, Stops::Names, &mut self.marks);
        }
        let (mut places, mut draws) = (text.places(), text.draws());
        for (row, span) in (place.first_row..).zip(&text.rows) {
            let drawn = match self.draw {
                Draw::Number => row,
                Draw::Place => draws.next().unwrap_or(row),
            };
            if !self.selection.keeps(drawn) {
                continue;
            }
            let (start, end) = (span.start as usize, span.end as usize);
            if let Err(Fault { at, reason }) = self.parse_row(&text.bytes, start, end) {
                self.builder.drop_row();
                let (path, spot) = places.find(start + at);
                // A row with quotes may span lines: the fault's own line is named.
                let line_start = memchr::memrchr(b'\n', &text.bytes[..start + at]);
                let column = (start + at - line_start.map_or(0, |newline| newline + 1)) as u64 + 1;
                bad.push(RowError { path, spot, column, reason });
            }
        }
    }

    /// Parses the row that stands at `start..end` of `text`, before its line end.
    #[inline]
    fn parse_row(&mut self, text: &[u8], start: usize, end: usize) -> Result<(), Fault> {
        let Parser { rows, labeller, builder, marks, scratch, .. } = self;
        let row = &text[start..end];
        match rows {
            Rows::Text(RowFormat::Vw) => vw::row(Line::at(text, start, marks), *labeller, builder),
            Rows::Text(RowFormat::LibSvm) => libsvm::row(row, *labeller, builder),
            Rows::Text(RowFormat::Delimited { dialect, actions }) => {
                delimited::row(row, *dialect, actions, *labeller, builder, scratch)
            }
            Rows::Table | Rows::Generated(_) => panic!("only `parse_text` comes here"),
        }
    }
}

/// What the formats' tests share.
#[cfg(test)]
pub(crate) mod testing {
    use super::super::csr::Intercept;
    use super::super::spec::Labels;
    use super::*;

    /// The batch of a text that is good, without intercept.
    pub(crate) fn only_row(format: Format, text: &str) -> Csr {
        let spec = SourceSpec { intercept: Intercept::None, ..SourceSpec::default() };
        parse_block(format, &spec, text.as_bytes()).unwrap()
    }

    /// The message of a text that is not, in a file `test`.
    pub(crate) fn fault(format: Format, text: &str, labels: Labels) -> String {
        let spec = SourceSpec { labels, ..SourceSpec::default() };
        let error = parse_block(format, &spec, text.as_bytes()).unwrap_err();
        error.to_string().replacen("block:", "test:", 1)
    }
}
