//! Blocks of values that share a scale: evenly spaced levels, and levels spaced as floats are.
//!
//! Owns what a block looks like. Its values in code are whole numbers of a step:
//!
//! ```text
//! 2 bytes   the step: the upper half of an f32; its sign bit: no value of the block is negative
//! codes     4 or 8 bits a value: the level's magnitude, above it the sign where there is one
//! ```
//!
//! Codes of 8 bits lie in the values' order. Of codes of 4 bits, byte `j` holds value `j` in its
//! low half and value `j + n` in its high one, where `n` is half of the block's values, rounded up:
//! so no bit moves across lanes.
//!
//! Invariant: the step is rounded up, so the largest magnitude has a level, and zero stays zero.

use std::mem;

use super::Damaged;
use super::draw::{Round, whole};
use super::values::VALUES_BLOCK;

/// Bytes of a step.
pub(super) const SCALE_BYTES: usize = 2;
/// Everything of an f32 but its sign.
const MAGNITUDE: u32 = 0x7FFF_FFFF;
/// The bit of a step that says that no value is negative.
const UNSIGNED: u16 = 0x8000;
/// f32's bits of 2^127: larger magnitudes are taken as this one, whose step, rounded up, still
/// makes a finite number of the highest level.
const LARGEST: u32 = (127 + 127) << 23;
/// The least step but zero, 2^-126: its inverse is finite.
const STEP_MIN: f32 = f32::MIN_POSITIVE;

/// Levels of a magnitude, in steps.
pub(super) trait Grid {
    /// Bits of a level's number.
    const LEVEL_BITS: u32;
    /// The highest level's magnitude.
    const TOP: f32;

    /// The number of the level that a magnitude is rounded to; 0 or above.
    fn level(magnitude: f32, round: impl Round, index: u32) -> u32;

    /// The magnitude of a level.
    fn magnitude(level: u32) -> f32;
}

/// The levels 0, 1, 2, ... of `BITS` bits, at most 8.
pub(super) struct Uniform<const BITS: u32>;

/// Bits after the point of a magnitude of at most 2^8 that is about to be rounded.
const FRACTION_BITS: u32 = 22;
const FIXED: f32 = (1 << FRACTION_BITS) as f32;

impl<const BITS: u32> Grid for Uniform<BITS> {
    const LEVEL_BITS: u32 = BITS;
    const TOP: f32 = ((1 << BITS) - 1) as f32;

    #[inline(always)]
    fn level(magnitude: f32, round: impl Round, index: u32) -> u32 {
        let fixed = whole(magnitude * FIXED);
        // The inverse of a step is rounded, so the largest may come out a little above the top.
        round.off(fixed, FRACTION_BITS, index).min((1 << BITS) - 1)
    }

    #[inline(always)]
    fn magnitude(level: u32) -> f32 {
        level.cast_signed() as f32
    }
}

/// Floats of `BITS` bits without a sign, the lowest `MANTISSA` of them mantissa, the others
/// exponent. Below `2^MANTISSA` levels are 0, 1, 2, ...; above, the bits of an f32 whose exponent
/// counts from there.
pub(super) struct Float<const BITS: u32, const MANTISSA: u32>;

impl<const BITS: u32, const MANTISSA: u32> Float<BITS, MANTISSA> {
    /// The highest exponent, of a number whose last mantissa bit counts 1.
    const EXPONENT_MAX: u32 = (1 << (BITS - MANTISSA)) - 2;
    /// Mantissa bits less than f32 has.
    const DROPPED: u32 = 23 - MANTISSA;
    /// What an f32's upper bits are above the level's.
    const BIAS: u32 = (127 + MANTISSA - 1) << MANTISSA;
}

impl<const BITS: u32, const MANTISSA: u32> Grid for Float<BITS, MANTISSA> {
    const LEVEL_BITS: u32 = BITS;
    const TOP: f32 = (((2 << MANTISSA) - 1) << Self::EXPONENT_MAX) as f32;

