//! A table's index: from key to row, in lines of a few keys.
//!
//! Owns the lines, their growth and the order of a scan. Where a key may lie is left to
//! `kernels::lines`, searching a batch to `kernels::probe`, what a row is to `table`.
//!
//! Growth moves a few lines at a time and not all at once: between two requests some keys lie by
//! the count of lines before, and the others by the count after. Afterwards as many lines again are
//! settled: keys that had to go to their second home go to the first one, where searches begin.
//! Both are done by [`Index::tend`], between requests; keys that are added while there is such work
//! owe some of it. Pages for more lines are filled in ahead, by another thread.
//!
//! Invariant: a key lies in a line where `kernels::lines` finds it, or is a stray, which happens to
//! keys that were made to collide; strays lie in lines after the home lines and are known by name.

use std::collections::BTreeMap;

use kernels::lines::{
    self, EMPTY_LINE, Inserted, LINE_WORDS, LINES_MAX, Layout, Line, Moves, Payload, Shape,
};
use kernels::probe::{self, Elsewhere, Lines};
use kernels::{Isa, MISSING};
use memory::{Arena, First};
use zerocopy::{FromBytes, IntoBytes};

use super::Upkeep;
use super::watch::{NO_LINE, Watch};

/// Lines of a fresh index.
const LINES_FIRST: usize = 64;

/// Lanes taken before the index grows, in hundredths. With two lanes a line, nine tenths is all
/// that can be taken, with five 98 of 100, with one 97. With one it is memory that costs speed: at
/// 92 each key is a tenth more often away from home than at 85, and lines are fewer by as much.
const fn load_max_percent(layout: Layout) -> usize {
    match layout.lanes() {
        1 => 92,
        2 => 80,
        _ if is_tight(layout) => 90,
        _ => 85,
    }
}

/// Lanes taken at which a growth under way is finished at once, in hundredths more.
const fn load_slack_percent(layout: Layout) -> usize {
    if layout.is_alone() { 5 } else { 6 }
}

/// Whether a table is there for the sake of its size: rows of one word. It is filled further and
/// grows by less, so that a key takes 14.2 to 15.7 bytes at any size, and pays for it with longer
/// walks to make room: see `docs/decisions/0010-compact-ftrl.md`.
const fn is_tight(layout: Layout) -> bool {
    matches!(layout.holds(), lines::Holds::Row) && layout.words() == 1
}

/// Growth adds this part of the lines: one in so many. Less growth at a time is more growth in all.
pub(super) const fn growth_part(layout: Layout) -> usize {
    match layout.lanes() {
        1 => 8,
        _ if is_tight(layout) => 10,
        _ => 4,
    }
}

/// Lines that each key owes that is added while the index grows. If they are moved before the next
/// keys come, a growth is over before [`load_slack_percent`] more of the lanes are taken.
const fn lines_moved_a_key(layout: Layout) -> usize {
    1 + 100usize.div_ceil(load_slack_percent(layout) * layout.lanes())
}

/// Keys before the index grows at which pages for it are asked for: one in so many of those that it
/// holds, or [`KEYS_AHEAD_MIN`]. Another thread needs some milliseconds a page.
const KEYS_AHEAD_PART: usize = 16;

/// Least keys before the index grows at which pages for it are asked for.
const KEYS_AHEAD_MIN: usize = 128 * 1024;

/// Lines to come whose pages are always asked for: 4 MiB, since a small index grows often.
const LINES_FILLED_MIN: usize = 64 * 1024;

/// Lines from which on that is so: 1 MiB. A smaller index costs pages and not megabytes.
const LINES_FILLED_FROM: usize = 16 * 1024;

/// Lines between the one that is moved and the one whose entries' homes the cache is asked for.
const LINES_AHEAD: usize = 8;

/// Strays that an index has before it grows for them.
pub(super) const STRAYS_MAX: usize = 16;

/// It does not grow for strays beyond so many times the lines that its keys need: keys that were
/// made to collide always do.
pub(super) const CROWDED_LINES_FACTOR: usize = 3;

