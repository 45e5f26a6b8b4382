//! What pushes have held back, by key: added to the key's next push.
//!
//! Owns the rows and their bound. What is held back is left to `values`.
//!
//! Invariant: a key that has no place has nothing held back, so a full map holds back less and
//! loses nothing but what a codec's rounding loses anyway.

use super::Dictionary;

/// Floats that are kept for one table at most, 256 MiB of them.
pub(crate) const RESIDUAL_FLOATS_MAX: usize = 1 << 26;

/// Rows by key.
#[derive(Debug, Default)]
pub(crate) struct Residuals {
    places: Dictionary,
    rows: Vec<f32>,
}

impl Residuals {
    /// The row of a key, which gets a row of zeros if it has none yet and there is room.
    ///
    /// - `width`: floats a row, the same each time.
    pub(crate) fn row_mut(&mut self, key: u64, width: usize) -> Option<&mut [f32]> {
        let place = match self.places.number(key) {
            Some(place) => place as usize,
            None if self.rows.len() + width > RESIDUAL_FLOATS_MAX => return None,
            None if !self.places.has_room(1) => return None,
            None => {
                self.rows.resize(self.rows.len() + width, 0.0);
                self.places.learn(key) as usize
            }
        };
        Some(&mut self.rows[place * width..][..width])
    }

    /// Adds what a key has held back to `row`, and holds back nothing.
    pub(crate) fn take_into(&mut self, key: u64, row: &mut [f32]) {
        let width = row.len();
        let Some(place) = self.places.number(key) else { return };
        let held = &mut self.rows[place as usize * width..][..width];
        for (value, held) in row.iter_mut().zip(held) {
            *value += std::mem::take(held);
        }
    }
}
