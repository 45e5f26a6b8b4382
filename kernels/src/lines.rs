//! Lines: where a table's keys lie, and what lies beside them.
//!
//! Owns the shape of a line of the cache, the two lines in which a key may lie, and how one entry
//! is put in, moved or taken out. Looking up a batch is left to `probe`; memory, growth and the
//! meaning of what lies beside a key to `shard`.
//!
//! A line is 64 bytes: as many keys as fit with what each has beside it, then those payloads, lane
//! by lane. A stored key is the caller's plus one, so that zeroed memory is an empty line.
//! Invariant: a key lies once, in one of its two home lines. Where a line has but one lane, `alone`
//! has another invariant, and all that differs for it.
//!
//! Source: two choices with moves are cuckoo hashing with buckets (Pagh, Rodler, ESA 2001;
//! Dietzfelbinger, Weidling, ICALP 2005): with two lanes a line nine tenths of all lanes can be
//! taken, with four 98 of 100.

pub(crate) mod alone;
mod put;

pub use self::put::{Put, prefetch_put, put};
use crate::hash::mix;
use crate::lanes::{line_words, prefetch};

/// One line of the cache: stored keys, then payloads, two 32-bit words a number.
pub type Line = [u64; LINE_WORDS / 2];
/// A line without keys.
pub const EMPTY_LINE: Line = [0; LINE_WORDS / 2];
/// 32-bit words of a line.
pub const LINE_WORDS: usize = 16;
/// Most lines of a table, so that 32 bits name each word and one number stays for none.
pub const LINES_MAX: usize = (1 << 28) - 1;
/// Most 32-bit words that a key can have beside it in its line.
pub const PAYLOAD_WORDS_MAX: usize = 8;
/// The key that means none. No caller's key may be this one; a search for it misses.
pub const NO_KEY: u64 = u64::MAX;

/// Most words beside each of two keys of a line. A row of more lies alone in its line.
const SHARED_WORDS_MAX: usize = 6;
/// 32-bit words of a key.
const KEY_WORDS: usize = 2;
/// Moves in a row that may make room for one key. At nine tenths of the lanes taken a walk needs
/// three on average; walks as long as this one do not happen but to keys made to collide.
const MOVES_MAX: usize = 256;
/// Walks that are begun for one key.
const WALKS_MAX: u64 = 4;

/// What a lane has beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The number of a row that lies elsewhere, in the payload's first word.
    Number,
    /// The row itself.
    Row,
}

/// How a line is cut into lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    holds: Holds,
    words: usize,
    lanes: usize,
}

impl Layout {
    /// Lanes with so many 32-bit words beside each key.
    ///
    /// - Result: `None` for no word, or for more than [`PAYLOAD_WORDS_MAX`]; for numbers, more than
    ///   half a line has room for.
    #[must_use]
    pub const fn new(holds: Holds, words: usize) -> Option<Layout> {
        let words_max = match holds {
            Holds::Number => SHARED_WORDS_MAX,
            Holds::Row => PAYLOAD_WORDS_MAX,
        };
        if words == 0 || words > words_max {
            return None;
        }
        Some(Layout { holds, words, lanes: LINE_WORDS / (KEY_WORDS + words) })
    }

    /// What a lane has beside its key.
    #[must_use]
    pub const fn holds(self) -> Holds {
        self.holds
    }

    /// 32-bit words beside each key.
    #[must_use]
    pub const fn words(self) -> usize {
        self.words
    }

    /// Keys in a line.
    #[must_use]
    pub const fn lanes(self) -> usize {
        self.lanes
    }

    /// Whether a line has one key only, and a directory beside it: see `alone`.
    #[inline(always)]
    #[must_use]
    pub const fn is_alone(self) -> bool {
        self.lanes == 1
    }

    /// The first word of a lane's payload, within its line.
    #[inline(always)]
    pub(crate) const fn payload(self, lane: usize) -> usize {
        if self.is_alone() {
            return alone::ROW_WORD;
        }
        KEY_WORDS * self.lanes + lane * self.words
    }

    /// The word in which a lane's payload begins, counted from the first line's first word.
    const fn place(self, at: At) -> u32 {
        (at.line * LINE_WORDS + self.payload(at.lane)) as u32 // `LINES_MAX` fits.
    }
}

/// Which lines a key may lie in, while their count changes too.
///
/// A key's two numbers of 64 bits are scaled to lines, so lines keep the order of those numbers.
/// To grow, the lines are moved one after another, the last one first: numbers from `moved_from`
/// on are scaled to the count after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    seed: u64,
    before: u64,
    after: u64,
    moved_from: u64,
}

