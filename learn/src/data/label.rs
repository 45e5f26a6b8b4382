//! From the label that stands in a row to the one that a batch holds.
//!
//! Owns what a missing label means. Finding the label in a row is left to the formats.
//!
//! Invariant: a label is 0.0 or 1.0, or NaN where labels are optional and the row has none.

use super::error::{Fault, Found, Reason};
use super::number::{number, number_f64};
use super::spec::{LabelRule, Labels};

/// How labels are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Labeller {
    pub(crate) rule: LabelRule,
    pub(crate) labels: Labels,
}

impl Labeller {
    /// The label that `token` spells. `at` is where it stands in its row, for the fault.
    #[inline]
    pub(crate) fn text(self, token: &[u8], at: usize) -> Result<f32, Fault> {
        match (self.rule, token) {
            (LabelRule::Binary, b"1") => Ok(1.0),
            (LabelRule::Binary, b"0" | b"-1") => Ok(0.0),
            _ => self.number_text(token, at),
        }
    }

    fn number_text(self, token: &[u8], at: usize) -> Result<f32, Fault> {
        let value = number_f64(token).ok_or_else(|| unreadable("a label", token, at))?;
        self.rule.apply(value).map_err(|reason| Fault::new(at, reason))
    }

    /// The label of a row that has none; `fault` is returned if it should have one.
    pub(crate) fn missing(self, fault: impl FnOnce() -> Fault) -> Result<f32, Fault> {
        match self.labels {
            Labels::Required => Err(fault()),
            Labels::Optional => Ok(f32::NAN),
        }
    }
}

/// The finite number that `token` spells. `at` is where it stands in its row, for the fault.
#[inline]
pub(crate) fn finite(token: &[u8], at: usize, what: &'static str) -> Result<f32, Fault> {
    let value = number(token).ok_or_else(|| unreadable(what, token, at))?;
    if value.is_finite() { Ok(value) } else { Err(Fault::new(at, Reason::NotFinite { what })) }
}

/// `token`, at byte `at` of its row, is not `what` was expected.
#[cold]
pub(crate) fn unreadable(what: &'static str, token: &[u8], at: usize) -> Fault {
    let found = token.first().map_or(Found::Nothing, |&byte| Found::Byte(byte));
    Fault::new(at, Reason::Expected { what, found })
}

/// The positive number that `token` spells, as an example's weight.
pub(crate) fn importance(token: &[u8], at: usize) -> Result<f32, Fault> {
    let value = finite(token, at, "an importance")?;
    let good = value > 0.0;
    if good { Ok(value) } else { Err(Fault::new(at, Reason::Importance { value })) }
}
