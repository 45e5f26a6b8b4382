//! Every codec of values: what comes back, on every level, on average, and from any bytes.

use proptest::prelude::*;

use super::*;
use crate::hash::mix;
use crate::oracle::{bits, floats, positives};

/// Encodes on every level and checks that all wrote the same bytes, and that each reads the same
/// values from them. Those values.
fn through(codec: ValueCodec, values: &[f32], rounding: Rounding) -> Vec<f32> {
    let bytes = encoded_values_bytes_max(codec, values.len());
    let encode = |isa| {
        let mut out = vec![0xA5; bytes + 3];
        assert_eq!(encode_values(isa, codec, values, rounding, &mut out), bytes);
        assert_eq!(out[bytes..], [0xA5; 3], "{codec} writes beyond its bytes");
        out
    };
    let expected = encode(Isa::scalar());
    let mut decoded = None;
    for isa in Isa::available() {
        assert_eq!(encode(isa), expected, "{codec}, {isa:?}");
        let mut back = vec![7.0; values.len()];
        assert_eq!(decode_values(isa, codec, &expected, &mut back), Ok(bytes));
        let decoded = decoded.get_or_insert_with(|| back.clone());
        assert_eq!(bits(decoded), bits(&back), "{codec}, {isa:?}");
    }
    decoded.unwrap_or_default()
}

/// Whether a codec holds infinities and NaN.
fn keeps(codec: ValueCodec) -> bool {
    matches!(codec, ValueCodec::F32 | ValueCodec::Bf16 | ValueCodec::F16)
}

/// The largest error of one value in a block of this largest magnitude.
fn error_max(codec: ValueCodec, value: f32, largest: f32, is_signed: bool) -> f32 {
    let value = value.abs();
    // A step is rounded up by at most one part in 128, and arithmetic takes its own roundings.
    let slack = 1.01;
    match codec {
        ValueCodec::F32 => 0.0,
        ValueCodec::Bf16 => value * 2.0_f32.powi(-7),
        ValueCodec::F16 => (value * 2.0_f32.powi(-10)).max(2.0_f32.powi(-24)),
        ValueCodec::Int8 => slack * largest / if is_signed { 127.0 } else { 255.0 },
        ValueCodec::Int4 => slack * largest / if is_signed { 7.0 } else { 15.0 },
        ValueCodec::Float8 if is_signed => slack * (value / 8.0).max(largest / 245_760.0),
        ValueCodec::Float8 => slack * (value / 16.0).max(largest / 507_904.0),
        ValueCodec::Float4 => slack * value.max(largest / if is_signed { 64.0 } else { 16384.0 }),
        ValueCodec::OneBit => largest,
    }
}