impl Shape {
    /// A shape of so many lines.
    ///
    /// - `seed`: another seed, another order of keys. Keys that come in the order of the lines
    ///   would crowd the first ones.
    /// - Panics: if there is no line or more than [`LINES_MAX`].
    #[must_use]
    pub const fn of(lines: usize, seed: u64) -> Shape {
        assert!(lines > 0 && lines <= LINES_MAX, "lines from 1 to LINES_MAX");
        Shape { seed, before: lines as u64, after: lines as u64, moved_from: 0 }
    }

    /// The shape when all lines were moved.
    #[must_use]
    pub const fn moved(self) -> Shape {
        Shape { before: self.after, moved_from: 0, ..self }
    }

    /// This shape on its way to another count of lines, with `left` lines that are not moved yet.
    ///
    /// - Panics: unless some line was moved, or if there are fewer after than before.
    #[must_use]
    pub const fn moving(self, after: usize, left: usize) -> Shape {
        assert!(after as u64 >= self.before && after <= LINES_MAX, "lines only become more");
        assert!((left as u64) < self.before, "the last line is moved first");
        Shape { after: after as u64, moved_from: first_number(left as u64, self.before), ..self }
    }

    /// How many lines must be there.
    #[must_use]
    pub const fn lines(self) -> usize {
        self.after as usize
    }

    /// The two home lines of a key, which may be the same one.
    #[inline(always)]
    #[must_use]
    pub const fn homes(self, key: u64) -> [usize; 2] {
        let number = self.number(key);
        [self.home(number), self.home(other_number(number))]
    }

    /// A key's first number.
    #[inline(always)]
    pub(crate) const fn number(self, key: u64) -> u64 {
        mix(key ^ self.seed)
    }

    /// The home that a number names.
    #[inline(always)]
    pub(crate) const fn home(self, number: u64) -> usize {
        let lines = if number >= self.moved_from { self.after } else { self.before };
        scale(number, lines)
    }

    /// The first home of a key before lines were moved.
    const fn home_before(self, key: u64) -> usize {
        scale(self.number(key), self.before)
    }

    /// The home line of a key that is not `line`; `line` if both are.
    const fn other_home(self, key: u64, line: usize) -> usize {
        let [first, second] = self.homes(key);
        if first == line { second } else { first }
    }
}

/// Of a key's first number its second one: the halves swapped, so that each decides in one.
#[inline(always)]
pub(crate) const fn other_number(number: u64) -> u64 {
    number.rotate_left(32)
}

/// By the number's high half alone, so that many are scaled side by side.
#[inline(always)]
const fn scale(number: u64, lines: u64) -> usize {
    (((number >> 32) * lines) >> 32) as usize // `LINES_MAX` fits 32 bits.
}

/// The smallest number that is scaled to `line`.
const fn first_number(line: u64, lines: u64) -> u64 {
    (line << 32).div_ceil(lines) << 32 // `line` is below `lines`.
}

/// One lane of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    line: usize,
    lane: usize,
}

/// What a lane has beside its key, copied out.
pub type Payload = [u32; PAYLOAD_WORDS_MAX];

/// Where an entry was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The word in which its payload begins, counted from the first line's first word.
    pub place: u32,
    /// Entries that were moved to make room. Places known before may then be other entries'.
    pub moves: usize,
}

/// Hears of entries that go from one line to another, and of lines before they change.
pub trait Moves {
    /// The entry of this key has left a line for another.
    fn moved(&mut self, key: u64, from: usize, to: usize);

    /// Entries of this line are about to be put in, moved or taken out; it still holds what it did.
    fn changes(&mut self, line: usize, held: &Line);
}

/// Nobody hears of them.
impl Moves for () {
    #[inline(always)]
    fn moved(&mut self, _key: u64, _from: usize, _to: usize) {}

    #[inline(always)]
    fn changes(&mut self, _line: usize, _held: &Line) {}
}

/// The keys of a line, each with the first word of its payload within the line.
pub fn entries(layout: Layout, line: &Line) -> impl Iterator<Item = (u64, usize)> {
    let lanes = (0..layout.lanes).filter(|&lane| line[lane] != 0);
    lanes.map(move |lane| (line[lane].wrapping_sub(1), layout.payload(lane)))
}

/// A 32-bit word of a line, in one load.
#[inline(always)]
#[must_use]
pub const fn word(line: &Line, word: usize) -> u32 {
    line_words(line)[word % LINE_WORDS]
}

