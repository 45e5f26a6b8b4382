//! `gradwire serve`: a server that runs until it is told to stop.
//!
//! Owns its start, its one line of greeting, and its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustix::system::uname;
use server::{AgentSpec, Door, Exposure, Hosting, Membership, OnClosed, Pinning, Server, Way};
use transport::dial::UNIX_PREFIX;
use wire::{Candidate, Denial};

use crate::checkpoint::store_options;
use crate::cluster::MemberArgs;
use crate::failure::Failure;
use crate::files::raise_files_max;
use crate::flags::TransportFlag;
use crate::handing_over::hand_over;
use crate::memory_here::memory_here_bytes;
use crate::metrics::Endpoint;
use crate::metrics::server::ServerFigures;
use crate::output::{complain, json};
use crate::processes::Ready;
use crate::rdma::{RdmaArgs, backend};
use crate::signals::Stop;
use crate::train::child::watch_parent;
use crate::train::cluster::{processors, server_spec};
use crate::train::plan::isa;

/// How often a server looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Of the memory that this process may have, what peers may make it hold where nobody says: the
/// rest is for what is not counted.
const SHARE: (u64, u64) = (3, 4);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen: host:port for TCP (port 0 takes a free one), or unix:PATH for shared
    /// memory with workers of this host.
    #[arg(long, value_name = "HOST:PORT|unix:PATH", default_value = "127.0.0.1:7077")]
    pub(crate) listen: String,
    /// Shards, one thread each [default: one a processor].
    #[arg(long, value_name = "N")]
    pub(crate) cores: Option<u16>,
    /// How bytes move.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) transport: TransportFlag,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
    /// The best instruction set to use [default: what the processor has].
    #[arg(long, value_name = "scalar|neon|avx2|avx512")]
    pub(crate) isa: Option<String>,
    /// Listen where other hosts can reach it, though the wire is neither encrypted nor
    /// authenticated.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Most memory that one table may take on one shard, its index included.
    #[arg(long, value_name = "GIB", default_value_t = 1024)]
    pub(crate) table_gib: u64,
    /// The same in MiB.
    #[arg(long, value_name = "MIB", conflicts_with = "table_gib")]
    pub(crate) table_mib: Option<u64>,
    /// Most memory that all which peers send may take together: tables, logs of chains, slots of
    /// connections [default: three quarters of what this process may have].
    #[arg(long, value_name = "GIB")]
    pub(crate) memory_gib: Option<u64>,
    /// The same in MiB.
    #[arg(long, value_name = "MIB", conflicts_with = "memory_gib")]
    pub(crate) memory_mib: Option<u64>,
    /// The coordinator of the cluster to serve in, which says what this server holds; more than
    /// one where it may run elsewhere [default: none, each core has a shard of its own].
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub(crate) coordinator: Vec<String>,
    #[command(flatten)]
    pub(crate) member: MemberArgs,
    /// Show figures at http://HOST:PORT/metrics, as Prometheus reads them.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// End when standard input ends, and tell the address as JSON.
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &ServeArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    raise_files_max();
    let path = arguments.listen.strip_prefix(UNIX_PREFIX).map(Path::new);
    let way = match (path, arguments.transport) {
        (Some(_), TransportFlag::Auto | TransportFlag::Shm) => Way::Shm,
        (None, TransportFlag::Shm) => {
            return Err(Failure::usage("--transport shm listens on unix:PATH only"));
        }
        (Some(_), _) => return Err(Failure::usage("unix:PATH is for shared memory only")),
        (None, transport) => Way::Tcp(backend(transport, &arguments.rdma)?),
    };
    let cores = arguments.cores.unwrap_or(u16::try_from(processors()).unwrap_or(u16::MAX - 1));
    // Children share the machine with workers, whose number the parent knows better.
    let pinning = if arguments.child { Pinning::Free } else { Pinning::Pinned { first: 0 } };
    let mut spec = server_spec(way, cores, isa(arguments.isa.as_deref())?, pinning);
    if !arguments.coordinator.is_empty() {
        spec.hosting = Hosting::ByPlacement;
        spec.on_closed = OnClosed::AwaitReconnect;
    }
    spec.table_bytes_max = match arguments.table_mib {
        Some(mib) => mib.saturating_mul(1 << 20),
        None => arguments.table_gib.saturating_mul(1 << 30),
    };
    spec.memory_bytes_max = memory_bytes_max(arguments);
    let server = Arc::new(Server::start(&spec).map_err(Failure::failed)?);
    let exposure = if arguments.insecure { Exposure::Insecure } else { Exposure::Loopback };
    let door = match path {
        Some(path) => Door::unix(Arc::clone(&server), path),
        None => Door::tcp(Arc::clone(&server), &arguments.listen, exposure),
    }
    .map_err(Failure::failed)?;
    // Open until the end, whether its figures are shown or not.
    let door = Arc::new(door);
    let listen = match door.address() {
        Some(address) => address.to_string(),
        None => arguments.listen.clone(),
    };
    let membership = match arguments.coordinator[..] {
        [] => None,
        _ => Some(Arc::new(become_member(arguments, Arc::clone(&server), cores, &listen)?)),
    };
    let (held, open, members) = (Arc::clone(&server), Arc::clone(&door), membership.clone());
    let figures = ServerFigures { server, door: open, membership: members };
    let shown = Endpoint::start(arguments.metrics.as_deref(), figures)?;
    let metrics = shown.as_ref().map(|endpoint| endpoint.address().to_string());
    if arguments.child {
        watch_parent(stop.clone(), None)?;
        json(&Ready { listen, metrics })?;
    } else {
        let shown =
            metrics.map_or_else(String::new, |at| format!("; figures at http://{at}/metrics"));
        let memory = format!("{} MiB of memory", spec.memory_bytes_max >> 20);
        complain(&format!(
            "gradwire: {cores} shards listen on {listen}; {memory}{shown}; Ctrl-C ends"
        ));
    }
    while !stop.asked() {
        std::thread::sleep(LOOK_EVERY);
        if let Some(denial) = membership.as_deref().and_then(denied_for_good) {
            return Err(Failure::failed(denial));
        }
    }
    let within = arguments.member.leave_within.0;
    match membership {
        Some(membership) if !arguments.child => hand_over(&held, &membership, within),
        _ => Ok(()),
    }
}

