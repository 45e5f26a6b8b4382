//! View: the coordinator's state as people and scripts see it.
//!
//! Owns the reading of the machine's state. It changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wire::{
    Chain, ChainState, ChainStatus, ClusterStatus, Epoch, EpochCause, ServerId, ServerState,
    ServerStatus, ShardId, Time,
};

use super::census::{Health, Server, Wish};
use super::machine::Machine;
use super::store::Entry;

/// An entry on its way into the store.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) entry: Arc<Entry>,
    pub(super) since: Time,
    pub(super) error: Option<String>,
}

/// An epoch that was recorded, for people.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) epoch: Epoch,
    pub(super) cause: String,
    pub(super) at: Option<Time>,
}

/// What a server has to do with chains.
#[derive(Clone, Copy, Default)]
struct Parts {
    heads: usize,
    replicas: usize,
    filling: usize,
}

impl Machine {
    /// Everything that a person wants to see.
    pub(super) fn status(&self, now: Time) -> ClusterStatus {
        let parts = self.parts();
        let server = |server: &Server| {
            let part = parts.get(&server.member.server).copied().unwrap_or_default();
            self.server_status(server, part, now)
        };
        let waits = self.proposal.as_ref();
        let history = self.history.iter().map(|past| EpochCause {
            epoch: past.epoch,
            cause: past.cause.clone(),
            ago_ms: past.at.map(|at| millis(now - at)),
        });
        ClusterStatus {
            cluster: self.spec.name.clone(),
            epoch: self.placement.epoch,
            shards: self.spec.shards,
            replicas: self.spec.replicas,
            servers_min: self.spec.servers_min,
            up_ms: millis(now - self.began_at),
            term: self.lead.0,
            leader: self.lead.1.clone(),
            watchers: self.watchers(),
            store_waits_ms: waits.map(|proposal| millis(now - proposal.since)),
            store_error: waits.and_then(|proposal| proposal.error.clone()),
            servers: self.census.iter().map(server).collect(),
            troubled: self.troubled(),
            chains: self.placement.chains.clone(),
            history: history.collect(),
            epochs: self.ledger.epochs,
            store: self.ledger.store,
            checkpoints: self.conductor.status(now),
            restore: self.restore_status(),
            jobs: self.jobs.status(now),
        }
    }

    fn parts(&self) -> BTreeMap<ServerId, Parts> {
        let mut parts: BTreeMap<ServerId, Parts> = BTreeMap::new();
        for chain in &self.placement.chains {
            for server in &chain.replicas {
                parts.entry(*server).or_default().replicas += 1;
            }
            if let Some(head) = chain.replicas.first() {
                parts.entry(*head).or_default().heads += 1;
            }
            if let Some(joining) = chain.joining {
                parts.entry(joining).or_default().filling += 1;
            }
        }
        parts
    }

    fn server_status(&self, server: &Server, parts: Parts, now: Time) -> ServerStatus {
        let is_member = self.placement.member(server.member.server).is_some();
        let state = match (&server.health, server.wish) {
            (Health::Lost(_), _) => ServerState::Lost,
            (Health::Away(_), _) => ServerState::Away,
            (Health::Expected, _) => ServerState::Expected,
            (Health::Fit, Wish::Leave) => ServerState::Leaving,
            (Health::Fit, Wish::Stay) if is_member => ServerState::Fit,
            (Health::Fit, Wish::Stay) => ServerState::Applied,
        };
        ServerStatus {
            member: server.member.clone(),
            cores: server.cores,
            state,
            beat_ago_ms: millis(server.detector.silence(now)),
            beat_gap_ms: server.detector.gap().as_secs_f64() * 1e3,
            suspected_after_ms: server.detector.patience().as_secs_f64() * 1e3,
            epoch: server.epoch,
            heads: parts.heads,
            replicas: parts.replicas,
            filling: parts.filling,
            work: server.work.status(),
        }
    }

    /// Chains that are not as they shall be.
    fn troubled(&self) -> Vec<ChainStatus> {
        let state = |shard: ShardId, chain: &Chain| {
            let is_away = |server: &ServerId| {
                let health = self.census.get(*server).map(|server| &server.health);
                !matches!(health, Some(Health::Fit | Health::Expected))
            };
            if chain.replicas.is_empty() {
                Some(ChainState::Lost)
            } else if chain.replicas.iter().all(is_away) {
                Some(ChainState::Away)
            } else if chain.joining.is_some() {
                Some(ChainState::Filling { rows: self.gossip.filling(shard) })
            } else {
                let wanted = usize::from(self.spec.replicas);
                (chain.replicas.len() < wanted).then_some(ChainState::Short)
            }
        };
        let chains = self.placement.shards();
        let status = chains.filter_map(|(shard, chain)| {
            let state = state(shard, chain)?;
            Some(ChainStatus { shard, chain: chain.clone(), state })
        });
        status.collect()
    }
}

/// A time in ms, as the wire has it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
