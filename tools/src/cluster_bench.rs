//! What measurements of clusters share: flags, a cluster of processes, a load on it.
//!
//! Owns how they are put together. What is done to the cluster meanwhile is left to each.

use std::sync::Arc;
use std::time::Duration;

use bench::{ClusterLoad, ClusterLoadSpec, SoakTally};
use clap::Args;
use kernels::Isa;
use worker::{Watch, WorkerId};

use crate::failure::Failure;
use crate::flags::{Count, TransportFlag};
use crate::processes::{ClusterProcesses, ClusterProcessesSpec, ServerChildren};
use crate::rdma::RdmaArgs;
use crate::reach::{cluster_of, own_job, watch};

/// The load and its measuring.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterBenchArgs {
    /// Keys that the table holds, such as 1M.
    #[arg(long, value_name = "N", default_value = "1M")]
    pub(crate) resident: Count,
    /// Sorted keys a push.
    #[arg(long, value_name = "N", default_value = "10k")]
    pub(crate) keys: Count,
    /// Values a key.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) dim: u16,
    /// Shards of the job.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) shards: u16,
    /// How bytes move; `auto` is TCP between these processes, as between hosts without RDMA.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) transport: TransportFlag,
    /// Pushes in flight.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) in_flight: u16,
    /// Seed of the keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Seconds of each phase.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a cluster that is measured is made of.
pub(crate) struct RigSpec<'a> {
    /// What it is called.
    pub(crate) name: &'a str,
    pub(crate) replicas: u8,
    pub(crate) servers: u16,
    pub(crate) arguments: &'a ClusterBenchArgs,
}

/// A cluster of processes, and the newest word of where its shards are.
pub(crate) struct Rig {
    pub(crate) cluster: ClusterProcesses,
    pub(crate) placements: Arc<Watch>,
    arguments: ClusterBenchArgs,
}

impl Rig {
    /// Starts it and waits until each shard has all of its replicas.
    pub(crate) fn start(spec: &RigSpec<'_>) -> Result<Rig, Failure> {
        let process = std::process::id();
        let data = format!("gradwire-{}-{}-{process}", spec.name, spec.replicas);
        let cluster = ClusterProcesses::start(ClusterProcessesSpec {
            cluster: spec.name.to_owned(),
            data: std::env::temp_dir().join(data),
            shards: spec.arguments.shards,
            replicas: spec.replicas,
            servers: spec.servers,
            etcd: Vec::new(),
            standbys: 0,
            children: ServerChildren {
                transport: spec.arguments.transport,
                rdma: RdmaArgs::default(),
                isa: Isa::detect(),
                table_mib: None,
                cores: 1,
            },
        })?;
        let placements = watch(&cluster.addresses, spec.name)?;
        cluster.wait_whole(&placements, 0)?;
        Ok(Rig { cluster, placements, arguments: spec.arguments.clone() })
    }

    /// A session that has pushed each key once.
    pub(crate) fn load(&self) -> Result<ClusterLoad, Failure> {
        self.load_by(0.0)
    }

    /// The same; batches are drawn by a law of Zipf.
    pub(crate) fn load_by(&self, zipf_exponent: f64) -> Result<ClusterLoad, Failure> {
        ClusterLoad::begin(self.load_spec(zipf_exponent)?).map_err(Failure::failed)
    }

    /// What a load is made of.
    pub(crate) fn load_spec(&self, zipf_exponent: f64) -> Result<ClusterLoadSpec, Failure> {
        let arguments = &self.arguments;
        let spec = ClusterLoadSpec {
            cluster: cluster_of(&self.placements, WorkerId::OBSERVER),
            job: own_job(),
            resident_keys: arguments.resident.0,
            keys_per_request: arguments.keys.0,
            dim: arguments.dim,
            in_flight: usize::from(arguments.in_flight),
            zipf_exponent,
            seed: arguments.seed,
        };
        spec.check().map_err(Failure::usage)?;
        Ok(spec)
    }

    /// How long a phase is.
    pub(crate) fn phase(&self) -> Duration {
        Duration::from_secs_f64(self.arguments.seconds)
    }

    /// Processor time that all servers together have taken so far.
    pub(crate) fn servers_time(&mut self) -> Result<Duration, Failure> {
        Ok(self.time_by_server()?.into_iter().sum())
    }

    /// Processor time that each server has taken so far.
    pub(crate) fn time_by_server(&mut self) -> Result<Vec<Duration>, Failure> {
        let cluster = &mut self.cluster;
        let time = |&server: &usize| {
            let child = cluster.children.child(server);
            let gone = || Failure::failed(format!("{} has ended", child.name()));
            child.processor_time().ok_or_else(gone)
        };
        cluster.servers.iter().map(time).collect()
    }
}

/// Compares every row with what was pushed.
pub(crate) fn check(load: ClusterLoad) -> Result<SoakTally, Failure> {
    load.check().map_err(Failure::failed)
}
