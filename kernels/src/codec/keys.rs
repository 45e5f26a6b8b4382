//! Strictly ascending keys in about two bits more than the logarithm of their mean gap.
//!
//! Owns the bytes of a list of keys. How many keys there are is told by the caller.
//!
//! Keys are taken in blocks of 128, the last one shorter. A block is one part, or several where a
//! gap is so much larger than the others that it is cheaper told apart:
//!
//! ```text
//! 1 byte    bits 0-5: low bits `l` a key, 63 for a run; bit 6 APART; bit 7 SHORT
//! 1 byte    if SHORT: keys of this part, less one; else it holds all that its block has left
//! 8 bytes   if APART: a number added to `base`, which is the key before plus one, at first 0
//!           unless a run, for key `i` of the part, with `d = key - base - i`:
//! n*l bits  the low `l` bits of each `d`
//! unary     bit `(d >> l) + i` is one, for each key; ends with the byte of the last one
//! ```
//!
//! In a run every `d` is zero. How low bits lie is told in `low`. All is little-endian. A block
//! takes what its mean gap needs, whatever its largest: with one width for all gaps that one would
//! cost each key a bit and more.
//!
//! Source: Elias, J. ACM 21 (1974); Fano, MIT Project MAC memo 61 (1971); by blocks of gaps, after
//! Vigna, WSDM 2013.
//!
//! Invariant: unpacked keys are strictly ascending and below `u64::MAX`, whatever the bytes; this
//! is checked on the keys themselves.

use std::array;

use super::Damaged;
use super::low::{self, BLOCK_KEYS, LOW_BITS_MAX};
use crate::isa::{Isa, Portable};

/// The bits of a part's first byte that hold its low bits a key.
const LOW_BITS: u8 = 0x3F;
/// In their place: the part is a run.
const RUN: u8 = LOW_BITS;
/// A number is added to `base`.
const APART: u8 = 0x40;
/// The part does not hold all that its block has left.
const SHORT: u8 = 0x80;
/// Words of a part's unary numbers: an encoder's have at most three bits a key, or four for one.
const UNARY_WORDS: usize = 3 * BLOCK_KEYS / 64;
const UNARY_BYTES_MAX: usize = 8 * UNARY_WORDS;

/// Bytes that `count` keys take at most.
///
/// A part of n keys takes at most `n * (l + 3)` bits, where `n * 2^l` is below 2^64.
#[must_use]
pub const fn packed_keys_bytes_max(count: usize) -> usize {
    8 * count + 2
}

/// Packs keys.
///
/// - `keys`: strictly ascending, none `u64::MAX`. `out`: at least [`packed_keys_bytes_max`] bytes.
/// - Result: bytes written, from the start of `out`; the same bytes on every `isa`.
/// - Panics: if the keys do not ascend, one is `u64::MAX`, or `out` is shorter.
pub fn pack_keys(isa: Isa, keys: &[u64], out: &mut [u8]) -> usize {
    let bytes_max = packed_keys_bytes_max(keys.len());
    assert!(out.len() >= bytes_max, "{} bytes for {bytes_max} of packed keys", out.len());
    assert_ne!(keys.last(), Some(&u64::MAX), "no key is the largest number");
    isa.run(Pack { keys, out })
}

/// Unpacks as many keys as `keys` has room for.
///
/// - `bytes`: begins with what [`pack_keys`] wrote; what follows is not looked at.
/// - Result: bytes read. `keys` is strictly ascending, none `u64::MAX`, whatever the bytes; the
///   same on every `isa`.
/// - Errors: [`Damaged`]; `keys` then means nothing.
pub fn unpack_keys(isa: Isa, bytes: &[u8], keys: &mut [u64]) -> Result<usize, Damaged> {
    isa.run(Unpack { bytes, keys })
}

struct Pack<'a> {
    keys: &'a [u64],
    out: &'a mut [u8],
}

