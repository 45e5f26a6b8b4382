//! Decoders of packed keys and of encoded values.
//!
//! Promises: they never panic, every level of instructions answers alike, unpacked keys ascend, and
//! a codec of blocks decodes finite numbers only.

use kernels::Isa;
use kernels::codec::{
    Rounding, ValueCodec, decode_values, encode_values, encoded_values_bytes_max, pack_keys,
    packed_keys_bytes_max, unpack_keys,
};

use super::{Target, answer_number};
use crate::random::Random;

/// Most keys or values that an input asks for.
const COUNT_MAX: usize = 1000;

/// Bytes that an input begins with: how many keys or values are asked for.
const COUNT_BYTES: usize = 2;

/// What is decoded.
pub(super) enum Codec {
    /// Keys. An input is a count and packed keys.
    Keys,
    /// Values. An input is a count, a codec's number and encoded values.
    Values,
}

impl Target for Codec {
    fn inputs(&self) -> Vec<Vec<u8>> {
        match self {
            Codec::Keys => key_inputs(),
            Codec::Values => ValueCodec::ALL.into_iter().flat_map(value_inputs).collect(),
        }
    }

    fn tokens(&self) -> &'static [&'static [u8]] {
        &[&[0x80, 0x3F], &[0x7F; 8], &[0xFF; 8], &[0; 8], &[0xC0, 3], &[0xBF, 0]]
    }

    fn mend(&self, input: &mut Vec<u8>, random: &mut Random) {
        let cut_through = random.below(8) == 0;
        if let Codec::Values = self
            && !cut_through
            && let Some((count, codec, bytes)) = values_of(input)
        {
            // As long as its values need, so that they are looked at.
            let missing = encoded_values_bytes_max(codec, count).saturating_sub(bytes.len());
            input.extend((0..missing).map(|_| random.below(256) as u8));
        }
    }

    fn feed(&mut self, input: &[u8]) -> u64 {
        match self {
            Codec::Keys => feed_keys(input),
            Codec::Values => feed_values(input),
        }
    }
}

fn key_inputs() -> Vec<Vec<u8>> {
    let lists: [Vec<u64>; 5] = [
        (0..300).map(|key| key * 0x0123_4567_89AB).collect(),
        (0..100).map(|key| key * key * key).collect(),
        (1 << 60..(1 << 60) + 200).collect(),
        (0..60).map(|key| ((key / 20) << 50) | ((key % 20) * 3)).collect(),
        vec![u64::MAX - 1],
    ];
    let packed = lists.iter().map(|keys| {
        let mut input = (keys.len() as u16).to_le_bytes().to_vec();
        let mut bytes = vec![0; packed_keys_bytes_max(keys.len())];
        let written = pack_keys(Isa::detect(), keys, &mut bytes);
        input.extend_from_slice(&bytes[..written]);
        input
    });
    packed.collect()
}

fn value_inputs(codec: ValueCodec) -> [Vec<u8>; 2] {
    [-3.0, 0.0].map(|least| {
        let values: Vec<f32> = (0..300_u16).map(|value| f32::from(value) / 50.0 + least).collect();
        let mut bytes = vec![0; encoded_values_bytes_max(codec, values.len())];
        let rounding = Rounding::Stochastic { seed: 1 };
        encode_values(Isa::detect(), codec, &values, rounding, &mut bytes);
        let head = (values.len() as u16).to_le_bytes();
        [&head[..], &[codec.to_u8()], &bytes].concat()
    })
}

fn count_of(input: &[u8]) -> Option<(usize, &[u8])> {
    let (count, rest) = input.split_first_chunk::<COUNT_BYTES>()?;
    Some((usize::from(u16::from_le_bytes(*count)).min(COUNT_MAX), rest))
}

fn values_of(input: &[u8]) -> Option<(usize, ValueCodec, &[u8])> {
    let (count, rest) = count_of(input)?;
    let (number, bytes) = rest.split_first()?;
    Some((count, ValueCodec::from_u8(*number)?, bytes))
}

fn feed_keys(input: &[u8]) -> u64 {
    let Some((count, bytes)) = count_of(input) else { return 0 };
    let mut keys = vec![0; count];
    let read = unpack_keys(Isa::detect(), bytes, &mut keys);
    let mut same = vec![0; count];
    assert_eq!(unpack_keys(Isa::scalar(), bytes, &mut same), read, "levels answer alike");
    if let Ok(read) = read {
        assert_eq!(keys, same, "levels unpack alike");
        assert!(read <= bytes.len(), "{read} bytes read of {}", bytes.len());
        assert!(keys.is_sorted_by(|one, two| one < two), "unpacked keys ascend: {keys:?}");
        assert_ne!(keys.last(), Some(&u64::MAX), "the reserved key is none");
        let mut packed = vec![0; packed_keys_bytes_max(count)];
        let written = pack_keys(Isa::detect(), &keys, &mut packed);
        let mut back = vec![0; count];
        assert_eq!(unpack_keys(Isa::detect(), &packed[..written], &mut back), Ok(written));
        assert_eq!(back, keys, "keys that were unpacked can be packed");
    }
    // How much of the list is behind tells answers apart, so that the corpus grows into it.
    answer_number(&format!("{read:?}")) ^ (count as u64).next_power_of_two()
}

fn feed_values(input: &[u8]) -> u64 {
    let Some((count, codec, bytes)) = values_of(input) else { return 0 };
    let mut values = vec![0.0; count];
    let read = decode_values(Isa::detect(), codec, bytes, &mut values);
    let mut same = vec![0.0; count];
    assert_eq!(decode_values(Isa::scalar(), codec, bytes, &mut same), read, "levels answer alike");
    if read.is_ok() {
        let bits =
            |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&values), bits(&same), "levels decode alike");
        let holds_all = matches!(codec, ValueCodec::F32 | ValueCodec::Bf16 | ValueCodec::F16);
        let finite = values.iter().all(|value| value.is_finite());
        assert!(holds_all || finite, "{codec} decodes finite numbers: {values:?}");
    }
    answer_number(&format!("{read:?} {codec}"))
}