fn check_errors(codec: ValueCodec, values: &[f32], rounding: Rounding) {
    let decoded = through(codec, values, rounding);
    for (values, decoded) in values.chunks(VALUES_BLOCK).zip(decoded.chunks(VALUES_BLOCK)) {
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let is_signed = values.iter().any(|&value| value < 0.0);
        for (value, decoded) in values.iter().zip(decoded) {
            let bound = error_max(codec, *value, largest, is_signed);
            let error = (value - decoded).abs();
            assert!(error <= bound, "{codec}: {value} came back as {decoded}, bound {bound}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn values_come_back_within_a_step_and_every_level_has_the_same_bits(
        seed: u64, count in 0_usize..800,
    ) {
        // Within the range of f16.
        let signed: Vec<f32> = floats(seed, count).iter().map(|value| value * 0.06).collect();
        let unsigned: Vec<f32> = positives(seed, count).iter().map(|value| value * 0.06).collect();
        for codec in ValueCodec::ALL {
            for rounding in [Rounding::Nearest, Rounding::Stochastic { seed }] {
                check_errors(codec, &signed, rounding);
                check_errors(codec, &unsigned, rounding);
            }
        }
    }

    #[test]
    fn any_values_at_all_come_back_finite_from_a_block(
        values in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..600), seed: u64,
    ) {
        for codec in ValueCodec::ALL {
            for rounding in [Rounding::Nearest, Rounding::Stochastic { seed }] {
                let decoded = through(codec, &values, rounding);
                for (value, decoded) in values.iter().zip(&decoded) {
                    let keeps = keeps(codec);
                    prop_assert_eq!(decoded.is_finite(), !keeps || value.is_finite());
                    prop_assert!(!keeps || decoded.is_nan() == value.is_nan());
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_values_or_damaged(
        bytes in prop::collection::vec(any::<u8>(), 0..1200), count in 0_usize..700,
    ) {
        for codec in ValueCodec::ALL {
            let mut expected = None;
            for isa in Isa::available() {
                let mut values = vec![0.0; count];
                let read = decode_values(isa, codec, &bytes, &mut values);
                if read.is_err() {
                    values.clear();
                }
                let keeps = keeps(codec);
                prop_assert!(keeps || values.iter().all(|value| value.is_finite()));
                let got = (read, bits(&values));
                prop_assert_eq!(expected.get_or_insert_with(|| got.clone()), &got);
            }
        }
    }
}

#[test]
fn what_a_codec_can_hold_comes_back_as_it_is_however_it_is_rounded() {
    let levels: Vec<f32> = (-127..=127).map(|level: i16| f32::from(level) * 0.5).collect();
    let small: Vec<f32> = (0..=15).map(|level: u8| f32::from(level) * 4.0).collect();
    for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 9 }] {
        for codec in [ValueCodec::F32, ValueCodec::Bf16, ValueCodec::F16, ValueCodec::Int8] {
            assert_eq!(through(codec, &levels, rounding), levels, "{codec}");
        }
        for codec in ValueCodec::ALL {
            assert_eq!(through(codec, &[0.0; 300], rounding), [0.0; 300], "{codec}");
        }
        assert_eq!(through(ValueCodec::Int4, &small, rounding), small);
    }
}

#[test]
fn the_mean_of_many_stochastic_encodings_is_what_was_given() {
    const SEEDS: u64 = 4096;
    let unbiased =
        [ValueCodec::Bf16, ValueCodec::F16, ValueCodec::Int8, ValueCodec::Int4, ValueCodec::Float8];
    let signed = floats(5, 300);
    for values in [signed.clone(), signed.iter().map(|value| value.abs() * 1e-4).collect()] {
        for codec in unbiased {
            let mut sums = vec![0.0_f64; values.len()];
            let mut bytes = vec![0; encoded_values_bytes_max(codec, values.len())];
            let mut decoded = vec![0.0; values.len()];
            for seed in 0..SEEDS {
                let rounding = Rounding::Stochastic { seed };
                encode_values(Isa::detect(), codec, &values, rounding, &mut bytes);
                decode_values(Isa::detect(), codec, &bytes, &mut decoded).expect("own bytes");
                sums.iter_mut().zip(&decoded).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            for (index, (value, sum)) in values.iter().zip(sums).enumerate() {
                let block = &values[index / VALUES_BLOCK * VALUES_BLOCK..];
                let block = &block[..block.len().min(VALUES_BLOCK)];
                let largest = block.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
                if codec == ValueCodec::F16 && value.abs() > 65504.0 {
                    continue;
                }
                let is_signed = block.iter().any(|&value| value < 0.0);
                let step = f64::from(error_max(codec, *value, largest, is_signed));
                // A draw's deviation is at most half a step: five of those of the mean.
                let bound = 2.5 * step / (SEEDS as f64).sqrt();
                let error = (sum / SEEDS as f64 - f64::from(*value)).abs();
                assert!(error <= bound, "{codec}: {value} came back off by {error}, bound {bound}");
            }
        }
    }
}

#[test]
fn the_nearest_level_is_at_most_half_a_step_away() {
    let values = floats(8, 256);
    let largest = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    for (value, decoded) in values.iter().zip(through(ValueCodec::Int8, &values, Rounding::Nearest))
    {
        assert!((value - decoded).abs() <= 0.51 * largest / 127.0, "{value} {decoded}");
    }
}

#[test]
fn the_largest_of_a_block_has_a_level_that_is_not_below_it() {
    for (codec, levels) in [(ValueCodec::Int8, 255.0), (ValueCodec::Int4, 15.0)] {
        for seed in 0..200 {
            let largest = positives(seed, 1)[0] + 1e-9;
            let decoded = through(codec, &[largest, 0.0], Rounding::Nearest)[0];
            // A step is too long by less than one part in 128.
            let bound = largest / levels * 0.51;
            assert!((decoded - largest).abs() <= bound, "{codec}: {largest} is {decoded}");
        }
    }
}

#[test]
fn a_block_of_large_and_small_keeps_the_small_ones_relative_error_by_float8_only() {
    let mut values = vec![0.3; 256];
    values[17] = 100.0;
    let float8 = through(ValueCodec::Float8, &values, Rounding::Nearest);
    assert!((float8[0] - 0.3).abs() < 0.3 / 32.0 && (float8[17] - 100.0).abs() < 1.0, "{float8:?}");
    let int8 = through(ValueCodec::Int8, &values, Rounding::Nearest);
    assert!((int8[0] - 0.3).abs() > 0.05, "{}", int8[0]);
}

#[test]
fn numbers_that_a_block_cannot_hold_are_zero_or_the_largest() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
    let decoded = through(ValueCodec::Int8, &values, Rounding::Nearest);
    let largest = 2.0_f32.powi(127);
    assert_eq!((decoded[0], decoded[3]), (0.0, 0.0));
    assert!((decoded[1] / largest - 1.0).abs() < 0.01 && decoded[2] == -decoded[1], "{decoded:?}");
    // The others of its block are not lost where only a NaN is among them.
    let beside = through(ValueCodec::Float8, &[f32::NAN, 0.25, -1.0], Rounding::Nearest);
    assert!((beside[1] - 0.25).abs() < 0.02 && (beside[2] + 1.0).abs() < 0.02, "{beside:?}");
}

#[test]
fn one_bit_keeps_signs_and_sums() {
    let values: Vec<f32> = (0..700).map(|i| (mix(i) >> 40) as f32 / 1e6 - 6.0).collect();
    let decoded = through(ValueCodec::OneBit, &values, Rounding::Nearest);
    assert!(values.iter().zip(&decoded).all(|(one, two)| one.signum() == two.signum()));
    let sums = [&values, &decoded].map(|values| values[..256].iter().sum::<f32>());
    let magnitudes: f32 = values[..256].iter().map(|value| value.abs()).sum();
    assert!((sums[0] - sums[1]).abs() <= magnitudes / 256.0, "{sums:?}");
}

#[test]
fn a_scale_that_is_not_finite_is_damage_and_names_its_block() {
    for codec in ValueCodec::ALL.into_iter().filter(|&codec| !keeps(codec)) {
        let mut bytes = vec![0; encoded_values_bytes_max(codec, 300)];
        let second = encoded_values_bytes_max(codec, 256);
        for scale in [0x7F80_u16, 0x7FC0, 0xFF80, 0xFFFF] {
            bytes[second..second + 2].copy_from_slice(&scale.to_le_bytes());
            let decoded = decode_values(Isa::detect(), codec, &bytes, &mut [0.0; 300]);
            assert_eq!(decoded, Err(Damaged::Scale { block: 1, bits: scale }), "{codec}");
        }
    }
}

#[test]
fn bytes_cut_off_are_too_short_and_say_by_how_much() {
    for codec in ValueCodec::ALL {
        let need_bytes = encoded_values_bytes_max(codec, 300);
        let bytes = vec![0; need_bytes - 1];
        let decoded = decode_values(Isa::detect(), codec, &bytes, &mut [0.0; 300]);
        assert_eq!(decoded, Err(Damaged::TooShort { have_bytes: need_bytes - 1, need_bytes }));
    }
}

#[test]
fn numbers_on_the_wire_read_back_and_others_are_none() {
    for (number, codec) in (0..).zip(ValueCodec::ALL) {
        assert_eq!((codec.to_u8(), ValueCodec::from_u8(number)), (number, Some(codec)));
    }
    assert_eq!(ValueCodec::from_u8(8), None);
}
