//! A rule of one coordinate, carried over columns.
//!
//! Owns the walk: sixteen coordinates at a time, then eight, four and one. The arithmetic is left
//! to the rule's own file, where those columns lie to `rows`.
//!
//! Invariant: each coordinate is stepped once and depends on no other, so the width of a block
//! never changes a bit.

use std::array;

use crate::isa::{Isa, Level, Portable};

/// The arithmetic of an optimizer on one coordinate: `STATE` numbers that the row keeps, weight or
/// what stands for it first, and `DELTA` numbers that a push carries.
///
/// Implementations are `#[inline(always)]` and do not branch on data (a chosen value is fine: it
/// becomes a select), or the walk is not vectorised.
pub(crate) trait Rule<const STATE: usize, const DELTA: usize>: Copy {
    /// How rows of one coordinate are walked.
    const LONE: Lone = Lone::Tiles;

    /// The coordinate's state after one push.
    fn step(self, state: [f32; STATE], delta: [f32; DELTA]) -> [f32; STATE];
}

/// A walk over rows of one coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lone {
    /// Some rows are brought together and stepped side by side: for rules that compute much.
    Tiles,
    /// Row after row: for rules whose arithmetic costs less than bringing rows together.
    Rows,
}

/// What a pull returns of one coordinate: `VALUE` numbers made from the `STATE` that is kept.
pub(crate) trait View<const STATE: usize, const VALUE: usize>: Copy {
    /// The coordinate's value.
    fn read(self, state: [f32; STATE]) -> [f32; VALUE];
}

/// Applies `rule` to every coordinate of `state`, in place. Panics if the lengths differ.
pub(crate) fn apply<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    isa: Isa,
    state: [&mut [f32]; STATE],
    delta: [&[f32]; DELTA],
    rule: R,
) {
    let len = state[0].len();
    let state_equal = state.iter().all(|column| column.len() == len);
    assert!(state_equal, "state columns differ in length");
    for column in &delta {
        assert_eq!(column.len(), len, "delta column against state column");
    }
    let isa = if R::LONE == Lone::Rows { isa.at_most(LITTLE) } else { isa };
    isa.run(Apply { state, delta, rule });
}

/// The highest level of rules with little arithmetic, over columns. These wait for memory, and with
/// registers of 64 bytes longer: SGD and sum took 3 to 8 % more time, momentum 2 %.
const LITTLE: Level = Level::Avx2;

struct Apply<'a, R, const STATE: usize, const DELTA: usize> {
    state: [&'a mut [f32]; STATE],
    delta: [&'a [f32]; DELTA],
    rule: R,
}

impl<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize> Portable
    for Apply<'_, R, STATE, DELTA>
{
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        walk(self.state, self.delta, self.rule);
    }
}

/// Coordinates that the walk takes at once as long as there are so many: four blocks, between which
/// no bound is checked.
const STRETCH: usize = 4 * WIDE;

/// Coordinates of a block: a register of the widest level.
const WIDE: usize = 16;

/// The walk itself, for kernels that are inside a level already.
#[inline(always)]
pub(crate) fn walk<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    mut state: [&mut [f32]; STATE],
    delta: [&[f32]; DELTA],
    rule: R,
) {
    let len = state[0].len();
    let mut first = 0;
    while first + STRETCH <= len {
        stretch(&mut state, &delta, first, rule);
        first += STRETCH;
    }
    while first + WIDE <= len {
        block::<R, STATE, DELTA, WIDE>(&mut state, &delta, first, rule);
        first += WIDE;
    }
    if first + 8 <= len {
        block::<R, STATE, DELTA, 8>(&mut state, &delta, first, rule);
        first += 8;
    }
    if first + 4 <= len {
        block::<R, STATE, DELTA, 4>(&mut state, &delta, first, rule);
        first += 4;
    }
    for index in first..len {
        block::<R, STATE, DELTA, 1>(&mut state, &delta, index, rule);
    }
}

