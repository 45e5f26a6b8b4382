//! How measurements reach servers: which job they are, who watches placements, how they dial.
//!
//! Owns the settings that all of them share. Those of `gradwire train` follow its flags.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use transport::Limits;
use transport::tcp::TcpBackend;
use worker::{ClusterSpec, Dial, JobId, Reading, Timeouts, Watch, WorkerId};

use crate::failure::Failure;

/// How long a shard may be without a server that answers before a measurement has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long connecting to one server may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A job that nobody else has: drawn.
pub(crate) fn own_job() -> JobId {
    JobId::new(RandomState::new().build_hasher().finish())
}

/// The newest word of where a cluster's shards are.
pub(crate) fn watch(coordinators: &[String], cluster: &str) -> Result<Arc<Watch>, Failure> {
    Watch::start(coordinators, cluster).map(Arc::new).map_err(Failure::failed)
}

/// How one server is reached: by TCP, with all defaults.
pub(crate) fn dial(worker: WorkerId) -> Dial {
    Dial {
        worker,
        incarnation: learn::INCARNATION,
        backend: TcpBackend::Uring,
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        connect_max: CONNECT_MAX,
    }
}

/// How a worker reaches the servers of a cluster.
pub(crate) fn cluster_of(placements: &Arc<Watch>, worker: WorkerId) -> ClusterSpec {
    ClusterSpec {
        placements: Arc::clone(placements),
        dial: dial(worker),
        patience: PATIENCE,
        reading: Reading::Heads, // What is acknowledged is compared with all that is read.
    }
}
