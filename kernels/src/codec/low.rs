//! The low bits of a block's keys: a fixed number of bits each, packed.
//!
//! Owns where each bit lies. A whole block's lie in eight lanes side by side, lane `i % 8` for key
//! `i`, so that every step is the same for all lanes: `bits / 4` rows of eight u64, a lane's first
//! key lowest, then for the `16 * (bits % 4)` bits that are left of each lane, `bits % 4` rows of
//! eight u16. A shorter part's lie one after the other. What they mean is left to `keys`.
//!
//! Invariant: `count` keys take `count * bits` bits, rounded up to a byte.

use std::array;

/// Keys in a block.
pub(super) const BLOCK_KEYS: usize = 128;
/// The most low bits a key.
pub(super) const LOW_BITS_MAX: u32 = 62;
/// Lanes side by side.
const LANES: usize = 8;
/// Low bits of a block in bytes, at most.
const BYTES_MAX: usize = BLOCK_KEYS * LOW_BITS_MAX as usize / 8;

/// Bytes that `count` keys take.
#[inline(always)]
pub(super) fn bytes(count: usize, low_bits: u32) -> usize {
    (count * low_bits as usize).div_ceil(8)
}

/// A word of each lane.
type Row = [u64; LANES];

/// Rows of u64 in the low bits of a part of [`BLOCK_KEYS`], and rows of u16 after them.
#[inline(always)]
fn low_rows(low_bits: u32) -> (usize, usize) {
    (low_bits as usize / 4, low_bits as usize % 4)
}

const ROW_BYTES: usize = 8 * LANES;
const HALF_ROW_BYTES: usize = 2 * LANES;

/// Packs a whole block's; `low_bits` is at most [`LOW_BITS_MAX`].
#[inline(always)]
pub(super) fn pack_lanes(offsets: &[u64; BLOCK_KEYS], low_bits: u32, out: &mut [u8]) {
    let mask = (1 << low_bits) - 1;
    let (rows, half_rows) = low_rows(low_bits);
    let (whole, tail) = out.split_at_mut(rows * ROW_BYTES);
    let mut whole = whole.as_chunks_mut::<ROW_BYTES>().0.iter_mut();
    let (mut held, mut held_bits): (Row, u32) = ([0; LANES], 0);
    let (offsets, _) = offsets.as_chunks::<LANES>();
    for offsets in offsets {
        let low = offsets.map(|offset| offset & mask);
        for lane in 0..LANES {
            held[lane] |= low[lane] << held_bits;
        }
        held_bits += low_bits;
        if held_bits >= 64 {
            let row = whole.next().expect("as many rows as whole words");
            row.copy_from_slice(held.map(u64::to_le_bytes).as_flattened());
            held_bits -= 64;
            // The bits of these keys that the words had no room for; at most 62, so no shift by 64.
            let taken = low_bits - held_bits;
            held = low.map(|low| if held_bits == 0 { 0 } else { low >> taken });
        }
    }
    let (tail, _) = tail[..half_rows * HALF_ROW_BYTES].as_chunks_mut::<HALF_ROW_BYTES>();
    for (number, row) in tail.iter_mut().enumerate() {
        let halves = held.map(|word| ((word >> (16 * number)) as u16).to_le_bytes());
        row.copy_from_slice(halves.as_flattened());
    }
}

/// Packs a shorter part's.
#[inline(always)]
pub(super) fn pack_in_turn(offsets: &[u64], low_bits: u32, out: &mut [u8]) {
    let mask = (1 << low_bits) - 1;
    let (mut held, mut held_bits, mut at) = (0_u128, 0, 0);
    for offset in offsets {
        held |= u128::from(offset & mask) << held_bits;
        held_bits += low_bits;
        while held_bits >= 8 {
            out[at] = held as u8;
            (held, held_bits, at) = (held >> 8, held_bits - 8, at + 1);
        }
    }
    if held_bits > 0 {
        out[at] = held as u8;
    }
}

/// Undoes [`pack_lanes`].
#[inline(always)]
pub(super) fn unpack_lanes(low: &[u8], low_bits: u32, keys: &mut [u64; BLOCK_KEYS]) {
    let mask = (1 << low_bits) - 1;
    let (rows, half_rows) = low_rows(low_bits);
    let (whole, tail) = low.split_at(rows * ROW_BYTES);
    let mut whole = whole.as_chunks::<ROW_BYTES>().0.iter();
    let mut next_row = || match whole.next() {
        Some(row) => array::from_fn(|lane| u64::from_le_bytes(row.as_chunks::<8>().0[lane])),
        None => join_half_rows(&tail[..half_rows * HALF_ROW_BYTES]),
    };
    let (mut held, mut held_bits): (Row, u32) = ([0; LANES], 0);
    let (keys, _) = keys.as_chunks_mut::<LANES>();
    for keys in keys {
        if held_bits >= low_bits {
            *keys = held.map(|word| word & mask);
            held = held.map(|word| word >> low_bits);
            held_bits -= low_bits;
        } else {
            let next: Row = next_row();
            *keys = array::from_fn(|lane| (held[lane] | next[lane] << held_bits) & mask);
            let taken = low_bits - held_bits;
            held = next.map(|word| word >> taken);
            held_bits = 64 - taken;
        }
    }
}

/// The last bits of each lane.
#[inline(always)]
fn join_half_rows(tail: &[u8]) -> Row {
    let mut row = [0; LANES];
    for (number, halves) in tail.as_chunks::<HALF_ROW_BYTES>().0.iter().enumerate() {
        let (halves, _) = halves.as_chunks::<2>();
        for lane in 0..LANES {
            row[lane] |= u64::from(u16::from_le_bytes(halves[lane])) << (16 * number);
        }
    }
    row
}

/// Undoes [`pack_in_turn`].
#[inline(always)]
pub(super) fn unpack_in_turn(low: &[u8], low_bits: u32, keys: &mut [u64]) {
    let mask = (1_u128 << low_bits) - 1;
    let mut padded = [0; BYTES_MAX + 16];
    padded[..low.len()].copy_from_slice(low);
    for (index, key) in keys.iter_mut().enumerate() {
        let bit = index * low_bits as usize;
        let mut word = [0; 16];
        word.copy_from_slice(&padded[bit / 8..bit / 8 + 16]);
        *key = (u128::from_le_bytes(word) >> (bit % 8) & mask) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;

    #[test]
    fn low_bits_of_every_width_come_back_from_lanes_and_from_turns() {
        for low_bits in 0..=LOW_BITS_MAX {
            let mut offsets = [0; BLOCK_KEYS];
            let mask = (1 << low_bits) - 1;
            (0..).zip(&mut offsets).for_each(|(index, offset)| *offset = mix(index));
            let expected = offsets.map(|offset| offset & mask);
            let mut out = vec![0; bytes(BLOCK_KEYS, low_bits)];
            let mut back = [7; BLOCK_KEYS];
            pack_lanes(&offsets, low_bits, &mut out);
            unpack_lanes(&out, low_bits, &mut back);
            assert_eq!(back, expected, "{low_bits} bits");
            for count in [1, 7, 100, 127] {
                let low_bytes = bytes(count, low_bits);
                pack_in_turn(&offsets[..count], low_bits, &mut out);
                unpack_in_turn(&out[..low_bytes], low_bits, &mut back[..count]);
                assert_eq!(back[..count], expected[..count], "{count} of {low_bits} bits");
            }
        }
    }
}
