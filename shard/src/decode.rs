//! From an encoded body to keys and deltas as a table takes them, and from values to an answer.
//!
//! Owns the walk through a body: its keys, which of them are carried, its values. What the bits
//! of each part mean is left to `kernels::codec`, which keys are known without being told to
//! `known_keys`.
//!
//! Invariant: buffers grow by counts that `wire` has bounded, and are used again. Whatever the
//! bytes, decoded keys are strictly ascending and without the reserved one.

use kernels::Isa;
use kernels::codec::{
    Rounding, RowShape, ValueCodec, bitmap_words, count_kept, decode_values, encode_values,
    encoded_values_bytes_max, join_columns, split_columns, unpack_keys,
};
use kernels::order::Sorter;
use wire::{
    Carried, Coded, Header, KeyForm, Keys, ListHead, NumbersHead, PART_BYTES, Refusal, Sequence,
    VALUES_BY_COLUMN,
};
use zerocopy::FromBytes;

use crate::engine::Mutation;
use crate::known_keys::KnownKeys;
use crate::table::Places;

/// Value codecs that this build knows.
pub(crate) const CODECS: u8 = ValueCodec::ALL.len() as u8;

/// Decodes bodies; keeps its buffers.
#[derive(Debug)]
pub(crate) struct Decoder {
    isa: Isa,
    mutation: Mutation,
    keys: Vec<u64>,
    /// Keys of a message in the order of their numbers, the new ones behind.
    numbered: Vec<u64>,
    new: Vec<u64>,
    sorter: Sorter,
    kept: Vec<u64>,
    streams: Vec<f32>,
    rows: Vec<f32>,
}

/// Encodes values on their way into an answer; keeps its buffers.
#[derive(Debug)]
pub(crate) struct Encoder {
    isa: Isa,
    rows: Vec<f32>,
    streams: Vec<f32>,
}

/// Where a body's keys are, and how many of its bytes they took.
enum Place {
    /// In [`Decoder::keys`].
    Decoded,
    /// In a list.
    Listed(ListHead),
}

/// A push, decoded.
pub(crate) struct Decoded<'a> {
    pub(crate) keys: &'a [u64],
    pub(crate) deltas: &'a [f32],
    /// Where a pull found the rows of these keys.
    pub(crate) places: Option<Places<'a>>,
}

impl Decoder {
    /// A decoder without buffers yet.
    pub(crate) fn new(isa: Isa, mutation: Mutation) -> Decoder {
        let (keys, numbered, new, kept) = Default::default();
        let (sorter, streams, rows) = Default::default();
        Decoder { isa, mutation, keys, numbered, new, sorter, kept, streams, rows }
    }