/// Why the index does not grow: the kernel gives no memory. The index is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// The index of one table.
#[derive(Debug)]
pub(crate) struct Index {
    pub(super) layout: Layout,
    pub(super) lines: Arena<Line>,
    pub(super) lines_max: usize,
    /// Beyond so many lines it grows only where keys find no place at all.
    pub(super) lines_allowed: usize,
    pub(super) shape: Shape,
    pub(super) growth: Option<Growth>,
    /// Lines that are not settled since the last growth: the first ones.
    unsettled: usize,
    /// Lines that are to be moved or settled before more keys are added.
    owed: usize,
    /// Lines whose pages are there or asked for.
    pub(super) filled: usize,
    pub(super) taken: usize,
    /// Where each stray's payload begins.
    pub(super) strays: BTreeMap<u64, u32>,
    changes: u64,
    pub(super) watch: Watch,
}

/// A growth under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    before: Shape,
    /// Lines afterwards.
    after: usize,
    /// Lines that were not moved yet: the first ones.
    left: usize,
}

impl Index {
    /// An empty index.
    ///
    /// - `lines_max`: what it may grow to, at least; more where so few would not do.
    /// - `seed`: the order of keys in lines.
    pub(crate) fn new(layout: Layout, lines_max: usize, seed: u64) -> Result<Index, NoMemory> {
        // As many again, for strays: addresses cost nothing, and 32 bits name the words of both.
        let lines_max = lines_max.clamp(LINES_FIRST, LINES_MAX / 2);
        let mut lines = Arena::reserve(2 * lines_max).map_err(|_| NoMemory)?;
        lines.grow_to(LINES_FIRST).map_err(|_| NoMemory)?;
        let lines_max = lines_max.min(lines.items_max() / 2);
        let shape = Shape::of(LINES_FIRST, seed);
        let strays = BTreeMap::new();
        Ok(Index {
            layout,
            lines,
            lines_max,
            lines_allowed: usize::MAX,
            shape,
            growth: None,
            unsettled: 0,
            owed: 0,
            filled: LINES_FIRST,
            taken: 0,
            strays,
            changes: 0,
            watch: Watch::default(),
        })
    }

    /// How many lines hold so many keys, and grow no more for them.
    pub(crate) fn lines_for(layout: Layout, keys: usize) -> usize {
        (keys * 100).div_ceil(layout.lanes() * load_max_percent(layout))
    }

    /// How many keys so many lines hold.
    pub(crate) fn keys_of(layout: Layout, lines: usize) -> usize {
        lines * layout.lanes() * load_max_percent(layout) / 100
    }

    /// How many keys it can hold.
    pub(crate) fn keys_max(&self) -> usize {
        Index::keys_of(self.layout, self.lines_max)
    }

    /// Writes what each wanted key has beside it (see `kernels::probe::find`), or
    /// `kernels::MISSING`, and starts fetching the rows. Keys past `found` are looked up next.
    pub(crate) fn find(&self, isa: Isa, wanted: &[u64], found: &mut [u32], rows: Elsewhere<'_>) {
        let lines = Lines { lines: self.lines.as_slice(), layout: self.layout, shape: self.shape };
        probe::find(isa, lines, wanted, found, rows);
        if !self.strays.is_empty() {
            self.find_strays(wanted, found);
        }
    }

    /// Copies the rows that lie in lines, `[count, words]`; zeros for absent keys. Keys past
    /// `values` are looked up next.
    pub(crate) fn read(&self, isa: Isa, wanted: &[u64], values: &mut [f32]) {
        let lines = Lines { lines: self.lines.as_slice(), layout: self.layout, shape: self.shape };
        let absent = probe::read(isa, lines, wanted, values);
        if absent > 0 && !self.strays.is_empty() {
            self.read_strays(wanted, values);
        }
    }

