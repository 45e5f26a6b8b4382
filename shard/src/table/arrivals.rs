//! Many keys that come to an index about in the order of its lines: those of pages.
//!
//! Owns how each is found or added with one look at its lines, and that their pages are there by
//! then. Where a key lies is left to `index`.

use kernels::lines::{self, Payload, Put};
use memory::First;

use super::index::Index;

impl Index {
    /// Asks for the pages of all lines: keys for all of them come soon, in the order of lines.
    pub(crate) fn fill_all(&mut self) {
        let lines = self.shape.lines();
        self.lines.fill_ahead(0..lines, First::Low);
        self.filled = self.filled.max(lines);
    }

    /// Finds a key and adds it if it is absent, after [`Index::reserve`]. Best for many keys that
    /// come about in the order of lines.
    ///
    /// - Result: what a search for it gives now, and whether it was there.
    pub(crate) fn find_or_insert(&mut self, key: u64, payload: &Payload) -> (u32, bool) {
        if let Some(&place) = self.strays.get(&key) {
            return (self.beside(place), true);
        }
        let lines = self.lines.as_mut_slice();
        let put = lines::put(lines, self.layout, self.shape, key, payload, &mut self.watch);
        let added = match put {
            Some(Put::WasThere(place)) => return (self.beside(place), true),
            Some(Put::Added(inserted)) => Some(inserted),
            None => None,
        };
        self.count_added();
        let place = self.note_put(key, payload, added);
        (self.beside(place), false)
    }

    /// Asks the cache for what [`Index::find_or_insert`] of a key looks at.
    pub(crate) fn prefetch(&self, key: u64) {
        lines::prefetch_put(self.lines.as_slice(), self.layout, self.shape, key);
    }

    /// Whether so many more keys have room as it is.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.growth.is_none()
            && self.taken + more <= Index::keys_of(self.layout, self.shape.lines())
    }
}