/// Applies to the coordinator.
fn become_member(
    arguments: &ServeArgs,
    server: Arc<Server>,
    cores: u16,
    listen: &str,
) -> Result<Membership, Failure> {
    let host = uname().nodename().to_string_lossy().into_owned();
    let place = arguments.member.advertise.clone().unwrap_or_else(|| listen.to_owned());
    let port = place.rsplit(':').next().unwrap_or_default();
    let member = &arguments.member;
    let candidate = Candidate {
        life: None,
        name: member.name.clone().unwrap_or_else(|| format!("{host}:{port}")),
        host: member.host.clone().unwrap_or(host),
        memory_mib: arguments.table_mib.unwrap_or_else(|| memory_bytes_max(arguments) >> 20),
        place,
        cores,
    };
    server.set_store_options(store_options(member.store_config.as_deref())?);
    let spec = AgentSpec {
        coordinators: arguments.coordinator.clone(),
        cluster: member.cluster.clone(),
        server: candidate,
    };
    Membership::start(server, spec).map_err(Failure::failed)
}

/// What peers may make this server hold, in bytes: as it was told, else a share of what this
/// process may have.
fn memory_bytes_max(arguments: &ServeArgs) -> u64 {
    match (arguments.memory_mib, arguments.memory_gib) {
        (Some(mib), _) => mib.saturating_mul(1 << 20),
        (None, Some(gib)) => gib.saturating_mul(1 << 30),
        (None, None) => memory_here_bytes() / SHARE.1 * SHARE.0,
    }
}

/// Why this server will never be a member, if it was none yet.
fn denied_for_good(membership: &Membership) -> Option<Denial> {
    let denial = membership.denial()?;
    let by_itself = matches!(denial, Denial::Behind { .. } | Denial::Removed { .. });
    (membership.server().is_none() && !by_itself).then_some(denial)
}
