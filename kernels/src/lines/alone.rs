//! Lines of one row each: a key, its row, and a directory of the keys that should lie there too.
//!
//! Owns how such a line is cut, what its directory says, and the moves that keep a home for its own
//! keys. Which line is a key's home is left to `Shape`, looking up a batch to `probe`.
//!
//! A key has one home. If another key holds that line, the directory of the home names the line
//! where the key lies, by a tag of its hash and how many lines away it is. A key that is absent is
//! mostly known to be so after one line.
//!
//! Invariant, under the shape of the moment: a line that is the home of any key here holds one of
//! those keys, and its directory names each other one, once. So a free line and one that is held by
//! a guest, which is a key of another home, have an empty directory; and a free line can be given
//! to any key. Homes have precedence: a guest goes elsewhere when a key comes whose home it holds.

use super::put::Put;
use super::{
    EMPTY_LINE, Inserted, LINE_WORDS, Layout, Line, Moves, Payload, Shape, payload as payload_at,
    scale, set_word,
};
use crate::hash::mix;
use crate::lanes::prefetch;

/// The first 32-bit word of a row: the line's second half, so that one load takes all of it.
pub(crate) const ROW_WORD: usize = 8;
/// Keys that a directory can name. At 85 of 100 lines taken one home in 40 million has more keys
/// than these and its own.
const ENTRIES: usize = 8;
/// The 64-bit word of a line that has the directory's tags, a byte each; 0 names nothing.
const TAGS: usize = 1;
/// The first of two 64-bit words that have its distances, 16 bits each.
const DISTANCES: usize = 2;
/// Lines that the first search for a free one is drawn from: a page of 4 KiB.
const WINDOW_LINES_FIRST: usize = 64;
/// Lines that the last searches are drawn from: farther away 16 bits do not reach.
const WINDOW_LINES_MAX: usize = 1 << 15;
/// Lines that one search looks at: the cache is asked for all before the first is looked at.
const DRAWN: usize = 8;
/// Searches for one free line. With 97 of 100 lines taken all fail once in 200 million times.
const SEARCHES_MAX: u64 = 80;
/// Lines before a home that are looked at before others are drawn, where keys come in order.
const BEHIND_LINES: usize = 64;

/// What a directory knows a key by, of its hash. Never 0. Homes are decided by the high bits.
#[inline(always)]
pub(crate) const fn tag(number: u64) -> u8 {
    number as u8 | 1
}