impl Portable for Pack<'_> {
    type Output = usize;

    #[inline(always)]
    fn scalar(self) -> usize {
        let (mut base, mut written) = (0, 0);
        for block in self.keys.chunks(BLOCK_KEYS) {
            let mut left = block;
            while let Some(&first) = left.first() {
                assert!(first >= base, "key {first} is below {base}");
                let part = choose(left, base);
                let (keys, after) = left.split_at(part.count);
                written += part.pack(keys, base, after.is_empty(), &mut self.out[written..]);
                base = keys[part.count - 1] + 1;
                left = after;
            }
        }
        written
    }
}

/// How the next keys of a block are packed.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Keys in it.
    count: usize,
    /// What is added to `base`.
    apart: u64,
    /// The last `d`.
    sum: u64,
}

impl Part {
    /// All of `keys`, with the first gap apart where that is cheaper.
    #[inline(always)]
    fn cheapest(keys: &[u64], base: u64) -> Part {
        let (count, first, rest) = (keys.len(), keys[0] - base, span(keys));
        let [whole, apart] =
            [(0, first + rest), (first, rest)].map(|(apart, sum)| Part { count, apart, sum });
        if apart.bytes() < whole.bytes() { apart } else { whole }
    }

    /// Low bits a key: then there are less than two unary zeros a key.
    #[inline(always)]
    fn low_bits(self) -> u32 {
        (self.sum / self.count as u64).checked_ilog2().unwrap_or(0).min(LOW_BITS_MAX)
    }

    /// Bytes, but for the one or two that each part begins with.
    #[inline(always)]
    fn bytes(self) -> usize {
        let apart_bytes = if self.apart == 0 { 0 } else { 8 };
        if self.sum == 0 {
            return apart_bytes;
        }
        let unary_bits = self.count + (self.sum >> self.low_bits()) as usize;
        apart_bytes + low::bytes(self.count, self.low_bits()) + unary_bits.div_ceil(8)
    }
}

/// Bytes that a second part costs beside its own: its first one, and the first part's count.
const SPLIT_BYTES: usize = 2;

/// The next part of a block: all of `keys`, less a first gap that is cheaper apart, or only those
/// before a gap that is. Panics if the keys do not ascend.
#[inline(always)]
fn choose(keys: &[u64], base: u64) -> Part {
    let last = keys.len() - 1;
    let sum = (keys[last] - base).checked_sub(last as u64).expect("keys ascend");
    if is_even(keys, base, sum) {
        Part { count: keys.len(), apart: 0, sum }
    } else {
        choose_uneven(keys, base)
    }
}

/// Whether no gap is larger than a quarter of `sum`: then none pays for being told apart. Panics
/// if the keys do not ascend.
#[inline(always)]
fn is_even(keys: &[u64], base: u64, sum: u64) -> bool {
    let limit = sum / 4;
    let (mut wide, mut ascends) = (keys[0] - base > limit, true);
    for (one, two) in keys.iter().zip(&keys[1..]) {
        ascends &= one < two;
        wide |= two.wrapping_sub(*one) > limit;
    }
    assert!(ascends, "keys ascend");
    !wide
}

/// Cuts the part where that makes it shorter, for as long as it does: each cut leaves fewer keys.
#[cold]
#[inline(never)]
fn choose_uneven(keys: &[u64], base: u64) -> Part {
    let mut part = Part::cheapest(keys, base);
    loop {
        let keys = &keys[..part.count];
        let limit = span(keys) / 4;
        let cuts = (1..keys.len()).filter(|&at| keys[at] - keys[at - 1] > limit);
        let before = cuts.into_iter().find_map(|at| {
            let before = Part::cheapest(&keys[..at], base);
            let after = Part::cheapest(&keys[at..], keys[at - 1] + 1);
            (before.bytes() + after.bytes() + SPLIT_BYTES < part.bytes()).then_some(before)
        });
        match before {
            Some(before) => part = before,
            None => return part,
        }
    }
}

/// The keys between the first and the last that are missing.
#[inline(always)]
fn span(keys: &[u64]) -> u64 {
    let last = keys.len() - 1;
    keys[last] - keys[0] - last as u64
}

