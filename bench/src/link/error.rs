//! Why a bare link was not measured.

use std::fmt;
use std::io;

use server::ListenError;
use transport::tcp::ConnectError;
use transport::verbs::perf::PerfError;

use crate::roofs::RoofError;

/// Why a bare link was not measured. Both ends have ended, or do when they notice.
#[derive(Debug)]
pub enum LinkError {
    /// The address cannot be listened at, or not without saying that others may reach it.
    Listen(ListenError),
    /// The far end is not there.
    Connect(ConnectError),
    /// The operating system said no.
    Os {
        /// What was tried.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// What the other end says is not what this one understands: run the same gradwire there.
    NotAPeer {
        /// What.
        what: &'static str,
        /// What came.
        found: u64,
        /// What this end understands: up to, or this.
        expected: u64,
    },
    /// The far end gave up, and said why.
    Far {
        /// Its words.
        why: String,
    },
    /// RDMA failed at this end.
    Perf(PerfError),
    /// A transport failed.
    Roof(RoofError),
    /// Nothing came for so long.
    Silent {
        /// How long, in seconds.
        seconds: u64,
    },
}

impl LinkError {
    /// For `map_err`: the call that failed, with what it said.
    pub(super) fn os(call: &'static str) -> impl FnOnce(io::Error) -> LinkError {
        move |error| LinkError::Os { call, error }
    }
}

impl From<PerfError> for LinkError {
    fn from(error: PerfError) -> LinkError {
        LinkError::Perf(error)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Listen(error) => error.fmt(f),
            LinkError::Connect(error) => error.fmt(f),
            LinkError::Os { call, error } => write!(f, "{call}: {error}"),
            LinkError::NotAPeer { what, found, expected } => {
                write!(f, "the other end's {what} is {found}, expected {expected}")
            }
            LinkError::Far { why } => write!(f, "the far end gave up: {why}"),
            LinkError::Perf(error) => error.fmt(f),
            LinkError::Roof(error) => error.fmt(f),
            LinkError::Silent { seconds } => write!(f, "nothing came for {seconds} s"),
        }
    }
}

impl std::error::Error for LinkError {}