    /// As [`Index::read`], past the cache; `None` where `kernels::probe::read_past_cache` cannot.
    pub(crate) fn read_past_cache(
        &self,
        isa: Isa,
        wanted: &[u64],
        values: &mut [f32],
    ) -> Option<()> {
        let lines = Lines { lines: self.lines.as_slice(), layout: self.layout, shape: self.shape };
        let absent = probe::read_past_cache(isa, lines, wanted, values)?;
        if absent > 0 && !self.strays.is_empty() {
            self.read_strays(wanted, values);
        }
        Some(())
    }

    #[cold]
    fn read_strays(&self, wanted: &[u64], values: &mut [f32]) {
        for (key, row) in wanted.iter().zip(values.chunks_exact_mut(self.layout.words())) {
            if let Some(&place) = self.strays.get(key) {
                row.copy_from_slice(&self.floats()[place as usize..][..row.len()]);
            }
        }
    }

    #[cold]
    fn find_strays(&self, wanted: &[u64], found: &mut [u32]) {
        for (key, row) in wanted.iter().zip(found).filter(|(_, row)| **row == MISSING) {
            if let Some(&place) = self.strays.get(key) {
                *row = self.beside(place);
            }
        }
    }

    /// What a search gives for a key whose payload begins at `place`.
    pub(super) fn beside(&self, place: u32) -> u32 {
        match self.layout.holds() {
            lines::Holds::Number => self.words()[place as usize],
            lines::Holds::Row => place,
        }
    }

    /// All lines as 32-bit words: rows that lie in their lines are read and changed here.
    pub(crate) fn words(&self) -> &[u32] {
        <[u32]>::ref_from_bytes(self.lines.as_slice().as_bytes()).expect("lines are aligned")
    }

    /// The same words as numbers.
    pub(crate) fn floats(&self) -> &[f32] {
        <[f32]>::ref_from_bytes(self.lines.as_slice().as_bytes()).expect("lines are aligned")
    }