impl Part {
    /// Writes the part; gives back its bytes.
    #[inline(always)]
    fn pack(self, keys: &[u64], base: u64, is_last: bool, out: &mut [u8]) -> usize {
        let low_bits = self.low_bits();
        let mut first = if self.sum == 0 { RUN } else { low_bits as u8 };
        let mut at = 1;
        if !is_last {
            first |= SHORT;
            out[at] = (self.count - 1) as u8;
            at += 1;
        }
        if self.apart != 0 {
            first |= APART;
            out[at..at + 8].copy_from_slice(&self.apart.to_le_bytes());
            at += 8;
        }
        out[0] = first;
        if self.sum == 0 {
            return at;
        }
        let base = base + self.apart;
        let low_out = &mut out[at..];
        let (words, unary_bits) = if let Ok(keys) = <&[u64; BLOCK_KEYS]>::try_from(keys) {
            let offsets: [u64; BLOCK_KEYS] =
                array::from_fn(|index| keys[index].wrapping_sub(base).wrapping_sub(index as u64));
            low::pack_lanes(&offsets, low_bits, low_out);
            unary(&offsets, low_bits)
        } else {
            let mut offsets = [0; BLOCK_KEYS];
            for (index, (offset, key)) in offsets.iter_mut().zip(keys).enumerate() {
                *offset = key - base - index as u64;
            }
            let offsets = &offsets[..keys.len()];
            low::pack_in_turn(offsets, low_bits, low_out);
            unary(offsets, low_bits)
        };
        at += low::bytes(self.count, low_bits);
        let unary_bytes = unary_bits.div_ceil(8);
        let bytes = words.map(u64::to_le_bytes);
        out[at..at + unary_bytes].copy_from_slice(&bytes.as_flattened()[..unary_bytes]);
        at + unary_bytes
    }
}

/// Keys whose ones are put together in a register before they are stored.
const GROUP: usize = 8;

/// Words that hold a part's unary numbers, and two more: so masking an index stands for a check.
type Unary = [u64; UNARY_WORDS + 2];

/// The unary numbers, and how many bits of them count.
#[inline(always)]
fn unary(offsets: &[u64], low_bits: u32) -> (Unary, usize) {
    let mut words = [0; UNARY_WORDS + 2];
    let (groups, rest) = offsets.as_chunks::<GROUP>();
    let place = |index: usize, offset: u64| (offset >> low_bits) + index as u64;
    for (number, offsets) in groups.iter().enumerate() {
        let places: [u64; GROUP] =
            array::from_fn(|lane| place(number * GROUP + lane, offsets[lane]));
        let first = places[0];
        if places[GROUP - 1] - first < 64 {
            let ones =
                places.map(|place| 1 << (place - first)).iter().fold(0, |all, one| all | one);
            let (word, shift) = (first as usize / 64, first % 64);
            words[word % words.len()] |= ones << shift;
            words[(word + 1) % words.len()] |= ones >> 1 >> (63 - shift);
        } else {
            places.iter().for_each(|place| set(&mut words, *place));
        }
    }
    for (lane, offset) in rest.iter().enumerate() {
        set(&mut words, place(groups.len() * GROUP + lane, *offset));
    }
    (words, place(offsets.len(), offsets[offsets.len() - 1]) as usize)
}

#[inline(always)]
fn set(words: &mut Unary, place: u64) {
    words[(place / 64) as usize % words.len()] |= 1 << (place % 64);
}

struct Unpack<'a> {
    bytes: &'a [u8],
    keys: &'a mut [u64],
}

impl Portable for Unpack<'_> {
    type Output = Result<usize, Damaged>;

    #[inline(always)]
    fn scalar(self) -> Result<usize, Damaged> {
        let (mut base, mut read, mut index) = (0, 0, 0);
        for block in self.keys.chunks_mut(BLOCK_KEYS) {
            let mut left = block;
            while !left.is_empty() {
                let head = Head::read(&self.bytes[read..], left.len(), index)?;
                read += head.bytes;
                let (keys, after) = left.split_at_mut(head.count);
                let ascending = Damaged::NotAscending { index };
                let start = head.apart.checked_add(base).ok_or(ascending)?;
                read += head.unpack(&self.bytes[read..], keys, start, index)?;
                if !ascends(keys, start) {
                    return Err(ascending);
                }
                base = keys[head.count - 1] + 1;
                index += head.count;
                left = after;
            }
        }
        Ok(read)
    }
}

