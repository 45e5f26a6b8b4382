//! Why a run gives no report.

use std::fmt;

use launch::LocalError;
use wire::Refusal;
use worker::WorkerError;

use crate::link::LinkError;
use crate::roofs::RoofError;

/// Why there is no report. Servers that were started have ended.
#[derive(Debug)]
pub enum BenchError {
    /// The spec cannot be measured.
    Spec(SpecError),
    /// No server, or no session with it.
    Start(LocalError),
    /// The worker's session failed.
    Worker {
        /// In which phase.
        doing: Doing,
        /// Why.
        error: WorkerError,
    },
    /// The shard refused a request.
    Refused {
        /// In which phase.
        doing: Doing,
        /// Why.
        refusal: Refusal,
    },
    /// A roof cannot be measured.
    Roof(RoofError),
    /// A bare link cannot be measured.
    Link(LinkError),
    /// A row does not hold what was pushed to it: the figures mean nothing.
    WrongValue {
        /// Of which key.
        key: u64,
        /// What was pulled.
        found: f32,
        /// What so many pushes make of a row.
        expected: f32,
        /// How often the key was pushed.
        pushes: u64,
    },
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Joining, and defining the table.
    Begin,
    /// Creating the resident rows.
    Load,
    /// Pushing.
    Push,
    /// Pulling.
    Pull,
    /// Round trips of one key.
    RoundTrip,
    /// Pulls of one key while another worker pushes.
    UnderPush,
    /// Comparing rows with what was pushed.
    Check,
}

/// Why a spec cannot be measured. Nothing was started.
#[derive(Clone, Debug, PartialEq)]
pub enum SpecError {
    /// A field is out of range.
    OutOfRange {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: f64,
        /// The least it may be.
        min: f64,
        /// The most it may be.
        max: f64,
    },
    /// A request does not fit a message.
    MessageBytes {
        /// Its length, in bytes.
        bytes: usize,
        /// The longest message, in bytes.
        bytes_max: usize,
    },
    /// A codec holds rows back, so that none has what its pushes make of it.
    HoldsBack {
        /// Its name.
        codec: String,
    },
    /// Shared memory has both ends in one process here.
    OneProcess,
    /// No kernel has this name.
    NoKernel {
        /// What was given.
        name: String,
    },
}

impl From<SpecError> for BenchError {
    fn from(error: SpecError) -> BenchError {
        BenchError::Spec(error)
    }
}

impl From<LocalError> for BenchError {
    fn from(error: LocalError) -> BenchError {
        BenchError::Start(error)
    }
}

impl From<RoofError> for BenchError {
    fn from(error: RoofError) -> BenchError {
        BenchError::Roof(error)
    }
}

impl From<LinkError> for BenchError {
    fn from(error: LinkError) -> BenchError {
        BenchError::Link(error)
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BenchError::Spec(error) => error.fmt(f),
            BenchError::Start(error) => error.fmt(f),
            BenchError::Worker { doing, error } => write!(f, "{doing}: {error}"),
            BenchError::Refused { doing, refusal } => write!(f, "{doing}: {refusal}"),
            BenchError::Roof(error) => error.fmt(f),
            BenchError::Link(error) => error.fmt(f),
            BenchError::WrongValue { key, found, expected, pushes } => write!(
                f,
                "key {key} holds {found}, but {pushes} pushes make it {expected}; \
                 the figures mean nothing"
            ),
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doing::Begin => "joining and defining the table",
            Doing::Load => "creating the resident rows",
            Doing::Push => "pushing",
            Doing::Pull => "pulling",
            Doing::RoundTrip => "round trips of one key",
            Doing::UnderPush => "pulls of one key while another worker pushes",
            Doing::Check => "checking the rows",
        })
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::OutOfRange { name, found, min, max } => {
                write!(f, "{name} is {found}; it may be {min} to {max}")
            }
            SpecError::MessageBytes { bytes, bytes_max } => {
                write!(f, "a request of {bytes} bytes; a message has {bytes_max} at most")
            }
            SpecError::HoldsBack { codec } => write!(
                f,
                "codec {codec} holds rows back, so that they cannot be checked; \
                 raw, exact, auto, nonzero and the codecs of values can be measured"
            ),
            SpecError::OneProcess => {
                f.write_str("shared memory is measured within one process: name no other end")
            }
            SpecError::NoKernel { name } => {
                write!(f, "no kernel is named {name:?}; there are ")?;
                f.write_str(&crate::kernel::KERNEL_NAMES.join(", "))
            }
        }
    }
}

impl std::error::Error for BenchError {}
impl std::error::Error for SpecError {}
