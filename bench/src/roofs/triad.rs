//! Memory in order: STREAM's triad, `a[i] = b[i] + s · c[i]`, on one core.
//!
//! Source: McCalpin, "Memory bandwidth and machine balance", 1995. The roof stores past the cache,
//! so that all bytes that move are counted. With stores through the cache the line that a store
//! overwrites is fetched first and not counted, as STREAM does not count it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::{Isa, stream};
use memory::Arena;

use super::{RoofError, arena};

/// Bytes of the three arrays together, unless told: three times a very large last-level cache.
pub const TRIAD_BYTES: usize = 1 << 30;

/// Bytes an element: two loads and a store of f32.
const ELEMENT_BYTES: usize = 12;

/// Numbers in a line of the cache, of which an array has a whole count.
pub(crate) const LINE_FLOATS: usize = 16;

/// Lines in a page.
const PAGE_LINES: usize = 64;

/// How the triad writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// Without fetching what is overwritten. The roof.
    PastCache,
    /// As a program does that says nothing about it.
    ThroughCache,
}

/// The three arrays, one behind the other.
#[derive(Debug)]
pub struct Triad {
    arrays: Arena<f32>,
    isa: Isa,
}

impl Triad {
    /// Maps and touches [`TRIAD_BYTES`].
    ///
    /// - Errors: the kernel gives no memory.
    pub fn new() -> Result<Triad, RoofError> {
        Triad::of_bytes(TRIAD_BYTES)
    }

    /// Maps and touches three arrays of nearly so many bytes together.
    ///
    /// - Errors: the kernel gives no memory.
    /// - Panics: if that is less than a few lines of the cache.
    pub fn of_bytes(bytes: usize) -> Result<Triad, RoofError> {
        let lines = lines_apart(bytes / ELEMENT_BYTES / LINE_FLOATS, 3);
        assert!(lines > 0, "{bytes} bytes of arrays");
        let mut arrays = arena(3 * lines * LINE_FLOATS)?;
        arrays.as_mut_slice().fill(1.0);
        Ok(Triad { arrays, isa: Isa::detect() })
    }

    /// Walks the arrays for at least `duration`, and once, storing past the cache. In GB/s.
    pub fn gb_per_s(&mut self, duration: Duration) -> f64 {
        self.gb_per_s_by(Stores::PastCache, duration)
    }

    /// As [`Triad::gb_per_s`], with these stores.
    pub fn gb_per_s_by(&mut self, stores: Stores, duration: Duration) -> f64 {
        let (start, mut passes) = (Instant::now(), 0_usize);
        loop {
            self.pass(stores);
            passes += 1;
            let elapsed = start.elapsed();
            if elapsed >= duration {
                return (passes * self.bytes()) as f64 / elapsed.as_secs_f64() / 1e9;
            }
        }
    }

    /// Bytes that a pass reads and writes.
    pub fn bytes(&self) -> usize {
        self.arrays.len() / 3 * ELEMENT_BYTES
    }

    /// Walks the arrays once.
    pub fn pass(&mut self, stores: Stores) {
        let floats = self.arrays.len() / 3;
        let (a, sources) = self.arrays.as_mut_slice().split_at_mut(floats);
        let (b, c) = sources.split_at(floats);
        let factor = black_box(0.5);
        match stores {
            Stores::PastCache => stream::triad(self.isa, a, b, c, factor),
            Stores::ThroughCache => through_cache(a, b, c, factor),
        }
        black_box(a);
    }
}

/// A length of nearly `lines` lines of the cache, such that arrays of it that lie one behind the
/// other start apart within a page: those that start alike, or a line apart, hinder each other.
pub(crate) fn lines_apart(lines: usize, arrays: usize) -> usize {
    match lines.checked_sub(2 * PAGE_LINES) {
        Some(fewer) => fewer.next_multiple_of(PAGE_LINES) + ((PAGE_LINES / arrays) | 1),
        None => lines,
    }
}

fn through_cache(a: &mut [f32], b: &[f32], c: &[f32], factor: f32) {
    for (a, (b, c)) in a.iter_mut().zip(b.iter().zip(c)) {
        *a = b + factor * c;
    }
}
