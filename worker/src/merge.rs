//! Makes of any pairs of key and delta the sorted, distinct ones that a push carries.
//!
//! Owns the sort and the sums. Learners whose batches are sorted already do not need it.
//!
//! Invariant: deltas of one key are added in the order in which they came, so the sums have the
//! same bits in each run.

/// Sorts keys with their deltas and adds up the deltas of equal keys. Keeps its buffers.
#[derive(Debug, Default)]
pub struct Merger {
    order: Vec<(u64, u32)>,
    sums: Vec<f32>,
}

impl Merger {
    /// A merger without buffers yet.
    pub fn new() -> Merger {
        Merger::default()
    }

    /// Sorts `keys` ascending, sums the deltas of equal ones, and cuts both to what is left.
    ///
    /// - `deltas`: `[keys.len(), width]` f32, row after row, in the keys' order.
    /// - Panics: if the lengths do not fit, or there are 2^32 keys or more.
    pub fn merge(&mut self, keys: &mut Vec<u64>, deltas: &mut Vec<f32>, width: usize) {
        assert_eq!(deltas.len(), keys.len() * width, "{} keys of width {width}", keys.len());
        if keys.windows(2).fold(true, |all, pair| all & (pair[0] < pair[1])) {
            return;
        }
        let count = u32::try_from(keys.len()).expect("fewer than 2^32 keys");
        self.order.clear();
        self.order.extend(keys.iter().copied().zip(0..count));
        self.order.sort_unstable();
        self.sums.clear();
        self.sums.reserve(deltas.len());
        keys.clear();
        for &(key, at) in &self.order {
            let delta = &deltas[at as usize * width..][..width];
            if keys.last() == Some(&key) {
                let start = self.sums.len() - width;
                for (sum, delta) in self.sums[start..].iter_mut().zip(delta) {
                    *sum += delta;
                }
            } else {
                keys.push(key);
                self.sums.extend_from_slice(delta);
            }
        }
        std::mem::swap(deltas, &mut self.sums);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sorted_distinct_keys_pass_untouched() {
        let (mut keys, mut deltas) = (vec![1, 4, 9], vec![1.0, 2.0, 3.0]);
        Merger::new().merge(&mut keys, &mut deltas, 1);
        assert_eq!((keys, deltas), (vec![1, 4, 9], vec![1.0, 2.0, 3.0]));
    }

    proptest! {
        #[test]
        fn merging_equals_adding_up_in_a_map_in_the_order_of_arrival(
            keys in proptest::collection::vec(0_u64..20, 0..60), width in 1_usize..5,
        ) {
            let deltas: Vec<f32> =
                (0..keys.len() * width).map(|value| 0.1 * value as f32).collect();
            let mut expected: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
            for (key, delta) in keys.iter().zip(deltas.chunks(width)) {
                match expected.get_mut(key) {
                    Some(sum) => sum.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += delta),
                    None => {
                        expected.insert(*key, delta.to_vec());
                    }
                }
            }
            let (mut merged_keys, mut merged) = (keys, deltas);
            Merger::new().merge(&mut merged_keys, &mut merged, width);
            prop_assert_eq!(merged_keys, expected.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(merged, expected.into_values().flatten().collect::<Vec<_>>());
        }
    }
}
