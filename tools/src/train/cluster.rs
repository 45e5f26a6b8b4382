//! The cluster of a run: servers in this process, as processes, or running elsewhere.
//!
//! Owns starting them and getting sessions with them. What workers do is left to `workers`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use kernels::Isa;
use launch::{Children, Local, LocalSpec};
use serde::{Deserialize, Serialize};
use server::{Hosting, OnClosed, Pinning, ServerSpec, Way, pin, processor_here};
use shard::rule::Rules;
use transport::Limits;
use worker::{
    ClusterSpec, ConnectSpec, Dial, Epoch, Incarnation, Place, Servers, Session, Timeouts,
    WorkerId, connect, connect_cluster,
};

use super::plan::{Coordinated, Plan, ServersWanted, StartedAs};
use crate::cluster::CLUSTER;
use crate::failure::Failure;
use crate::flags::{ReadFlag, TransportFlag};
use crate::processes::{ClusterProcesses, ClusterProcessesSpec, ServerChildren, wait_ready};
use crate::rdma::{RdmaArgs, backend};
use crate::reach::watch;

/// The only generation of the routing table so far: shards do not move yet.
pub(crate) const EPOCH: Epoch = Epoch::new(1);

/// What the rows of one table may take on one shard, in bytes: more than machines have.
const TABLE_BYTES_MAX: u64 = 1 << 40;

/// How long connecting to one server may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a shard may be without a server that answers: copies take over within a second, and
/// where nothing is left to take over, waiting does not help.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shards of each server of a cluster that is started: with more than one, what a server leaves
/// behind is spread over others.
const SHARDS_A_SERVER: u16 = 2;

/// Threads that read and parse while servers and workers are busy: one each.
const DATA_THREADS: usize = 2;

/// The servers of a run.
pub(crate) enum Cluster {
    /// In this process.
    Local {
        servers: Box<Local>,
        /// The processor of the first pair of worker and shard that share one.
        pairs_from: Option<usize>,
    },
    /// At these places.
    Remote(Box<Remote>),
}

/// Servers reached by their places: children of this process, or anybody's.
pub(crate) struct Remote {
    pub(crate) contact: Contact,
    /// Where children's sockets lie; removed with it.
    _sockets: Option<PrivateDir>,
    /// The cluster that was started for this run; several threads have sessions with it.
    _processes: Option<Mutex<ClusterProcesses>>,
}

/// How a worker reaches the servers, as its plan says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) places: Vec<String>,
    /// Who knows the places instead, where shards move.
    pub(crate) coordinated: Option<Coordinated>,
    pub(crate) read: ReadFlag,
    pub(crate) transport: TransportFlag,
    pub(crate) rdma: RdmaArgs,
}

