//! What the doctor says of one thing.
//!
//! Owns the form: a name, a value, a verdict and, where something is to be said, why and what to
//! do.
//!
//! Invariant: whatever is not fine has a reason and a remedy.

use serde::Serialize;

/// How bad it is, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Nothing to do.
    Ok,
    /// Good to know; it costs nothing, or it is as it must be on such a machine.
    Note,
    /// It works, and slower or with less than it could.
    Warning,
    /// gradwire, or what was said to be needed, cannot be used.
    Unfit,
}

/// Why a thing is not fine, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// What it leads to.
    pub(super) reason: String,
    /// What mends it: commands, where there are any.
    pub(super) remedy: String,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What it is.
    pub(super) name: String,
    /// How it is.
    pub(super) value: String,
    /// How bad that is.
    pub(super) verdict: Verdict,
    /// Why; none if it is fine.
    pub(super) reason: Option<String>,
    /// What to do; none if it is fine.
    pub(super) remedy: Option<String>,
}

impl Finding {
    /// Something that is fine.
    pub(super) fn ok(name: impl Into<String>, value: impl Into<String>) -> Finding {
        let (name, value) = (name.into(), value.into());
        Finding { name, value, verdict: Verdict::Ok, reason: None, remedy: None }
    }

    /// The same, which is good to know.
    pub(super) fn note(self, advice: Advice) -> Finding {
        self.judged(Verdict::Note, advice)
    }

    /// The same, which could be better.
    pub(super) fn warning(self, advice: Advice) -> Finding {
        self.judged(Verdict::Warning, advice)
    }

    /// The same, with which nothing works.
    pub(super) fn unfit(self, advice: Advice) -> Finding {
        self.judged(Verdict::Unfit, advice)
    }

    fn judged(self, verdict: Verdict, Advice { reason, remedy }: Advice) -> Finding {
        Finding { verdict, reason: Some(reason), remedy: Some(remedy), ..self }
    }
}

/// Advice of two texts.
pub(super) fn because(reason: impl Into<String>) -> Because {
    Because(reason.into())
}

/// A reason that waits for its remedy.
pub(super) struct Because(String);

impl Because {
    /// The remedy.
    pub(super) fn mend(self, remedy: impl Into<String>) -> Advice {
        Advice { reason: self.0, remedy: remedy.into() }
    }
}