/// What a part begins with.
#[derive(Clone, Copy, Debug)]
struct Head {
    low_bits: u8,
    count: usize,
    apart: u64,
    bytes: usize,
}

impl Head {
    #[inline(always)]
    fn read(bytes: &[u8], left: usize, index: usize) -> Result<Head, Damaged> {
        let [first] = take(bytes)?;
        let mut head = Head { low_bits: first & LOW_BITS, count: left, apart: 0, bytes: 1 };
        if first & SHORT != 0 {
            let [count] = take(&bytes[head.bytes..])?;
            head.count = usize::from(count) + 1;
            head.bytes += 1;
            if head.count > left {
                return Err(Damaged::TooMany { index, count: head.count, left });
            }
        }
        if first & APART != 0 {
            head.apart = u64::from_le_bytes(take(&bytes[head.bytes..])?);
            head.bytes += 8;
        }
        Ok(head)
    }

    /// Writes the keys, which may not ascend; gives back the bytes read.
    #[inline(always)]
    fn unpack(
        self,
        bytes: &[u8],
        keys: &mut [u64],
        start: u64,
        index: usize,
    ) -> Result<usize, Damaged> {
        if self.low_bits == RUN {
            for (key, index) in keys.iter_mut().zip(0..) {
                *key = start.wrapping_add(index);
            }
            return Ok(0);
        }
        let low_bits = u32::from(self.low_bits);
        let low_bytes = low::bytes(self.count, low_bits);
        let Some((low, rest)) = bytes.split_at_checked(low_bytes) else {
            return Err(Damaged::TooShort { have_bytes: bytes.len(), need_bytes: low_bytes });
        };
        let mut places = [0; PLACES];
        let unary_bytes = read_unary(rest, self.count, index, &mut places)?;
        if let Ok(keys) = <&mut [u64; BLOCK_KEYS]>::try_from(&mut *keys) {
            low::unpack_lanes(low, low_bits, keys);
        } else {
            low::unpack_in_turn(low, low_bits, keys);
        }
        for (index, (key, place)) in keys.iter_mut().zip(&places).enumerate() {
            let high = u64::from(*place).wrapping_sub(index as u64) << low_bits;
            *key = key.wrapping_add(high).wrapping_add(index as u64).wrapping_add(start);
        }
        Ok(low_bytes + unary_bytes)
    }
}

#[inline(always)]
fn take<const BYTES: usize>(bytes: &[u8]) -> Result<[u8; BYTES], Damaged> {
    let too_short = Damaged::TooShort { have_bytes: bytes.len(), need_bytes: BYTES };
    bytes.first_chunk().copied().ok_or(too_short)
}

/// Whether the keys ascend strictly from `start` on and end below `u64::MAX`. Nothing else about
/// the bytes needs to be believed.
#[inline(always)]
fn ascends(keys: &[u64], start: u64) -> bool {
    let ends = keys[0] >= start && keys[keys.len() - 1] != u64::MAX;
    keys.iter().zip(&keys[1..]).fold(ends, |ascends, (one, two)| ascends & (one < two))
}

/// Places of ones: one for each key, and room for the ones of a last byte.
const PLACES: usize = BLOCK_KEYS + 8;

/// `ONES[b]`: the places of the ones of byte `b`, ascending, then what means nothing.
static ONES: [[u16; 8]; 256] = ones();

const fn ones() -> [[u16; 8]; 256] {
    let mut ones = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut count) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                ones[byte][count] = bit as u16;
                count += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    ones
}