/// A directory that nobody else may open; removed with this.
pub(crate) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// One of this process, for files of this kind.
    pub(crate) fn new(kind: &str) -> Result<PrivateDir, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("gradwire-{kind}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
        Ok(PrivateDir(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Cluster {
    /// Starts the servers, or checks the names of those that run.
    pub(crate) fn start(plan: &Plan, children: &mut Children) -> Result<Cluster, Failure> {
        match (&plan.servers, plan.started_as) {
            (ServersWanted::Running(places), _) => {
                let (places, rdma) = (places.clone(), plan.rdma.clone());
                let transport = plan.transport;
                let contact =
                    Contact { places, coordinated: None, read: plan.read, transport, rdma };
                contact.places()?;
                Ok(Cluster::remote(Remote { contact, _sockets: None, _processes: None }))
            }
            (ServersWanted::Coordinated(coordinated), _) => {
                let contact = coordinated_contact(plan, coordinated.clone());
                Ok(Cluster::remote(Remote { contact, _sockets: None, _processes: None }))
            }
            (&ServersWanted::Replicated { servers, replicas }, _) => {
                start_replicated(plan, servers, replicas).map(Cluster::remote)
            }
            (&ServersWanted::Started(servers), StartedAs::Threads) => {
                let way = way(plan, Way::Shm)?;
                let mut server = server_spec(way, 1, plan.isa, Pinning::Free);
                server.table_bytes_max = table_bytes_max(plan);
                let mut pairs_from = None;
                if busy_threads(plan, servers) > processors() {
                    server.limits.spin_ns = 0; // A core that spins is another thread's.
                    pairs_from = place_of_pairs(plan, servers);
                }
                if let Some(first) = pairs_from {
                    server.pinning = Pinning::Pinned { first };
                }
                let spec = LocalSpec { servers, server, timeouts: Timeouts::default() };
                let servers = Box::new(Local::start(spec).map_err(Failure::failed)?);
                Ok(Cluster::Local { servers, pairs_from })
            }
            (&ServersWanted::Started(servers), StartedAs::Processes) => {
                start_children(plan, servers, children).map(Cluster::remote)
            }
        }
    }
}

/// What the table may take on one shard that this run starts, in bytes.
fn table_bytes_max(plan: &Plan) -> u64 {
    plan.table_mib.map_or(TABLE_BYTES_MAX, |mib| mib.saturating_mul(1 << 20))
}

/// The processor of the first pair of worker and shard, where there are as many workers as shards
/// and fewer pairs than processors.
///
/// A worker and a shard mostly wait for each other. On one processor what the one wrote is in the
/// other's cache, no sleeping processor has to be woken, and readers have those that are left.
fn place_of_pairs(plan: &Plan, servers: u16) -> Option<usize> {
    let pairs = usize::from(servers);
    let are_pairs = plan.workers as usize == pairs && pairs < processors();
    are_pairs.then(processor_here)
}

/// Threads of this process that have work at one time, where all is done by threads.
fn busy_threads(plan: &Plan, servers: u16) -> usize {
    usize::from(servers) + plan.workers as usize + DATA_THREADS
}

/// Processors of this machine that this process may use.
pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl Cluster {
    fn remote(remote: Remote) -> Cluster {
        Cluster::Remote(Box::new(remote))
    }

    /// Keeps the calling thread, which is this worker's, beside its shard.
    pub(crate) fn place(&self, worker: WorkerId) {
        if let Cluster::Local { pairs_from: Some(first), .. } = self {
            pin(first + worker.get() as usize);
        }
    }
}

impl Servers for Cluster {
    type Error = Failure;

    fn session(&self, worker: WorkerId, incarnation: Incarnation) -> Result<Session, Failure> {
        match self {
            Cluster::Local { servers, .. } => {
                servers.session(worker, incarnation).map_err(Failure::failed)
            }
            Cluster::Remote(remote) => remote.contact.session(worker, incarnation),
        }
    }
}

impl Contact {
    /// A session for the thread that calls.
    pub(crate) fn session(
        &self,
        worker: WorkerId,
        incarnation: Incarnation,
    ) -> Result<Session, Failure> {
        let dial = Dial {
            worker,
            incarnation,
            backend: backend(self.transport, &self.rdma)?,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            connect_max: CONNECT_MAX,
        };
        let Some(Coordinated { addresses, cluster }) = &self.coordinated else {
            let spec = ConnectSpec { places: self.places()?, epoch: EPOCH, dial };
            return connect(&spec).map_err(Failure::failed);
        };
        let placements = watch(addresses, cluster)?;
        let reading = self.read.reading();
        let spec = ClusterSpec { placements, dial, patience: PATIENCE, reading };
        connect_cluster(&spec).map_err(Failure::failed)
    }

    fn places(&self) -> Result<Vec<Place>, Failure> {
        let parse = |place: &String| place.parse().map_err(Failure::usage);
        self.places.iter().map(parse).collect()
    }
}

/// A server of this build, on all its defaults.
pub(crate) fn server_spec(way: Way, cores: u16, isa: Isa, pinning: Pinning) -> ServerSpec {
    ServerSpec {
        hosting: Hosting::OneACore,
        on_closed: OnClosed::LoseWorker,
        cores,
        way,
        limits: Limits::default(),
        pinning,
        epoch: EPOCH,
        rules: Rules::builtin(),
        table_bytes_max: TABLE_BYTES_MAX,
        memory_bytes_max: u64::MAX,
        isa,
    }
}

/// How bytes move, where `auto` means `auto_way`.
pub(crate) fn way(plan: &Plan, auto_way: Way) -> Result<Way, Failure> {
    Ok(match plan.transport {
        TransportFlag::Auto => auto_way,
        TransportFlag::Shm => Way::Shm,
        transport => Way::Tcp(backend(transport, &plan.rdma)?),
    })
}

/// Starts `gradwire serve` so many times and waits until each says where it listens.
fn start_children(plan: &Plan, servers: u16, children: &mut Children) -> Result<Remote, Failure> {
    let by_shm = matches!(plan.transport, TransportFlag::Auto | TransportFlag::Shm);
    let sockets = if by_shm { Some(PrivateDir::new("sockets")?) } else { None };
    let mut numbers = Vec::new();
    for server in 0..servers {
        let listen = match &sockets {
            Some(dir) => {
                format!("unix:{}", dir.path().join(format!("{server}.sock")).display())
            }
            None => "127.0.0.1:0".to_owned(),
        };
        let name = format!("server {server}");
        numbers.push(server_children(plan).spawn(children, &name, &listen, &[])?);
    }
    let ready = wait_ready(children, &numbers)?;
    let places = ready.into_iter().map(|ready| ready.listen).collect();
    let (transport, rdma) = (plan.transport, plan.rdma.clone());
    let contact = Contact { places, coordinated: None, read: plan.read, transport, rdma };
    Ok(Remote { contact, _sockets: sockets, _processes: None })
}

/// What the servers that this run starts are told.
fn server_children(plan: &Plan) -> ServerChildren {
    let (rdma, isa, table_mib) = (plan.rdma.clone(), plan.isa, plan.table_mib);
    ServerChildren { transport: plan.transport, rdma, isa, table_mib, cores: 1 }
}

/// How a worker reaches a cluster by its coordinator.
fn coordinated_contact(plan: &Plan, coordinated: Coordinated) -> Contact {
    let (transport, rdma) = (plan.transport, plan.rdma.clone());
    let (places, read) = (Vec::new(), plan.read);
    Contact { places, coordinated: Some(coordinated), read, transport, rdma }
}

/// Starts a coordinator and servers as processes, each shard on some of them.
fn start_replicated(plan: &Plan, servers: u16, replicas: u8) -> Result<Remote, Failure> {
    if plan.transport == TransportFlag::Shm {
        return Err(Failure::usage("--transport shm: replicas are reached by TCP or RDMA"));
    }
    let data = std::env::temp_dir().join(format!("gradwire-cluster-{}", std::process::id()));
    let processes = ClusterProcesses::start(ClusterProcessesSpec {
        cluster: CLUSTER.to_owned(),
        data,
        shards: servers * SHARDS_A_SERVER,
        replicas,
        servers,
        etcd: Vec::new(),
        standbys: 0,
        children: server_children(plan),
    })?;
    let addresses = processes.addresses.clone();
    let contact = coordinated_contact(plan, Coordinated { addresses, cluster: CLUSTER.to_owned() });
    Ok(Remote { contact, _sockets: None, _processes: Some(Mutex::new(processes)) })
}
