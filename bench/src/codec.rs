//! Codecs on the pushes of a training run, beside a copy of the same raw bytes.
//!
//! Owns the passes and their clock. A pass encodes, or decodes, every push of a stream once, keys
//! packed and deltas column by column, as a message without anything that both sides know already.
//! What that saves, and what an inexact codec costs a model, needs training through the whole path:
//! those figures are the caller's, and are put beside.
//!
//! Invariant: a row's share is the median of each repeat's own ratio to the copy of that repeat,
//! and what was encoded has been decoded and compared before anything is timed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::Isa;
use kernels::codec::{
    Rounding, RowShape, ValueCodec, decode_values, encode_values, encoded_values_bytes_max,
    join_columns, pack_keys, packed_keys_bytes_max, split_columns, unpack_keys,
};
use serde::{Deserialize, Serialize};

use crate::codec_stream::{CodecBatch, CodecStream};
use crate::error::{BenchError, SpecError};
use crate::format::columns;
use crate::machine::Places;
use crate::spec::{REPEATS_MAX, REPEATS_MIN, SECONDS_MAX, check, check_real};
use crate::stats::Spread;

/// For how long codecs are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodecSpec {
    /// How long each figure is measured in each repeat, in seconds, and at least one pass.
    pub seconds: f64,
    /// Repeats, interleaved with copies.
    pub repeats: usize,
}

impl CodecSpec {
    /// Whether this can be measured.
    ///
    /// - Errors: the first field that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        check("repeats", self.repeats, REPEATS_MIN, REPEATS_MAX)?;
        check_real("seconds", self.seconds, f64::MIN_POSITIVE, SECONDS_MAX)
    }
}

/// What only training through the whole path tells of a codec.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Bits of push bodies for each pushed key with its deltas.
    pub bits_per_pair: f64,
    /// Change of the logarithmic loss on test rows against raw pushes, in percent.
    pub logloss_delta_pct: f64,
}

/// One codec on one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodecRow {
    /// The stream's name.
    pub stream: String,
    /// `keys`: packed keys alone. Else a codec of values after packed keys; `exact` is f32's.
    pub codec: String,
    /// Bits of each key with its deltas before, and encoded on its own.
    pub raw_bits_per_pair: f64,
    /// The same after.
    pub body_bits_per_pair: f64,
    /// Raw bytes encoded a second, median over repeats.
    pub encode_bytes_per_s: f64,
    /// Raw bytes decoded a second, median over repeats.
    pub decode_bytes_per_s: f64,
    /// Raw bytes copied a second, median over repeats.
    pub copy_bytes_per_s: f64,
    /// Median of each repeat's encoding rate as a part of its copying rate.
    pub encode_share: f64,
    /// The same of decoding.
    pub decode_share: f64,
    /// Through the whole path, where that was measured: see [`Trained`].
    pub bits_per_pair: Option<f64>,
    /// Through the whole path, where that was measured: see [`Trained`].
    pub logloss_delta_pct: Option<f64>,
}

/// Measures every codec on every stream, and copies of the same bytes, in turns on one core.
///
/// - `streams`: those without a push give no rows.
/// - `trained`: what training told of a stream and a codec, by the names that rows have.
/// - `progress`: is told in words what happens.
/// - Errors: [`BenchError::Spec`].
/// - Panics: if a codec does not give back what it was given.
pub fn run_codecs(
    spec: &CodecSpec,
    streams: &[CodecStream],
    trained: &dyn Fn(&str, &str) -> Option<Trained>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<CodecRow>, BenchError> {
    spec.check()?;
    let _pinned = Places::find().pin_worker();
    let phase = Duration::from_secs_f64(spec.seconds);
    let streams = streams.iter().filter(|stream| !stream.batches.is_empty());
    let cases = streams.flat_map(|stream| What::all().map(move |what| Case::new(stream, what)));
    let mut cases: Vec<Case> = cases.collect();
    let mut figures = vec![Vec::with_capacity(spec.repeats); cases.len()];
    for number in 1..=spec.repeats {
        progress(&format!("repeat {number} of {}", spec.repeats));
        for (case, figures) in cases.iter_mut().zip(&mut figures) {
            let copied = case.bytes_per_s(phase, Case::copy);
            let encoded = case.bytes_per_s(phase, Case::encode);
            let decoded = case.bytes_per_s(phase, Case::decode);
            figures.push([encoded, decoded, copied]);
        }
    }
    let rows = cases.iter().zip(&figures).map(|(case, figures)| {
        let what = case.what.name();
        case.row(figures, trained(&case.stream.name, &what))
    });
    Ok(rows.collect())
}

/// The rows as a table for people.
pub fn render_codecs(rows: &[CodecRow]) -> String {
    let head = [
        "stream",
        "codec",
        "raw_bits",
        "bits",
        "encode_GB_per_s",
        "decode",
        "copy",
        "encode_share",
        "decode_share",
        "path_bits",
        "logloss_delta",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let bits = [row.raw_bits_per_pair, row.body_bits_per_pair].map(|bits| format!("{bits:.1}"));
        let rates = [row.encode_bytes_per_s, row.decode_bytes_per_s, row.copy_bytes_per_s];
        let rates = rates.map(|rate| format!("{:.1}", rate / 1e9));
        let shares = [row.encode_share, row.decode_share];
        let shares = shares.map(|share| format!("{:.1} %", 100.0 * share));
        let some = |figure: Option<f64>, unit: &str| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}{unit}"))
        };
        let path = [some(row.bits_per_pair, ""), some(row.logloss_delta_pct, " %")];
        let names = [row.stream.clone(), row.codec.clone()];
        [&names[..], &bits, &rates, &shares, &path].concat()
    }));
    columns(&cells)
}

