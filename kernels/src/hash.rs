//! Hashes: of keys, so that they spread over lines and shards, and of bytes, so that layouts and
//! names can be compared.
//!
//! Owns two functions whose results are stored and sent, so they never change. Neither resists an
//! adversary: keys are chosen by the people who own the cluster.
//!
//! Invariant: the same input gives the same number on every host and in every release.

use crate::isa::{Isa, Portable};

/// Spreads a key over 64 bits: each bit of `key` moves each bit of the result about half the time.
///
/// - Result: a bijection, so distinct keys stay distinct.
/// - Source: the constants and shifts of Evensen's moremur (2019), a finaliser of the kind of
///   Steele, Lea, Flood, OOPSLA 2014 (SplitMix).
#[inline(always)]
#[must_use]
pub const fn mix(key: u64) -> u64 {
    let mut hash = key;
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x3C79_AC49_2BA7_B653);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0x1C69_B3F7_4AC4_AE35);
    hash ^ (hash >> 27)
}

/// [`mix`] of every key.
///
/// - `keys`, `mixed`: the same length.
/// - Panics: if the lengths differ.
pub fn mix_all(isa: Isa, keys: &[u64], mixed: &mut [u64]) {
    assert_eq!(keys.len(), mixed.len(), "keys against their hashes");
    isa.run(MixAll { keys, mixed });
}

struct MixAll<'a> {
    keys: &'a [u64],
    mixed: &'a mut [u64],
}

impl Portable for MixAll<'_> {
    type Output = ();

    #[inline(always)]
    fn scalar(self) {
        for (mixed, &key) in self.mixed.iter_mut().zip(self.keys) {
            *mixed = mix(key);
        }
    }
}

/// Words of the digits of pi, made odd.
const SECRET: [u64; 4] =
    [0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7345, 0xA409_3822_299F_31D1, 0x082E_FA98_EC4E_6C89];

/// Hashes bytes to 64 bits.
///
/// - `seed`: another seed, another hash. `bytes`: any length.
/// - Result: little-endian reads, so the same on every host; not for use against an adversary.
/// - Source: the folded product of 64-bit words that Wang Yi's wyhash (2019) introduced.
#[must_use]
pub fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = fold(seed ^ SECRET[0], SECRET[1] ^ bytes.len() as u64);
    let mut other = fold(state, SECRET[2]);
    let (stripes, rest) = bytes.as_chunks::<32>();
    for stripe in stripes {
        let (words, _) = stripe.as_chunks::<8>();
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| u64::from_le_bytes(words[index]));
        state = fold(a ^ SECRET[1], b ^ state);
        other = fold(c ^ SECRET[3], d ^ other);
    }
    state ^= other;
    for piece in rest.chunks(16) {
        let mut padded = [0; 16];
        padded[..piece.len()].copy_from_slice(piece);
        let pair = u128::from_le_bytes(padded);
        state = fold(pair as u64 ^ SECRET[2], (pair >> 64) as u64 ^ state);
    }
    mix(fold(state ^ SECRET[3], SECRET[0]))
}

/// The two halves of the product, one over the other.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::LENGTHS;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn every_level_mixes_as_the_reference_does(seed: u64) {
            for len in LENGTHS {
                let keys: Vec<u64> = (0..len as u64).map(|key| seed.wrapping_add(key)).collect();
                let expected: Vec<u64> = keys.iter().map(|&key| mix(key)).collect();
                for isa in Isa::available() {
                    let mut mixed = vec![0; len];
                    mix_all(isa, &keys, &mut mixed);
                    prop_assert_eq!(&mixed, &expected);
                }
            }
        }

        #[test]
        fn one_changed_bit_changes_the_hash_of_bytes(
            bytes in prop::collection::vec(any::<u8>(), 1..100), at: usize, bit in 0..8,
        ) {
            let mut changed = bytes.clone();
            changed[at % bytes.len()] ^= 1_u8 << bit;
            prop_assert_ne!(hash_bytes(7, &bytes), hash_bytes(7, &changed));
        }
    }

    #[test]
    fn each_bit_of_a_key_moves_each_bit_of_the_hash_about_half_the_time() {
        const KEYS: u64 = 4096;
        for input in 0..64 {
            let mut moved = [0_u64; 64];
            for key in 0..KEYS {
                let difference = mix(key) ^ mix(key ^ (1 << input));
                (0..64).for_each(|output| moved[output] += (difference >> output) & 1);
            }
            let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
            assert!(*least > KEYS * 4 / 10 && *most < KEYS * 6 / 10, "{input}: {least} {most}");
        }
    }

    #[test]
    fn lengths_and_seeds_give_distinct_hashes_of_zeros() {
        let zeros = [0; 200];
        let hashes =
            (0..=200).flat_map(|len| [0, 1, 2].map(|seed| hash_bytes(seed, &zeros[..len])));
        assert_eq!(hashes.collect::<HashSet<_>>().len(), 603);
    }

    #[test]
    fn the_golden_hashes_have_not_changed() {
        let bytes: Vec<u8> = (0..100).collect();
        let hashes = [0, 3, 16, 33, 100].map(|len| hash_bytes(42, &bytes[..len]));
        assert_eq!((mix(1), mix(u64::MAX)), GOLDEN_MIX);
        assert_eq!(hashes, GOLDEN_BYTES);
    }

    const GOLDEN_MIX: (u64, u64) = (0x3C02_AA47_7582_92BD, 0x78A9_666A_39C1_A1B5);
    const GOLDEN_BYTES: [u64; 5] = [
        0x26A1_FCE5_3F6E_3E7E,
        0xC848_2A2E_025B_7DE5,
        0xC3B3_6143_C71A_B156,
        0xBBF9_E16A_B56B_60ED,
        0x8787_5A15_3CA4_145A,
    ];
}
