//! A request: its header and what its body is made of, kept until it is answered.
//!
//! Owns the body's parts and writes them into a send slot, at the first sending and at each later
//! one. The numbers in the header are given by `link`.
//!
//! Invariant: a request means the same keys and values each time it is sent. Plain, it has the same
//! bytes; coded, its keys may be written in another form, see `codec`.

use std::ops::Range;
use std::rc::Rc;

use kernels::Isa;
use kernels::copy::for_other_core;
use wire::{HEADER_BYTES, Header, KeyForm, Keyed, Seal, Time};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::codec::{CodedValues, KeyCodec};
use crate::kept::WordOf;
use crate::rows;
use crate::split::Split;

/// Rows on their way into a slot that another core reads: gathered here, then copied past the
/// cache. 16 KiB, half of a first-level cache.
const GATHERED_FLOATS: usize = 4096;

/// One message to a shard, unanswered so far.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) header: Header,
    pub(crate) body: Body,
    pub(crate) origin: Origin,
    /// When it was asked.
    pub(crate) first_at: Time,
    /// When it is sent again.
    pub(crate) due_at: Time,
    /// How often it was sent; 0 waits for credit.
    pub(crate) sends: u32,
    pub(crate) coding: Coding,
    pub(crate) word_of: WordOf,
}

/// How a request's keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    /// What its table wants.
    pub(crate) keys: KeyCodec,
    /// Whether it may rely on what the shard knows.
    pub(crate) reliance: Reliance,
    /// The form in which it was sent last.
    pub(crate) form: KeyForm,
    /// The dictionary that it was sent under.
    pub(crate) generation: u32,
}

/// Whether a message may leave out what its shard knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reliance {
    /// Lists and numbers may be used.
    Known,
    /// Lists and new numbers may not: the shard said that it does not know them, or the request is
    /// sent again over a new link.
    Nothing,
}

impl Coding {
    /// As the table wants, not sent yet.
    pub(crate) fn new(keys: KeyCodec) -> Coding {
        Coding { keys, reliance: Reliance::Known, form: KeyForm::Plain, generation: 0 }
    }

    /// Keys and values as they are.
    pub(crate) const PLAIN: Coding = Coding {
        keys: KeyCodec::Plain,
        reliance: Reliance::Known,
        form: KeyForm::Plain,
        generation: 0,
    };
}

/// What a request's body is made of.
#[derive(Debug)]
pub(crate) enum Body {
    /// No body.
    Nothing,
    /// A join's or a definition's bytes.
    Bytes(Box<[u8]>),
    /// A pull's keys.
    Keys { split: Rc<Split>, range: Range<usize> },
    /// A push's keys and deltas; `deltas` is `[all keys, width]` in the caller's order.
    Deltas { split: Rc<Split>, range: Range<usize>, deltas: Rc<Vec<f32>> },
    /// A push's keys and coded deltas.
    Coded { split: Rc<Split>, range: Range<usize>, values: CodedValues },
    /// A load's keys and whole rows.
    Rows { keys: Rc<[u64]>, rows: Rc<[f32]> },
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Whoever waits for all pushes.
    Push,
    /// The pull in this place.
    Pull(usize),
    /// The call with this number.
    Call(u64),
}

impl Body {
    /// Rows of deltas that it carries.
    pub(crate) fn carried(&self) -> usize {
        match self {
            Body::Deltas { range, .. } => range.len(),
            Body::Coded { values, .. } => values.carried,
            _ => 0,
        }
    }
}

impl Request {
    /// Length of the message in bytes; of one that is coded, at most.
    pub(crate) fn message_bytes(&self) -> usize {
        let width = usize::from(self.header.width);
        match &self.body {
            Body::Nothing => HEADER_BYTES,
            Body::Bytes(bytes) => HEADER_BYTES + bytes.len(),
            Body::Keys { range, .. } => Keyed::message_bytes(range.len(), 0),
            Body::Deltas { range, .. } => Keyed::message_bytes(range.len(), width),
            Body::Coded { range, values, .. } => {
                let bitmap_bytes = size_of_val(&*values.bitmap);
                Keyed::message_bytes(range.len(), 0) + bitmap_bytes + values.bytes.len()
            }
            Body::Rows { keys, .. } => Keyed::message_bytes(keys.len(), width),
        }
    }

    /// Writes the body behind the header's place.
    ///
    /// - `message`: [`Request::message_bytes`] long, 8-byte aligned.
    pub(crate) fn write_body(&self, pen: Pen, message: &mut [u8]) {
        let width = usize::from(self.header.width);
        match &self.body {
            Body::Nothing => {}
            Body::Bytes(bytes) => message[HEADER_BYTES..].copy_from_slice(bytes),
            Body::Keys { split, range } => {
                let (to_keys, _) = Keyed::body_mut(message, range.len());
                pen.copy(split.keys_at(range.clone()), to_keys);
            }
            Body::Deltas { split, range, deltas } => {
                let (to_keys, to_deltas) = Keyed::body_mut(message, range.len());
                pen.copy(split.keys_at(range.clone()), to_keys);
                pen.write_deltas(split, range.clone(), width, deltas, to_deltas);
            }
            Body::Coded { .. } => unreachable!("coded values are written by `Port::post`"),
            Body::Rows { keys, rows } => {
                let (to_keys, to_rows) = Keyed::body_mut(message, keys.len());
                pen.copy(keys, to_keys);
                pen.copy(rows, to_rows);
            }
        }
    }
}

/// How bodies are written: a slot in this host's memory is read by another core as it lies, any
/// other is read by this core, which sums and sends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pen {
    pub(crate) isa: Isa,
    pub(crate) seal: Seal,
}

impl Pen {
    /// Writes the deltas of some grouped keys in the keys' order.
    pub(crate) fn write_deltas(
        self,
        split: &Split,
        range: Range<usize>,
        width: usize,
        deltas: &[f32],
        to_deltas: &mut [f32],
    ) {
        match split.positions_at(range.clone()) {
            Some(positions) => self.gather(positions, width, deltas, to_deltas),
            None => self.copy(&deltas[range.start * width..range.end * width], to_deltas),
        }
    }

    fn copy<T: IntoBytes + FromBytes + Immutable + Copy>(self, from: &[T], to: &mut [T]) {
        match self.seal {
            Seal::HeaderOnly => for_other_core(self.isa, from.as_bytes(), to.as_mut_bytes()),
            Seal::Body => to.copy_from_slice(from),
        }
    }

    /// `to[i] = from[positions[i]]`, row by row; see [`rows::gather`].
    fn gather(self, positions: &[u32], width: usize, from: &[f32], to: &mut [f32]) {
        let rows_at_once = GATHERED_FLOATS / width.max(1);
        if self.seal == Seal::Body || rows_at_once == 0 || width == 0 {
            return rows::gather(positions, width, from, to);
        }
        let mut gathered = [0.0; GATHERED_FLOATS];
        let parts = to.chunks_mut(rows_at_once * width);
        for (positions, to) in positions.chunks(rows_at_once).zip(parts) {
            let gathered = &mut gathered[..to.len()];
            rows::gather(positions, width, from, gathered);
            self.copy(gathered, to);
        }
    }
}
