//! One bit a value: its sign, and for each sign of a block the mean of its magnitudes.
//!
//! Owns what a block looks like:
//!
//! ```text
//! 2 bytes   mean magnitude of the values that are not negative: the upper half of an f32
//! 2 bytes   mean magnitude of the negative ones
//! signs     bit `p` of byte `j`: whether value `j + p * n` is negative, where `n` is an eighth of
//!           the block's values, rounded up
//! ```
//!
//! Invariant: a block's sum is kept but for the rounding of its means. Each value alone is not:
//! what it lost is for the caller to add to the next one (`feedback`).
//!
//! Source: Seide, Fu, Droppo, Li, Yu, Interspeech 2014.

use super::Damaged;
use super::block::{Block, SCALE_BYTES, clean, padded};
use super::draw::{Nearest, Round};
use super::values::VALUES_BLOCK;

/// Signs in a byte.
const PLANES: usize = 8;
/// Sums side by side, so that the order of additions is the same on every level.
const LANES: usize = 16;
/// Before they are added, magnitudes of at most 2^127 are divided by so much that no sum of a
/// block's is infinite.
const PART: f32 = 1.0 / VALUES_BLOCK as f32;

#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8]) {
    let mut rest = out;
    for values in values.chunks(VALUES_BLOCK) {
        let sign_bytes = values.len().div_ceil(PLANES);
        let (out, after) = rest.split_at_mut(2 * SCALE_BYTES + sign_bytes);
        let (means_out, signs) = out.split_at_mut(2 * SCALE_BYTES);
        let block = padded(values).map(clean);
        let means = means(&block, values.len()).map(u16::to_le_bytes);
        means_out.copy_from_slice(means.as_flattened());
        for (place, byte) in signs.iter_mut().enumerate() {
            let sign = |plane: usize| (block[place + plane * sign_bytes].to_bits() >> 31) << plane;
            *byte = (0..PLANES).fold(0, |byte, plane| byte | sign(plane)) as u8;
        }
        rest = after;
    }
}

/// The upper halves of both means, of the first `count` values; the others are zeros.
#[inline(always)]
fn means(block: &Block, count: usize) -> [u16; 2] {
    let mut sums = [[0.0; LANES]; 2];
    let mut negative_count = 0;
    for values in block.as_chunks::<LANES>().0 {
        for (lane, value) in values.iter().enumerate() {
            sums[0][lane] += value.max(0.0) * PART;
            sums[1][lane] += (-value).max(0.0) * PART;
            negative_count += value.to_bits() >> 31;
        }
    }
    let counts = [count as u32 - negative_count, negative_count];
    [0, 1].map(|sign| {
        let sum: f32 = sums[sign].iter().sum();
        let mean = sum / (counts[sign].max(1) as f32 * PART);
        Nearest.off(mean.to_bits(), 16, 0) as u16
    })
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], values: &mut [f32]) -> Result<(), Damaged> {
    let mut rest = bytes;
    for (block, values) in values.chunks_mut(VALUES_BLOCK).enumerate() {
        let sign_bytes = values.len().div_ceil(PLANES);
        let (bytes, after) = rest.split_at(2 * SCALE_BYTES + sign_bytes);
        let (means, signs) = bytes.split_at(2 * SCALE_BYTES);
        let means = [[means[0], means[1]], [means[2], means[3]]].map(u16::from_le_bytes);
        let is_mean = |bits: &u16| *bits < (f32::INFINITY.to_bits() >> 16) as u16;
        if let Some(&bits) = means.iter().find(|bits| !is_mean(bits)) {
            return Err(Damaged::Scale { block, bits });
        }
        let [positive, negative] = means.map(|bits| u32::from(bits) << 16);
        let negative = negative | 0x8000_0000;
        for (plane, values) in values.chunks_mut(sign_bytes).enumerate() {
            for (value, byte) in values.iter_mut().zip(signs) {
                let is_negative = byte >> plane & 1 != 0;
                *value = f32::from_bits(if is_negative { negative } else { positive });
            }
        }
        rest = after;
    }
    Ok(())
}