    /// The same words as numbers, to change.
    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        <[f32]>::mut_from_bytes(self.lines.as_mut_slice().as_mut_bytes())
            .expect("lines are aligned")
    }

    /// Makes room for so many more keys, so that [`Index::insert`] cannot fail. A growth begins
    /// here, and goes on in [`Index::tend`]; where that is not called, or so many keys come at once
    /// that they cannot wait for it, it is finished here.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        let wanted = self.taken + more;
        while wanted > Index::keys_of(self.layout, self.shape.lines()) {
            self.finish();
            self.begin(wanted)?;
        }
        if self.growth.is_none() && self.is_crowded() {
            self.begin(wanted)?;
        }
        if let Some(Growth { before, .. }) = self.growth {
            let percent = load_max_percent(self.layout) + load_slack_percent(self.layout);
            if wanted * 100 > before.lines() * self.layout.lanes() * percent {
                self.finish();
            }
        }
        self.fill_ahead(wanted);
        self.make_lines(self.shape.lines(), wanted)
    }

    /// Asks for the pages of lines to come: of a small index always some, and of the next growth's
    /// once it is near, the last ones first, as they will be written.
    fn fill_ahead(&mut self, wanted: usize) {
        let now = self.shape.lines();
        let keys = Index::keys_of(self.layout, now);
        let ahead = KEYS_AHEAD_MIN.max(keys / KEYS_AHEAD_PART);
        let (some, after) = (now + LINES_FILLED_MIN, self.lines_after(now));
        if now >= LINES_FILLED_FROM && some > self.filled {
            self.lines.fill_ahead(self.filled.max(now)..some, First::Low);
            self.filled = some;
        }
        if self.growth.is_none() && after > self.filled && wanted + ahead > keys {
            self.lines.fill_ahead(self.filled.max(now)..after, First::High);
            self.filled = after;
        }
    }

    /// Begins to grow, by a part or to what is wanted.
    fn begin(&mut self, wanted: usize) -> Result<(), NoMemory> {
        let now = self.shape.lines();
        let least = Index::lines_for(self.layout, wanted);
        let after = self.lines_after(now).max(least);
        self.make_lines(after, wanted)?;
        let strays = self.take_strays();
        self.unsettled = 0;
        self.growth = Some(Growth { before: self.shape, after, left: now });
        self.go_on(1);
        for (key, payload) in strays {
            self.put(key, &payload);
        }
        Ok(())
    }

    /// So many lines, and behind them more in which all keys could lie as strays. Those that none
    /// does are addresses and no memory.
    fn make_lines(&mut self, lines: usize, keys: usize) -> Result<(), NoMemory> {
        let strays = keys.div_ceil(self.layout.lanes());
        self.lines.grow_to(lines + strays).map_err(|_| NoMemory)
    }

    fn finish(&mut self) {
        self.go_on(usize::MAX);
    }

    /// Moves or settles so many lines at most, where there are such.
    pub(crate) fn tend(&mut self, lines_max: usize) -> Upkeep {
        if self.growth.is_some() {
            self.go_on(lines_max);
        } else {
            self.settle(lines_max);
        }
        self.owed = self.owed.saturating_sub(lines_max);
        self.upkeep()
    }

    /// Whether there are lines to move or to settle.
    pub(crate) fn upkeep(&self) -> Upkeep {
        match (self.growth.is_some() || self.unsettled > 0, self.owed) {
            (false, _) => Upkeep::None,
            (true, 0) => Upkeep::MayWait,
            (true, _) => Upkeep::Owed,
        }
    }

    /// Moves so many lines to where they lie after the growth under way.
    fn go_on(&mut self, lines_max: usize) {
        let Some(Growth { before, after, left }) = self.growth else { return };
        let stop = left.saturating_sub(lines_max);
        let mut strays = Vec::new();
        for line in (stop..left).rev() {
            self.shape = before.moving(after, line);
            let lines = self.lines.as_mut_slice();
            if let Some(ahead) = line.checked_sub(LINES_AHEAD) {
                let shape = before.moving(after, ahead);
                lines::prefetch_move(lines, self.layout, shape, ahead);
            }
            let lost = |key, payload: &Payload| strays.push((key, *payload));
            lines::move_line(lines, self.layout, self.shape, line, lost, &mut self.watch);
        }
        self.changes += (left - stop) as u64;
        self.growth = (stop > 0).then_some(Growth { before, after, left: stop });
        if self.growth.is_none() {
            self.shape = self.shape.moved();
            self.unsettled = if self.layout.is_alone() { 0 } else { after };
        }
        for (key, payload) in strays {
            self.put_stray(key, &payload);
        }
    }

    /// Settles so many lines.
    fn settle(&mut self, lines_max: usize) {
        let stop = self.unsettled.saturating_sub(lines_max);
        let lines = self.lines.as_mut_slice();
        for line in (stop..self.unsettled).rev() {
            if let Some(ahead) = line.checked_sub(LINES_AHEAD) {
                lines::prefetch_move(lines, self.layout, self.shape, ahead);
            }
            self.changes +=
                lines::settle(lines, self.layout, self.shape, line, &mut self.watch) as u64;
        }
        self.unsettled = stop;
    }

    /// Adds a key that is absent, after [`Index::reserve`].
    ///
    /// - Result: what a search for it gives now. Rows that lie in lines may have moved if
    ///   [`Index::changes`] has.
    pub(crate) fn insert(&mut self, key: u64, payload: &Payload) -> u32 {
        self.count_added();
        let place = self.put(key, payload);
        self.beside(place)
    }

    pub(super) fn count_added(&mut self) {
        self.taken += 1;
        match self.upkeep() {
            Upkeep::None => self.owed = 0,
            _ if self.growth.is_some() => self.owed += lines_moved_a_key(self.layout),
            _ => self.owed += 1,
        }
    }

    fn put(&mut self, key: u64, payload: &Payload) -> u32 {
        let lines = self.lines.as_mut_slice();
        let put = lines::insert(lines, self.layout, self.shape, key, payload, &mut self.watch);
        self.note_put(key, payload, put)
    }

    /// Notes where an entry was put; one that has found no room becomes a stray. Its place.
    pub(super) fn note_put(&mut self, key: u64, payload: &Payload, put: Option<Inserted>) -> u32 {
        let Some(Inserted { place, moves }) = put else { return self.put_stray(key, payload) };
        self.watch.moved(key, NO_LINE, place as usize / LINE_WORDS);
        self.changes += moves as u64;
        place
    }

    #[cold]
    fn put_stray(&mut self, key: u64, payload: &Payload) -> u32 {
        self.changes += 1;
        let lanes = self.layout.lanes();
        let first = self.shape.lines();
        let lines = &mut self.lines.as_mut_slice()[first..];
        // No stray is taken out but with all others, so they lie one behind another.
        let at = self.strays.len();
        self.watch.changes(first + at / lanes, &lines[at / lanes]);
        let place = lines::write_lane(lines, self.layout, (at / lanes, at % lanes), key, payload);
        let place = place + (first * LINE_WORDS) as u32; // `LINES_MAX` fits.
        self.strays.insert(key, place);
        self.watch.moved(key, NO_LINE, place as usize / LINE_WORDS);
        place
    }

    /// Takes all strays out.
    fn take_strays(&mut self) -> Vec<(u64, Payload)> {
        let strays = std::mem::take(&mut self.strays);
        let first = self.shape.lines();
        let taken = strays.into_iter().map(|(key, place)| {
            let (line, word) = (place as usize / LINE_WORDS, place as usize % LINE_WORDS);
            (key, lines::payload(self.layout, &self.lines.as_slice()[line], word))
        });
        let taken: Vec<_> = taken.collect();
        let lines = taken.len().div_ceil(self.layout.lanes());
        for (number, line) in self.lines.as_mut_slice()[first..first + lines].iter_mut().enumerate()
        {
            self.watch.changes(first + number, line);
            *line = EMPTY_LINE;
        }
        taken
    }

    /// Takes a key out.
    ///
    /// - Result: its payload, if it was there.
    pub(crate) fn remove(&mut self, key: u64) -> Option<Payload> {
        let (layout, shape) = (self.layout, self.shape);
        let mut removed =
            lines::remove(self.lines.as_mut_slice(), layout, shape, key, &mut self.watch);
        if removed.is_none() && self.strays.contains_key(&key) {
            for (stray, payload) in self.take_strays() {
                if stray == key {
                    removed = Some(payload);
                } else {
                    self.put(stray, &payload);
                }
            }
        }
        if removed.is_some() {
            self.taken -= 1;
            self.changes += 1;
            if let Some(touched) = self.touched_mut() {
                touched.removed(key);
            }
        }
        removed
    }

    /// Count of lines: a scan walks them.
    pub(crate) fn lines(&self) -> usize {
        self.shape.lines() + self.strays.len().div_ceil(self.layout.lanes())
    }

    /// Differs once an entry was moved or taken out: a scan that began before may miss it.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The keys of a line and what a search for each gives.
    pub(crate) fn line(&self, line: usize) -> impl Iterator<Item = (u64, u32)> {
        let entries = lines::entries(self.layout, &self.lines.as_slice()[line]);
        entries.map(move |(key, word)| {
            let place = (line * LINE_WORDS + word) as u32; // `LINES_MAX` fits.
            (key, self.beside(place))
        })
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> usize {
        self.taken
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lines() * size_of::<Line>()
    }
}

