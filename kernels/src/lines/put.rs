//! Putting in keys of which it is not known whether they are there.
//!
//! Owns the one look at a key's homes that finds it or room for it. Moves that make room are left
//! to `lines`, lines of one lane to `alone`.

use super::{Inserted, Layout, Line, Moves, Payload, Shape, alone, insert, lane_of};
use crate::lanes::prefetch;

/// What has become of an entry that was to be put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Its key was there, and has the payload that it had: its place, as [`Inserted::place`].
    WasThere(u32),
    /// It was put in.
    Added(Inserted),
}

/// Finds a key, and puts it in where it is absent: with one look at its homes, and best for keys
/// that come about in the order of their lines.
///
/// - `lines`: at least as many as `shape` says.
/// - Result: `None` as for [`insert`].
#[inline]
pub fn put(
    lines: &mut [Line],
    layout: Layout,
    shape: Shape,
    key: u64,
    payload: &Payload,
    watch: &mut impl Moves,
) -> Option<Put> {
    if layout.is_alone() {
        return alone::put(lines, layout, shape, key, payload, watch);
    }
    if let Some(at) = lane_of(lines, layout, shape, key) {
        return Some(Put::WasThere(layout.place(at)));
    }
    insert(lines, layout, shape, key, payload, watch).map(Put::Added)
}

/// Asks the cache for the lines that [`put`] of a key looks at.
#[inline(always)]
pub fn prefetch_put(lines: &[Line], layout: Layout, shape: Shape, key: u64) {
    let [first, second] = shape.homes(key);
    prefetch(lines, first);
    if !layout.is_alone() {
        prefetch(lines, second);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{EMPTY_LINE, Holds, LINE_WORDS, entries, payload};
    use super::*;
    use crate::hash::mix;

    fn payload_of(layout: Layout, key: u64) -> Payload {
        std::array::from_fn(|at| if at < layout.words() { mix(key) as u32 ^ at as u32 } else { 0 })
    }

    #[test]
    fn keys_that_are_put_in_by_the_order_of_their_lines_are_there_once() {
        let both = [Holds::Number, Holds::Row].into_iter();
        let layouts = both.flat_map(|holds| (1..=8).filter_map(move |it| Layout::new(holds, it)));
        for layout in layouts {
            let shape = Shape::of(1000, 7);
            let mut lines = vec![EMPTY_LINE; 1000];
            let count = (1000 * layout.lanes() * 8 / 10) as u64;
            let mut keys: Vec<u64> = (0..count).map(mix).collect();
            keys.sort_by_key(|&key| shape.homes(key)[0]);
            for round in 0..2 {
                for &key in &keys {
                    let payload = payload_of(layout, key ^ round);
                    let put = put(&mut lines, layout, shape, key, &payload, &mut ());
                    let (place, was_there) = match put.expect("four fifths always fit") {
                        Put::WasThere(place) => (place, true),
                        Put::Added(inserted) => (inserted.place, false),
                    };
                    assert_eq!(was_there, round == 1);
                    let (line, word) = (place as usize / LINE_WORDS, place as usize % LINE_WORDS);
                    let there = entries(layout, &lines[line]).find(|&(_, at)| at == word);
                    assert_eq!(there.map(|(held, _)| held), Some(key));
                }
                let held = |line| {
                    entries(layout, line).map(move |(key, at)| (key, payload(layout, line, at)))
                };
                let held: BTreeMap<u64, Payload> = lines.iter().flat_map(held).collect();
                let expected = keys.iter().map(|&key| (key, payload_of(layout, key))).collect();
                assert_eq!(held, expected, "what was there stays as it is");
            }
        }
    }
}
