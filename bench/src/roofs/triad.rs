//! Memory in order: STREAM's triad, `a[i] = b[i] + s · c[i]`, on one core.
//!
//! Source: McCalpin, "Memory bandwidth and machine balance", 1995. Plain stores: the line that a
//! store fetches before it is overwritten is not counted, as STREAM does not count it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use memory::Arena;

use super::{RoofError, arena};

/// Length of each of the three arrays, in f32: 64 MiB, twice a large last-level cache.
const ARRAY_FLOATS: usize = 16 << 20;

/// Bytes an element: two loads and a store of f32.
const ELEMENT_BYTES: usize = 12;

/// The three arrays.
#[derive(Debug)]
pub struct Triad {
    a: Arena<f32>,
    b: Arena<f32>,
    c: Arena<f32>,
}

impl Triad {
    /// Maps and touches the arrays.
    ///
    /// - Errors: the kernel gives no memory.
    pub fn new() -> Result<Triad, RoofError> {
        let filled = |value: f32| -> Result<Arena<f32>, RoofError> {
            let mut floats = arena(ARRAY_FLOATS)?;
            floats.as_mut_slice().fill(value);
            Ok(floats)
        };
        Ok(Triad { a: filled(1.0)?, b: filled(2.0)?, c: filled(3.0)? })
    }

    /// Walks the arrays for at least `duration`, and once. In GB/s.
    pub fn gb_per_s(&mut self, duration: Duration) -> f64 {
        let (start, mut passes) = (Instant::now(), 0_usize);
        loop {
            let factor = black_box(0.5);
            let sources = self.b.as_slice().iter().zip(self.c.as_slice());
            for (a, (b, c)) in self.a.as_mut_slice().iter_mut().zip(sources) {
                *a = b + factor * c;
            }
            black_box(self.a.as_slice());
            passes += 1;
            let elapsed = start.elapsed();
            if elapsed >= duration {
                let bytes = passes * ARRAY_FLOATS * ELEMENT_BYTES;
                return bytes as f64 / elapsed.as_secs_f64() / 1e9;
            }
        }
    }
}
