//! Cutting text into blocks of whole rows.
//!
//! Owns where a row ends, which lines are no rows, and the places of rows for messages. What a row
//! means is left to the formats.
//!
//! Invariant: a block holds exactly as many rows as were asked for, unless the input ends. Every
//! row ends with a newline that lies in the block.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use kernels::Isa;
use kernels::scan::{self, Stops};

use super::error::{DataError, Spot};
use super::hash::mix;
use super::input::{InputFile, Unpacked};
use super::marks::Marks;

/// Longest row.
pub(crate) const ROW_BYTES_MAX: usize = 16 << 20;
/// Longest block. Offsets in it fit in u32, and so does the count of its non-zeros.
pub(crate) const BLOCK_BYTES_MAX: usize = 1 << 30;
/// What is asked of the unpacker at a time: zstd's block, so that it need not keep a rest.
pub(crate) const CHUNK_BYTES: usize = 128 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a format's lines become rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineRules {
    /// Lines that start with this byte are no rows.
    pub(crate) comment: Option<u8>,
    /// Whether a newline between quotes belongs to the row.
    pub(crate) quotes: Quotes,
    /// The first line that each file must have; it is no row.
    pub(crate) header: Option<Arc<[u8]>>,
}

/// Whether quotes mean anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Quotes {
    #[default]
    Plain,
    Protect,
}

/// Rows of text, and where they come from. Buffers are reused.
#[derive(Debug, Default)]
pub(crate) struct TextBlock {
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: Vec<Span>,
    pub(crate) segments: Vec<Segment>,
}

/// A row's bytes in its block, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// The bytes of a block from `first_byte` on come from `path`, from its byte `offset` on.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: Arc<str>,
    /// Which of the source's files that is.
    pub(crate) file: u32,
    pub(crate) first_byte: usize,
    pub(crate) offset: u64,
    /// The line there, from 1; none: the file was entered in the middle.
    pub(crate) first_line: Option<u64>,
}

impl TextBlock {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.segments.clear();
    }

    /// Tells files and lines, for bytes in ascending order.
    pub(crate) fn places(&self) -> Places<'_> {
        Places { block: self, segment: 0, at: 0, newlines: 0 }
    }

    /// What its rows are drawn by, where that is their places: in their order.
    pub(crate) fn draws(&self) -> impl Iterator<Item = u64> {
        let mut segments = self.segments.iter().peekable();
        let mut here = segments.next();
        self.rows.iter().map(move |row| {
            let at = row.start as usize;
            while let Some(next) = segments.next_if(|next| next.first_byte <= at) {
                here = Some(next);
            }
            here.map_or(0, |segment| {
                let offset = segment.offset + (at - segment.first_byte) as u64;
                mix(u64::from(segment.file)).wrapping_add(offset)
            })
        })
    }
}

/// Counts lines through a block: all its questions together cost one pass.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    block: &'a TextBlock,
    segment: usize,
    at: usize,
    newlines: u64,
}

impl Places<'_> {
    /// File and place of the byte `at`. Not before the byte of the call before.
    pub(crate) fn find(&mut self, at: usize) -> (Arc<str>, Spot) {
        let segments = &self.block.segments;
        while segments.get(self.segment + 1).is_some_and(|segment| segment.first_byte <= at) {
            self.segment += 1;
            (self.at, self.newlines) = (segments[self.segment].first_byte, 0);
        }
        let between = &self.block.bytes[self.at..at];
        self.newlines += memchr::memchr_iter(b'\n', between).count() as u64;
        self.at = at;
        let segment = &segments[self.segment];
        let byte = segment.offset + (at - segment.first_byte) as u64;
        let line = segment.first_line.map(|first| Spot::Line(first + self.newlines));
        (segment.path.clone(), line.unwrap_or(Spot::Byte(byte)))
    }
}

/// What is read of a file.
pub(crate) struct TextPiece {
    pub(crate) file: InputFile,
    /// Which of the source's files that is.
    pub(crate) number: u32,
    /// Lines that begin in these bytes; none: all of the file.
    pub(crate) range: Option<Range<u64>>,
}

/// Reads files one after the other and cuts them into blocks.
pub(crate) struct TextReader {
    waiting: VecDeque<TextPiece>,
    current: Option<Current>,
    chunk: Chunk,
    rules: LineRules,
    rows_per_block: usize,
}

struct Current {
    unpacked: Unpacked,
    /// Which of the source's files it is.
    file: u32,
    /// Of the unpacked file's bytes, the one that is taken next.
    offset: u64,
    /// Whether it is read from its beginning to its end.
    is_whole: bool,
    /// Lines that were read so far; none: it was entered in the middle.
    lines: Option<u64>,
    header: Header,
    rows: u64,
}

#[derive(PartialEq)]
enum Header {
    Due,
    Done,
}

struct Chunk {
    bytes: Box<[u8]>,
    at: usize,
    end: usize,
    /// Marks of the newlines in `bytes[..end]`.
    newlines: Vec<u64>,
    isa: Isa,
}