/// Writes a 32-bit word of a line.
pub const fn set_word(line: &mut Line, word: usize, value: u32) {
    let shift = 32 * (word % 2);
    let rest = line[word / 2] & !((u32::MAX as u64) << shift);
    line[word / 2] = rest | (value as u64) << shift;
}

/// The payload that begins at a word of a line; words beyond the layout's are zero.
#[must_use]
pub fn payload(layout: Layout, line: &Line, first: usize) -> Payload {
    std::array::from_fn(|at| if at < layout.words { word(line, first + at) } else { 0 })
}

/// Puts in a key that is absent: where one of its homes has room, else where others can be moved
/// to their other homes.
///
/// - `lines`: at least as many as `shape` says.
/// - Result: `None` if no walk found room; then entries may have moved, and none is lost.
pub fn insert(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    key: u64,
    payload: &Payload,
    watch: &mut impl Moves,
) -> Option<Inserted> {
    if layout.is_alone() {
        return alone::insert(lines, layout, shape, key, payload, watch);
    }
    let homes = shape.homes(key);
    let (mut walk, mut moves) = (0, 0);
    loop {
        if let Some(at) = homes.iter().find_map(|&line| free_lane(lines, layout, line)) {
            watch.changes(at.line, &lines[at.line]);
            let place = write(lines, layout, at, key, payload);
            return Some(Inserted { place, moves });
        }
        if walk == WALKS_MAX {
            return None;
        }
        moves += make_room((&mut *lines, layout, shape), key, walk, watch);
        walk += 1;
    }
}

/// Writes an entry over what lies in a lane, home of its key or not.
///
/// - Result: the word in which its payload begins, counted from the first of these lines.
/// - Panics: if there is no such line or lane.
pub fn write_lane(
    lines: &mut [Line],
    layout: Layout,
    at: (usize, usize),
    key: u64,
    payload: &Payload,
) -> u32 {
    let (line, lane) = at;
    assert!(lane < layout.lanes, "lane {lane} of {}", layout.lanes);
    write(lines, layout, At { line, lane }, key, payload)
}

/// Takes a key out.
///
/// - Result: its payload, if it was there.
pub fn remove(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    key: u64,
    watch: &mut impl Moves,
) -> Option<Payload> {
    if layout.is_alone() {
        return alone::remove(lines, layout, shape, key, watch);
    }
    let at = lane_of(lines, layout, shape, key)?;
    watch.changes(at.line, &lines[at.line]);
    let taken = payload(layout, &lines[at.line], layout.payload(at.lane));
    lines[at.line][at.lane] = 0;
    Some(taken)
}

/// Moves the entries of a line to where they lie by another shape: to their first homes, where
/// those have room, so that searches end there.
///
/// - `shape`: that of the moves before, with this line moved too.
/// - `lost`: receives what found no room.
pub fn move_line(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    line: usize,
    mut lost: impl FnMut(u64, &Payload),
    watch: &mut impl Moves,
) {
    if layout.is_alone() {
        return alone::move_line(lines, layout, shape, line, lost, watch);
    }
    watch.changes(line, &lines[line]);
    let taken = std::mem::replace(&mut lines[line], EMPTY_LINE);
    for (key, first) in entries(layout, &taken) {
        let payload = payload(layout, &taken, first);
        match insert(lines, layout, shape, key, &payload, watch) {
            Some(inserted) => watch.moved(key, line, inserted.place as usize / LINE_WORDS),
            None => lost(key, &payload),
        }
    }
}

/// Moves the entries of a line that are in their second home to their first one, where that has
/// room by now. Where a line has one lane there is nothing to settle.
///
/// - Result: how many were moved.
pub fn settle(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    line: usize,
    watch: &mut impl Moves,
) -> usize {
    if layout.is_alone() {
        return 0; // A home that has room has no key elsewhere.
    }
    let mut moved = 0;
    for lane in 0..layout.lanes {
        let held = lines[line][lane];
        let [first, _] = shape.homes(held.wrapping_sub(1));
        if held == 0 || first == line {
            continue;
        }
        if let Some(free) = free_lane(lines, layout, first) {
            watch.changes(first, &lines[first]);
            watch.changes(line, &lines[line]);
            let payload = payload(layout, &lines[line], layout.payload(lane));
            write(lines, layout, free, held.wrapping_sub(1), &payload);
            lines[line][lane] = 0;
            watch.moved(held.wrapping_sub(1), line, first);
            moved += 1;
        }
    }
    moved
}