    /// The keys of a pull, which are kept as a list under its sequence. A pull that is known by
    /// its list is not read again.
    ///
    /// - `known`: what its worker has told before; an observer tells nothing.
    /// - Errors: what is not known, or [`Refusal::Malformed`].
    pub(crate) fn pull_keys<'a>(
        &'a mut self,
        header: &Header,
        coded: Coded<'_>,
        known: Option<&'a mut KnownKeys>,
    ) -> Result<&'a [u64], Refusal> {
        let Some(known) = known else {
            let mut none = KnownKeys::default();
            return match coded.encoding.keys() {
                KeyForm::Packed => {
                    self.keys(header, coded, &mut none)?;
                    Ok(&self.keys)
                }
                _ => Err(Refusal::Malformed),
            };
        };
        let (pull, count) = (header.sequence(), header.keys as usize);
        if known.list(pull).is_none() {
            match self.keys(header, coded, known)? {
                (Place::Decoded, _) => known.remember(pull, &self.keys),
                (Place::Listed(head), _) => {
                    self.keys.clear();
                    self.keys.extend_from_slice(known.list_part(&head, count)?);
                    known.remember(pull, &self.keys);
                }
            }
        }
        let whole = ListHead { pull: pull.get(), first: 0, reserved: 0 };
        known.list_part(&whole, count)
    }

    /// The keys and deltas of a push, and where their rows lay if that is known.
    ///
    /// - `shape`: of a row of deltas.
    /// - Errors: what is not known, or [`Refusal::Malformed`].
    pub(crate) fn push<'a>(
        &'a mut self,
        header: &Header,
        coded: Coded<'a>,
        shape: RowShape,
        known: &'a mut KnownKeys,
    ) -> Result<Decoded<'a>, Refusal> {
        let (place, taken) = self.keys(header, coded, known)?;
        let count = header.keys as usize;
        let mut rest = &coded.body[taken..];
        let mut carried = count;
        if coded.encoding.carried() == Carried::Some {
            let (bitmap, behind) =
                <[u64]>::ref_from_prefix_with_elems(rest, bitmap_words(count)).map_err(bad)?;
            carried = count_kept(bitmap, count).map_err(bad)?;
            let all = match place {
                Place::Decoded => &self.keys,
                Place::Listed(head) => known.list_part(&head, count)?,
            };
            keep(all, bitmap, &mut self.kept);
            rest = behind;
        }
        let deltas = match coded.encoding.values() {
            0 => <[f32]>::ref_from_bytes(rest).map_err(bad)?,
            codec => {
                decode_rows(self.isa, codec, rest, shape, carried, &mut self.streams)?;
                self.rows.resize(carried * shape.width(), 0.0);
                if !self.rows.is_empty() {
                    join_columns(self.isa, &self.streams, shape, &mut self.rows);
                }
                &self.rows
            }
        };
        if deltas.len() != carried * shape.width() {
            return Err(Refusal::Malformed);
        }
        let (keys, places) = match (coded.encoding.carried(), place) {
            (Carried::Some, _) => (self.kept.as_slice(), None),
            (Carried::All, Place::Decoded) => (self.keys.as_slice(), None),
            (Carried::All, Place::Listed(head)) => {
                let places = known.places(&head, count, header.table());
                (known.list_part(&head, count)?, places)
            }
        };
        Ok(Decoded { keys, deltas, places })
    }

    /// Reads the keys, into [`Decoder::keys`] unless they are listed; where the next part begins.
    fn keys(
        &mut self,
        header: &Header,
        coded: Coded<'_>,
        known: &mut KnownKeys,
    ) -> Result<(Place, usize), Refusal> {
        let count = header.keys as usize;
        match coded.encoding.keys() {
            KeyForm::Plain => {
                let plain = <[u64]>::ref_from_prefix_with_elems(coded.body, count);
                let keys = Keys::new(plain.map_err(bad)?.0).map_err(bad)?.as_slice();
                self.keys.clear();
                self.keys.extend_from_slice(keys);
                Ok((Place::Decoded, size_of_val(keys)))
            }
            KeyForm::Packed => {
                self.keys.resize(count, 0);
                let taken = unpack_keys(self.isa, coded.body, &mut self.keys).map_err(bad)?;
                Ok((Place::Decoded, part_end(taken, coded.body)?))
            }
            KeyForm::List => {
                let (mut head, _) = ListHead::read_from_prefix(coded.body).map_err(bad)?;
                if self.mutation == Mutation::ListsMixedUp {
                    head.pull = known.newest().map_or(0, Sequence::get);
                }
                known.list_part(&head, count)?;
                Ok((Place::Listed(head), size_of::<ListHead>()))
            }
            KeyForm::Numbered => {
                let taken = self.numbered(count, coded.body, known)?;
                Ok((Place::Decoded, part_end(taken, coded.body)?))
            }
        }
    }

    /// Reads numbered keys and puts them in ascending order, in which their values are.
    fn numbered(
        &mut self,
        count: usize,
        body: &[u8],
        known: &mut KnownKeys,
    ) -> Result<usize, Refusal> {
        let (mut head, rest) = NumbersHead::read_from_prefix(body).map_err(bad)?;
        if self.mutation == Mutation::GenerationsMixedUp {
            head.generation = known.generation();
        }
        let new = count.checked_sub(head.known as usize).ok_or(Refusal::Malformed)?;
        self.numbered.resize(count - new, 0);
        let numbers_bytes = unpack_keys(self.isa, rest, &mut self.numbered).map_err(bad)?;
        known.look_up(&head, &mut self.numbered)?;
        self.new.resize(new, 0);
        let rest = &rest[numbers_bytes..];
        let new_bytes = unpack_keys(self.isa, rest, &mut self.new).map_err(bad)?;
        known.learn(&head, &self.new)?;
        self.numbered.extend_from_slice(&self.new);
        self.sorter.sort(count, |at| self.numbered[at], &mut self.keys);
        Keys::new(&self.keys).map_err(bad)?;
        Ok(size_of::<NumbersHead>() + numbers_bytes + new_bytes)
    }
}

