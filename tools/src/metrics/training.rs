//! What a training run shows.
//!
//! Owns the names of its figures; `docs/metrics.md` lists them. They are those of the progress bar.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::page::{Figures, Page};

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// Rows that were learned from.
    pub(crate) rows: u64,
    /// Mean loss of all of them, each before it was learned from.
    pub(crate) loss: f64,
    /// Share of the data that was read, of 1.
    pub(crate) ratio: f64,
    /// Since the start.
    pub(crate) seconds: f64,
}

/// A run, as the thread that draws its bar shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrainingFigures(Arc<Mutex<Progress>>);

impl TrainingFigures {
    /// The run is so far.
    pub(crate) fn show(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

impl Figures for TrainingFigures {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let progress = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.counter("gradwire_train_rows", "Rows that were learned from", progress.rows as f64)?;
        page.gauge(
            "gradwire_train_loss",
            "Mean loss of all rows, each before it was learned from",
            progress.loss,
        )?;
        page.gauge(
            "gradwire_train_progress_ratio",
            "Share of the data that was read, of 1",
            progress.ratio,
        )?;
        page.counter("gradwire_train_seconds", "Since the start", progress.seconds)
    }
}
