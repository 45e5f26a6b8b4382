//! A table as it was at one moment, while it goes on changing: what a checkpoint is made of.
//!
//! Owns which lines and rows of that moment were copied, and the walk over the others. When a
//! moment is, and where copies go, is left to `chain`; what had changed until then to `touched`.
//!
//! Whatever is about to change is copied before, unless it was. A line of the moment is so copied
//! once, by the walk or just before its first change, and never looked at again: wherever its rows
//! go afterwards, they are in the copy. Where rows lie apart from their keys, a row is copied with
//! its key, by the walk, before its own first change, or soon after its line's: what a line held is
//! noted then.
//!
//! Invariant: each row of the moment is copied once, as it was.

use kernels::lines::{self, Holds, LINE_WORDS, Layout, Line};
use zerocopy::{FromBytes, IntoBytes};

use super::aging::TooOld;
use super::bits::Bits;
use super::copies::{Copies, Page, Paper};
use super::counts::CountsSnapshot;
use super::index::Index;
use super::rows::RowArena;
use super::{BLOCK_KEYS, Table, newcomers::Sketch};

/// Lines that one part of the walk looks at, most of them empty or not.
const LINES_WALKED: usize = 8192;

/// Lines that were copied, or have no change, that one part of the walk passes over, some 10 us.
const LINES_PASSED: usize = 1 << 20;

/// Rows that lie apart, of lines that have changed, that are copied at once: some 0.1 ms.
const NOTED_TAKEN: usize = 1024;

/// Where a table was at its moment, and what is copied of it.
#[derive(Debug)]
pub(super) struct Snapshot {
    layout: Layout,
    /// Lines and rows of the moment: those behind them came later.
    lines: usize,
    rows: usize,
    /// The line at which the walk goes on.
    front: usize,
    /// Lines that were copied ahead of the walk.
    lines_done: Bits,
    /// Rows that lie apart and were copied, or are others than they were.
    rows_done: Bits,
    /// Lines, or rows that lie apart, of which a copy is wanted; none: all.
    wanted: Option<Bits>,
    /// What is too old for a copy.
    too_old: Option<TooOld>,
    /// Keys that are gone from what the changes are read over: they come before all copies.
    gone: Vec<u64>,
    /// Rows that lie apart, of lines that have changed: each is copied unless it was.
    noted: Vec<(u64, u32)>,
    paper: Paper,
    copies: Copies,
}

/// What a snapshot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotOf {
    /// All rows that are not too old by this clock.
    Everything {
        /// The clock.
        clock: u32,
    },
    /// What has changed since that was asked for last, however old.
    Changes,
}

/// What was taken of a snapshot.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Rows, [`Table::page_width`] values each; or keys without any, which are gone.
    Rows(Page),
    /// Lines of counts.
    Counts(Page),
    /// Nothing yet.
    Nothing,
    /// Nothing is left.
    Over,
}

impl Snapshot {
    /// A line is about to change.
    #[inline]
    pub(super) fn line_changes(&mut self, line: usize, held: &Line) {
        if self.lacks_line(line) {
            self.lines_done.set(line);
            self.take_line(line, held);
        }
    }

    /// Whether a line is of the moment and was not copied.
    #[inline(always)]
    fn lacks_line(&self, line: usize) -> bool {
        // Without branches: of a block about to change any part may have been copied.
        (line >= self.front) & (line < self.lines) & !self.lines_done.has(line)
    }

    /// A row that lies apart is handed out: it is none of the moment's.
    pub(super) fn row_is_new(&mut self, row: u32) {
        if self.lacks_row(row) {
            self.rows_done.set(row as usize);
        }
    }

    /// Copies the rows of a line; those that lie apart are noted.
    #[inline]
    fn take_line(&mut self, line: usize, held: &Line) {
        let entries = lines::entries(self.layout, held);
        if self.layout.holds() == Holds::Number {
            let rows = entries.map(|(key, first)| (key, lines::word(held, first)));
            let done = &self.rows_done;
            self.noted.extend(rows.filter(|&(_, row)| !done.has(row as usize)));
        } else if self.wanted.as_ref().is_none_or(|wanted| wanted.has(line)) {
            let floats = <[f32]>::ref_from_bytes(held.as_bytes()).expect("lines are aligned");
            entries.for_each(|(key, first)| self.copy(key, &floats[first..]));
        }
    }

    #[inline(always)]
    fn lacks_row(&self, row: u32) -> bool {
        ((row as usize) < self.rows) & !self.rows_done.has(row as usize)
    }

    /// Copies a row that lies apart, unless it was.
    fn take_row(&mut self, key: u64, row: u32, arena: &RowArena) {
        if !self.lacks_row(row) {
            return;
        }
        let row = row as usize;
        self.rows_done.set(row);
        if self.wanted.as_ref().is_none_or(|wanted| wanted.has(row)) {
            self.copy(key, &arena.floats()[row * arena.stride()..]);
        }
    }

