//! Values in fewer bits: which codecs there are, how long their bytes are, and the way to each.
//!
//! Owns the codecs' numbers on the wire. Half-width floats are left to `narrow`, blocks that share
//! a step to `block`, signs to `sign`.
//!
//! Invariant: a codec's bytes for `count` values are as many whatever the values, so their place in
//! a message is known before they are encoded.

use std::fmt;

use super::block::{self, Float, Uniform};
use super::draw::{Nearest, Round, Rounding, Stochastic};
use super::{Damaged, narrow, sign};
use crate::isa::{Isa, Portable};

/// Values that share a scale.
pub const VALUES_BLOCK: usize = 256;

/// How a stream of values is written.
///
/// What a codec cannot hold: `F32`, `Bf16` and `F16` keep infinities and NaN, and a finite number
/// beyond the largest of theirs becomes that one. The others take NaN as 0, and numbers beyond
/// ±2^127, infinities among them, as ±2^127; what they decode is always finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueCodec {
    /// The bits as they are.
    F32,
    /// The upper half of an f32: 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE 754 half precision: 5 bits of exponent, 10 of mantissa. To 65504, from 2^-24 on.
    F16,
    /// 8 bits a value between zero and the block's largest magnitude, evenly spaced: 127 levels of
    /// each sign, or 255 where no value of the block is negative.
    Int8,
    /// As `Int8`, of 4 bits: 7 levels of each sign, or 15.
    Int4,
    /// A sign a value, and for each sign of a block the mean of its magnitudes. Only with error
    /// feedback does it add up to what was given. Source: Seide et al., Interspeech 2014.
    OneBit,
    /// 8 bits a value, spaced as floats are from the block's largest magnitude down: 4 bits of
    /// exponent and 3 of mantissa, or 4 where no value of the block is negative. A value has its
    /// own relative error, down to 2^-17 of the largest.
    Float8,
    /// As `Float8`, of 4 bits and without a mantissa: 7 powers of two of each sign, or 15. For what
    /// is wanted roughly and of every size, such as sums of squares.
    Float4,
}

impl ValueCodec {
    /// Every codec, by its number.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Int8,
        Self::Int4,
        Self::OneBit,
        Self::Float8,
        Self::Float4,
    ];

    /// The codec of this number on the wire, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The codec's number on the wire, 0 to 7.
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        self as u8
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::OneBit => "one-bit",
            Self::Float8 => "float8",
            Self::Float4 => "float4",
        }
    }

    /// Bits a value, and bytes that a block begins with.
    const fn shape(self) -> (usize, usize) {
        match self {
            Self::F32 => (32, 0),
            Self::Bf16 | Self::F16 => (16, 0),
            Self::Int8 | Self::Float8 => (8, block::SCALE_BYTES),
            Self::Int4 | Self::Float4 => (4, block::SCALE_BYTES),
            Self::OneBit => (1, 2 * block::SCALE_BYTES),
        }
    }
}

impl fmt::Display for ValueCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bytes that `count` values take, neither more nor less.
#[must_use]
pub const fn encoded_values_bytes_max(codec: ValueCodec, count: usize) -> usize {
    let (bits, head_bytes) = codec.shape();
    let (blocks, rest) = (count / VALUES_BLOCK, count % VALUES_BLOCK);
    let rest_bytes = if rest == 0 { 0 } else { head_bytes + (rest * bits).div_ceil(8) };
    blocks * (head_bytes + VALUES_BLOCK * bits / 8) + rest_bytes
}

/// Encodes a stream of values of like magnitude: one column of a push or of an answer.
///
/// - `values`: any f32; see [`ValueCodec`] for infinities and NaN. `rounding`: `F32` and `OneBit`
///   do not look at it. `out`: at least [`encoded_values_bytes_max`] bytes.
/// - Result: bytes written, from the start of `out`; the same bytes on every `isa`.
/// - Panics: if `out` is shorter.
pub fn encode_values(
    isa: Isa,
    codec: ValueCodec,
    values: &[f32],
    rounding: Rounding,
    out: &mut [u8],
) -> usize {
    let bytes = encoded_values_bytes_max(codec, values.len());
    assert!(out.len() >= bytes, "{} bytes for {bytes} of {codec} values", out.len());
    let out = &mut out[..bytes];
    match rounding {
        Rounding::Nearest => isa.run(Encode { codec, values, out, round: Nearest }),
        Rounding::Stochastic { seed } => {
            isa.run(Encode { codec, values, out, round: Stochastic::new(seed) });
        }
    }
    bytes
}

struct Encode<'a, R> {
    codec: ValueCodec,
    values: &'a [f32],
    out: &'a mut [u8],
    round: R,
}

impl<R: Round> Portable for Encode<'_, R> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        let Encode { codec, values, out, round } = self;
        match codec {
            ValueCodec::F32 => {
                for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                    *bytes = value.to_le_bytes();
                }
            }
            ValueCodec::Bf16 => {
                narrow::encode(values, out, |bits, at| narrow::to_bf16(bits, round, at));
            }
            ValueCodec::F16 => {
                narrow::encode(values, out, |bits, at| narrow::to_f16(bits, round, at));
            }
            ValueCodec::Int8 => block::encode::<Uniform<7>, Uniform<8>, R>(values, out, round),
            ValueCodec::Int4 => block::encode::<Uniform<3>, Uniform<4>, R>(values, out, round),
            ValueCodec::Float8 => block::encode::<Float<7, 3>, Float<8, 4>, R>(values, out, round),
            ValueCodec::Float4 => block::encode::<Float<3, 0>, Float<4, 0>, R>(values, out, round),
            ValueCodec::OneBit => sign::encode(values, out),
        }
    }
}

/// Decodes as many values as `values` has room for.
///
/// - `bytes`: begins with what [`encode_values`] wrote; what follows is not looked at.
/// - Result: bytes read; the same values on every `isa`.
/// - Errors: [`Damaged::TooShort`] or [`Damaged::Scale`]; `values` then means nothing.
pub fn decode_values(
    isa: Isa,
    codec: ValueCodec,
    bytes: &[u8],
    values: &mut [f32],
) -> Result<usize, Damaged> {
    let need_bytes = encoded_values_bytes_max(codec, values.len());
    let Some(bytes) = bytes.get(..need_bytes) else {
        return Err(Damaged::TooShort { have_bytes: bytes.len(), need_bytes });
    };
    isa.run(Decode { codec, bytes, values }).map(|()| need_bytes)
}

struct Decode<'a> {
    codec: ValueCodec,
    bytes: &'a [u8],
    values: &'a mut [f32],
}

impl Portable for Decode<'_> {
    type Output = Result<(), Damaged>;

    #[inline(always)]
    fn scalar(self) -> Result<(), Damaged> {
        let Decode { codec, bytes, values } = self;
        match codec {
            ValueCodec::F32 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            ValueCodec::Bf16 => narrow::decode(bytes, values, narrow::from_bf16),
            ValueCodec::F16 => narrow::decode(bytes, values, narrow::from_f16),
            ValueCodec::Int8 => return block::decode::<Uniform<7>, Uniform<8>>(bytes, values),
            ValueCodec::Int4 => return block::decode::<Uniform<3>, Uniform<4>>(bytes, values),
            ValueCodec::Float8 => return block::decode::<Float<7, 3>, Float<8, 4>>(bytes, values),
            ValueCodec::Float4 => return block::decode::<Float<3, 0>, Float<4, 0>>(bytes, values),
            ValueCodec::OneBit => return sign::decode(bytes, values),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