/// A line that is being put together at the end of a block.
struct OpenLine {
    start: usize,
    newlines: u64,
    quotes: usize,
}

impl TextReader {
    /// Reads `first`, which is open already, and then `waiting`.
    pub(crate) fn new(
        first: Unpacked,
        waiting: VecDeque<TextPiece>,
        rules: LineRules,
        rows_per_block: usize,
    ) -> TextReader {
        let bytes = vec![0; CHUNK_BYTES].into();
        let chunk = Chunk { bytes, at: 0, end: 0, newlines: Vec::new(), isa: Isa::detect() };
        let current = Some(Current::whole(first, 0));
        TextReader { waiting, current, chunk, rules, rows_per_block }
    }

    /// Reads these from now on.
    pub(crate) fn enter(&mut self, pieces: VecDeque<TextPiece>) {
        (self.waiting, self.current) = (pieces, None);
        (self.chunk.at, self.chunk.end) = (0, 0);
    }

    /// Fills `block` with the next rows. It holds fewer than asked for only at the end.
    pub(crate) fn read(&mut self, block: &mut TextBlock) -> Result<(), DataError> {
        block.clear();
        while block.rows.len() < self.rows_per_block && self.open_next()? {
            self.read_file(block)?;
        }
        Ok(())
    }

    /// Makes sure that a file is open, if there is one left.
    fn open_next(&mut self) -> Result<bool, DataError> {
        if self.current.is_none()
            && let Some(piece) = self.waiting.pop_front()
        {
            self.current = Some(Current::open(&piece)?);
        }
        Ok(self.current.is_some())
    }

    /// Appends rows of the open file until the block is full, or the file ends and is closed.
    fn read_file(&mut self, block: &mut TextBlock) -> Result<(), DataError> {
        let TextReader { current: slot, chunk, rules, rows_per_block, .. } = self;
        let current = slot.as_mut().expect("the caller opened it");
        let path = current.unpacked.path().clone();
        block.segments.push(current.segment(block.bytes.len()));
        let mut line = OpenLine::at(block.bytes.len());
        while block.rows.len() < *rows_per_block {
            if chunk.at == chunk.end {
                chunk.fill(&mut current.unpacked)?;
                if chunk.end == 0 {
                    if block.bytes.len() > line.start {
                        block.bytes.push(b'\n'); // The last line of a file may lack it.
                        line.newlines += 1;
                        current.end_line(&line, block.bytes.len(), rules, block)?;
                    }
                    if current.rows == 0 && current.is_whole {
                        return Err(DataError::Empty { path });
                    }
                    *slot = None;
                    return Ok(());
                }
                if current.offset == 0 {
                    current.skip_byte_order_mark(chunk, block);
                }
            }
            // A header and a line whose end depends on quotes are taken alone.
            let alone = current.header == Header::Due || rules.quotes == Quotes::Protect;
            let lines_max = if alone { 1 } else { *rows_per_block - block.rows.len() };
            line = current.take_lines(line, chunk, lines_max, rules, block)?;
            if block.bytes.len() - line.start > ROW_BYTES_MAX {
                let spot = current.spot(1);
                return Err(DataError::RowTooLong { path, spot, bytes_max: ROW_BYTES_MAX });
            }
            if block.bytes.len() > BLOCK_BYTES_MAX - ROW_BYTES_MAX - CHUNK_BYTES {
                let (spot, rows) = (current.spot(0), *rows_per_block);
                let bytes_max = BLOCK_BYTES_MAX;
                return Err(DataError::BatchTooLarge { path, spot, rows, bytes_max });
            }
        }
        Ok(())
    }
}

impl Current {
    fn whole(unpacked: Unpacked, file: u32) -> Current {
        let (lines, header) = (Some(0), Header::Due);
        Current { unpacked, file, offset: 0, is_whole: true, lines, header, rows: 0 }
    }

    fn open(piece: &TextPiece) -> Result<Current, DataError> {
        let TextPiece { file, number, range } = piece;
        let Some(range) = range else { return Ok(Current::whole(file.open()?, *number)) };
        let (unpacked, offset) = file.open_range(range.clone())?;
        let whole = Current::whole(unpacked, *number);
        if range.start == 0 {
            return Ok(Current { is_whole: false, ..whole });
        }
        Ok(Current { offset, is_whole: false, lines: None, header: Header::Done, ..whole })
    }

    fn segment(&self, first_byte: usize) -> Segment {
        let (path, file) = (self.unpacked.path().clone(), self.file);
        let first_line = self.lines.map(|lines| lines + 1);
        Segment { path, file, first_byte, offset: self.offset, first_line }
    }

    /// So many lines behind those that were read, or where no line is known, what is read next.
    fn spot(&self, lines_on: u64) -> Spot {
        self.lines.map_or(Spot::Byte(self.offset), |lines| Spot::Line(lines + lines_on))
    }

    fn skip_byte_order_mark(&mut self, chunk: &mut Chunk, block: &mut TextBlock) {
        self.offset = chunk.skip_byte_order_mark();
        if let Some(segment) = block.segments.last_mut() {
            segment.offset = self.offset;
        }
    }

