//! Claims: the word of one coordinator that it leads, where all of a cluster's coordinators see it.
//!
//! Owns the record and the interface to where it lies. When to claim is left to `contest`, saying
//! it in time to `elector`, where it lies to `claims_etcd`.
//!
//! Invariant: of two coordinators that claim at once, one does; terms count up by one. A log that
//! was opened for a term takes nothing once another term has begun.

use serde::{Deserialize, Serialize};

use super::store::{Store, StoreError};

/// The word of a coordinator that it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which lead this is; counts up by one.
    pub term: u64,
    /// How often it was said in this term. Who leads says it again and again.
    pub beat: u64,
    /// Who leads: a number that each process draws.
    pub writer: u64,
    /// Where it is reached, `host:port`; none: nobody has said.
    pub address: Option<String>,
    /// It has ended on its own account: nobody need wait for its silence.
    pub is_over: bool,
}

/// Where coordinators claim. What another one has written since this one last looked is never
/// written over.
pub trait Claims: Send {
    /// The cluster's own number, drawn when its log was made.
    fn cluster_id(&self) -> u64;

    /// The number that was drawn for who claims here.
    fn writer(&self) -> u64;

    /// The newest claim; none: nobody has led yet.
    ///
    /// # Errors
    ///
    /// The store does not answer, or holds what is no claim.
    fn newest(&mut self) -> Result<Option<Claim>, StoreError>;

    /// Writes a claim if the newest is still the one that was last seen here, by this or by
    /// [`Claims::newest`]. Returns the newest afterwards: `next`, if it was written.
    ///
    /// # Errors
    ///
    /// The store does not answer; `next` may have been written all the same.
    fn replace(&mut self, next: &Claim) -> Result<Option<Claim>, StoreError>;

    /// The log, for who leads in a term. Its appends fail by [`StoreError::Fenced`] once another
    /// term has begun.
    fn log(&self, term: u64) -> Box<dyn Store>;
}