#[cfg(test)]
mod tests {
    use kernels::hash::mix;
    use kernels::lines::Holds;
    use proptest::prelude::*;

    use super::*;

    const NOWHERE: Elsewhere<'static> = Elsewhere { data: &[], stride: 1 };

    fn index(layout: Layout) -> Index {
        Index::new(layout, 1 << 20, 0).expect("a small index")
    }

    fn payload_of(key: u64) -> Payload {
        std::array::from_fn(|at| mix(key ^ at as u64) as u32)
    }

    fn layouts() -> impl Iterator<Item = Layout> {
        let of = |holds| (1..=8).filter_map(move |words| Layout::new(holds, words));
        of(Holds::Number).chain(of(Holds::Row))
    }

    fn check(index: &Index, oracle: &BTreeMap<u64, Payload>, absent: &[u64]) {
        let keys: Vec<u64> = oracle.keys().chain(absent).copied().collect();
        let mut found = vec![0; keys.len()];
        index.find(Isa::detect(), &keys, &mut found, NOWHERE);
        for (key, row) in keys.iter().zip(found) {
            match oracle.get(key) {
                None => assert_eq!(row, MISSING),
                Some(payload) => {
                    let first = match index.layout.holds() {
                        Holds::Number => row,
                        Holds::Row => index.words()[row as usize],
                    };
                    assert_eq!(first, payload[0], "key {key}");
                }
            }
        }
        if index.layout.holds() == Holds::Row {
            let words = index.layout.words();
            let mut rows = vec![0.0; keys.len() * words];
            index.read(Isa::detect(), &keys, &mut rows);
            for (key, row) in keys.iter().zip(rows.chunks_exact(words)) {
                let held = oracle.get(key).copied().unwrap_or_default();
                assert!(row.iter().zip(held).all(|(found, held)| found.to_bits() == held));
            }
        }
        let scanned: BTreeMap<u64, u32> =
            (0..index.lines()).flat_map(|line| index.line(line)).collect();
        assert_eq!(scanned.len(), oracle.len());
        assert!(scanned.keys().eq(oracle.keys()));
        assert_eq!(index.keys(), oracle.len());
    }

