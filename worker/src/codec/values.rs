//! Values on their way into a push, and out of an answer.
//!
//! Owns the order of the steps: gather, add what was held back, choose rows, encode each column,
//! hold back what that lost. The steps themselves are `kernels::codec`.
//!
//! Invariant: what is carried and what is held back add up to what was given and held before, but
//! for rounding by chance, which is right on average.

use kernels::Isa;
use kernels::codec::{
    Damaged, Rounding, RowShape, ValueCodec, bitmap_words, compress_rows, decode_values,
    encode_values, encoded_values_bytes_max, join_columns, keep_above, keep_nonzero, keep_top,
    split_columns,
};
use kernels::hash::mix;
use wire::{Carried, Encoding, KeyForm, PART_BYTES, VALUES_BY_COLUMN};

use super::{Residuals, Selection, TableState};
use crate::rows;

/// The values of one push message, encoded.
#[derive(Debug, Default)]
pub(crate) struct CodedValues {
    /// As they stand in the body.
    pub(crate) bytes: Vec<u8>,
    /// Which rows are carried; all if empty.
    pub(crate) bitmap: Vec<u64>,
    /// Rows that are carried.
    pub(crate) carried: usize,
    /// The number of their codec.
    codec: u8,
}

impl CodedValues {
    /// The encoding of a message with them and plain keys, whether or not a bitmap is needed.
    pub(crate) fn encoding(&self, carried: Carried) -> Encoding {
        Encoding::new(KeyForm::Plain, self.codec, carried)
    }

    /// Which rows are carried, if not all.
    pub(crate) fn bitmap(&self) -> Option<&[u64]> {
        (!self.bitmap.is_empty()).then_some(&*self.bitmap)
    }
}

/// The rows of one push message.
#[derive(Clone, Copy)]
pub(crate) struct PushShape<'a> {
    /// Their keys.
    pub(crate) keys: &'a [u64],
    /// Where each stands in the caller's deltas; as they come if `None`.
    pub(crate) positions: Option<&'a [u32]>,
    /// Values a row.
    pub(crate) width: usize,
    /// Where they begin among the grouped keys of their split.
    pub(crate) start: usize,
    /// By grouped key: whether its pulled values are zero. Empty if that is not known.
    pub(crate) at_zero: &'a [bool],
}

/// Encodes pushes; keeps its buffers.
pub(crate) struct PushEncoder {
    isa: Isa,
    /// Of the next message's rounding.
    seed: u64,
    rows: Vec<f32>,
    kept: Vec<f32>,
    streams: Vec<f32>,
    decoded: Vec<f32>,
}

impl PushEncoder {
    pub(crate) fn new(isa: Isa, seed: u64) -> PushEncoder {
        let (rows, kept, streams, decoded) = Default::default();
        PushEncoder { isa, seed, rows, kept, streams, decoded }
    }

    /// Encodes rows, and notes what they hold back.
    ///
    /// - `deltas`: what the positions point into, or the rows themselves.
    pub(crate) fn encode(
        &mut self,
        table: &mut TableState,
        shape: PushShape<'_>,
        deltas: &[f32],
        coded: &mut CodedValues,
    ) {
        let PushShape { keys, positions, width, .. } = shape;
        self.rows.resize(keys.len() * width, 0.0);
        match positions {
            Some(positions) => rows::gather(positions, width, deltas, &mut self.rows),
            None => self.rows.copy_from_slice(deltas),
        }
        let codec = table.codec;
        let holds_back = codec.holds_back();
        if holds_back || codec.push_first == ValueCodec::OneBit {
            for (&key, row) in keys.iter().zip(self.rows.chunks_exact_mut(width)) {
                table.residuals.take_into(key, row);
            }
        }
        let columns = wire::columns(width, table.dim);
        let row_shape = RowShape { columns, dim: width / columns };
        self.select(codec.selection, shape, row_shape.dim, coded);
        if holds_back {
            hold_back(&mut table.residuals, keys, &self.rows, width, coded);
        }
        self.encode_columns(table, keys, row_shape, coded);
    }