/// Asks the cache for the first homes of a line's entries, to [`move_line`] or [`settle`] soon.
pub fn prefetch_move(lines: &[Line], layout: Layout, shape: Shape, line: usize) {
    if layout.is_alone() {
        return alone::prefetch_move(lines, shape, line);
    }
    for (key, _) in entries(layout, &lines[line]) {
        prefetch(lines, shape.homes(key)[0]);
    }
}

/// The lane in which a key lies, of lines with more than one.
fn lane_of(lines: &[Line], layout: Layout, shape: Shape, key: u64) -> Option<At> {
    let stored = Some(key.wrapping_add(1)).filter(|_| key != NO_KEY)?;
    shape.homes(key).into_iter().find_map(|line| {
        let lane = lines[line][..layout.lanes].iter().position(|&held| held == stored)?;
        Some(At { line, lane })
    })
}

fn free_lane(lines: &[Line], layout: Layout, line: usize) -> Option<At> {
    let lane = lines[line][..layout.lanes].iter().position(|&held| held == 0)?;
    Some(At { line, lane })
}

fn write(lines: &mut [Line], layout: Layout, at: At, key: u64, payload: &Payload) -> u32 {
    let line = &mut lines[at.line];
    line[at.lane] = key.wrapping_add(1);
    for (word, &value) in payload[..layout.words].iter().enumerate() {
        set_word(line, layout.payload(at.lane) + word, value);
    }
    layout.place(at)
}

/// Frees a lane in a home of `key`, all of whose lanes are taken, by a walk of moves; a walk that
/// crosses itself frees another one. Which lanes a walk goes by is drawn from the key alone, so the
/// same requests give the same lines. How many entries it moved.
fn make_room(
    (lines, layout, shape): (&mut [Line], Layout, Shape),
    key: u64,
    walk: u64,
    watch: &mut impl Moves,
) -> usize {
    let mut path = [At { line: 0, lane: 0 }; MOVES_MAX];
    let mut line = shape.homes(key)[(walk % 2) as usize];
    for step in 0..MOVES_MAX {
        let draw = mix(key ^ (walk * MOVES_MAX as u64 + step as u64) << 8);
        let at = At { line, lane: (draw % layout.lanes as u64) as usize };
        path[step] = at;
        line = shape.other_home(lines[line][at.lane].wrapping_sub(1), line);
        if let Some(free) = free_lane(lines, layout, line) {
            return shift((lines, layout, shape), &path[..=step], free, watch);
        }
    }
    0
}