/// As [`walk`], eight coordinates at a time: where columns are a line of the cache long and start
/// anywhere in one, a block of sixteen would lie across two lines; of two of eight, one does.
#[inline(always)]
pub(crate) fn walk_by_eight<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    mut state: [&mut [f32]; STATE],
    delta: [&[f32]; DELTA],
    rule: R,
) {
    let whole = state[0].len() / 8 * 8;
    for first in (0..whole).step_by(8) {
        block::<R, STATE, DELTA, 8>(&mut state, &delta, first, rule);
    }
    walk(state.map(|column| &mut column[whole..]), delta.map(|column| &column[whole..]), rule);
}

#[inline(always)]
fn stretch<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize>(
    state: &mut [&mut [f32]; STATE],
    delta: &[&[f32]; DELTA],
    first: usize,
    rule: R,
) {
    let mut state = state.each_mut().map(|column| &mut column[first..first + STRETCH]);
    let delta = delta.map(|column| &column[first..first + STRETCH]);
    if R::LONE == Lone::Rows {
        // Little arithmetic: loads of two blocks together keep more lines from memory under way.
        block::<R, STATE, DELTA, { 2 * WIDE }>(&mut state, &delta, 0, rule);
        return block::<R, STATE, DELTA, { 2 * WIDE }>(&mut state, &delta, 2 * WIDE, rule);
    }
    block::<R, STATE, DELTA, WIDE>(&mut state, &delta, 0, rule);
    block::<R, STATE, DELTA, WIDE>(&mut state, &delta, WIDE, rule);
    block::<R, STATE, DELTA, WIDE>(&mut state, &delta, 2 * WIDE, rule);
    block::<R, STATE, DELTA, WIDE>(&mut state, &delta, 3 * WIDE, rule);
}

#[inline(always)]
fn block<R: Rule<STATE, DELTA>, const STATE: usize, const DELTA: usize, const LANES: usize>(
    state: &mut [&mut [f32]; STATE],
    delta: &[&[f32]; DELTA],
    first: usize,
    rule: R,
) {
    let mut lanes: [[f32; LANES]; STATE] = array::from_fn(|column| load(state[column], first));
    let delta: [[f32; LANES]; DELTA] = array::from_fn(|column| load(delta[column], first));
    step_lanes(&mut lanes, &delta, rule);
    for (column, lanes) in state.iter_mut().zip(lanes) {
        column[first..first + LANES].copy_from_slice(&lanes);
    }
}

/// Steps `LANES` coordinates that lie in registers or on the stack.
#[inline(always)]
pub(crate) fn step_lanes<R, const STATE: usize, const DELTA: usize, const LANES: usize>(
    state: &mut [[f32; LANES]; STATE],
    delta: &[[f32; LANES]; DELTA],
    rule: R,
) where
    R: Rule<STATE, DELTA>,
{
    for lane in 0..LANES {
        let before = array::from_fn(|column| state[column][lane]);
        let after = rule.step(before, array::from_fn(|column| delta[column][lane]));
        for column in 0..STATE {
            state[column][lane] = after[column];
        }
    }
}

/// Reads `LANES` coordinates that lie in registers or on the stack.
#[inline(always)]
pub(crate) fn read_lanes<V, const STATE: usize, const VALUE: usize, const LANES: usize>(
    state: &[[f32; LANES]; STATE],
    view: V,
) -> [[f32; LANES]; VALUE]
where
    V: View<STATE, VALUE>,
{
    let mut values = [[0.0; LANES]; VALUE];
    for lane in 0..LANES {
        let read = view.read(array::from_fn(|column| state[column][lane]));
        for column in 0..VALUE {
            values[column][lane] = read[column];
        }
    }
    values
}

/// `LANES` numbers of `column` from `first` on. Panics if it is shorter.
#[inline(always)]
pub(crate) fn load<const LANES: usize>(column: &[f32], first: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&column[first..first + LANES]);
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum;

    #[test]
    #[should_panic(expected = "delta column against state column")]
    fn a_delta_of_another_length_is_a_broken_promise() {
        sum::apply(Isa::scalar(), &mut [0.0; 3], &[0.0; 2], &sum::Step);
    }
}
