//! Hashing names to keys.
//!
//! Owns the function from a feature's name to its 64-bit key, over the bijection of `kernels`: a
//! short name that already lies in a word costs one `mix`. Which bytes make a name is left to the
//! formats. A model on disk is useless under another function, so:
//!
//! Invariant: the values never change, on any machine, in any version. `tests` hold golden values.

pub(crate) use kernels::hash::mix;

/// The largest key a reader produces. `u64::MAX` is reserved: tables mark an empty slot with it.
pub const KEY_MAX: u64 = u64::MAX - 1;

/// The key of the constant feature that is appended to each row. Its highest bit is set, and a
/// LibSVM feature number stays below 2^63, so that the two never meet.
pub const INTERCEPT_KEY: u64 = hash_bytes(0, b"intercept") | 1 << 63;

/// The key of feature `name` in `namespace`, as VW text names it. A CSV or Parquet column is its
/// values' namespace, so the category `blue` of column `colour` is `feature_key("colour", "blue")`.
pub fn feature_key(namespace: &[u8], name: &[u8]) -> u64 {
    key_of(hash_bytes(namespace_seed(namespace), name))
}

/// The seed under which the names of `namespace` are hashed.
pub(crate) const fn namespace_seed(namespace: &[u8]) -> u64 {
    hash_bytes(NAMESPACE_SEED, namespace)
}

const NAMESPACE_SEED: u64 = 0x6772_6164_7769_7265; // "gradwire"

/// Keeps a hash off the reserved key.
#[inline]
pub(crate) const fn key_of(hash: u64) -> u64 {
    if hash > KEY_MAX { KEY_MAX } else { hash }
}

/// Hashes `bytes`: eight at a time, as a little-endian word, the last one filled up with zeros.
///
/// Because `mix` is a bijection, two names of at most eight bytes without zero bytes never
/// collide under one seed. Names that differ only in zero bytes at their end do collide.
pub(crate) const fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let (mut hash, mut rest) = (seed, bytes);
    while rest.len() > 8 {
        let (word, tail) = rest.split_at(8);
        hash = mix(hash ^ short_word(word)).wrapping_add(CHAIN);
        rest = tail;
    }
    hash_word(hash, short_word(rest))
}

/// `hash_bytes` of a name of at most eight bytes that already lies in a word.
#[inline]
pub(crate) const fn hash_word(seed: u64, word: u64) -> u64 {
    mix(seed ^ word)
}

const CHAIN: u64 = 0x9e37_79b9_7f4a_7c15;

const fn short_word(bytes: &[u8]) -> u64 {
    if let Some(whole) = bytes.first_chunk::<8>() {
        return u64::from_le_bytes(*whole);
    }
    let (mut word, mut index) = (0, 0);
    while index < bytes.len() {
        word |= (bytes[index] as u64) << (8 * index);
        index += 1;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_stay_what_they_were_when_the_first_model_was_written() {
        let golden = [
            hash_bytes(0, b""),
            hash_bytes(0, b"a"),
            hash_bytes(1, b"a"),
            hash_bytes(7, b"eight by"),
            hash_bytes(7, b"nine byte"),
            hash_bytes(7, b"a name of more than sixteen bytes"),
            feature_key(b"f", b"137909"),
            INTERCEPT_KEY,
        ];
        assert_eq!(golden, GOLDEN, "{golden:#x?}");
    }

    const GOLDEN: [u64; 8] = [
        0x0,
        0x7323_5dcf_488c_fc1e,
        0x13a1_e1a9_37f7_1c10,
        0x0bcd_41e2_f0e9_9b3e,
        0x175f_7e19_1493_e681,
        0xfcd2_9e82_ad85_7d11,
        0x4b6b_74a6_862c_5c66,
        0xbb60_fc81_9a55_cc59,
    ];

    #[test]
    fn the_intercept_lies_above_every_feature_number_and_below_the_reserved_key() {
        assert!((1 << 63..=KEY_MAX).contains(&INTERCEPT_KEY));
        assert_eq!(key_of(u64::MAX), KEY_MAX);
    }
}