    /// Chooses the rows that are carried, and copies them to `kept` if these are not all.
    fn select(
        &mut self,
        selection: Selection,
        shape: PushShape<'_>,
        dim: usize,
        coded: &mut CodedValues,
    ) {
        let (count, width) = (shape.keys.len(), shape.width);
        coded.bitmap.clear();
        coded.carried = count;
        if selection == Selection::All || count == 0 {
            return;
        }
        coded.bitmap.resize(bitmap_words(count), 0);
        let (isa, rows, bitmap) = (self.isa, &self.rows, &mut coded.bitmap);
        coded.carried = match selection {
            Selection::AtZeroAbove(bound) => {
                let at_zero = shape.at_zero.get(shape.start..).unwrap_or_default();
                keep_moving(rows.chunks_exact(width).map(|row| &row[..dim]), at_zero, bound, bitmap)
            }
            Selection::Above(threshold) => keep_above(isa, rows, width, threshold, bitmap),
            Selection::Top(share) => {
                let most = (f64::from(share) * count as f64).ceil() as usize;
                keep_top(isa, rows, width, most, bitmap)
            }
            Selection::All | Selection::Nonzero => keep_nonzero(isa, rows, width, bitmap),
        };
        if coded.carried == count {
            coded.bitmap.clear();
        }
    }

    /// Encodes the carried rows, each column by its own codec.
    fn encode_columns(
        &mut self,
        table: &mut TableState,
        keys: &[u64],
        shape: RowShape,
        coded: &mut CodedValues,
    ) {
        let carried = match coded.bitmap() {
            None => &self.rows,
            Some(bitmap) => {
                self.kept.resize(coded.carried * shape.width(), 0.0);
                compress_rows(self.isa, &self.rows, shape.width(), bitmap, &mut self.kept);
                &self.kept
            }
        };
        let (first, rest) = (table.codec.push_first, table.codec.push_rest);
        let same = first == rest || shape.columns == 1;
        coded.codec = if same { first.to_u8() } else { VALUES_BY_COLUMN };
        coded.bytes.clear();
        if coded.codec == 0 {
            coded.bytes.extend(carried.iter().flat_map(|value| value.to_le_bytes()));
            return;
        }
        let codec_of = |column| if column == 0 { first } else { rest };
        if !same {
            coded.bytes.extend((0..shape.columns).map(|column| codec_of(column).to_u8()));
            coded.bytes.resize(shape.columns.next_multiple_of(PART_BYTES), 0);
        }
        if carried.is_empty() {
            return;
        }
        self.streams.resize(carried.len(), 0.0);
        split_columns(self.isa, carried, shape, &mut self.streams);
        let stream_len = carried.len() / shape.columns;
        for (column, stream) in self.streams.chunks_exact(stream_len).enumerate() {
            self.seed = mix(self.seed.wrapping_add(1));
            let codec = codec_of(column);
            let start = coded.bytes.len();
            coded.bytes.resize(start + encoded_values_bytes_max(codec, stream_len), 0);
            let rounding = Rounding::Stochastic { seed: self.seed };
            let out = &mut coded.bytes[start..];
            let bytes = encode_values(self.isa, codec, stream, rounding, out);
            coded.bytes.truncate(start + bytes);
        }
        if first == ValueCodec::OneBit {
            let start = if same { 0 } else { shape.columns.next_multiple_of(PART_BYTES) };
            self.feed_back(&mut table.residuals, keys, shape, &coded.bytes[start..], coded);
        }
    }

