//! The board: how far a run is, for people who watch and for the report's curves.
//!
//! Owns the progress bar and the curves, of bounded length. What the numbers mean is left to
//! `learn::metrics`.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use learn::metrics::{BatchLoss, ProgressiveLoss};

use crate::failure::Failure;
use crate::metrics::training::{Progress, TrainingFigures};
use crate::output::count;

/// Steps of the bar.
const BAR_STEPS: u64 = 1000;

/// Most points of the throughput curve; when they are used up, every second one goes.
const POINTS_MAX: usize = 512;

/// How often the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// A run under way.
pub(crate) struct Board {
    bar: ProgressBar,
    started: Instant,
    drawn: Instant,
    sums: Vec<BatchLoss>,
    fractions: Vec<f64>,
    loss: ProgressiveLoss,
    counted: BatchLoss,
    /// Seconds and rows since the start.
    points: Vec<(f64, u64)>,
    /// Of so many looks at the run, one makes a point.
    every: u64,
    shown: u64,
    /// For readers outside.
    figures: TrainingFigures,
}

impl Board {
    /// A board for so many workers; the clock starts now.
    pub(crate) fn new(workers: u32, figures: TrainingFigures) -> Result<Board, Failure> {
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  eta {eta}")
            .map_err(Failure::failed)?;
        let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr());
        bar.set_style(style);
        let now = Instant::now();
        Ok(Board {
            bar,
            started: now,
            drawn: now,
            sums: vec![BatchLoss::default(); workers as usize],
            fractions: vec![0.0; workers as usize],
            loss: ProgressiveLoss::default(),
            counted: BatchLoss::default(),
            points: vec![(0.0, 0)],
            every: 1,
            shown: 0,
            figures,
        })
    }

    /// A worker has come so far.
    pub(crate) fn note(&mut self, worker: usize, sums: BatchLoss, fraction: f64) {
        self.sums[worker] = sums;
        self.fractions[worker] = fraction;
        let total = self.total();
        self.loss.add(BatchLoss {
            rows: total.rows - self.counted.rows,
            weight: total.weight - self.counted.weight,
            loss: total.loss - self.counted.loss,
        });
        self.counted = total;
    }

    /// Adds to the curve and draws the bar, if it is time.
    pub(crate) fn show(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let rows = self.counted.rows;
        self.shown += 1;
        if self.shown.is_multiple_of(self.every) {
            self.note_point(seconds, rows);
        }
        if self.drawn.elapsed() < DRAW_EVERY {
            return;
        }
        self.drawn = Instant::now();
        let fraction = self.fractions.iter().sum::<f64>() / self.fractions.len() as f64;
        self.bar.set_position((fraction * BAR_STEPS as f64) as u64);
        self.figures.show(Progress { rows, loss: self.mean_loss(), ratio: fraction, seconds });
        let rate = count((rows as f64 / seconds) as u64);
        let loss = self.mean_loss();
        self.bar.set_message(format!("{} rows  {rate} rows/s  loss {loss:.4}", count(rows)));
    }

    fn mean_loss(&self) -> f64 {
        self.counted.loss / self.counted.weight
    }

    /// The run is over: the bar goes. Returns its seconds.
    pub(crate) fn finish(&mut self) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64();
        self.note_point(seconds, self.counted.rows);
        self.bar.finish_and_clear();
        seconds
    }

    /// Rows seen and mean loss of the rows just before.
    pub(crate) fn loss_curve(&self) -> Vec<(f64, f64)> {
        self.loss.curve().iter().map(|point| (point.rows as f64, point.loss)).collect()
    }

    /// Seconds since the start, and rows a second just before.
    pub(crate) fn throughput_curve(&self) -> Vec<(f64, f64)> {
        let rate = |pair: &[(f64, u64)]| {
            let [(from, before), (to, after)] = pair else { return None };
            (to > from).then(|| (*to, (after - before) as f64 / (to - from)))
        };
        self.points.windows(2).filter_map(rate).collect()
    }

    fn note_point(&mut self, seconds: f64, rows: u64) {
        if self.points.len() == POINTS_MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every *= 2;
        }
        self.points.push((seconds, rows));
    }

    fn total(&self) -> BatchLoss {
        self.sums.iter().fold(BatchLoss::default(), |all, one| BatchLoss {
            rows: all.rows + one.rows,
            weight: all.weight + one.weight,
            loss: all.loss + one.loss,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throughput_curve_stays_bounded_and_keeps_its_ends() {
        let mut board = Board::new(1, TrainingFigures::default()).expect("a style");
        for step in 1..10 * POINTS_MAX as u64 {
            board.note_point(step as f64, 3 * step);
        }
        let curve = board.throughput_curve();
        assert!(curve.len() < POINTS_MAX);
        assert!(curve.iter().all(|&(_, rate)| rate == 3.0));
    }

    #[test]
    fn the_loss_of_two_workers_is_one_curve() {
        let mut board = Board::new(2, TrainingFigures::default()).expect("a style");
        let sums = |rows: u64, loss: f64| BatchLoss { rows, weight: rows as f64, loss };
        board.note(0, sums(1000, 500.0), 0.5);
        board.note(1, sums(1000, 300.0), 0.5);
        assert_eq!(board.loss_curve(), [(1000.0, 0.5), (2000.0, 0.3)]);
    }
}