impl Encoder {
    /// An encoder without buffers yet.
    pub(crate) fn new(isa: Isa) -> Encoder {
        Encoder { isa, rows: Vec::new(), streams: Vec::new() }
    }

    /// Room for `floats` values, to be encoded next: `[count, shape.width()]`.
    pub(crate) fn rows_mut(&mut self, floats: usize) -> &mut [f32] {
        self.rows.resize(floats, 0.0);
        &mut self.rows
    }

    /// Encodes what was written to [`Encoder::rows_mut`], each column a stream, to the nearest:
    /// who asks again gets the same values.
    ///
    /// - `out`: [`answer_bytes`] long.
    pub(crate) fn encode(&mut self, codec: ValueCodec, shape: RowShape, out: &mut [u8]) {
        if self.rows.is_empty() {
            return;
        }
        self.streams.resize(self.rows.len(), 0.0);
        split_columns(self.isa, &self.rows, shape, &mut self.streams);
        let mut at = 0;
        for stream in self.streams.chunks_exact(self.rows.len() / shape.columns) {
            at += encode_values(self.isa, codec, stream, Rounding::Nearest, &mut out[at..]);
        }
    }
}

/// What the numbers of rows of `width` values are, in a table of `dim` values a key.
pub(crate) fn row_shape(width: usize, dim: usize) -> RowShape {
    let columns = wire::columns(width, dim);
    RowShape { columns, dim: width / columns }
}

/// Length in bytes of an answer's values of `count` rows.
pub(crate) fn answer_bytes(codec: ValueCodec, shape: RowShape, count: usize) -> usize {
    shape.columns * encoded_values_bytes_max(codec, count * shape.dim)
}

/// Reads `[columns, count, dim]` values, each column by its codec.
fn decode_rows(
    isa: Isa,
    codec: u8,
    bytes: &[u8],
    shape: RowShape,
    count: usize,
    streams: &mut Vec<f32>,
) -> Result<(), Refusal> {
    let (codecs, mut rest) = match codec {
        VALUES_BY_COLUMN => {
            let codecs_bytes = shape.columns.next_multiple_of(PART_BYTES);
            let split = bytes.split_at_checked(codecs_bytes).ok_or(Refusal::Malformed)?;
            (Some(split.0), split.1)
        }
        _ => (None, bytes),
    };
    let stream_len = count * shape.dim;
    streams.resize(stream_len * shape.columns, 0.0);
    for column in 0..shape.columns {
        let number = codecs.map_or(codec, |codecs| codecs[column]);
        let codec = ValueCodec::from_u8(number).ok_or(Refusal::Malformed)?;
        let stream = &mut streams[column * stream_len..][..stream_len];
        let taken = decode_values(isa, codec, rest, stream).map_err(bad)?;
        rest = &rest[taken..];
    }
    if rest.is_empty() { Ok(()) } else { Err(Refusal::Malformed) }
}

/// Where the part after one of `bytes` bytes begins.
fn part_end(bytes: usize, body: &[u8]) -> Result<usize, Refusal> {
    let end = bytes.next_multiple_of(PART_BYTES);
    if end <= body.len() { Ok(end) } else { Err(Refusal::Malformed) }
}

/// The keys whose bits are set.
fn keep(keys: &[u64], bitmap: &[u64], kept: &mut Vec<u64>) {
    kept.clear();
    for (keys, &word) in keys.chunks(u64::BITS as usize).zip(bitmap) {
        let mut ones = word;
        while ones != 0 {
            kept.push(keys[ones.trailing_zeros() as usize]);
            ones &= ones - 1;
        }
    }
}

/// A body that passed its checksum and still means nothing: its sender has a bug.
fn bad<E>(_: E) -> Refusal {
    Refusal::Malformed
}