    /// Holds back what the bytes of the first column do not say of it.
    fn feed_back(
        &mut self,
        residuals: &mut Residuals,
        keys: &[u64],
        shape: RowShape,
        bytes: &[u8],
        coded: &CodedValues,
    ) {
        let stream = &self.streams[..self.streams.len() / shape.columns];
        self.decoded.resize(stream.len(), 0.0);
        decode_values(self.isa, ValueCodec::OneBit, bytes, &mut self.decoded)
            .expect("it was just encoded");
        let rows = stream.chunks_exact(shape.dim).zip(self.decoded.chunks_exact(shape.dim));
        let carried = (0..keys.len()).filter(|&at| is_carried(coded, at));
        for (at, (given, sent)) in carried.zip(rows) {
            let Some(held) = residuals.row_mut(keys[at], shape.width()) else { continue };
            for (held, (given, sent)) in held.iter_mut().zip(given.iter().zip(sent)) {
                let lost = given - sent;
                *held = if lost.is_finite() { lost } else { 0.0 };
            }
        }
    }
}

/// Keeps the rows whose weights are not all zero, and those that may move them from there: with a
/// first column above `bound`. Whether a number is NaN is for the shard to see.
///
/// - `at_zero`: by row; one beyond its end is not known to be there.
/// - Result: how many are kept.
fn keep_moving<'a>(
    firsts: impl Iterator<Item = &'a [f32]>,
    at_zero: &[bool],
    bound: f32,
    bitmap: &mut [u64],
) -> usize {
    let at_zero = at_zero.iter().copied().chain(std::iter::repeat(false));
    let mut kept = 0;
    for (at, (first, zero)) in firsts.zip(at_zero).enumerate() {
        let stays = zero && first.iter().all(|gradient| gradient.abs() <= bound);
        bitmap[at / 64] |= u64::from(!stays) << (at % 64);
        kept += usize::from(!stays);
    }
    kept
}

/// Holds back the rows that are not carried; those that there is no room for are carried.
fn hold_back(
    residuals: &mut Residuals,
    keys: &[u64],
    rows: &[f32],
    width: usize,
    coded: &mut CodedValues,
) {
    for (at, &key) in keys.iter().enumerate() {
        if is_carried(coded, at) {
            continue;
        }
        match residuals.row_mut(key, width) {
            Some(held) => held.copy_from_slice(&rows[at * width..][..width]),
            None => {
                coded.bitmap[at / 64] |= 1 << (at % 64);
                coded.carried += 1;
            }
        }
    }
}

fn is_carried(coded: &CodedValues, at: usize) -> bool {
    coded.bitmap.is_empty() || coded.bitmap[at / 64] >> (at % 64) & 1 == 1
}

/// Decodes answers; keeps its buffers.
pub(crate) struct AnswerDecoder {
    isa: Isa,
    streams: Vec<f32>,
    rows: Vec<f32>,
}

impl AnswerDecoder {
    pub(crate) fn new(isa: Isa) -> AnswerDecoder {
        AnswerDecoder { isa, streams: Vec::new(), rows: Vec::new() }
    }

    /// The rows of an answer's body.
    ///
    /// - Errors: what is wrong with the bytes; a shard encodes none like them.
    pub(crate) fn decode(
        &mut self,
        codec: ValueCodec,
        shape: RowShape,
        count: usize,
        mut bytes: &[u8],
    ) -> Result<&[f32], Damaged> {
        let stream_len = count * shape.dim;
        self.streams.resize(stream_len * shape.columns, 0.0);
        self.rows.resize(self.streams.len(), 0.0);
        if stream_len == 0 {
            return Ok(&self.rows);
        }
        for stream in self.streams.chunks_exact_mut(stream_len) {
            let taken = decode_values(self.isa, codec, bytes, stream)?;
            bytes = &bytes[taken..];
        }
        join_columns(self.isa, &self.streams, shape, &mut self.rows);
        Ok(&self.rows)
    }
}

#[cfg(test)]
mod tests {
    use wire::TableId;

    use super::*;
    use crate::codec::{CodecChoice, Codecs, KeyCodec, TableCodec};

    fn table(codec: TableCodec) -> TableState {
        let mut codecs = Codecs::new(Isa::detect(), 1);
        codecs.set(TableId::new(0), CodecChoice::Fixed(codec), 1);
        codecs.tables.remove(&0).expect("it was just set")
    }

