//! The board: figures of every round, and their medians side by side.
//!
//! Invariant: who failed or is missing stands below by name, and has no figure in that round.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::work::Figures;

/// What was noted.
#[derive(Default)]
pub(crate) struct Board {
    /// Who, what, and a figure a round, in the order of their first appearance.
    lines: Vec<(&'static str, &'static str, Vec<f64>)>,
    skipped: BTreeSet<String>,
}

impl Board {
    /// Notes what a turn gave, or why it gave nothing.
    pub(crate) fn note(&mut self, who: &'static str, turn: Result<Figures, String>) {
        let figures = match turn {
            Ok(figures) => figures,
            Err(why) => return self.skip(who, &why),
        };
        for (what, figure) in figures {
            match self.lines.iter_mut().find(|line| (line.0, line.1) == (who, what)) {
                Some((.., known)) => known.push(figure),
                None => self.lines.push((who, what, vec![figure])),
            }
        }
    }

    pub(crate) fn skip(&mut self, who: &str, why: &str) {
        self.skipped.insert(format!("SKIPPED: {who}: {why}"));
    }

    /// One block for each piece of work, one line for each who did it.
    pub(crate) fn render(&self, rounds: usize) -> String {
        let mut text = format!("medians of {rounds} interleaved rounds (lowest, highest)\n");
        let mut works: Vec<&str> = Vec::new();
        for (_, what, _) in &self.lines {
            if !works.contains(what) {
                works.push(what);
            }
        }
        for work in works {
            let _ = writeln!(text, "\n{work}");
            for (who, _, figures) in self.lines.iter().filter(|line| line.1 == work) {
                let mut sorted = figures.clone();
                sorted.sort_unstable_by(f64::total_cmp);
                let (median, last) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
                let _ = writeln!(text, "  {who:<38}{median:>12.2}  ({:.2}, {last:.2})", sorted[0]);
            }
        }
        self.skipped.iter().for_each(|line| text = format!("{text}{line}\n"));
        text
    }
}
