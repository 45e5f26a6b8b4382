//! `gradwire coordinate`: the coordinator of a cluster, until it is told to stop.
//!
//! Owns its start, its one line of greeting, a line for each lead that it takes or loses, and its
//! end. One on a log of its own that finds another one active ends with a failure.

use std::time::{Duration, Instant};

use server::Exposure;
use server::coordinator::{
    ClusterSpec, CoordinateError, Coordinator, Duty, EtcdClaims, EtcdStore, RedbStore, Spread,
    Store,
};

use super::CoordinateArgs;
use crate::failure::Failure;
use crate::files::raise_files_max;
use crate::metrics::Endpoint;
use crate::metrics::coordinator::CoordinatorFigures;
use crate::output::{complain, json};
use crate::processes::Ready;
use crate::signals::Stop;
use crate::train::child::watch_parent;

/// How often it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the last checkpoint may take to begin.
const BEGIN_MAX: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) fn run(arguments: &CoordinateArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    raise_files_max();
    let name = arguments.cluster.clone();
    let spread = match arguments.same_host_ok {
        true => Spread::DistinctServers,
        false => Spread::DistinctHosts,
    };
    let exposure = if arguments.insecure { Exposure::Insecure } else { Exposure::Loopback };
    let CoordinateArgs { shards, replicas, .. } = *arguments;
    let servers_min = arguments.servers_min.unwrap_or(usize::from(replicas));
    let spec = ClusterSpec { name, shards, replicas, servers_min, spread };
    spec.check(None).map_err(Failure::usage)?;
    let takes_last = arguments.storing.checkpoints.is_some() && !arguments.child;
    let coordinator = start(arguments, spec, exposure)?;
    let listen = coordinator.address().to_string();
    let figures =
        CoordinatorFigures { address: listen.clone(), cluster: arguments.cluster.clone() };
    let metrics = Endpoint::start(arguments.metrics.as_deref(), figures)?;
    let metrics = metrics.as_ref().map(|endpoint| endpoint.address().to_string());
    if arguments.child {
        watch_parent(stop.clone(), None)?;
    }
    if arguments.json || arguments.child {
        json(&Ready { listen, metrics })?;
    } else {
        let shown =
            metrics.map_or_else(String::new, |at| format!("; figures at http://{at}/metrics"));
        complain(&format!(
            "gradwire: coordinates cluster {:?}, {shards} shards on {replicas} servers each, \
             on {listen}{shown}; Ctrl-C ends",
            arguments.cluster
        ));
    }
    let mut duty = None;
    while !stop.asked() && !coordinator.has_ended() {
        std::thread::sleep(LOOK_EVERY);
        let now = Some(coordinator.duty());
        if now != duty && !arguments.child {
            duty.clone_from(&now);
            now.iter().filter_map(said_of).for_each(|line| complain(&line));
        }
    }
    let leads = matches!(coordinator.duty(), Duty::Leads { .. });
    if takes_last && leads && !coordinator.has_ended() {
        take_last_checkpoint(&coordinator);
    }
    coordinator.stop().map_err(Failure::failed)
}

/// Opens the log and starts the coordinator on it.
fn start(
    arguments: &CoordinateArgs,
    spec: ClusterSpec,
    exposure: Exposure,
) -> Result<Coordinator, Failure> {
    let mut claims = None;
    let mut store: Box<dyn Store> = match &arguments.data {
        Some(data) => Box::new(RedbStore::open(data, &spec.name).map_err(Failure::failed)?),
        None => {
            let etcd = EtcdStore::open(arguments.etcd.clone(), &spec.name);
            let etcd = etcd.map_err(Failure::failed)?;
            claims = Some(Box::new(EtcdClaims::of(&etcd)));
            Box::new(etcd)
        }
    };
    let newest = store.newest().map_err(Failure::failed)?;
    if let (Some(entry), Some(place)) = (newest, arguments.storing.restore.clone()) {
        // Said before all of the checkpoint is read.
        let epoch = entry.placement.epoch;
        return Err(Failure::failed(CoordinateError::NotEmpty { epoch, place }));
    }
    let stored = arguments.storing.stored(&spec.name, arguments.shards)?;
    let listen = &arguments.listen;
    let started = match claims {
        Some(claims) => {
            let places = (listen.as_str(), arguments.advertise.clone());
            Coordinator::start_among(spec, claims, places, exposure, stored)
        }
        None => Coordinator::start_stored(spec, store, listen, exposure, stored),
    };
    started.map_err(Failure::failed)
}

/// What people are told when a coordinator's duty changes; none: they know.
fn said_of(duty: &Duty) -> Option<String> {
    match duty {
        Duty::Leads { term: 0 } | Duty::StandsBy { leader: None, why: None } => None,
        Duty::Leads { term } => Some(format!("gradwire: leads, in term {term}")),
        Duty::StandsBy { leader: Some(leader), .. } => {
            Some(format!("gradwire: stands by; {leader} leads"))
        }
        Duty::StandsBy { leader: None, why: Some(why) } => {
            Some(format!("gradwire: stands by: {why}"))
        }
    }
}

/// Has a checkpoint taken before the end, if one can be.
fn take_last_checkpoint(coordinator: &Coordinator) {
    complain("gradwire: takes a checkpoint; a second Ctrl-C ends at once");
    let ended = || coordinator.checkpoints().map_or(0, |status| status.ended);
    let before = ended();
    coordinator.take_checkpoint();
    let until = Instant::now() + BEGIN_MAX;
    while ended() == before {
        if coordinator.is_checkpoint_wanted() && Instant::now() >= until {
            return complain("gradwire: nothing is there that a checkpoint could be taken of");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if let Some(why) = coordinator.checkpoints().and_then(|status| status.failure) {
        complain(&format!("gradwire: no checkpoint was taken: {why}"));
    }
}
