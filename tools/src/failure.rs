//! Why a command ends, and with which exit code.
//!
//! Owns the codes: 1 failed, 2 usage, 3 a verdict went against the run, 4 unfit.

use std::fmt;
use std::process::ExitCode;

/// The command line or the configuration file is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;

/// The command was right and could not be carried out.
const EXIT_FAILED: u8 = 1;

/// The run was carried out, and what it checked does not hold.
const EXIT_VERDICT: u8 = 3;

/// This machine cannot be used.
const EXIT_UNFIT: u8 = 4;

/// Why a command ends, in one line for a person.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the configuration file is wrong.
    Usage(String),
    /// The command was right and could not be carried out.
    Failed(String),
    /// The run was carried out, and what it checked does not hold.
    Verdict(String),
    /// This machine cannot be used, as far as the command can tell.
    Unfit(String),
}

impl Failure {
    /// A usage failure.
    pub(crate) fn usage(why: impl fmt::Display) -> Failure {
        Failure::Usage(why.to_string())
    }

    /// A failure.
    pub(crate) fn failed(why: impl fmt::Display) -> Failure {
        Failure::Failed(why.to_string())
    }

    /// A verdict against what was looked at.
    pub(crate) fn verdict(why: impl fmt::Display) -> Failure {
        Failure::Verdict(why.to_string())
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(EXIT_USAGE),
            Failure::Failed(_) => ExitCode::from(EXIT_FAILED),
            Failure::Verdict(_) => ExitCode::from(EXIT_VERDICT),
            Failure::Unfit(_) => ExitCode::from(EXIT_UNFIT),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(why)
            | Failure::Failed(why)
            | Failure::Verdict(why)
            | Failure::Unfit(why) => f.write_str(why),
        }
    }
}