/// The places of the first `count` ones; gives back the bytes up to the last of them.
#[inline(always)]
fn read_unary(
    bytes: &[u8],
    count: usize,
    index: usize,
    places: &mut [u16; PLACES],
) -> Result<usize, Damaged> {
    let window = &bytes[..bytes.len().min(UNARY_BYTES_MAX)];
    let mut found = 0;
    for (number, &byte) in window.iter().enumerate() {
        let first = 8 * number as u16;
        places[found..found + 8].copy_from_slice(&ONES[usize::from(byte)].map(|one| first + one));
        found += byte.count_ones() as usize;
        if found >= count {
            return if found == count { Ok(number + 1) } else { Err(Damaged::Unary { index }) };
        }
    }
    if window.len() == UNARY_BYTES_MAX {
        return Err(Damaged::Unary { index });
    }
    Err(Damaged::TooShort { have_bytes: window.len(), need_bytes: window.len() + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;
    use proptest::prelude::*;

    /// Packs on every level, checks that all wrote the same, and that each reads all of it back.
    fn packed(keys: &[u64]) -> Vec<u8> {
        let pack = |isa| {
            let mut out = vec![0xA5; packed_keys_bytes_max(keys.len())];
            let bytes = pack_keys(isa, keys, &mut out);
            out.truncate(bytes);
            out
        };
        let expected = pack(Isa::scalar());
        for isa in Isa::available() {
            assert_eq!(pack(isa), expected, "{isa:?}");
            let mut back = vec![7; keys.len()];
            assert_eq!(unpack_keys(isa, &expected, &mut back), Ok(expected.len()), "{isa:?}");
            assert_eq!(back, keys, "{isa:?}");
        }
        expected
    }

    /// Gaps of about `mean`, each as probable as in a random choice of keys.
    fn random_keys(seed: u64, count: usize, mean: f64) -> Vec<u64> {
        let mut key = 0;
        let gap = |index: u64| {
            let unit = (mix(seed ^ mix(index)) >> 11) as f64 / (1_u64 << 53) as f64;
            (-(1.0 - unit).ln() * mean) as u64
        };
        let mut keys: Vec<u64> = Vec::with_capacity(count);
        for index in 0..count as u64 {
            key += gap(index) + u64::from(index > 0);
            keys.push(key);
        }
        keys
    }

    /// Keys in ranges far apart, dense in some of them.
    fn clustered(seed: u64, count: usize) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..count as u64)
            .map(|index| {
                let draw = mix(seed ^ mix(index));
                let spread = [0, 3, 20, 40][(draw >> 60) as usize % 4];
                ((draw & 7) << 58) + index + (draw >> 10) % (1 << spread)
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn bits_a_key(keys: &[u64]) -> f64 {
        8.0 * packed(keys).len() as f64 / keys.len() as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn keys_come_back_and_every_level_writes_the_same_bytes(
            seed: u64, count in 0_usize..700, mean_bits in 0_u32..54,
        ) {
            packed(&random_keys(seed, count, (1_u64 << mean_bits) as f64));
            packed(&clustered(seed, count));
        }

        #[test]
        fn any_keys_come_back(mut keys in prop::collection::btree_set(0..u64::MAX, 0..300)) {
            keys.insert(u64::MAX - 1);
            packed(&keys.into_iter().collect::<Vec<u64>>());
        }

        #[test]
        fn whatever_the_bytes_keys_ascend_or_the_bytes_are_damaged(
            bytes in prop::collection::vec(any::<u8>(), 0..600), count in 0_usize..300,
        ) {
            check_unpacks_alike(&bytes, count);
        }

        #[test]
        fn a_changed_byte_is_damage_or_other_keys_that_ascend(
            seed: u64, count in 1_usize..300, at: usize, byte: u8, keep: usize,
        ) {
            let mut bytes = packed(&clustered(seed, count));
            let at = at % bytes.len();
            bytes[at] = byte;
            check_unpacks_alike(&bytes, count);
            check_unpacks_alike(&bytes[..keep % bytes.len()], count);
        }
    }

    fn check_unpacks_alike(bytes: &[u8], count: usize) {
        let mut expected = None;
        for isa in Isa::available() {
            let mut keys = vec![0; count];
            let read = unpack_keys(isa, bytes, &mut keys);
            if read.is_ok() {
                assert!(keys.is_sorted_by(|one, two| one < two), "{keys:?}");
                assert_ne!(keys.last(), Some(&u64::MAX));
            } else {
                keys.clear(); // They mean nothing.
            }
            assert_eq!(expected.get_or_insert((read, keys.clone())), &(read, keys));
        }
    }

    #[test]
    fn a_cut_off_list_is_too_short_wherever_it_is_cut() {
        let keys = clustered(3, 500);
        let bytes = packed(&keys);
        for len in 0..bytes.len() {
            let read = unpack_keys(Isa::detect(), &bytes[..len], &mut vec![0; keys.len()]);
            assert!(matches!(read, Err(Damaged::TooShort { .. })), "{len}: {read:?}");
        }
    }

    /// A part of `count` keys with these low bits a key, the low bits all in one byte, and unary
    /// numbers of one byte.
    fn part(low_bits: u8, low: u8, unary: u8) -> Vec<u8> {
        let low = if low_bits == 0 { vec![] } else { vec![low] };
        [vec![low_bits], low, vec![unary]].concat()
    }

    #[test]
    fn parts_whose_keys_do_not_ascend_are_damage() {
        let run = |apart: u64| [&[RUN | APART][..], &apart.to_le_bytes()].concat();
        let cases = [
            ("two keys that are equal", 2, part(2, 0b00_01, 0b11)),
            ("a later key that is smaller", 2, part(3, 0b000_101, 0b11)),
            ("the largest number", 1, run(u64::MAX)),
            ("a run beyond the largest number", 3, run(u64::MAX - 2)),
        ];
        for (what, count, bytes) in cases {
            for isa in Isa::available() {
                let unpacked = unpack_keys(isa, &bytes, &mut vec![0; count]);
                assert_eq!(unpacked, Err(Damaged::NotAscending { index: 0 }), "{what}");
            }
        }
        for isa in Isa::available() {
            let unpacked = unpack_keys(isa, &part(0, 0, 0b111), &mut [0; 2]);
            assert_eq!(unpacked, Err(Damaged::Unary { index: 0 }), "a one too many");
        }
        // A second part whose key comes to lie below the first by going beyond the largest number.
        let first = [&[SHORT | RUN | APART, 0][..], &7_u64.to_le_bytes()].concat();
        let low = (1_u64 << LOW_BITS_MAX) - 5;
        let second = [&[LOW_BITS_MAX as u8][..], &low.to_le_bytes(), &[0b1000]].concat();
        for isa in Isa::available() {
            let unpacked = unpack_keys(isa, &[&first[..], &second].concat(), &mut [0; 2]);
            assert_eq!(unpacked, Err(Damaged::NotAscending { index: 1 }));
        }
    }

    #[test]
    fn random_keys_take_two_bits_more_than_their_gaps_logarithm() {
        for mean_bits in [3.0, 7.3, 13.5, 22.0, 44.8, 50.0_f64] {
            let bits = bits_a_key(&random_keys(1, 10_000, mean_bits.exp2()));
            assert!(bits < mean_bits + 2.2, "{bits} bits for gaps of 2^{mean_bits}");
        }
    }

    #[test]
    fn a_run_takes_a_byte_a_block_and_a_dense_list_less_than_two_bits_a_key() {
        let run: Vec<u64> = (1 << 40..(1 << 40) + 1280).collect();
        assert_eq!(packed(&run).len(), 10 + 8);
        let dense: Vec<u64> = (0..10_000).filter(|&key| !mix(key).is_multiple_of(3)).collect();
        assert!(bits_a_key(&dense) < 1.7, "{}", bits_a_key(&dense));
    }

    #[test]
    fn clusters_far_apart_cost_little_more_than_each_alone() {
        let cluster = |number: u64| (0..50).map(move |key| (number << 50) + 3 * key);
        let keys: Vec<u64> = (0..100).flat_map(cluster).collect();
        assert!(bits_a_key(&keys) < 5.5, "{}", bits_a_key(&keys));
    }

    #[test]
    fn no_list_is_longer_than_its_bound() {
        for count in 0..400 {
            let step = u64::MAX / (count.max(1));
            packed(&(0..count).map(|index| index * step).collect::<Vec<u64>>());
            packed(
                &(0..count).map(|index| u64::MAX - 1 - 3 * (count - index)).collect::<Vec<u64>>(),
            );
        }
        packed(&[u64::MAX - 1]);
    }

    #[test]
    #[should_panic(expected = "ascend")]
    fn keys_that_do_not_ascend_are_a_broken_promise() {
        pack_keys(Isa::detect(), &[5, 3, 9], &mut [0; 64]);
    }
}