    fn encode(
        encoder: &mut PushEncoder,
        table: &mut TableState,
        keys: &[u64],
        deltas: &[f32],
    ) -> CodedValues {
        let width = deltas.len() / keys.len();
        let mut coded = CodedValues::default();
        let shape = PushShape { keys, positions: None, width, start: 0, at_zero: &[] };
        encoder.encode(table, shape, deltas, &mut coded);
        coded
    }

    #[test]
    fn what_a_threshold_holds_back_is_carried_once_it_has_grown() {
        let codec = TableCodec { selection: Selection::Above(1.0), ..TableCodec::EXACT };
        let (mut encoder, mut table) = (PushEncoder::new(Isa::detect(), 1), table(codec));
        let first = encode(&mut encoder, &mut table, &[3, 8], &[0.75, 0.5, 2.0, 0.25]);
        assert_eq!((first.carried, first.bitmap()), (1, Some([0b10].as_slice())));
        let second = encode(&mut encoder, &mut table, &[3, 8], &[0.75, 0.5, 0.0, 0.0]);
        assert_eq!(second.bitmap(), Some([0b01].as_slice()));
        let sent: Vec<u8> = [1.5_f32, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(second.bytes, sent);
    }

    #[test]
    fn a_row_at_zero_is_carried_once_its_gradients_could_move_it_and_then_with_all_of_them() {
        let codec = TableCodec { selection: Selection::AtZeroAbove(1.0), ..TableCodec::EXACT };
        let (mut encoder, mut table) = (PushEncoder::new(Isa::detect(), 1), table(codec));
        let mut push = |at_zero: &[bool], deltas: &[f32]| {
            let shape =
                PushShape { keys: &[3, 8, 9], positions: None, width: 2, start: 1, at_zero };
            let mut coded = CodedValues::default();
            encoder.encode(&mut table, shape, deltas, &mut coded);
            (coded.bitmap.first().copied(), coded.bytes)
        };
        let bytes = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let zeros = [false, true, true, false];
        // Σg and Σg² of three keys; the third has a weight.
        let first = push(&zeros, &[0.75, 9.0, -1.5, 4.0, 0.5, 0.25]);
        assert_eq!(first, (Some(0b110), bytes(&[-1.5, 4.0, 0.5, 0.25])));
        let second = push(&zeros, &[0.5, 1.0, 0.25, 1.0, f32::NAN, 0.0]);
        assert_eq!(second.0, Some(0b101));
        assert_eq!(second.1[..8], bytes(&[1.25, 10.0]));
        // Without a pull all are carried, what was held back with them.
        let third = push(&[], &[0.0, 0.0, 0.5, 1.0, 0.0, 0.0]);
        assert_eq!(third, (None, bytes(&[0.0, 0.0, 0.75, 2.0, 0.0, 0.0])));
    }

    #[test]
    fn one_bit_pushes_add_up_to_what_was_given() {
        let codec = TableCodec { keys: KeyCodec::Packed, ..TableCodec::lossy(ValueCodec::OneBit) };
        let (mut encoder, mut table) = (PushEncoder::new(Isa::detect(), 1), table(codec));
        let keys: Vec<u64> = (0..100).collect();
        let mut sent = vec![0.0_f64; 100];
        let given = |step: usize, at: usize| ((step * 7 + at * 13) % 11) as f32 - 4.0;
        for step in 0..400 {
            let deltas: Vec<f32> = (0..100).flat_map(|at| [given(step, at), 1.0]).collect();
            let coded = encode(&mut encoder, &mut table, &keys, &deltas);
            let mut stream = [0.0; 100];
            decode_values(Isa::detect(), ValueCodec::OneBit, &coded.bytes[8..], &mut stream)
                .expect("it was just encoded");
            sent.iter_mut().zip(stream).for_each(|(sum, value)| *sum += f64::from(value));
        }
        for (at, sent) in sent.into_iter().enumerate() {
            let all: f64 = (0..400).map(|step| f64::from(given(step, at))).sum();
            assert!((sent - all).abs() < 60.0, "key {at}: {all} given, {sent} sent");
        }
    }
}