/// The entries of a line's directory that have a tag: bit `8 * entry + 7` of each.
#[inline(always)]
pub(crate) const fn named(line: &Line, tag: u8) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const LOW_BITS: u64 = 0x7F * ONES;
    let differs = line[TAGS] ^ (tag as u64 * ONES);
    // Adding carries into a byte's high bit unless its others are zeros, and never beyond it.
    !(((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS)
}

/// Of [`named`] entries the first one's number; of none, some number.
#[inline(always)]
pub(crate) const fn first_entry(named: u64) -> usize {
    named.trailing_zeros() as usize / 8 % ENTRIES
}

/// The line that an entry of the directory of line `home` names.
#[inline(always)]
pub(crate) const fn named_line(line: &Line, home: u32, entry: usize) -> u32 {
    let distances = line[DISTANCES + entry / 4 % 2];
    home.wrapping_add_signed((distances >> (16 * (entry % 4))) as i16 as i32)
}

/// The line in which a key lies.
pub(crate) fn find(lines: &[Line], shape: Shape, key: u64) -> Option<usize> {
    let number = shape.number(key);
    find_number(lines, shape.home(number), key, number)
}

/// As [`find`], of a key whose number and home are known.
#[inline(always)]
fn find_number(lines: &[Line], home: usize, key: u64, number: u64) -> Option<usize> {
    let stored = key.wrapping_add(1);
    if stored == 0 || lines[home][0] == stored {
        return (stored != 0).then_some(home);
    }
    let mut named = named(&lines[home], tag(number));
    while named != 0 {
        let line = named_line(&lines[home], home as u32, first_entry(named)) as usize;
        if lines[line][0] == stored {
            return Some(line);
        }
        named &= named - 1;
    }
    None
}

/// As `lines::insert`. `None` if the directory is full or no free line was found.
pub(super) fn insert(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    key: u64,
    payload: &Payload,
    watch: &mut impl Moves,
) -> Option<Inserted> {
    let number = shape.number(key);
    let place = make_place(lines, layout, shape, (key, number), watch, free_line)?;
    Some(fill_place(lines, layout, place, key, payload, watch))
}

/// As `lines::put`. `None` as for [`insert`].
#[inline]
pub(super) fn put(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    key: u64,
    payload: &Payload,
    watch: &mut impl Moves,
) -> Option<Put> {
    let number = shape.number(key);
    if let Some(line) = find_number(lines, shape.home(number), key, number) {
        return Some(Put::WasThere(place_of(line)));
    }
    let place = make_place(lines, layout, shape, (key, number), watch, free_line_behind)?;
    Some(Put::Added(fill_place(lines, layout, place, key, payload, watch)))
}

/// Writes a key to the line that [`make_place`] has found.
#[inline(always)]
fn fill_place(
    lines: &mut [Line],
    layout: Layout,
    (line, moves): (usize, usize),
    key: u64,
    payload: &Payload,
    watch: &mut impl Moves,
) -> Inserted {
    watch.changes(line, &lines[line]);
    write(&mut lines[line], layout, key, payload);
    Inserted { place: place_of(line), moves }
}

/// The word in which the row of a line begins, counted from the first line's first word.
const fn place_of(line: usize) -> u32 {
    (line * LINE_WORDS + ROW_WORD) as u32 // `LINES_MAX` fits.
}

/// A line for a key that is absent, named by its home's directory if it is not the home, and how
/// many keys were moved for it.
///
/// - `free`: finds a free line near a home.
#[inline(always)]
fn make_place(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    (key, number): (u64, u64),
    watch: &mut impl Moves,
    free: impl Fn(&[Line], Shape, usize, u64) -> Option<usize>,
) -> Option<(usize, usize)> {
    let home = shape.home(number);
    let holder = lines[home][0];
    if holder == 0 {
        return Some((home, 0));
    }
    if shape.home(shape.number(holder.wrapping_sub(1))) != home {
        move_guest(lines, layout, shape, home, watch, free)?;
        return Some((home, 1));
    }
    let unused = named(&lines[home], 0);
    if unused == 0 {
        return None;
    }
    let line = free(lines, shape, home, key)?;
    set_entry(&mut lines[home], first_entry(unused), tag(number), line.wrapping_sub(home));
    Some((line, 0))
}

/// Moves a key out of a line that is not its home.
fn move_guest(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    line: usize,
    watch: &mut impl Moves,
    free: impl Fn(&[Line], Shape, usize, u64) -> Option<usize>,
) -> Option<()> {
    let guest = lines[line][0].wrapping_sub(1);
    let number = shape.number(guest);
    let home = shape.home(number);
    let free = free(lines, shape, home, guest)?;
    let entry = entry_of(&lines[home], home, tag(number), line);
    set_entry(&mut lines[home], entry, tag(number), free.wrapping_sub(home));
    watch.changes(free, &lines[free]);
    watch.changes(line, &lines[line]);
    let row = payload_at(layout, &lines[line], ROW_WORD);
    write(&mut lines[free], layout, guest, &row);
    lines[line][0] = 0;
    watch.moved(guest, line, free);
    Some(())
}

/// As `lines::remove`: a key that the home's directory names takes the place of its holder.
pub(super) fn remove(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    key: u64,
    watch: &mut impl Moves,
) -> Option<Payload> {
    let line = find(lines, shape, key)?;
    watch.changes(line, &lines[line]);
    let taken = payload_at(layout, &lines[line], ROW_WORD);
    let number = shape.number(key);
    let home = shape.home(number);
    if line != home {
        let entry = entry_of(&lines[home], home, tag(number), line);
        set_entry(&mut lines[home], entry, 0, 0);
        lines[line][0] = 0;
    } else if let Some((entry, line)) = directory(lines[home], home).next() {
        set_entry(&mut lines[home], entry, 0, 0);
        watch.changes(line, &lines[line]);
        let row = payload_at(layout, &lines[line], ROW_WORD);
        let key = lines[line][0].wrapping_sub(1);
        write(&mut lines[home], layout, key, &row);
        lines[line][0] = 0;
        watch.moved(key, line, home);
    } else {
        lines[home][0] = 0;
    }
    Some(taken)
}

/// As `lines::move_line`: the keys whose home the line was, wherever they lie. Others stay.
pub(super) fn move_line(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    line: usize,
    mut lost: impl FnMut(u64, &Payload),
    watch: &mut impl Moves,
) {
    let holder = lines[line][0];
    if holder == 0 || shape.home_before(holder.wrapping_sub(1)) != line {
        return; // The home of no key.
    }
    watch.changes(line, &lines[line]);
    let home = std::mem::replace(&mut lines[line], EMPTY_LINE);
    let (mut taken, mut came_from, mut count) = ([home; 1 + ENTRIES], [line; 1 + ENTRIES], 1);
    for (_, there) in directory(home, line) {
        watch.changes(there, &lines[there]);
        taken[count] = std::mem::replace(&mut lines[there], EMPTY_LINE);
        came_from[count] = there;
        count += 1;
    }
    for (from, there) in taken[..count].iter().zip(came_from) {
        let (key, row) = (from[0].wrapping_sub(1), payload_at(layout, from, ROW_WORD));
        match insert(lines, layout, shape, key, &row, watch) {
            Some(inserted) => watch.moved(key, there, inserted.place as usize / LINE_WORDS),
            None => lost(key, &row),
        }
    }
}

/// As `lines::prefetch_move`.
pub(super) fn prefetch_move(lines: &[Line], shape: Shape, line: usize) {
    if lines[line][0] != 0 {
        prefetch(lines, shape.homes(lines[line][0].wrapping_sub(1))[0]);
        directory(lines[line], line).for_each(|(_, there)| prefetch(lines, there));
    }
}

/// The entries of the directory of line `home`, each with the line that it names.
fn directory(line: Line, home: usize) -> impl Iterator<Item = (usize, usize)> {
    let used = (0..ENTRIES).filter(move |entry| (line[TAGS] >> (8 * entry)) as u8 != 0);
    used.map(move |entry| (entry, named_line(&line, home as u32, entry) as usize))
}

/// The entry that names a key by its tag and its line.
fn entry_of(line: &Line, home: usize, tag: u8, there: usize) -> usize {
    let mut entries = directory(*line, home);
    let found = entries.find(|&(entry, line_named)| {
        line_named == there && (line[TAGS] >> (8 * entry)) as u8 == tag
    });
    found.expect("a home names each of its keys that lie elsewhere").0
}

/// Writes an entry: a tag, and how many lines further the key lies.
fn set_entry(line: &mut Line, entry: usize, tag: u8, distance: usize) {
    let (tag_shift, distance_shift) = (8 * entry, 16 * (entry % 4));
    line[TAGS] = line[TAGS] & !(0xFF << tag_shift) | u64::from(tag) << tag_shift;
    let distances = &mut line[DISTANCES + entry / 4];
    *distances &= !(0xFFFF << distance_shift);
    *distances |= (distance as u64 & 0xFFFF) << distance_shift;
}

/// Writes a key and its row. The directory, which is the line's and not the key's, stays.
fn write(line: &mut Line, layout: Layout, key: u64, payload: &Payload) {
    line[0] = key.wrapping_add(1);
    for (word, &value) in payload[..layout.words()].iter().enumerate() {
        set_word(line, ROW_WORD + word, value);
    }
}

/// A free line near a home, searched in windows that double. Which lines are looked at is drawn
/// from the key alone, so the same requests give the same lines.
fn free_line(lines: &[Line], shape: Shape, home: usize, key: u64) -> Option<usize> {
    let count = shape.lines();
    for search in 0..SEARCHES_MAX {
        let doubled = WINDOW_LINES_FIRST << search.min(WINDOW_LINES_MAX.ilog2().into());
        let width = doubled.min(WINDOW_LINES_MAX).min(count);
        let first = home.saturating_sub(width / 2).min(count - width);
        let draw = |number: usize| {
            let mixed = mix(key ^ (search * DRAWN as u64 + number as u64) << 8);
            first + scale(mixed, width as u64)
        };
        let drawn: [usize; DRAWN] = std::array::from_fn(draw);
        drawn.iter().for_each(|&line| prefetch(lines, line));
        if let Some(&free) = drawn.iter().find(|&&line| lines[line][0] == 0) {
            return Some(free);
        }
    }
    None
}

/// As [`free_line`], of the lines right before the home if one is free. Where keys come in the
/// order of their homes those were written a moment ago, and no key is to come whose home they are.
#[inline(always)]
fn free_line_behind(lines: &[Line], shape: Shape, home: usize, key: u64) -> Option<usize> {
    let first = home.saturating_sub(BEHIND_LINES);
    let behind = lines[first..home].iter().rposition(|line| line[0] == 0);
    behind.map(|line| first + line).or_else(|| free_line(lines, shape, home, key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{Holds, entries};
    use super::*;

    fn layouts() -> [Layout; 2] {
        [7, 8].map(|words| Layout::new(Holds::Row, words).expect("a row of 7 or 8 words"))
    }

    fn row_of(layout: Layout, key: u64) -> Payload {
        std::array::from_fn(|at| if at < layout.words() { mix(key) as u32 ^ at as u32 } else { 0 })
    }

    /// The invariant, and that these keys are here with their rows, and no others.
    fn check(lines: &[Line], layout: Layout, shape: Shape, oracle: &BTreeMap<u64, Payload>) {
        let mut held = 0;
        for (number, line) in lines.iter().enumerate() {
            let mut own = 0;
            for (key, first) in entries(layout, line) {
                held += 1;
                assert_eq!(find(lines, shape, key), Some(number), "key {key}");
                assert_eq!(oracle.get(&key), Some(&payload_at(layout, line, first)));
                own += usize::from(shape.homes(key)[0] == number);
            }
            let named: Vec<usize> = directory(*line, number).map(|(_, line)| line).collect();
            assert!(own == 1 || named.is_empty(), "line {number} names keys and holds none");
            let homes = named.iter().map(|&line| shape.homes(lines[line][0].wrapping_sub(1))[0]);
            assert!(homes.into_iter().all(|home| home == number), "line {number} names others'");
        }
        assert_eq!(held, oracle.len());
    }

    #[test]
    fn named_entries_are_those_of_the_tag_and_no_others() {
        for wanted in 0..=u8::MAX {
            for other in [wanted ^ 1, wanted ^ 0x80, wanted.wrapping_add(1), wanted ^ 0xFF] {
                for pattern in 0..=u8::MAX {
                    let tags: [u8; 8] =
                        std::array::from_fn(
                            |entry| {
                                if pattern >> entry & 1 == 1 { wanted } else { other }
                            },
                        );
                    let mut line = EMPTY_LINE;
                    line[TAGS] = u64::from_le_bytes(tags);
                    let expected: [u8; 8] = std::array::from_fn(|entry| pattern >> entry << 7);
                    assert_eq!(named(&line, wanted), u64::from_le_bytes(expected));
                }
            }
        }
    }

    #[test]
    fn an_entry_names_any_line_of_the_widest_window() {
        let (mut line, home) = (EMPTY_LINE, 1 << 20);
        let reach = WINDOW_LINES_MAX - 1;
        let there = [home - reach, home - 1, home + 1, home + reach, 0, home + 7, 1, 2];
        for (entry, &there) in there.iter().enumerate() {
            set_entry(&mut line, entry, 3, there.wrapping_sub(home));
        }
        let named = |entry| named_line(&line, home as u32, entry) as usize;
        assert_eq!([0, 1, 2, 3, 5].map(named), [0, 1, 2, 3, 5].map(|entry: usize| there[entry]));
        set_entry(&mut line, 1, 0, 0);
        assert_eq!(directory(line, home).count(), 7);
    }

    #[test]
    fn lines_fill_to_nine_tenths_and_every_key_is_found() {
        for layout in layouts() {
            let (shape, mut oracle) = (Shape::of(10_000, 7), BTreeMap::new());
            let mut lines = vec![EMPTY_LINE; 10_000];
            for key in (0..9000).map(mix) {
                let row = row_of(layout, key);
                let put = insert(&mut lines, layout, shape, key, &row, &mut ()).expect("room");
                assert_eq!(put.place as usize % LINE_WORDS, ROW_WORD);
                assert_eq!(find(&lines, shape, key), Some(put.place as usize / LINE_WORDS));
                oracle.insert(key, row);
            }
            check(&lines, layout, shape, &oracle);
            let is_home = |&(number, line): &(usize, &Line)| {
                entries(layout, line).any(|(key, _)| shape.homes(key)[0] == number)
            };
            let at_home = lines.iter().enumerate().filter(is_home).count();
            assert!(at_home > 5800, "{at_home} of 9000 at home: 5934 homes are expected");
        }
    }

    #[test]
    fn a_home_takes_its_key_and_eight_more_and_refuses_others() {
        for layout in layouts() {
            let (shape, mut lines) = (Shape::of(20, 0), vec![EMPTY_LINE; 20]);
            let of_home_3 = (0..).filter(|&key| shape.homes(key)[0] == 3);
            let keys: Vec<u64> = of_home_3.take(12).collect();
            let put: Vec<bool> = keys
                .iter()
                .map(|&key| {
                    insert(&mut lines, layout, shape, key, &row_of(layout, key), &mut ()).is_some()
                })
                .collect();
            assert_eq!(put, [[true; 9].as_slice(), &[false; 3]].concat());
            let held = keys[..9].iter().map(|&key| (key, row_of(layout, key))).collect();
            check(&lines, layout, shape, &held);
            assert_eq!(find(&lines, shape, keys[10]), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn insertions_and_removals_keep_homes_for_their_own_keys(
            seed: u64, count in 1_usize..200,
            steps in proptest::collection::vec((0_u8..5, 0_u64..300), 0..600),
        ) {
            for layout in layouts() {
                let (shape, mut oracle) = (Shape::of(count, seed), BTreeMap::new());
                let mut lines = vec![EMPTY_LINE; count];
                for &(kind, key) in &steps {
                    let row = row_of(layout, key);
                    if kind == 0 {
                        let removed = remove(&mut lines, layout, shape, key, &mut ());
                        prop_assert_eq!(removed, oracle.remove(&key));
                    } else if kind > 2 {
                        match put(&mut lines, layout, shape, key, &row, &mut ()) {
                            Some(put) => {
                                let known = oracle.insert(key, row).is_some();
                                prop_assert_eq!(matches!(put, Put::WasThere(_)), known);
                            }
                            None => prop_assert!(!oracle.contains_key(&key)),
                        }
                    } else if !oracle.contains_key(&key)
                        && insert(&mut lines, layout, shape, key, &row, &mut ()).is_some()
                    {
                        oracle.insert(key, row);
                    }
                }
                check(&lines, layout, shape, &oracle);
            }
        }

        #[test]
        fn lines_that_move_one_by_one_keep_homes_for_their_own_keys_while_keys_come_and_go(
            seed: u64, before in 1_usize..60, more in 0_usize..60, load_percent in 0_usize..100,
        ) {
            for layout in layouts() {
                let (old, mut oracle) = (Shape::of(before, seed), BTreeMap::new());
                let mut lines = vec![EMPTY_LINE; before + more];
                let put = |lines: &mut [Line], shape, key, oracle: &mut BTreeMap<_, _>| {
                    let row = row_of(layout, key);
                    if insert(lines, layout, shape, key, &row, &mut ()).is_some() {
                        oracle.insert(key, row);
                    }
                };
                for key in 0..(before * load_percent / 100) as u64 {
                    put(&mut lines, old, key, &mut oracle);
                }
                for left in (0..before).rev() {
                    let shape = old.moving(before + more, left);
                    move_line(&mut lines, layout, shape, left, |key, row| {
                        assert_eq!(oracle.remove(&key), Some(*row));
                    }, &mut ());
                    check(&lines, layout, shape, &oracle);
                    put(&mut lines, shape, 1000 + left as u64, &mut oracle);
                    if let Some((&key, _)) = oracle.range(mix(left as u64) % 50..).next() {
                        let removed = remove(&mut lines, layout, shape, key, &mut ());
                        prop_assert_eq!(removed, oracle.remove(&key));
                    }
                    check(&lines, layout, shape, &oracle);
                }
                let shape = old.moving(before + more, 0).moved();
                check(&lines, layout, shape, &oracle);
            }
        }
    }
}
