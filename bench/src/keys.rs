//! Keys of a load: which are resident, and the batches that requests are made of.
//!
//! Owns drawing them, before anything is timed.
//!
//! Invariant: a batch is strictly ascending, as `Session::split` wants it, and each of its keys is
//! resident.

use crate::random::{Random, Zipf, mix};
use crate::spec::PushPullSpec;

/// Least batches, so that a small table's load does not repeat after a few requests.
const BATCHES_MIN: usize = 64;

/// Most batches under Zipf's law, whose draws are slow.
const BATCHES_ZIPF_MAX: usize = 128;

/// Draws a wanted key under Zipf's law before the batch is filled up with the most frequent keys
/// that it lacks: a steep law draws the same few again and again.
const ZIPF_DRAWS_PER_KEY: usize = 16;

/// The keys of one run.
#[derive(Debug)]
pub(crate) struct KeySet {
    /// Every resident key once, cut into sorted batches; in this order rows are created.
    pub(crate) load: Vec<Vec<u64>>,
    /// Requests of the timed phases.
    pub(crate) batches: Vec<Vec<u64>>,
}

impl KeySet {
    /// Draws all keys of a run.
    ///
    /// Rows are created in an order that has nothing to do with the order of keys within a
    /// request, as in a table that grew while it was used.
    pub(crate) fn draw(spec: &PushPullSpec) -> KeySet {
        let mut random = Random::new(spec.seed);
        let salt = random.bits();
        // A bijection: distinct numbers give distinct keys, spread over 64 bits as hashes are.
        let key_of = |number: u64| match mix(number ^ salt) {
            u64::MAX => mix(u64::MAX ^ salt), // `u64::MAX` is no key; no resident has this number.
            key => key,
        };
        let mut keys: Vec<u64> = (0..spec.resident_keys as u64).map(key_of).collect();
        random.shuffle(&mut keys);
        let load = keys.chunks(spec.keys_per_request).map(sorted).collect();
        // Ranks under Zipf's law must not follow the order of creation either.
        random.shuffle(&mut keys);
        let batches = match spec.zipf_exponent == 0.0 {
            true => uniform(spec, &mut keys, &mut random),
            false => zipf(spec, &keys, &mut random),
        };
        KeySet { load, batches }
    }
}

fn sorted(keys: &[u64]) -> Vec<u64> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys
}

/// Each pass over the resident keys is a new permutation of them, cut into batches: every row is
/// touched once before any is touched again, so that no cache helps that could not hold them all.
fn uniform(spec: &PushPullSpec, keys: &mut [u64], random: &mut Random) -> Vec<Vec<u64>> {
    let mut batches = Vec::new();
    loop {
        batches.extend(keys.chunks_exact(spec.keys_per_request).map(sorted));
        if batches.len() >= BATCHES_MIN {
            return batches;
        }
        random.shuffle(keys);
    }
}

/// Batches of distinct keys, drawn under Zipf's law until there are enough different ones.
fn zipf(spec: &PushPullSpec, keys: &[u64], random: &mut Random) -> Vec<Vec<u64>> {
    let law = Zipf::new(keys.len(), spec.zipf_exponent);
    let wanted = spec.keys_per_request;
    let count = (2 * keys.len() / wanted).clamp(BATCHES_MIN, BATCHES_ZIPF_MAX);
    let mut drawn_by = vec![usize::MAX; keys.len()];
    let mut batch_of = |batch: usize| {
        let mut ranks = Vec::with_capacity(wanted);
        let draws = (0..wanted * ZIPF_DRAWS_PER_KEY).map(|_| law.draw(random));
        for rank in draws.chain(0..keys.len()) {
            if ranks.len() == wanted {
                break;
            }
            if std::mem::replace(&mut drawn_by[rank], batch) != batch {
                ranks.push(keys[rank]);
            }
        }
        sorted(&ranks)
    };
    (0..count).map(&mut batch_of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn spec(zipf_exponent: f64) -> PushPullSpec {
        PushPullSpec {
            keys_per_request: 100,
            resident_keys: 1050,
            zipf_exponent,
            ..PushPullSpec::default()
        }
    }

    #[test]
    fn every_resident_key_is_loaded_once() {
        let keys = KeySet::draw(&spec(0.0));
        let loaded: Vec<u64> = keys.load.concat();
        assert_eq!(loaded.len(), 1050);
        assert_eq!(loaded.iter().collect::<HashSet<_>>().len(), 1050);
    }

    #[test]
    fn a_batch_holds_ascending_resident_keys_as_many_as_a_request_has() {
        for exponent in [0.0, 0.99, 3.0] {
            let keys = KeySet::draw(&spec(exponent));
            let resident: HashSet<u64> = keys.load.concat().into_iter().collect();
            assert!(keys.batches.len() >= BATCHES_MIN);
            for batch in &keys.batches {
                assert_eq!(batch.len(), 100, "exponent {exponent}");
                assert!(batch.is_sorted_by(|one, next| one < next), "exponent {exponent}");
                assert!(batch.iter().all(|key| resident.contains(key)));
            }
        }
    }

    #[test]
    fn the_seed_decides_the_keys() {
        let draw = |seed| KeySet::draw(&PushPullSpec { seed, ..spec(0.0) }).batches;
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