    #[inline(always)]
    fn level(magnitude: f32, round: impl Round, index: u32) -> u32 {
        // What is not below 2^MANTISSA is cut short here and not used.
        let fixed = whole(magnitude * FIXED);
        let low = round.off(fixed, FRACTION_BITS, index);
        let high = round.off(magnitude.to_bits(), Self::DROPPED, index).wrapping_sub(Self::BIAS);
        let is_low = magnitude < (1 << MANTISSA) as f32;
        (if is_low { low } else { high }).min((1 << BITS) - 1)
    }

    #[inline(always)]
    fn magnitude(level: u32) -> f32 {
        let low = level.cast_signed() as f32;
        let high = f32::from_bits((level + Self::BIAS) << Self::DROPPED);
        if level < 1 << MANTISSA { low } else { high }
    }
}

/// A block's values, with zeros after the last.
pub(super) type Block = [f32; VALUES_BLOCK];
type Codes = [u8; VALUES_BLOCK];

/// Encodes block after block: by `S` where one has negative values, else by `U`.
#[inline(always)]
pub(super) fn encode<S: Grid, U: Grid, R: Round>(values: &[f32], out: &mut [u8], round: R) {
    let mut rest = out;
    let (blocks, last) = values.as_chunks();
    for (number, block) in blocks.iter().enumerate() {
        let out = take_front(&mut rest, VALUES_BLOCK, U::LEVEL_BITS);
        encode_block::<S, U, R>(block, (number * VALUES_BLOCK) as u32, round, out);
    }
    if !last.is_empty() {
        let out = take_front(&mut rest, last.len(), U::LEVEL_BITS);
        let first = (blocks.len() * VALUES_BLOCK) as u32;
        encode_block::<S, U, R>(&padded(last), first, round, out);
    }
}

/// The step's and the codes' bytes of a block of so many values.
#[inline(always)]
fn take_front<'a>(
    rest: &mut &'a mut [u8],
    count: usize,
    code_bits: u32,
) -> (&'a mut [u8], &'a mut [u8]) {
    let code_bytes = (count * code_bits as usize).div_ceil(8);
    let (out, after) = mem::take(rest).split_at_mut(SCALE_BYTES + code_bytes);
    *rest = after;
    out.split_at_mut(SCALE_BYTES)
}

/// The values of a block that is not whole, and zeros.
#[inline(always)]
pub(super) fn padded(values: &[f32]) -> Block {
    let mut block = [0.0; VALUES_BLOCK];
    block[..values.len()].copy_from_slice(values);
    block
}

#[inline(always)]
fn encode_block<S: Grid, U: Grid, R: Round>(
    block: &Block,
    first: u32,
    round: R,
    (step_out, codes_out): (&mut [u8], &mut [u8]),
) {
    let (largest, signs) = block.iter().fold((0, 0), |(largest, signs), value| {
        let bits = clean(*value).to_bits();
        (largest.max(bits & MAGNITUDE), signs | bits)
    });
    let (step, codes) = if signs & !MAGNITUDE == 0 {
        let step = step_for::<U>(largest);
        (step | UNSIGNED, to_codes::<U, R>(block, step, first, round))
    } else {
        let step = step_for::<S>(largest);
        (step, to_codes::<S, R>(block, step, first, round))
    };
    step_out.copy_from_slice(&step.to_le_bytes());
    pack(&codes, U::LEVEL_BITS, codes_out);
}

/// The value, such as codes have: NaN as 0, the too large as the largest, zeros without a sign.
#[inline(always)]
pub(super) fn clean(value: f32) -> f32 {
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    let known = if magnitude > f32::INFINITY.to_bits() { 0 } else { magnitude.min(LARGEST) };
    let sign = if known == 0 { 0 } else { bits & !MAGNITUDE };
    f32::from_bits(sign | known)
}

/// The step's upper half: the part of the top that a largest magnitude of these bits is, rounded
/// up.
#[inline(always)]
fn step_for<G: Grid>(largest: u32) -> u16 {
    if largest == 0 {
        return 0;
    }
    let step = (f32::from_bits(largest) / G::TOP).max(STEP_MIN).to_bits();
    ((step + 0xFFFF) >> 16) as u16
}

