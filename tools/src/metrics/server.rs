//! What a server shows.
//!
//! Owns the names of its figures; `docs/metrics.md` lists them.

use std::fmt;
use std::sync::Arc;

use ::server::{
    CoreView, Door, DoorView, Ending, Membership, ReplicaView as View, Role, Server,
    TURN_BOUNDS_NS, Turns,
};
use wire::{Clock, Kind, Refusal, ShardId};

use super::page::{Figures, Histogram, Labels, Page, by};

/// A server and its parts.
pub(crate) struct ServerFigures {
    pub(crate) server: Arc<Server>,
    pub(crate) door: Arc<Door>,
    /// None where there is no coordinator.
    pub(crate) membership: Option<Arc<Membership>>,
}

impl Figures for ServerFigures {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let cores = self.server.cores();
        write_work(page, &cores)?;
        write_load(page, &cores)?;
        write_connections(page, &cores, &self.door.view())?;
        write_shards(page, &cores)?;
        write_memory(page, &cores, self.server.memory_bytes())?;
        self.write_membership(page)
    }
}

impl ServerFigures {
    fn write_membership(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(membership) = &self.membership else { return Ok(()) };
        let agent = membership.agent();
        page.gauge(
            "gradwire_coordinator_linked",
            "Whether the coordinator is there: 1 or 0",
            f64::from(u8::from(agent.is_linked)),
        )?;
        page.counter(
            "gradwire_coordinator_links",
            "How often the coordinator was found",
            agent.links_made as f64,
        )?;
        page.gauge(
            "gradwire_epoch",
            "The newest placement that this server was told",
            agent.epoch.get() as f64,
        )?;
        page.gauges(
            "gradwire_beat_round_trip_seconds",
            "From the last beat that the coordinator answered to the answer",
            agent.round_trip.map(|time| (Vec::new(), time.as_secs_f64())),
        )
    }
}

/// Samples of all cores.
fn by_core(
    cores: &[CoreView],
    value: impl Fn(&CoreView) -> f64,
) -> impl Iterator<Item = (Labels, f64)> {
    cores.iter().enumerate().map(move |(core, view)| (by("core", &core), value(view)))
}

/// Samples of all cores by something that they count apart; what never was is left out.
fn by_core_and(
    cores: &[CoreView],
    label: &'static str,
    values: impl Fn(&CoreView) -> Vec<(String, u64)>,
) -> Vec<(Labels, f64)> {
    let mut samples = Vec::new();
    for (core, view) in cores.iter().enumerate() {
        let counted = values(view).into_iter().filter(|(_, count)| *count > 0);
        samples.extend(
            counted.map(|(what, count)| {
                (vec![("core", core.to_string()), (label, what)], count as f64)
            }),
        );
    }
    samples
}

fn write_work(page: &mut Page<'_>, cores: &[CoreView]) -> fmt::Result {
    page.counters(
        "gradwire_keys_pushed",
        "Keys of pushes that were applied; in a chain, at its head",
        by_core(cores, |core| core.tally.keys_pushed as f64),
    )?;
    page.counters(
        "gradwire_keys_pulled",
        "Keys whose values were given out",
        by_core(cores, |core| core.tally.keys_pulled as f64),
    )?;
    page.counters(
        "gradwire_pushes_merged",
        "Pushes that were applied together with those of other workers; in a chain, at its head",
        by_core(cores, |core| core.tally.pushes_merged as f64),
    )?;
    page.counters(
        "gradwire_merges",
        "How often pushes of different workers were applied as one",
        by_core(cores, |core| core.tally.merges as f64),
    )?;
    let requests = |core: &CoreView| {
        let counts = core.tally.requests.iter().zip(0..);
        let name = |number: u8| Kind::from_u8(number).map(|kind| format!("{kind:?}"));
        counts.filter_map(|(&count, number)| Some((name(number)?.to_lowercase(), count))).collect()
    };
    page.counters(
        "gradwire_requests",
        "Requests that were answered, refused ones included",
        by_core_and(cores, "kind", requests),
    )?;
    page.counters(
        "gradwire_refusals",
        "Requests that were refused",
        by_core_and(cores, "reason", |core| refusals(&core.tally.refusals)),
    )?;
    page.counters(
        "gradwire_received_bytes",
        "Bytes of messages received, headers included",
        by_core(cores, |core| core.traffic.received_bytes as f64),
    )?;
    page.counters(
        "gradwire_sent_bytes",
        "Bytes of messages sent, headers included",
        by_core(cores, |core| core.traffic.sent_bytes as f64),
    )
}

