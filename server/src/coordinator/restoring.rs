//! A cluster that begins from a checkpoint: which of its replicas are there.
//!
//! Owns what servers say of their loads. Loading is theirs.
//!
//! Invariant: a server that cannot load a shard leaves its chain as one that differs does, if
//! somebody else holds it.

use std::collections::BTreeMap;

use wire::{
    ChainReport, Observation, RestoreStatus, RestoredFrom, STORE_FAILURES_SHOWN_MAX, ServerId,
    ShardId, StoreReport, StoreState, Time,
};

use super::census::Changed;
use super::machine::Machine;

/// What is known of a cluster's beginning.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    /// What the first placement begins from.
    pub(super) from: Option<RestoredFrom>,
    /// By replica: whether it failed, and why; none: it is being loaded. Those that are there are
    /// not named.
    loads: BTreeMap<(ShardId, ServerId), Option<String>>,
}

impl Machine {
    /// Whether replicas are still being loaded.
    pub(super) fn is_restoring(&self) -> bool {
        self.restoring.loads.values().any(Option::is_none)
    }

    /// The first placement is recorded: all of its replicas are to be loaded.
    pub(super) fn begin_restoring(&mut self) {
        if self.placement.restored_from.is_some() {
            let replicas = self.placement.shards();
            let replicas = replicas.flat_map(|(shard, chain)| {
                chain.replicas.iter().map(move |&it| ((shard, it), None))
            });
            self.restoring.loads = replicas.collect();
        }
    }

    /// Takes what a server says of a load.
    pub(super) fn hear_of_load(&mut self, from: ServerId, report: &StoreReport, now: Time) {
        let replica = (report.shard, from);
        match &report.state {
            StoreState::Loading => drop(self.restoring.loads.insert(replica, None)),
            StoreState::Loaded => drop(self.restoring.loads.remove(&replica)),
            StoreState::NotLoaded { reason } => {
                self.restoring.loads.insert(replica, Some(reason.clone()));
                let Some(chain) = self.placement.chain(report.shard) else { return };
                let seen = Observation {
                    shard: report.shard,
                    chain: chain.epoch,
                    report: ChainReport::Refused { reason: reason.clone() },
                };
                if self.gossip.note(from, &seen, &self.placement, now) == Changed::Yes {
                    self.changed = Changed::Yes;
                }
            }
            _ => {}
        }
    }

    /// Forgets replicas that are none any more.
    pub(super) fn prune_loads(&mut self) {
        let placement = &self.placement;
        self.restoring.loads.retain(|&(shard, server), why| {
            let held_by =
                placement.chain(shard).map(|chain| &chain.replicas[..]).unwrap_or_default();
            // Why a shard was lost stays known.
            held_by.contains(&server) || held_by.is_empty() && why.is_some()
        });
    }

    /// For people.
    pub(super) fn restore_status(&self) -> Option<RestoreStatus> {
        let from = self.placement.restored_from.clone().or_else(|| self.restoring.from.clone())?;
        let loads = &self.restoring.loads;
        let failed = loads.iter().filter_map(|((shard, server), why)| {
            Some(format!("{shard} on {server}: {}", why.as_ref()?))
        });
        let failed = failed.take(STORE_FAILURES_SHOWN_MAX).collect();
        let loading = loads.values().filter(|why| why.is_none()).count();
        Some(RestoreStatus { from, loading, failed })
    }
}
