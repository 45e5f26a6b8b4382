//! Learners, the loop that feeds them, data sources, metrics and saved models.
//!
//! Owns what a worker does with a session: which keys a batch needs, what is pushed, when it
//! ticks. Leaves requests to `worker` and what a push does to the shard's rule.
//!
//! Invariant: a learner does no I/O and the loop knows no learner.
#![forbid(unsafe_code)]

pub mod data;
mod feed;
mod job;
mod journal;
mod late;
mod learner;
mod logistic;
mod mark;
pub mod metrics;
pub mod model;
mod run;

pub use feed::{ClaimInEpoch, ClaimSplitInEpoch, Epochs, Feed, FeedProgress};
pub use job::{CALL_MAX, INCARNATION, Job, JobError, Watch, Worked};
pub use journal::{JOURNAL_START, JOURNAL_STEPS, Journal, JournalError};
pub use late::Lateness;
pub use learner::{Ask, Io, Learner, Table};
pub use logistic::{LogisticRegression, Optimizer, margins};
pub use mark::{Mark, Position, Progress};
pub use run::{Continue, PIPELINE_BATCHES, PUSHES_MAX, RunError, VALUES_MAX, learn, read};