fn refusals(counts: &[u64; Refusal::COUNT]) -> Vec<(String, u64)> {
    let named = counts
        .iter()
        .enumerate()
        .filter_map(|(index, &count)| Some((Refusal::from_index(index)?.name().to_owned(), count)));
    named.collect()
}

fn write_load(page: &mut Page<'_>, cores: &[CoreView]) -> fmt::Result {
    let mut turns = |name, what, of: fn(&CoreView) -> &Turns| {
        let of_core = |(core, view)| (by("core", &core), histogram(of(view)));
        page.histograms(name, what, cores.iter().enumerate().map(of_core))
    };
    turns(
        "gradwire_turn_seconds",
        "Turns of a core that found something to do; their sum is the time that it was busy",
        |core| &core.turns,
    )?;
    turns(
        "gradwire_recording_turn_seconds",
        "What recordings for checkpoints took of each turn that had one",
        |core| &core.recording,
    )?;
    turns(
        "gradwire_recording_turn_own_seconds",
        "The same, but only the time that the core's thread ran: the rest is other threads'",
        |core| &core.recording_own,
    )?;
    page.gauges(
        "gradwire_requests_queued",
        "Requests that were received and are not handled yet",
        by_core(cores, |core| core.requests_queued as f64),
    )?;
    page.gauges(
        "gradwire_pulls_waiting",
        "Pulls that wait for slower workers",
        by_core(cores, |core| core.pulls_waiting as f64),
    )
}

fn histogram(turns: &Turns) -> Histogram {
    let bounds_s = TURN_BOUNDS_NS.iter().map(|&bound_ns| bound_ns as f64 / 1e9);
    let ranges = bounds_s.chain([f64::MAX]).zip(turns.counts).collect();
    Histogram { sum_s: turns.total.as_secs_f64(), ranges }
}

fn write_connections(page: &mut Page<'_>, cores: &[CoreView], door: &DoorView) -> fmt::Result {
    let mut peers = Vec::new();
    for (core, view) in cores.iter().enumerate() {
        let kinds = [
            ("worker", view.peers.workers),
            ("observer", view.peers.observers),
            ("predecessor", view.peers.predecessors),
            ("successor", view.peers.successors),
        ];
        peers.extend(kinds.map(|(kind, count)| {
            (vec![("core", core.to_string()), ("kind", kind.to_owned())], count as f64)
        }));
    }
    page.gauges("gradwire_peers", "Connections, by what is at the other end", peers)?;
    let endings = |core: &CoreView| {
        let named = Ending::ALL.iter().zip(core.traffic.endings);
        named.map(|(ending, count)| (ending.name().to_owned(), count)).collect()
    };
    page.counters(
        "gradwire_connections_ended",
        "Connections that ended",
        by_core_and(cores, "reason", endings),
    )?;
    page.counters(
        "gradwire_messages_malformed",
        "Messages that were none, and were dropped",
        by_core(cores, |core| core.traffic.malformed as f64),
    )?;
    let away = &door.turned_away;
    let refused: u64 = away.refused.iter().sum();
    let handshakes = [
        ("admitted", door.admitted),
        ("asked", door.asked),
        ("refused", refused),
        ("broken_off", away.broken_off),
        ("no_hello", away.no_hello),
        ("crowded_out", away.crowded),
        ("no_resources", away.no_resources),
    ];
    page.counters(
        "gradwire_handshakes",
        "Connections that came, by how that ended",
        handshakes.map(|(result, count)| (by("result", &result), count as f64)),
    )?;
    page.counters(
        "gradwire_handshakes_refused",
        "Connections that came and were refused",
        refusals(&away.refused)
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (by("reason", &reason), count as f64)),
    )?;
    page.gauge(
        "gradwire_handshakes_under_way",
        "Connections that have not introduced themselves yet",
        door.under_way as f64,
    )
}