    #[inline]
    fn copy(&mut self, key: u64, row: &[f32]) {
        if !self.too_old.is_some_and(|too_old| too_old.has(row)) {
            self.copies.add(key, row);
        }
    }

    /// Takes keys that are gone, or else a full page of copies.
    fn take(&mut self, arena: Option<&RowArena>) -> Option<Piece> {
        if !self.gone.is_empty() {
            let first = self.gone.len().saturating_sub(self.paper.bytes / size_of::<u64>());
            let gone = self.gone.drain(first..);
            return Some(Piece::Rows(Page::of_keys(self.paper.head_words, gone)));
        }
        if let Some(arena) = arena {
            let first = self.noted.len().saturating_sub(NOTED_TAKEN);
            for (key, row) in self.noted.split_off(first) {
                self.take_row(key, row, arena);
            }
        }
        self.copies.take().map(Piece::Rows)
    }

    /// Goes on with the walk, up to a full page.
    fn walk(&mut self, held: &[Line], arena: Option<&RowArena>) {
        let end = self.lines.min(self.front + LINES_PASSED);
        for _ in 0..LINES_WALKED {
            self.pass_unwanted(end, arena);
            if self.front >= end || self.copies.has_full() {
                return;
            }
            let line = self.front;
            self.front += 1;
            match arena {
                _ if self.lines_done.has(line) => {}
                None => self.take_line(line, &held[line]),
                Some(arena) => {
                    for (key, first) in lines::entries(self.layout, &held[line]) {
                        self.take_row(key, lines::word(&held[line], first), arena);
                    }
                }
            }
        }
    }

    /// Passes over lines of which nothing is left to copy. Whether there were any.
    fn pass_copied(&mut self, held: &[Line], arena: Option<&RowArena>) -> bool {
        let begin = self.front;
        let end = self.lines.min(begin + LINES_PASSED);
        for _ in 0..LINES_WALKED {
            self.pass_unwanted(end, arena);
            if self.front >= end || self.has_copies(&held[self.front], arena) {
                break;
            }
            self.front += 1;
        }
        self.front > begin
    }

    /// Passes over lines that were copied, or have no change.
    fn pass_unwanted(&mut self, end: usize, arena: Option<&RowArena>) {
        self.front = self.lines_done.next_unset(self.front, end);
        if let Some(wanted) = self.wanted.as_ref().filter(|_| arena.is_none()) {
            self.front = wanted.next_set(self.front, end);
        }
    }

    /// Whether the walk would copy a row of a line that lies ahead.
    fn has_copies(&self, held: &Line, arena: Option<&RowArena>) -> bool {
        let mut entries = lines::entries(self.layout, held);
        let is_wanted = |row| self.wanted.as_ref().is_none_or(|wanted| wanted.has(row as usize));
        match arena {
            None => entries.next().is_some(),
            Some(_) => entries.any(|(_, first)| {
                let row = lines::word(held, first);
                self.lacks_row(row) && is_wanted(row)
            }),
        }
    }

    /// Whether nothing of the moment is left where it was.
    #[inline]
    fn is_over(&self) -> bool {
        self.front >= self.lines && self.noted.is_empty()
    }
}

/// Which of a block are not copied.
struct Lacked {
    numbers: [u16; BLOCK_KEYS],
    count: usize,
}

impl Lacked {
    fn numbers(&self) -> &[u16] {
        &self.numbers[..self.count]
    }
}

/// Finds those of a block that are not copied. Their bits are loaded one beside another: a branch
/// on each, of which half are guessed wrong, would wait for each alone.
fn lacked(at: &[u32], lacks: impl Fn(u32) -> bool) -> Lacked {
    let mut lacked = Lacked { numbers: [0; BLOCK_KEYS], count: 0 };
    for (number, &place) in at.iter().enumerate().take(BLOCK_KEYS) {
        lacked.numbers[lacked.count % BLOCK_KEYS] = number as u16;
        lacked.count += usize::from(lacks(place));
    }
    lacked
}

impl Index {
    /// A row that lies apart, of this key, is about to be freed.
    pub(super) fn keep_row(&mut self, key: u64, row: u32, arena: &RowArena) {
        if let Some(snapshot) = &mut self.watch.snapshot {
            snapshot.take_row(key, row, arena);
        }
    }

    /// A row that lies apart is handed out.
    pub(super) fn row_is_new(&mut self, row: u32) {
        if let Some(snapshot) = &mut self.watch.snapshot {
            snapshot.row_is_new(row);
        }
    }

