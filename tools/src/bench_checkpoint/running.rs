//! What is measured: a coordinator and a server, as threads of this process.
//!
//! Owns starting them, and asking for a checkpoint. What is measured is left to the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use server::coordinator::{ClusterSpec, Coordinator, RedbStore, Stored};
use server::{
    AgentSpec, CoreView, Door, Exposure, Hosting, Membership, OnClosed, Pinning, Server, Turns, Way,
};
use shard::rule::{Sgd, Sum, table_spec};
use transport::tcp::TcpBackend;
use wire::{Ask, Candidate, CheckpointStatus, ClusterStatus, ToCoordinator, ToMember};
use worker::{JobId, Join, Session, Staleness, WorkerId, connect_cluster};

use super::{CLUSTER, CheckpointBenchArgs, LOOK_EVERY, TABLE, WAIT_MAX};
use crate::cluster::{Caller, CoordinatorArgs, ValuesFlag, unexpected};
use crate::failure::Failure;
use crate::reach::{cluster_of, watch};
use crate::train::cluster::server_spec;
use crate::train::plan::isa;

/// Removed when it is dropped.
pub(super) struct Folder(pub(super) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A coordinator and a server, as threads.
pub(super) struct Running {
    values: ValuesFlag,
    pub(super) coordinator: Coordinator,
    server: Arc<Server>,
    /// Dropped in this order: the door and the membership hold the server.
    _membership: Membership,
    _door: Door,
}

impl Running {
    pub(super) fn start(
        arguments: &CheckpointBenchArgs,
        data: &Path,
        stored: Stored,
    ) -> Result<Running, Failure> {
        let spec = ClusterSpec {
            name: CLUSTER.to_owned(),
            shards: arguments.shards,
            replicas: 1,
            servers_min: 1,
            spread: server::coordinator::Spread::DistinctServers,
        };
        let log = RedbStore::open(data, CLUSTER).map_err(Failure::failed)?;
        let (listen, exposure) = ("127.0.0.1:0", Exposure::Loopback);
        let coordinator = Coordinator::start_stored(spec, Box::new(log), listen, exposure, stored);
        let coordinator = coordinator.map_err(Failure::failed)?;
        let cores = arguments.cores;
        let mut spec = server_spec(Way::Tcp(TcpBackend::Uring), cores, isa(None)?, Pinning::Free);
        (spec.hosting, spec.on_closed) = (Hosting::ByPlacement, OnClosed::AwaitReconnect);
        let server = Arc::new(Server::start(&spec).map_err(Failure::failed)?);
        let door = Door::tcp(Arc::clone(&server), listen, exposure).map_err(Failure::failed)?;
        let place = door.address().map(|address| address.to_string()).unwrap_or_default();
        let (name, host) = (CLUSTER.to_owned(), CLUSTER.to_owned());
        let candidate = Candidate { life: None, name, place, host, memory_mib: 1024, cores };
        let coordinators = vec![coordinator.address().to_string()];
        let agent = AgentSpec { coordinators, cluster: CLUSTER.to_owned(), server: candidate };
        let membership = Membership::start(Arc::clone(&server), agent).map_err(Failure::failed)?;
        let values = arguments.values;
        Ok(Running { values, coordinator, server, _membership: membership, _door: door })
    }

    pub(super) fn session(&self, worker: WorkerId, dim: u16) -> Result<Session, Failure> {
        let address = self.coordinator.address().to_string();
        let placements = watch(&[address], CLUSTER)?;
        let mut spec = cluster_of(&placements, worker);
        spec.patience = WAIT_MAX;
        let mut session = connect_cluster(&spec).map_err(Failure::failed)?;
        let deadline = session.now() + WAIT_MAX;
        let join = Join { job: JobId::new(1), workers: 1, staleness: Staleness::ASP };
        session.join(join, deadline).map_err(Failure::failed)?;
        let dim = u32::from(dim);
        let spec = match self.values {
            ValuesFlag::F32 => table_spec("sums", dim, &Sum),
            // Sums are never rounded.
            ValuesFlag::Bf16 => table_spec("weights", dim, &Sgd { rate: 1.0 }),
        };
        session.define(TABLE, &spec, deadline).map_err(Failure::failed)?;
        Ok(session)
    }

    /// Has a checkpoint taken. How long it took, and its bytes.
    pub(super) fn checkpoint(&self) -> Result<(Duration, u64), Failure> {
        let status = || self.coordinator.checkpoints().unwrap_or_default();
        let (before, begun) = (status().ended, Instant::now());
        self.coordinator.take_checkpoint();
        while status().ended == before {
            if begun.elapsed() > WAIT_MAX {
                return Err(Failure::failed("a checkpoint does not end"));
            }
            thread::sleep(LOOK_EVERY);
        }
        let took = begun.elapsed();
        match status() {
            CheckpointStatus { failure: Some(why), .. } => Err(Failure::failed(why)),
            CheckpointStatus { last, .. } => Ok((took, last.map_or(0, |last| last.bytes))),
        }
    }

    /// The turns of its cores, and what recordings took of those that had one: all of it, and what
    /// the core's thread ran.
    pub(super) fn turns(&self) -> [Turns; 3] {
        let kinds = |it: &CoreView| [it.turns, it.recording, it.recording_own];
        let add = |all: [Turns; 3], core: &CoreView| {
            let its = kinds(core);
            std::array::from_fn(|kind| all[kind].and(&its[kind]))
        };
        self.server.cores().iter().fold(Default::default(), add)
    }

    pub(super) fn status(&self) -> Result<ClusterStatus, Failure> {
        let coordinator = vec![self.coordinator.address().to_string()];
        let at = CoordinatorArgs { coordinator, cluster: CLUSTER.to_owned() };
        match Caller::connect(&at.coordinator, &at.cluster)?
            .say(&ToCoordinator::Ask(Ask::Status))?
        {
            ToMember::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }
}