fn write_shards(page: &mut Page<'_>, cores: &[CoreView]) -> fmt::Result {
    let shards: Vec<&(ShardId, View)> = cores.iter().flat_map(|core| &core.shards).collect();
    let all = |value: fn(&View) -> Option<f64>| {
        let sample =
            |(shard, view): &&(ShardId, View)| Some((by("shard", &shard.get()), value(view)?));
        shards.iter().filter_map(sample).collect::<Vec<_>>()
    };
    type Family = (&'static str, &'static str, fn(&View) -> Option<f64>);
    let families: [Family; 12] = [
        ("gradwire_table_rows", "Rows", |view| Some(view.size.rows as f64)),
        ("gradwire_table_bytes", "What tables take, indexes included", |view| {
            Some(view.size.bytes as f64)
        }),
        (
            "gradwire_shard_clock_slowest",
            "The clock that the slowest worker has finished",
            |view| view.clocks.map(|(slowest, furthest)| clock(slowest.min(furthest))),
        ),
        (
            "gradwire_shard_clock_furthest",
            "The clock that the furthest worker has finished",
            |view| view.clocks.map(|(_, furthest)| clock(furthest)),
        ),
        ("gradwire_chain_head", "Whether this server answers workers: 1 or 0", |view| {
            let is_head = matches!(view.role, Role::Alone | Role::Head);
            Some(f64::from(u8::from(is_head)))
        }),
        ("gradwire_chain_whole", "Whether this server holds all of the shard: 1 or 0", |view| {
            let is_whole = !matches!(view.role, Role::Joining | Role::Out);
            Some(f64::from(u8::from(is_whole)))
        }),
        ("gradwire_chain_epoch", "The epoch in which the chain changed last", |view| {
            Some(view.epoch.get() as f64)
        }),
        ("gradwire_chain_operations", "Operations applied, counted by the chain", |view| {
            Some(view.position as f64)
        }),
        (
            "gradwire_chain_lag_operations",
            "Operations that the tail is not known to have",
            |view| Some(view.position.saturating_sub(view.acknowledged) as f64),
        ),
        ("gradwire_chain_lag_bytes", "What is kept for the successor", |view| {
            Some(view.log_bytes as f64)
        }),
        ("gradwire_answers_held", "Answers that wait for the tail", |view| {
            Some(view.answers_held as f64)
        }),
        (
            "gradwire_fill_ratio",
            "How much the successor was sent, of 1, where it is filled",
            |view| {
                let progress = view.filling?;
                Some(progress.lines_sent as f64 / progress.lines.max(1) as f64)
            },
        ),
    ];
    families.into_iter().try_for_each(|(name, help, value)| page.gauges(name, help, all(value)))?;
    page.gauges(
        "gradwire_hot_key_ratio",
        "Of what is pulled from a shard here, the part of each of its hottest keys, at least",
        shards.iter().flat_map(|(shard, view)| hot_keys(*shard, view)),
    )
}

/// The keys that a shard is asked for most.
fn hot_keys(shard: ShardId, view: &View) -> impl Iterator<Item = (Labels, f64)> {
    let found = view.hot.into_iter().filter(|hot| hot.share_ppm > 0);
    found.map(move |hot| {
        let numbers = [("shard", u64::from(shard.get())), ("table", u64::from(hot.table.get()))];
        let labels = numbers.into_iter().chain([("key", hot.key)]);
        let labels = labels.map(|(name, number)| (name, number.to_string())).collect();
        (labels, f64::from(hot.share_ppm) / 1e6)
    })
}

fn clock(clock: Clock) -> f64 {
    clock.get() as f64
}

fn write_memory(
    page: &mut Page<'_>,
    cores: &[CoreView],
    (_, bound_bytes): (u64, u64),
) -> fmt::Result {
    page.gauges(
        "gradwire_memory_held_bytes",
        "What peers make a core hold: tables, logs of chains, slots of connections",
        by_core(cores, |core| core.held_bytes as f64),
    )?;
    page.gauge(
        "gradwire_memory_bound_bytes",
        "What all cores may hold together",
        bound_bytes as f64,
    )
}
