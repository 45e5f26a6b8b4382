//! What a coordinator shows.
//!
//! Owns the names of its figures; `docs/metrics.md` lists them. They are asked for as a person asks
//! for a cluster's state, so that reading them takes nothing from the coordinator but an answer.

use std::collections::BTreeMap;
use std::fmt;

use wire::{Ask, ChainState, ClusterStatus, ServerState, ServerStatus, ToCoordinator, ToMember};

use super::page::{Figures, Labels, Page, by};
use crate::cluster::Caller;

/// A coordinator, by its address and its cluster.
pub(crate) struct CoordinatorFigures {
    pub(crate) address: String,
    pub(crate) cluster: String,
}

impl Figures for CoordinatorFigures {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let ask = |mut caller: Caller| caller.say(&ToCoordinator::Ask(Ask::Status));
        let asked = Caller::connect_here(&self.address, &self.cluster)
            .and_then(|caller| caller.map(ask).transpose());
        let status = match asked {
            Ok(Some(ToMember::Status(status))) => *status,
            Ok(Some(_)) => ClusterStatus::default(),
            // The figures are those of the one who leads.
            Ok(None) => return write_leads(page, 0.0),
            Err(failure) => {
                tracing::warn!(error = %failure, "the coordinator does not show itself");
                return Ok(());
            }
        };
        write_leads(page, 1.0)?;
        write_cluster(page, &status)?;
        write_servers(page, &status.servers)?;
        write_store(page, &status)
    }
}

fn write_leads(page: &mut Page<'_>, leads: f64) -> fmt::Result {
    let help = "Whether this coordinator leads; of those of a cluster, one does";
    page.gauge("gradwire_coordinator_leads", help, leads)
}

fn write_cluster(page: &mut Page<'_>, status: &ClusterStatus) -> fmt::Result {
    page.gauge("gradwire_epoch", "The newest placement", status.epoch.get() as f64)?;
    page.gauge("gradwire_cluster_shards", "Shards of the cluster", f64::from(status.shards))?;
    page.gauge("gradwire_cluster_watchers", "Links that watch placements", status.watchers as f64)?;
    let mut troubles: BTreeMap<&str, u64> =
        ["filling", "short", "away", "lost"].map(|state| (state, 0)).into();
    for chain in &status.troubled {
        *troubles.entry(chain_state(chain.state)).or_default() += 1;
    }
    page.gauges(
        "gradwire_cluster_shards_troubled",
        "Shards that are not as they shall be",
        troubles.into_iter().map(|(state, count)| (by("state", &state), count as f64)),
    )?;
    let epochs = status.epochs;
    let causes = [
        ("first", epochs.first),
        ("server_joined", epochs.joined),
        ("server_left", epochs.left),
        ("server_gone", epochs.gone),
        ("replica_filled", epochs.filled),
        ("fill_begun", epochs.fill_begun),
        ("replica_dropped", epochs.dropped),
        ("shard_lost", epochs.lost),
    ];
    page.counters(
        "gradwire_cluster_epoch_changes",
        "Epochs since this coordinator began, by what they changed; one may count for several",
        causes.map(|(cause, count)| (by("cause", &cause), count as f64)),
    )
}

fn chain_state(state: ChainState) -> &'static str {
    match state {
        ChainState::Filling { .. } => "filling",
        ChainState::Short => "short",
        ChainState::Away => "away",
        ChainState::Lost => "lost",
    }
}

fn server_state(state: ServerState) -> &'static str {
    match state {
        ServerState::Applied => "applied",
        ServerState::Fit => "fit",
        ServerState::Leaving => "leaving",
        ServerState::Expected => "expected",
        ServerState::Away => "away",
        ServerState::Lost => "lost",
    }
}

fn write_servers(page: &mut Page<'_>, servers: &[ServerStatus]) -> fmt::Result {
    let mut states: BTreeMap<&str, u64> =
        ["applied", "fit", "leaving", "expected", "away", "lost"].map(|state| (state, 0)).into();
    for server in servers {
        *states.entry(server_state(server.state)).or_default() += 1;
    }
    page.gauges(
        "gradwire_cluster_servers",
        "Servers, by how they are",
        states.into_iter().map(|(state, count)| (by("state", &state), count as f64)),
    )?;
    let each = |value: fn(&ServerStatus) -> f64| {
        let labels = |server: &ServerStatus| -> Labels {
            let (number, name) = (server.member.server.get(), server.member.name.clone());
            vec![("server", number.to_string()), ("name", name)]
        };
        servers.iter().map(move |server| (labels(server), value(server))).collect::<Vec<_>>()
    };
    type Family = (&'static str, &'static str, fn(&ServerStatus) -> f64);
    let families: [Family; 7] = [
        ("gradwire_server_silence_seconds", "Since a server's last beat", |server| {
            server.beat_ago_ms as f64 / 1e3
        }),
        ("gradwire_server_patience_seconds", "The silence after which it is suspected", |server| {
            server.suspected_after_ms / 1e3
        }),
        ("gradwire_server_beat_gap_seconds", "Mean time between its beats", |server| {
            server.beat_gap_ms / 1e3
        }),
        ("gradwire_server_epoch", "The placement that it acts on", |server| {
            server.epoch.get() as f64
        }),
        ("gradwire_server_heads", "Shards that it answers workers for", |server| {
            server.heads as f64
        }),
        ("gradwire_server_replicas", "Shards that it holds", |server| server.replicas as f64),
        ("gradwire_server_filling", "Shards that it is being filled with", |server| {
            server.filling as f64
        }),
    ];
    families.into_iter().try_for_each(|(name, help, value)| page.gauges(name, help, each(value)))
}

fn write_store(page: &mut Page<'_>, status: &ClusterStatus) -> fmt::Result {
    let store = status.store;
    page.counter(
        "gradwire_store_appends",
        "Epochs that the store has taken",
        store.appends as f64,
    )?;
    page.counter(
        "gradwire_store_append_seconds",
        "How long that took together, failed attempts included",
        store.append_us as f64 / 1e6,
    )?;
    page.gauge(
        "gradwire_store_last_append_seconds",
        "How long the last attempt took",
        store.last_append_us as f64 / 1e6,
    )?;
    page.counter("gradwire_store_failures", "Attempts that failed", store.failures as f64)?;
    page.gauge(
        "gradwire_store_waiting_seconds",
        "For how long the store has not taken an epoch; 0 if none is to be recorded",
        status.store_waits_ms.unwrap_or(0) as f64 / 1e3,
    )
}