    #[test]
    fn an_index_that_grows_finds_every_key_after_every_insertion() {
        for layout in layouts() {
            let (mut index, mut oracle) = (index(layout), BTreeMap::new());
            let mut growing = 0;
            for key in (0..3000).map(mix) {
                index.reserve(1).expect("room");
                index.insert(key, &payload_of(key));
                oracle.insert(key, payload_of(key));
                if oracle.len() > 1500 && index.upkeep() == Upkeep::Owed {
                    index.tend(3); // So that a growth is over before it must be.
                }
                growing += usize::from(index.growth.is_some());
                if oracle.len() % 97 == 0 {
                    check(&index, &oracle, &[1, 2, 3]);
                }
            }
            assert!(growing > 100, "{layout:?}: {growing}");
            check(&index, &oracle, &[1, 2, 3]);
            assert!(index.strays.is_empty(), "{layout:?}");
            let load = 3000 * 100 / (index.shape.lines() * layout.lanes());
            assert!(load > 60 && load < 93, "{layout:?}: {load} %");
        }
    }

    #[test]
    fn rows_of_one_word_take_at_most_16_bytes_a_key_at_any_size_and_none_strays() {
        let layout = Layout::new(Holds::Row, 1).expect("one word");
        let mut index = index(layout);
        for count in 1..=100_000 {
            index.reserve(1).expect("room");
            index.insert(mix(count as u64), &Payload::default());
            if count > 2000 {
                assert!(index.bytes() <= 16 * count, "{count} keys take {} bytes", index.bytes());
            }
        }
        assert!(index.strays.is_empty(), "{} strays", index.strays.len());
    }

