//! The flags of `gradwire soak`.
//!
//! Owns their help.

use clap::Args;

use super::FaultFlag;
use crate::cluster::CLUSTER;
use crate::flags::{AcknowledgeFlag, DurationFlag};

#[derive(Clone, Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long, such as 60s, 10m or 24h.
    #[arg(long = "for", value_name = "DURATION", default_value = "60s")]
    pub(crate) duration: DurationFlag,
    /// The coordinator of a running cluster: nothing is started, and faults are somebody else's
    /// [default: a cluster of processes is started here, and harmed].
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["faults", "every", "replicas", "servers", "shards", "etcd"])]
    pub(crate) coordinator: Vec<String>,
    /// The name of that cluster.
    #[arg(long, value_name = "NAME", default_value = CLUSTER, requires = "coordinator")]
    pub(crate) cluster: String,
    /// What befalls the cluster, drawn by the seed.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kill")]
    pub(crate) faults: Vec<FaultFlag>,
    /// Time between two faults, in the mean. Nobody is harmed before every shard has all of its
    /// replicas again.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) every: DurationFlag,
    /// Replicas of each shard.
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) replicas: u8,
    /// Servers, each a process [default: one more than replicas].
    #[arg(long, value_name = "N")]
    pub(crate) servers: Option<u16>,
    /// Keep the log of placements in the etcd at one of these addresses, under a name of this run's
    /// own, which stays there [default: in a file of the run].
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub(crate) etcd: Vec<String>,
    /// Coordinators that stand by, each a process; with --etcd alone [default: 1 with it].
    #[arg(long, value_name = "N", requires = "etcd")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=8))]
    pub(crate) standbys: Option<u16>,
    /// Where pushes are acknowledged: by all replicas of a shard (tail), or by the first one
    /// (head), but for every eighth, which ends a clock.
    #[arg(long, value_name = "tail|head", default_value_t)]
    pub(crate) acknowledge: AcknowledgeFlag,
    /// Have heads add up the pushes of different workers before they apply and pass them on.
    #[arg(long)]
    pub(crate) aggregate: bool,
    /// Shards of the job.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) shards: u16,
    /// Workers that push at full speed; one more measures.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) workers: u32,
    /// Keys of each worker.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) keys: u64,
    /// Draws faults, victims and keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl SoakArgs {
    /// How many servers are started.
    pub(crate) fn servers(&self) -> u16 {
        self.servers.unwrap_or(u16::from(self.replicas) + 1)
    }

    /// How many coordinators stand by.
    pub(crate) fn standbys(&self) -> u16 {
        self.standbys.unwrap_or(u16::from(!self.etcd.is_empty()))
    }
}
