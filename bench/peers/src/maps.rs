//! The table's work on a hash map of the best kind there is off the shelf.
//!
//! No message, no check, no admission: keys, rows and arithmetic only, which is less than a shard
//! does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::work::{DIM, Figures, REQUEST_KEYS, Random};

/// SGD's rate.
const RATE: f32 = 1.0 / 1024.0;

/// A resident map and its load.
pub(crate) struct Maps {
    rows: HashMap<u64, [f32; DIM], FixedState>,
    batches: Vec<Vec<u64>>,
    message: Vec<[f32; DIM]>,
}

impl Maps {
    pub(crate) fn new() -> Maps {
        let mut random = Random(1);
        let mut keys = random.keys();
        let mut rows = HashMap::with_hasher(FixedState::default());
        rows.extend(keys.iter().map(|&key| (key, [1.0; DIM])));
        random.shuffle(&mut keys);
        let batches = keys.chunks_exact(REQUEST_KEYS).map(|keys| {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys
        });
        Maps { rows, batches: batches.collect(), message: vec![[1.0; DIM]; REQUEST_KEYS] }
    }

    pub(crate) fn measure(&mut self, phase: Duration) -> Figures {
        let update = rows_per_s(&self.batches, phase, |keys| {
            for (key, delta) in keys.iter().zip(&self.message) {
                let row = self.rows.entry(*key).or_insert([0.0; DIM]);
                for (value, delta) in row.iter_mut().zip(delta) {
                    *value -= RATE * delta;
                }
            }
        });
        let gather = rows_per_s(&self.batches, phase, |keys| {
            for (key, out) in keys.iter().zip(&mut self.message) {
                *out = self.rows.get(key).copied().unwrap_or([0.0; DIM]);
            }
            black_box(&self.message);
        });
        vec![
            ("table, update, M rows_per_s", update / 1e6),
            ("table, gather, M rows_per_s", gather / 1e6),
        ]
    }
}

fn rows_per_s(batches: &[Vec<u64>], phase: Duration, mut work: impl FnMut(&[u64])) -> f64 {
    let (start, mut rows) = (Instant::now(), 0);
    for keys in batches.iter().cycle() {
        work(keys);
        rows += keys.len();
        if start.elapsed() >= phase {
            break;
        }
    }
    rows as f64 / start.elapsed().as_secs_f64()
}