    /// Rows of these keys, at these places, are about to change.
    #[inline]
    pub(super) fn keep(&mut self, keys: &[u64], at: &[u32], arena: &Option<RowArena>) {
        let Some(snapshot) = self.watch.snapshot.as_deref_mut() else { return };
        if snapshot.is_over() {
            return;
        }
        match arena {
            Some(arena) => {
                let lacked = lacked(at, |row| snapshot.lacks_row(row));
                for &number in lacked.numbers() {
                    let number = number as usize;
                    snapshot.take_row(keys[number], at[number], arena);
                }
            }
            None => {
                let held = self.lines.as_slice();
                let line = |place: u32| place as usize / LINE_WORDS;
                let lacked = lacked(at, |place| snapshot.lacks_line(line(place)));
                for &number in lacked.numbers() {
                    let line = line(at[number as usize]);
                    snapshot.line_changes(line, &held[line]);
                }
            }
        }
    }
}

impl Table {
    /// A moment begins: what the table has now can be taken by pieces, whatever becomes of it.
    ///
    /// - `of`: changes, if [`Table::knows_changes`].
    pub(crate) fn begin_snapshot(&mut self, of: SnapshotOf, paper: Paper) {
        let (mut wanted, mut gone, mut too_old) = (None, Vec::new(), None);
        match (of, self.index.touched_mut()) {
            (SnapshotOf::Changes, Some(touched)) => {
                let since = touched.begin();
                (wanted, gone) = (Some(since.0), since.1);
            }
            (SnapshotOf::Changes, None) => self.set_tracked(true), // It is new: all has changed.
            (SnapshotOf::Everything { clock }, _) => {
                too_old = self.aging.as_ref().and_then(|aging| aging.too_old_at(clock));
            }
        }
        let (lines, rows) = (self.index.lines(), self.rows.as_ref().map_or(0, RowArena::rows));
        self.index.watch.snapshot = Some(Box::new(Snapshot {
            layout: self.index.layout,
            lines,
            rows,
            front: 0,
            lines_done: Bits::zeros(lines),
            rows_done: Bits::zeros(rows),
            wanted,
            too_old,
            gone,
            noted: Vec::new(),
            paper,
            copies: Copies::new(paper, self.page_width()),
        }));
        self.newcomers.sketch().into_iter().for_each(|sketch| sketch.begin_snapshot(paper));
    }

    /// The moment is over; what was not taken is lost.
    pub(crate) fn end_snapshot(&mut self) {
        self.index.watch.snapshot = None;
        self.newcomers.sketch().into_iter().for_each(Sketch::end_snapshot);
    }

    /// Forgets what was copied because it changed: a defect, for tests.
    pub(crate) fn forget_copies(&mut self) {
        let width = self.page_width();
        if let Some(snapshot) = &mut self.index.watch.snapshot {
            snapshot.copies = Copies::new(snapshot.paper, width);
            snapshot.noted.clear();
        }
    }

    /// Takes a page of what was copied because it changed, once it is full.
    pub(crate) fn take_copies(&mut self) -> Option<Piece> {
        let rows = self.index.watch.snapshot.as_mut()?.take(self.rows.as_ref());
        let counts = |sketch: &mut Sketch| sketch.snapshot()?.take();
        rows.or_else(|| self.newcomers.sketch().and_then(counts))
    }

    /// The same, or goes on with the walk: what it comes by.
    ///
    /// - Result: [`Piece::Over`] once all was taken.
    pub(crate) fn take_piece(&mut self) -> Piece {
        if let Some(piece) = self.take_copies() {
            return piece;
        }
        let Some(snapshot) = self.index.watch.snapshot.as_deref_mut() else { return Piece::Over };
        if snapshot.front < snapshot.lines {
            snapshot.walk(self.index.lines.as_slice(), self.rows.as_ref());
        } else if snapshot.noted.is_empty() {
            let sketch = self.newcomers.sketch();
            if !sketch.is_some_and(|sketch| sketch.walk(LINES_WALKED)) {
                snapshot.copies.close();
                let counts = self.newcomers.sketch().and_then(|sketch| sketch.snapshot());
                counts.into_iter().for_each(CountsSnapshot::close);
                return self.take_copies().unwrap_or(Piece::Over);
            }
        }
        self.take_copies().unwrap_or(Piece::Nothing)
    }

    /// Goes on with the walk as far as that copies nothing. Whether it came further.
    pub(crate) fn pass_copied(&mut self) -> bool {
        let Some(snapshot) = self.index.watch.snapshot.as_deref_mut() else { return false };
        snapshot.pass_copied(self.index.lines.as_slice(), self.rows.as_ref())
    }

    /// Whether the walk has been everywhere.
    pub(crate) fn is_walked(&self) -> bool {
        self.index.watch.snapshot.as_ref().is_none_or(|snapshot| snapshot.is_over())
    }

    /// Memory of a page that was taken, for a further one. Given back if it is none of this
    /// table's.
    pub(crate) fn reuse_page(&mut self, words: Vec<u64>) -> Option<Vec<u64>> {
        let Some(snapshot) = &mut self.index.watch.snapshot else { return Some(words) };
        snapshot.copies.reuse(words)
    }
}