    /// A key whose first number is `number`: `mix` backwards.
    fn key_of(number: u64) -> u64 {
        let back = |x: u64, shift: u32| {
            let mut y = x;
            (0..64 / shift + 1).for_each(|_| y = x ^ y >> shift);
            y
        };
        let inverse = |odd: u64| {
            (0..6).fold(odd, |i: u64, _| i.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(i))))
        };
        let x = back(number, 27).wrapping_mul(inverse(0x1C69_B3F7_4AC4_AE35));
        back(back(x, 33).wrapping_mul(inverse(0x3C79_AC49_2BA7_B653)), 27)
    }

    #[test]
    fn keys_made_to_collide_are_kept_as_strays_and_found() {
        for layout in layouts() {
            let (mut index, mut oracle) = (index(layout), BTreeMap::new());
            for low in 0..200_u64 {
                let key = key_of(low << 32 | low);
                assert_eq!(mix(key), low << 32 | low);
                index.reserve(1).expect("room");
                index.insert(key, &payload_of(key));
                oracle.insert(key, payload_of(key));
            }
            check(&index, &oracle, &[1, 2, 3]);
            assert!(index.strays.len() > 100);
            for &key in oracle.keys() {
                assert!(index.find_or_insert(key, &Payload::default()).1, "key {key}");
            }
            for key in (0..2000).map(|id| mix(id) | 1 << 60) {
                index.reserve(1).expect("room");
                index.insert(key, &payload_of(key));
                oracle.insert(key, payload_of(key));
            }
            check(&index, &oracle, &[1, 2, 3]);
            for key in (0..200_u64).map(|low| key_of(low << 32 | low)) {
                assert_eq!(index.remove(key).map(|p| p[0]), oracle.remove(&key).map(|p| p[0]));
            }
            check(&index, &oracle, &[1, 2, 3]);
            assert!(index.strays.is_empty());
        }
    }

    #[test]
    fn a_growth_that_is_paid_before_more_keys_come_is_never_finished_at_once() {
        for layout in layouts() {
            let mut index = index(layout);
            let (mut parts, mut longest) = (0, 0);
            for keys in (0..60_000).map(mix).collect::<Vec<_>>().chunks(32) {
                // Small at first: there so many keys are more than can wait.
                let is_large = index.shape.lines() * layout.lanes() > 20_000;
                let before = index.growth.map(|growth| growth.left);
                index.reserve(keys.len()).expect("room");
                let after = index.growth.map(|growth| growth.left);
                if let (Some(before), true) = (before, is_large) {
                    assert_eq!(after, Some(before), "{layout:?}");
                }
                keys.iter().for_each(|&key| _ = index.insert(key, &payload_of(key)));
                let mut lines = 0;
                while index.upkeep() == Upkeep::Owed {
                    index.tend(64);
                    (parts, lines) = (parts + 1, lines + 64);
                }
                longest = longest.max(lines);
            }
            assert!(parts > 100, "{layout:?}");
            assert!(longest <= 64 + 32 * lines_moved_a_key(layout), "{layout:?}: {longest}");
            while index.tend(1000) != Upkeep::None {}
            assert_eq!((index.growth.is_none(), index.unsettled), (true, 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn insertions_and_removals_read_as_an_ordinary_map_would(
            seed: u64, words in 1_usize..=8,
            steps in proptest::collection::vec((0_u64..3, 1_usize..300), 1..20),
        ) {
            let holds = [Holds::Number, Holds::Row].into_iter();
            for layout in holds.filter_map(|holds| Layout::new(holds, words)) {
                let (mut index, mut oracle) = (index(layout), BTreeMap::new());
                let mut draw = seed;
                for &(kind, count) in &steps {
                    if kind > 0 {
                        index.reserve(count).expect("room");
                    }
                    index.tend(count % 64);
                    for _ in 0..count {
                        draw = mix(draw.wrapping_add(1));
                        let key = draw % 4096;
                        let known = oracle.contains_key(&key);
                        if kind == 0 {
                            prop_assert_eq!(index.remove(key).is_some(), known);
                            oracle.remove(&key);
                        } else if draw >> 40 & 1 == 0 {
                            // What is there stays as it is, whatever is to be put in.
                            let payload = oracle.get(&key).map_or(payload_of(key), |_| [7; 8]);
                            let (_, was_there) = index.find_or_insert(key, &payload);
                            prop_assert_eq!(was_there, known);
                            oracle.entry(key).or_insert(payload);
                        } else if !known {
                            index.insert(key, &payload_of(key));
                            oracle.insert(key, payload_of(key));
                        }
                    }
                    check(&index, &oracle, &[4097, 5000]);
                }
            }
        }
    }
}
