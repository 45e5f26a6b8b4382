//! A whole cluster in one thread, from one seed.
//!
//! Owns the driver: it puts real shards, cores and worker sessions on a simulated network, lets
//! them run a job under whatever faults the seed draws, and checks what the workers were
//! promised. The network and its faults are `transport::simulated`; nothing else is simulated.
//!
//! Invariant: everything in a run follows from its [`Setup`], so that a seed that fails, fails
//! again.
//!
//! The job counts. Each push adds one to each of its keys, so that the truth is a sum of what was
//! pushed, and these promises can be checked at any moment:
//!
//! 1. In the end, each key holds exactly the pushes that named it: none is lost or doubled.
//! 2. A pull at clock `c` under staleness `s` sees at least what all workers pushed in the clocks
//!    before `c - s`.
//! 3. A key never holds more than was pushed so far, nor less than any worker had read before it
//!    was asked for.
//!
//! Workers die at any push, and come back into their places; some that were taken for dead go on
//! sending for a while.
//!
//! Where servers hold shards in chains, the real coordinator places them. Servers and coordinators
//! crash, freeze, lose each other and their store, and are replaced on top of that, and then:
//!
//! 4. A pull sees every push that was acknowledged to anybody before it was asked.
//! 5. Who knows that another server is a shard's head answers nobody.
//! 6. Epochs go up, the store takes one placement of each, and nobody hears of another.
//! 7. Replicas that have applied as many operations of one epoch hold the same; no shard is given
//!    up of which a replica lives; once nothing goes wrong any more, every chain becomes whole.
//!
//! Checkpoints are taken meanwhile, onto a disk that fails and loses its power. Then:
//!
//! 8. What was published is whole, whatever befalls the disk. It holds what was acknowledged before
//!    it was begun, and nothing that was not pushed; where workers wait for each other and it is
//!    cut at a clock, the pushes of the clocks before, and nothing else.
#![forbid(unsafe_code)]

mod agenda;
mod cluster;
mod failure;
mod fleet;
mod journal;
mod ledger;
mod lives;
mod member;
mod pace;
mod plan;
mod random;
mod reader;
mod run;
mod step;

pub use failure::{Event, Failure, Unending};
pub use fleet::{Counts as ServerCounts, StoreDefect, VaultCounts, VaultDefect};
pub use plan::{ChainPlan, Plan, Strikes};
pub use run::{Defect, Report, Setup, run, run_plan};
