//! What codecs are measured on: the pushes of a training run, batch by batch.
//!
//! Owns a small FTRL learner of its own, in one thread and without servers, so that gradients have
//! the sizes that they have in training. Reading data is left to `learn`.
//!
//! Invariant: the same source gives the same stream.

use std::collections::HashMap;

use kernels::codec::RowShape;
use kernels::logistic::sigmoid_one;
use kernels::{Isa, ftrl};
use learn::data::{Csr, DataError, Source, SourceSpec};

/// Pushes of one table, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecStream {
    /// What it is a stream of.
    pub name: String,
    /// What a row of deltas is.
    pub shape: RowShape,
    /// The pushes; none without keys.
    pub batches: Vec<CodecBatch>,
}

/// One push.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecBatch {
    /// Its keys, strictly ascending.
    pub keys: Vec<u64>,
    /// `[keys, columns, dim]` deltas.
    pub deltas: Vec<f32>,
}

/// FTRL as `gradwire train` has it unless told otherwise.
const STEP: ftrl::Step = ftrl::Step { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0 };

/// A push carries Σg and Σg² of each key.
const SHAPE: RowShape = RowShape { columns: 2, dim: 1 };

impl CodecStream {
    /// The pushes of FTRL over the batches of a source: trains on the first `skipped` batches, then
    /// keeps the pushes of as many as `kept`, or of those that there are.
    ///
    /// - Errors: as reading the source gives.
    pub fn of_training(
        name: &str,
        source: &SourceSpec,
        skipped: usize,
        kept: usize,
    ) -> Result<CodecStream, DataError> {
        let source = Source::open(source)?;
        let mut model = Model::default();
        let mut batches = Vec::new();
        let mut number = 0;
        while batches.len() < kept
            && let Some(csr) = source.next()?
        {
            let push = model.step(&csr);
            if number >= skipped && !push.keys.is_empty() {
                batches.push(push);
            }
            number += 1;
            source.recycle(csr);
        }
        Ok(CodecStream { name: name.to_owned(), shape: SHAPE, batches })
    }

    /// Keys of all pushes together.
    pub fn pairs(&self) -> usize {
        self.batches.iter().map(|batch| batch.keys.len()).sum()
    }
}

/// Rows by key: `[z, n]` each.
#[derive(Debug, Default)]
struct Model {
    places: HashMap<u64, u32>,
    rows: Vec<f32>,
}

impl Model {
    /// Trains on a batch, whose rows all see the weights from before it; gives back its push.
    fn step(&mut self, csr: &Csr) -> CodecBatch {
        let at: Vec<u32> = csr.keys.iter().map(|&key| self.place(key)).collect();
        let weights: Vec<f32> = at
            .iter()
            .map(|&row| &self.rows[2 * row as usize..])
            .map(|row| ftrl::weight(row[0], row[1], &STEP))
            .collect();
        let mut deltas = vec![0.0; SHAPE.width() * at.len()];
        for (row, label) in csr.labels.iter().enumerate() {
            let places = csr.row(row);
            let value = |place: usize| csr.values.get(place).copied().unwrap_or(1.0);
            let column = |place: usize| csr.columns[place] as usize;
            let terms = places.clone().map(|place| weights[column(place)] * value(place));
            let error = sigmoid_one(terms.sum()) - label;
            for place in places {
                let grad = error * value(place);
                deltas[2 * column(place)] += grad;
                deltas[2 * column(place) + 1] += grad * grad;
            }
        }
        ftrl::apply_rows(Isa::detect(), &mut self.rows, 2, 1, &at, &deltas, &STEP);
        CodecBatch { keys: csr.keys.clone(), deltas }
    }

    fn place(&mut self, key: u64) -> u32 {
        let next = self.places.len() as u32;
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.rows.extend([0.0; 2]);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_the_pushes_of_a_training_run_in_order() {
        let source = SourceSpec {
            inputs: vec!["gen:criteo?rows=5000&seed=1".to_owned()],
            batch_rows: 500,
            ..SourceSpec::default()
        };
        let stream = CodecStream::of_training("drawn", &source, 2, 5).expect("a generator");
        assert_eq!(stream.batches.len(), 5);
        for batch in &stream.batches {
            assert!(batch.keys.is_sorted_by(|one, two| one < two));
            assert_eq!(batch.deltas.len(), batch.keys.len() * stream.shape.width());
            // A sum of squares is above zero where there is a gradient.
            assert!(batch.deltas.iter().skip(1).step_by(2).all(|&squares| squares >= 0.0));
        }
        assert_eq!(stream, CodecStream::of_training("drawn", &source, 2, 5).expect("the same"));
    }
}
