//! View: what a replica shows to people who watch.
//!
//! Owns the reading of its state. It changes nothing.

use wire::{Clock, Epoch, TableSize};

use super::{Replica, Role};
use crate::hot::{HOT_KEYS_MAX, HotKey};

/// A replica at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What it is in its chain.
    pub role: Role,
    /// The chain's epoch.
    pub epoch: Epoch,
    /// Operations applied here.
    pub position: u64,
    /// Operations that all behind it are known to have applied.
    pub acknowledged: u64,
    /// What is kept for the successor, in bytes.
    pub log_bytes: usize,
    /// Answers that wait for the tail.
    pub answers_held: usize,
    /// How far filling the successor is; none if that is not under way.
    pub filling: Option<Progress>,
    /// The slowest worker's clock and the furthest one's; none without a job.
    pub clocks: Option<(Clock, Clock)>,
    /// The sizes of all tables together.
    pub size: TableSize,
    /// The keys that this server is asked for most, the hottest first.
    pub hot: [HotKey; HOT_KEYS_MAX],
}

/// How far filling a successor is, in lines of tables' indexes. A table that grows meanwhile has
/// more, and may begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Lines that were sent.
    pub lines_sent: u64,
    /// Lines that there are.
    pub lines: u64,
}

impl<S> Replica<S> {
    /// What its tables, its log, pushes that wait and what waits of a recording take, in bytes.
    pub fn held_bytes(&self) -> u64 {
        let waits = self.gathering.held_bytes() as u64;
        let recorded = self.recorded_bytes() as u64;
        self.shard.held_bytes() + self.log.copied_bytes() as u64 + waits + recorded
    }

    /// What it shows.
    pub fn view(&self) -> View {
        View {
            role: self.role,
            epoch: self.shard.epoch,
            position: self.position,
            acknowledged: self.acknowledged,
            log_bytes: self.log.bytes(),
            answers_held: self.held.len(),
            filling: self.progress(),
            clocks: self.shard.clocks(),
            size: self.shard.size(),
            hot: self.shard.hot_keys(),
        }
    }
}