#[inline(always)]
fn to_codes<G: Grid, R: Round>(block: &Block, step: u16, first: u32, round: R) -> Codes {
    let inverse = if step == 0 { 0.0 } else { 1.0 / step_value(step) };
    let mut codes = [0; VALUES_BLOCK];
    for (index, (code, value)) in codes.iter_mut().zip(block).enumerate() {
        let value = clean(*value);
        let level = G::level(value.abs() * inverse, round, first.wrapping_add(index as u32));
        // Where the block has no negative value, this sign is zero and takes no bit.
        *code = (level | (value.to_bits() >> 31) << G::LEVEL_BITS) as u8;
    }
    codes
}

#[inline(always)]
fn step_value(step: u16) -> f32 {
    f32::from_bits(u32::from(step & !UNSIGNED) << 16)
}

/// Writes codes of 8 or 4 bits: one or two a byte. The bytes' length says how many.
#[inline(always)]
fn pack(codes: &Codes, code_bits: u32, out: &mut [u8]) {
    if code_bits == 8 {
        // Of known length almost always: then no call copies it.
        match <&mut Codes>::try_from(&mut *out) {
            Ok(out) => *out = *codes,
            Err(_) => out.copy_from_slice(&codes[..out.len()]),
        }
        return;
    }
    let (low, high) = codes.split_at(out.len());
    for (byte, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *byte = low | high << 4;
    }
}

/// Decodes block after block.
#[inline(always)]
pub(super) fn decode<S: Grid, U: Grid>(bytes: &[u8], values: &mut [f32]) -> Result<(), Damaged> {
    let mut rest = bytes;
    for (block, values) in values.chunks_mut(VALUES_BLOCK).enumerate() {
        let code_bytes = (values.len() * U::LEVEL_BITS as usize).div_ceil(8);
        let (bytes, after) = rest.split_at(SCALE_BYTES + code_bytes);
        let (step, codes) = bytes.split_at(SCALE_BYTES);
        let bits = u16::from_le_bytes([step[0], step[1]]);
        let (step, top) = (step_value(bits), if bits < UNSIGNED { S::TOP } else { U::TOP });
        // Of NaN neither.
        if !(step * top).is_finite() {
            return Err(Damaged::Scale { block, bits });
        }
        let codes = unpack(codes, U::LEVEL_BITS);
        if bits < UNSIGNED {
            from_codes::<S>(&codes, step, values);
        } else {
            from_codes::<U>(&codes, step, values);
        }
        rest = after;
    }
    Ok(())
}

#[inline(always)]
fn unpack(bytes: &[u8], code_bits: u32) -> Codes {
    let mut codes = [0; VALUES_BLOCK];
    if code_bits == 8 {
        match <&Codes>::try_from(bytes) {
            Ok(bytes) => codes = *bytes,
            Err(_) => codes[..bytes.len()].copy_from_slice(bytes),
        }
        return codes;
    }
    let (low, high) = codes.split_at_mut(bytes.len());
    for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(high)) {
        (*low, *high) = (byte & 0xF, byte >> 4);
    }
    codes
}

#[inline(always)]
fn from_codes<G: Grid>(codes: &Codes, step: f32, values: &mut [f32]) {
    let value = |code: u8| {
        let code = u32::from(code);
        let magnitude = G::magnitude(code & ((1 << G::LEVEL_BITS) - 1)) * step;
        f32::from_bits(magnitude.to_bits() | (code >> G::LEVEL_BITS) << 31)
    };
    if let Ok(values) = <&mut Block>::try_from(&mut *values) {
        // As many as there are codes, so that none is checked for.
        values.iter_mut().zip(codes).for_each(|(to, &code)| *to = value(code));
    } else {
        values.iter_mut().zip(codes).for_each(|(to, &code)| *to = value(code));
    }
}
