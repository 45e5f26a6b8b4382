//! Moves rows between the order of the caller's keys and the order in which shards hold them.
//!
//! Owns two loops over positions. Widths that are common get a loop of their own, in which a row
//! is one or two vector registers and not a call of `memcpy`.

/// `to[i] = from[positions[i]]`, row by row.
///
/// - `from`: `[rows, width]`, `to`: `[positions.len(), width]`.
/// - Panics: if a position is beyond `from`, or the lengths are not as said.
pub(crate) fn gather(positions: &[u32], width: usize, from: &[f32], to: &mut [f32]) {
    assert_eq!(to.len(), positions.len() * width, "one row a position");
    match width {
        0 => {}
        1 => gather_fixed::<1>(positions, from, to),
        2 => gather_fixed::<2>(positions, from, to),
        4 => gather_fixed::<4>(positions, from, to),
        8 => gather_fixed::<8>(positions, from, to),
        16 => gather_fixed::<16>(positions, from, to),
        32 => gather_fixed::<32>(positions, from, to),
        _ => {
            for (to, &at) in to.chunks_exact_mut(width).zip(positions) {
                to.copy_from_slice(&from[at as usize * width..][..width]);
            }
        }
    }
}

/// `to[positions[i]] = from[i]`, row by row.
///
/// - `from`: `[positions.len(), width]`, `to`: `[rows, width]`.
/// - Panics: if a position is beyond `to`, or the lengths are not as said.
pub(crate) fn scatter(positions: &[u32], width: usize, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), positions.len() * width, "one row a position");
    match width {
        0 => {}
        1 => scatter_fixed::<1>(positions, from, to),
        2 => scatter_fixed::<2>(positions, from, to),
        4 => scatter_fixed::<4>(positions, from, to),
        8 => scatter_fixed::<8>(positions, from, to),
        16 => scatter_fixed::<16>(positions, from, to),
        32 => scatter_fixed::<32>(positions, from, to),
        _ => {
            for (from, &at) in from.chunks_exact(width).zip(positions) {
                to[at as usize * width..][..width].copy_from_slice(from);
            }
        }
    }
}

fn gather_fixed<const WIDTH: usize>(positions: &[u32], from: &[f32], to: &mut [f32]) {
    let (from, _) = from.as_chunks::<WIDTH>();
    let (to, _) = to.as_chunks_mut::<WIDTH>();
    for (to, &at) in to.iter_mut().zip(positions) {
        *to = from[at as usize];
    }
}

fn scatter_fixed<const WIDTH: usize>(positions: &[u32], from: &[f32], to: &mut [f32]) {
    let (from, _) = from.as_chunks::<WIDTH>();
    let (to, _) = to.as_chunks_mut::<WIDTH>();
    for (from, &at) in from.iter().zip(positions) {
        to[at as usize] = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gather_after_a_scatter_gives_the_rows_back_for_every_width() {
        let positions = [4, 0, 3, 1];
        for width in 0..=40 {
            let rows: Vec<f32> = (0..positions.len() * width).map(|value| value as f32).collect();
            let mut spread = vec![-1.0; 5 * width];
            scatter(&positions, width, &rows, &mut spread);
            assert_eq!(spread[2 * width..3 * width], vec![-1.0; width], "row 2 is nobody's");
            let mut back = vec![0.0; rows.len()];
            gather(&positions, width, &spread, &mut back);
            assert_eq!(back, rows, "width {width}");
        }
    }
}