    /// Moves up to `lines_max` lines from `chunk` to `block`, or what the chunk has of them, and
    /// ends those that are whole. Goes on with `line`; returns the line that is open then.
    fn take_lines(
        &mut self,
        mut line: OpenLine,
        chunk: &mut Chunk,
        lines_max: usize,
        rules: &LineRules,
        block: &mut TextBlock,
    ) -> Result<OpenLine, DataError> {
        let (from, to) = (chunk.at, block.bytes.len());
        let last = Marks::from(&chunk.newlines, from).nth(lines_max - 1);
        chunk.at = last.map_or(chunk.end, |newline| newline + 1);
        let taken = &chunk.bytes[from..chunk.at];
        block.bytes.extend_from_slice(taken);
        self.offset += taken.len() as u64;
        if rules.quotes == Quotes::Protect {
            line.quotes += memchr::memchr_iter(b'"', taken).count();
        }
        let newlines = Marks::from(&chunk.newlines, from).take_while(|&newline| newline < chunk.at);
        for newline in newlines {
            line.newlines += 1;
            if line.quotes.is_multiple_of(2) {
                let end = to + (newline + 1 - from);
                self.end_line(&line, end, rules, block)?;
                line = OpenLine::at(end.min(block.bytes.len())); // A header is cut off.
            }
        }
        Ok(line)
    }

    /// Counts the line that ends before byte `end`, and notes it as a row if it is one.
    #[inline]
    fn end_line(
        &mut self,
        line: &OpenLine,
        end: usize,
        rules: &LineRules,
        block: &mut TextBlock,
    ) -> Result<(), DataError> {
        self.lines = self.lines.map(|lines| lines + line.newlines);
        let content = trim_carriage_return(&block.bytes[line.start..end - 1]);
        let is_row = match content.iter().find(|&&byte| byte > b' ') {
            None => false,
            Some(&byte) => Some(byte) != rules.comment,
        };
        if !is_row {
            return Ok(()); // Its bytes stay, so that lines can be counted.
        }
        if self.header == Header::Due {
            self.header = Header::Done;
            if let Some(expected) = &rules.header {
                self.check_header(content, expected)?;
                block.bytes.truncate(line.start);
                *block.segments.last_mut().expect("pushed by read_file") = self.segment(line.start);
                return Ok(());
            }
        }
        self.rows += 1;
        let end = line.start + content.len();
        block.rows.push(Span { start: line.start as u32, end: end as u32 });
        Ok(())
    }

    fn check_header(&self, found: &[u8], expected: &[u8]) -> Result<(), DataError> {
        if found == expected {
            return Ok(());
        }
        let [expected, found] = [expected, found].map(quote);
        let message = format!("expected the first file's header {expected}, found {found}");
        Err(DataError::Header { path: self.unpacked.path().clone(), message })
    }
}

impl OpenLine {
    fn at(start: usize) -> OpenLine {
        OpenLine { start, newlines: 0, quotes: 0 }
    }
}

impl Chunk {
    /// Reads the next bytes: none at the end.
    fn fill(&mut self, unpacked: &mut Unpacked) -> Result<(), DataError> {
        (self.at, self.end) = (0, unpacked.read(&mut self.bytes)?);
        scan::mark(self.isa, &self.bytes[..self.end], Stops::Lines, &mut self.newlines);
        Ok(())
    }

    /// Passes over the mark, if there is one, and returns how many bytes that were.
    fn skip_byte_order_mark(&mut self) -> u64 {
        if !self.bytes[self.at..self.end].starts_with(BYTE_ORDER_MARK) {
            return 0;
        }
        self.at += BYTE_ORDER_MARK.len();
        BYTE_ORDER_MARK.len() as u64
    }
}

/// `line` without the carriage return of a DOS line end.
#[inline]
pub(crate) fn trim_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The first line of `text` that is not blank, without its end and without a byte order mark, and
/// what follows it. A row of a quoting format may span lines.
pub(crate) fn first_line(text: &[u8], quotes: Quotes) -> (&[u8], &[u8]) {
    let mut rest = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    while !rest.is_empty() {
        let (mut end, mut open) = (0, 0);
        loop {
            let newline = memchr::memchr(b'\n', &rest[end..]).map_or(rest.len(), |at| end + at + 1);
            open += memchr::memchr_iter(b'"', &rest[end..newline]).count();
            end = newline;
            if end == rest.len() || quotes == Quotes::Plain || open % 2 == 0 {
                break;
            }
        }
        let line = &rest[..end];
        let line = trim_carriage_return(line.strip_suffix(b"\n").unwrap_or(line));
        rest = &rest[end..];
        if line.iter().any(|&byte| byte > b' ') {
            return (line, rest);
        }
    }
    (&[], &[])
}

/// A line for a message, not too long.
fn quote(line: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 80;
    let shown = &line[..line.len().min(SHOWN_BYTES_MAX)];
    let dots = if line.len() > SHOWN_BYTES_MAX { "..." } else { "" };
    format!("'{}{dots}'", String::from_utf8_lossy(shown))
}