/// Moves each entry of a path to the place after it, the last one to `free`. Stops where an entry
/// has no home in the line after it. How many it moved.
fn shift(
    (lines, layout, shape): (&mut [Line], Layout, Shape),
    path: &[At],
    mut free: At,
    watch: &mut impl Moves,
) -> usize {
    for (moved, &from) in path.iter().rev().enumerate() {
        let key = lines[from.line][from.lane].wrapping_sub(1);
        if from == free || shape.other_home(key, from.line) != free.line {
            return moved;
        }
        watch.changes(free.line, &lines[free.line]);
        watch.changes(from.line, &lines[from.line]);
        let payload = payload(layout, &lines[from.line], layout.payload(from.lane));
        write(lines, layout, free, key, &payload);
        lines[from.line][from.lane] = 0;
        watch.moved(key, from.line, free.line);
        free = from;
    }
    path.len()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn layouts() -> impl Iterator<Item = Layout> {
        let both = [Holds::Number, Holds::Row];
        both.into_iter()
            .flat_map(|holds| (1..=6).map(move |words| Layout::new(holds, words).expect("1 to 6")))
    }

    fn scan(layout: Layout, lines: &[Line]) -> BTreeMap<u64, Payload> {
        let with_payload =
            |line| entries(layout, line).map(move |(key, at)| (key, payload(layout, line, at)));
        lines.iter().flat_map(with_payload).collect()
    }

    fn payload_of(layout: Layout, key: u64) -> Payload {
        std::array::from_fn(|at| if at < layout.words() { mix(key) as u32 ^ at as u32 } else { 0 })
    }

    #[test]
    fn lanes_and_their_payloads_fill_a_line_and_no_more() {
        let lanes: Vec<usize> =
            (1..=6).map(|words| Layout::new(Holds::Row, words).expect("1 to 6").lanes()).collect();
        assert_eq!(lanes, [5, 4, 3, 2, 2, 2]);
        for layout in layouts() {
            assert!(layout.payload(layout.lanes() - 1) + layout.words() <= LINE_WORDS);
        }
        assert_eq!(Layout::new(Holds::Row, 0), None);
        for words in [7, 8] {
            assert!(Layout::new(Holds::Row, words).is_some_and(Layout::is_alone));
            assert_eq!(Layout::new(Holds::Number, words), None);
        }
        assert_eq!(Layout::new(Holds::Row, 9), None);
    }

    #[test]
    fn lines_fill_to_four_fifths_and_keep_every_entry_in_a_home() {
        for layout in layouts() {
            let shape = Shape::of(1000, 7);
            let mut lines = vec![EMPTY_LINE; 1000];
            let count = (1000 * layout.lanes() * 8 / 10) as u64;
            for key in (0..count).map(mix) {
                let put = insert(&mut lines, layout, shape, key, &payload_of(layout, key), &mut ());
                let place = put.expect("four fifths always fit").place as usize;
                let at = payload(layout, &lines[place / LINE_WORDS], place % LINE_WORDS);
                assert_eq!(at, payload_of(layout, key));
            }
            let expected = (0..count).map(|key| (mix(key), payload_of(layout, mix(key)))).collect();
            assert_eq!(scan(layout, &lines), expected);
            for (number, line) in lines.iter().enumerate() {
                assert!(entries(layout, line).all(|(key, _)| shape.homes(key).contains(&number)));
            }
        }
    }

    #[test]
    fn keys_made_to_collide_are_refused_and_none_is_lost() {
        let layout = Layout::new(Holds::Number, 1).expect("one word");
        let shape = Shape::of(1, 0);
        let mut lines = vec![EMPTY_LINE; 1];
        let put: Vec<bool> = (0..9)
            .map(|key| {
                insert(&mut lines, layout, shape, key, &payload_of(layout, key), &mut ()).is_some()
            })
            .collect();
        assert_eq!(put, [true, true, true, true, true, false, false, false, false]);
        assert_eq!(scan(layout, &lines).into_keys().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lines_that_move_one_by_one_keep_every_entry_in_a_home(
            seed: u64, before in 1_usize..60, more in 0_usize..60, load_percent in 0_usize..80,
        ) {
            for layout in layouts() {
                let (old, mut lines) = (Shape::of(before, 7), vec![EMPTY_LINE; before + more]);
                let mut keys = Vec::new();
                for key in (0..(before * layout.lanes() * load_percent / 100) as u64).map(mix) {
                    let key = key ^ seed >> 1;
                    let payload = payload_of(layout, key);
                    if insert(&mut lines, layout, old, key, &payload, &mut ()).is_some() {
                        keys.push(key);
                    }
                }
                let mut lost = Vec::new();
                for left in (0..before).rev() {
                    let shape = old.moving(before + more, left);
                    move_line(&mut lines, layout, shape, left, |key, _| lost.push(key), &mut ());
                    for (number, line) in lines.iter().enumerate() {
                        let homes = |(key, _)| shape.homes(key);
                        prop_assert!(entries(layout, line).map(homes).all(|h| h.contains(&number)));
                    }
                }
                let shape = old.moving(before + more, 0);
                prop_assert_eq!(shape.moved(), Shape::of(before + more, 7));
                let as_moved = scan(layout, &lines);
                let count = lines.len();
                let moved: usize =
                    (0..count).map(|line| settle(&mut lines, layout, shape, line, &mut ())).sum();
                prop_assert_eq!(&scan(layout, &lines), &as_moved);
                for line in 0..count {
                    for (key, _) in entries(layout, &lines[line]) {
                        let [first, _] = shape.homes(key);
                        let full = entries(layout, &lines[first]).count() == layout.lanes();
                        prop_assert!(first == line || full || moved > 0);
                    }
                }
                prop_assert_eq!(shape.homes(seed), Shape::of(before + more, 7).homes(seed));
                keys.retain(|key| !lost.contains(key));
                keys.sort_unstable();
                let held = scan(layout, &lines);
                prop_assert_eq!(held.keys().copied().collect::<Vec<_>>(), keys.clone());
                for key in keys {
                    let taken = remove(&mut lines, layout, shape, key, &mut ());
                    prop_assert_eq!(taken, Some(payload_of(layout, key)));
                    prop_assert_eq!(remove(&mut lines, layout, shape, key, &mut ()), None);
                }
                prop_assert!(lines.iter().all(|line| entries(layout, line).count() == 0));
            }
        }
    }
}
