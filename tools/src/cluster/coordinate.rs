//! `gradwire coordinate`: the coordinator of a cluster, until it is told to stop.
//!
//! Owns its start, its one line of greeting, and its end. One that finds another one active ends
//! with a failure.

use std::time::{Duration, Instant};

use server::Exposure;
use server::coordinator::{
    ClusterSpec, CoordinateError, Coordinator, EtcdStore, RedbStore, Spread, Store,
};

use super::{CoordinateArgs, CoordinatorArgs};
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
    let mut store: Box<dyn Store> = match &arguments.data {
        Some(data) => Box::new(RedbStore::open(data, &spec.name).map_err(Failure::failed)?),
        None => {
            let etcd = EtcdStore::open(arguments.etcd.clone(), &spec.name);
            Box::new(etcd.map_err(Failure::failed)?)
        }
    };
    let newest = store.newest().map_err(Failure::failed)?;
    if let (Some(entry), Some(place)) = (newest, arguments.storing.restore.clone()) {
        // Said before all of the checkpoint is read.
        let epoch = entry.placement.epoch;
        return Err(Failure::failed(CoordinateError::NotEmpty { epoch, place }));
    }
    let stored = arguments.storing.stored(&spec.name, shards)?;
    let takes_last = stored.checkpoints.is_some() && !arguments.child;
    let coordinator = Coordinator::start_stored(spec, store, &arguments.listen, exposure, stored)
        .map_err(Failure::failed)?;
    let listen = coordinator.address().to_string();
    let (coordinator_at, cluster) = (listen.clone(), arguments.cluster.clone());
    let at = CoordinatorArgs { coordinator: coordinator_at, cluster };
    let metrics = Endpoint::start(arguments.metrics.as_deref(), CoordinatorFigures { at })?;
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
    while !stop.asked() && !coordinator.has_ended() {
        std::thread::sleep(LOOK_EVERY);
    }
    if takes_last && !coordinator.has_ended() {
        take_last_checkpoint(&coordinator);
    }
    coordinator.stop().map_err(Failure::failed)
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
