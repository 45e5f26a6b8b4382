//! Pulls under way, and the values that come of them.
//!
//! Owns the places of pulls. An answer that is alone stays in the slot where it landed, and
//! [`Values`] is a view of it; parts from several shards or messages are copied to their keys'
//! places as they come, so that they never keep a ring full.
//!
//! Invariant: a place is free, or its ticket exists once.

use std::ops::Range;
use std::rc::Rc;

use transport::RecvSlot;
use wire::{Clock, HEADER_BYTES, TableId};
use zerocopy::FromBytes;

use crate::error::WorkerError;
use crate::rows;
use crate::split::Split;

/// The most pulls that one session has under way.
pub(crate) const PULLS_MAX: usize = 256;

/// Names one pull under way. It is spent by `Session::wait_pull` or `Session::cancel`.
#[derive(Debug)]
#[must_use = "a pull that nobody waits for keeps its place until it is cancelled"]
pub struct PullTicket {
    pub(crate) place: usize,
    pub(crate) table: TableId,
    pub(crate) clock: Clock,
}

/// Values of one pull: `[keys, width]` f32 in the order of the keys that were split. Give them
/// back by `Session::recycle`.
#[derive(Debug)]
#[must_use = "values that are not recycled keep their slot from the server"]
pub struct Values {
    width: usize,
    pub(crate) body: ValuesBody,
}

/// Where the values lie.
#[derive(Debug)]
pub(crate) enum ValuesBody {
    /// Behind the header of the only message that answered.
    Slot { slot: RecvSlot, shard: usize },
    /// In a buffer of the session.
    Gathered(Vec<f32>),
}

impl Values {
    /// All values, row after row.
    pub fn as_slice(&self) -> &[f32] {
        match &self.body {
            ValuesBody::Slot { slot, .. } => values_in(slot),
            ValuesBody::Gathered(values) => values,
        }
    }

    /// Values a key.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values of the key number `index`.
    ///
    /// - Panics: if there are not so many keys.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.as_slice()[index * self.width..][..self.width]
    }
}

impl std::ops::Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.as_slice()
    }
}

/// The values of a message that was opened.
pub(crate) fn values_in(slot: &RecvSlot) -> &[f32] {
    <[f32]>::ref_from_bytes(&slot.bytes()[HEADER_BYTES..])
        .expect("`wire::open` checked the length, and a slot is aligned")
}

/// Every place for a pull.
#[derive(Default)]
pub(crate) struct Pulls {
    places: Vec<Pull>,
    /// Buffers for gathered values, of pulls that are over.
    buffers: Vec<Vec<f32>>,
}

/// One place.
#[derive(Default)]
struct Pull {
    /// What is pulled; `None` in a free place.
    split: Option<Rc<Split>>,
    width: usize,
    parts: usize,
    parts_missing: usize,
    alone: Option<(RecvSlot, usize)>,
    gathered: Vec<f32>,
    refused: Option<WorkerError>,
}

/// Where an arrived part's slot goes.
pub(crate) enum Arrival {
    /// The values are copied out; the slot goes back to the transport.
    Copied(RecvSlot),
    /// The pull keeps the slot.
    Kept,
}

impl Pulls {
    /// Takes a free place for a pull that is answered in `parts` messages.
    ///
    /// - Errors: every place is taken.
    pub(crate) fn begin(
        &mut self,
        split: &Rc<Split>,
        width: usize,
        parts: usize,
    ) -> Result<usize, WorkerError> {
        let free = self.places.iter().position(|pull| pull.split.is_none());
        let place = free.unwrap_or(self.places.len());
        if place == PULLS_MAX {
            let (count, count_max) = (PULLS_MAX + 1, PULLS_MAX);
            return Err(WorkerError::TooMany { what: "pulls", count, count_max });
        }
        if place == self.places.len() {
            self.places.push(Pull::default());
        }
        let pull = &mut self.places[place];
        pull.split = Some(Rc::clone(split));
        pull.width = width;
        pull.parts = parts;
        pull.parts_missing = parts;
        if parts != 1 {
            let mut gathered = self.buffers.pop().unwrap_or_default();
            gathered.resize(split.keys_count() * width, 0.0);
            pull.gathered = gathered;
        }
        Ok(place)
    }

    /// Takes in the answer for the grouped keys `range`.
    ///
    /// - `decoded`: the values, if they do not lie in the slot as they are.
    /// - `may_keep`: whether a slot may wait here for its reader.
    pub(crate) fn arrive(
        &mut self,
        place: usize,
        range: Range<usize>,
        slot: RecvSlot,
        decoded: Option<&[f32]>,
        may_keep: MayKeep,
    ) -> Arrival {
        let pull = &mut self.places[place];
        let split = pull.split.as_ref().expect("a request under way has its pull");
        pull.parts_missing -= 1;
        // One part holds every key, so nothing has moved: see `Split`.
        if let MayKeep::Yes { shard } = may_keep
            && pull.parts == 1
            && decoded.is_none()
        {
            pull.alone = Some((slot, shard));
            return Arrival::Kept;
        }
        let width = pull.width;
        if pull.gathered.is_empty() {
            pull.gathered = self.buffers.pop().unwrap_or_default();
            pull.gathered.resize(split.keys_count() * width, 0.0);
        }
        let values = decoded.unwrap_or_else(|| values_in(&slot));
        match split.positions_at(range.clone()) {
            Some(positions) => {
                rows::scatter(positions, width, values, &mut pull.gathered);
            }
            None => {
                let range = range.start * width..range.end * width;
                pull.gathered[range].copy_from_slice(values);
            }
        }
        Arrival::Copied(slot)
    }

    /// Notes that a part was refused. The pull is over; its other parts are not waited for.
    pub(crate) fn refuse(&mut self, place: usize, error: WorkerError) {
        let pull = &mut self.places[place];
        pull.parts_missing -= 1;
        pull.refused.get_or_insert(error);
    }

    /// Whether the pull is over, by its values or by a refusal.
    pub(crate) fn is_over(&self, place: usize) -> bool {
        let pull = &self.places[place];
        pull.parts_missing == 0 || pull.refused.is_some()
    }

    /// Frees the place and returns what came, if everything did.
    pub(crate) fn end(&mut self, place: usize) -> (Option<Values>, Option<WorkerError>) {
        let pull = std::mem::take(&mut self.places[place]);
        if pull.parts_missing > 0 || pull.refused.is_some() {
            self.keep_buffer(pull.gathered);
            return (None, pull.refused);
        }
        let body = match pull.alone {
            Some((slot, shard)) => ValuesBody::Slot { slot, shard },
            None => ValuesBody::Gathered(pull.gathered),
        };
        (Some(Values { width: pull.width, body }), None)
    }

    /// Keeps a buffer for a later pull.
    pub(crate) fn keep_buffer(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 && self.buffers.len() < PULLS_MAX {
            self.buffers.push(buffer);
        }
    }
}

/// Whether a slot may wait for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayKeep {
    /// It may, and counts as held by this shard's link.
    Yes { shard: usize },
    /// It would keep too much of the ring: copy it out.
    No,
}