/// What of a push is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Its keys.
    Keys,
    /// Its keys, then its deltas.
    Push(ValueCodec),
}

impl What {
    fn all() -> impl Iterator<Item = What> {
        [What::Keys].into_iter().chain(ValueCodec::ALL.map(What::Push))
    }

    fn name(self) -> String {
        match self {
            What::Keys => "keys".to_owned(),
            What::Push(ValueCodec::F32) => "exact".to_owned(),
            What::Push(codec) => codec.to_string(),
        }
    }
}

/// One stream under one codec, with room for all that it becomes.
struct Case<'a> {
    stream: &'a CodecStream,
    what: What,
    /// Encoded pushes, each as long as it is.
    bodies: Vec<Vec<u8>>,
    /// A push: its keys, its deltas by rows and by columns, its bytes.
    keys: Vec<u64>,
    deltas: Vec<f32>,
    split: Vec<f32>,
    body: Vec<u8>,
}

impl<'a> Case<'a> {
    fn new(stream: &'a CodecStream, what: What) -> Case<'a> {
        let keys_max = stream.batches.iter().map(|batch| batch.keys.len()).max().unwrap_or(0);
        let values_max = keys_max * stream.shape.width();
        let RowShape { columns, dim } = stream.shape;
        let values_bytes = match what {
            What::Keys => 0,
            What::Push(codec) => columns * encoded_values_bytes_max(codec, keys_max * dim),
        };
        let mut case = Case {
            stream,
            what,
            bodies: Vec::with_capacity(stream.batches.len()),
            keys: vec![0; keys_max],
            deltas: vec![0.0; values_max],
            split: vec![0.0; values_max],
            body: vec![0; packed_keys_bytes_max(keys_max) + values_bytes],
        };
        for (number, batch) in stream.batches.iter().enumerate() {
            let bytes = case.encode_one(number, batch);
            case.bodies.push(case.body[..bytes].to_vec());
            case.decode_one(number);
            assert_eq!(case.keys[..batch.keys.len()], batch.keys, "keys come back");
            if what == What::Push(ValueCodec::F32) {
                assert_eq!(case.deltas[..batch.deltas.len()], batch.deltas, "deltas come back");
            }
        }
        case
    }

    /// Raw bytes of a pass.
    fn raw_bytes(&self) -> usize {
        let width = if self.what == What::Keys { 0 } else { self.stream.shape.width() };
        self.stream.pairs() * (size_of::<u64>() + width * size_of::<f32>())
    }

    fn bytes_per_s(&mut self, phase: Duration, pass: fn(&mut Self)) -> f64 {
        pass(self);
        let (start, mut passes) = (Instant::now(), 0);
        loop {
            pass(self);
            passes += 1;
            let elapsed = start.elapsed();
            if elapsed >= phase {
                return (passes * self.raw_bytes()) as f64 / elapsed.as_secs_f64();
            }
        }
    }

    fn copy(&mut self) {
        for batch in &self.stream.batches {
            self.keys[..batch.keys.len()].copy_from_slice(black_box(&batch.keys));
            if self.what != What::Keys {
                self.deltas[..batch.deltas.len()].copy_from_slice(black_box(&batch.deltas));
            }
            black_box((&mut self.keys, &mut self.deltas));
        }
    }

    fn encode(&mut self) {
        for (number, batch) in self.stream.batches.iter().enumerate() {
            black_box(self.encode_one(number, black_box(batch)));
        }
    }

    fn decode(&mut self) {
        for number in 0..self.bodies.len() {
            self.decode_one(black_box(number));
            black_box((&mut self.keys, &mut self.deltas));
        }
    }

    /// Writes a push to `body`; gives back its bytes.
    fn encode_one(&mut self, number: usize, batch: &CodecBatch) -> usize {
        let isa = Isa::detect();
        let mut bytes = pack_keys(isa, &batch.keys, &mut self.body);
        if let What::Push(codec) = self.what {
            let RowShape { columns, .. } = self.stream.shape;
            let split = &mut self.split[..batch.deltas.len()];
            split_columns(isa, &batch.deltas, self.stream.shape, split);
            let streams = split.chunks_exact(batch.deltas.len() / columns);
            for (column, values) in streams.enumerate() {
                let rounding = Rounding::Stochastic { seed: (number * columns + column) as u64 };
                bytes += encode_values(isa, codec, values, rounding, &mut self.body[bytes..]);
            }
        }
        bytes
    }

    /// Reads a push from its body.
    fn decode_one(&mut self, number: usize) {
        const OWN: &str = "bytes of this run's own encoder";
        let (isa, body) = (Isa::detect(), &self.bodies[number]);
        let keys = &mut self.keys[..self.stream.batches[number].keys.len()];
        let mut read = unpack_keys(isa, body, keys).expect(OWN);
        if let What::Push(codec) = self.what {
            let shape = self.stream.shape;
            let split = &mut self.split[..keys.len() * shape.width()];
            for values in split.chunks_exact_mut(keys.len() * shape.dim) {
                read += decode_values(isa, codec, &body[read..], values).expect(OWN);
            }
            join_columns(isa, split, shape, &mut self.deltas[..keys.len() * shape.width()]);
        }
        assert_eq!(read, body.len(), "a body is read to its end");
    }

    fn row(&self, figures: &[[f64; 3]], trained: Option<Trained>) -> CodecRow {
        let median = |of: fn(&[f64; 3]) -> f64| {
            Spread::of(&figures.iter().map(of).collect::<Vec<f64>>()).median
        };
        let bits = |bytes: usize| 8.0 * bytes as f64 / self.stream.pairs() as f64;
        CodecRow {
            stream: self.stream.name.clone(),
            codec: self.what.name(),
            raw_bits_per_pair: bits(self.raw_bytes()),
            body_bits_per_pair: bits(self.bodies.iter().map(Vec::len).sum()),
            encode_bytes_per_s: median(|[encoded, _, _]| *encoded),
            decode_bytes_per_s: median(|[_, decoded, _]| *decoded),
            copy_bytes_per_s: median(|[_, _, copied]| *copied),
            encode_share: median(|[encoded, _, copied]| encoded / copied),
            decode_share: median(|[_, decoded, copied]| decoded / copied),
            bits_per_pair: trained.map(|trained| trained.bits_per_pair),
            logloss_delta_pct: trained.map(|trained| trained.logloss_delta_pct),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> CodecStream {
        let batch = |number: u64| CodecBatch {
            keys: (0..300).map(|key| key * 1000 + number).collect(),
            deltas: (0..600_u16).map(|value| f32::from(value) - 200.0).collect(),
        };
        let shape = RowShape { columns: 2, dim: 1 };
        CodecStream { name: "made".to_owned(), shape, batches: (0..3).map(batch).collect() }
    }

    #[test]
    fn every_codec_has_a_row_for_each_stream_and_takes_what_training_told() {
        let spec = CodecSpec { seconds: 1e-6, repeats: REPEATS_MIN };
        let empty = CodecStream { batches: Vec::new(), ..stream() };
        let told = Trained { bits_per_pair: 7.0, logloss_delta_pct: 0.1 };
        let trained =
            |stream: &str, codec: &str| (stream == "made" && codec == "int8").then_some(told);
        let rows = run_codecs(&spec, &[stream(), empty], &trained, &mut |_| {}).expect("small");
        assert_eq!(rows.len(), 1 + ValueCodec::ALL.len());
        for row in &rows {
            assert!(row.encode_bytes_per_s > 0.0 && row.decode_share > 0.0, "{row:?}");
            assert!(row.body_bits_per_pair < row.raw_bits_per_pair, "{row:?}");
            assert_eq!(row.bits_per_pair.is_some(), row.codec == "int8");
        }
        assert!(render_codecs(&rows).contains("one-bit"));
        let json = serde_json::to_string(&rows).expect("numbers and strings");
        let back: Vec<CodecRow> = serde_json::from_str(&json).expect("its own fields");
        assert_eq!(back.len(), rows.len());
    }

    #[test]
    fn a_spec_without_repeats_is_refused() {
        let spec = CodecSpec { seconds: 1.0, repeats: 0 };
        assert!(matches!(spec.check(), Err(SpecError::OutOfRange { name: "repeats", .. })));
    }
}
