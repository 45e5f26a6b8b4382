//! `gradwire serve`: a server that runs until it is told to stop.
//!
//! Owns its start, its one line of greeting, and its end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::system::{sysinfo, uname};
use server::{AgentSpec, Door, Exposure, Hosting, Membership, OnClosed, Pinning, Server, Way};
use wire::{Candidate, Denial};

use crate::checkpoint::store_options;
use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::files::raise_files_max;
use crate::flags::TransportFlag;
use crate::metrics::Endpoint;
use crate::metrics::server::ServerFigures;
use crate::output::{complain, json};
use crate::processes::Ready;
use crate::rdma::backend;
use crate::signals::Stop;
use crate::train::child::watch_parent;
use crate::train::cluster::server_spec;
use crate::train::plan::isa;

/// How often a server looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long handing over may take.
const HAND_OVER_MAX: Duration = Duration::from_secs(600);

/// Begins the name of a socket in the file system.
const UNIX_PREFIX: &str = "unix:";

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
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = arguments.cores.unwrap_or(u16::try_from(processors).unwrap_or(u16::MAX - 1));
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
    let server = Arc::new(Server::start(&spec).map_err(Failure::failed)?);
    let exposure = if arguments.insecure { Exposure::Insecure } else { Exposure::Loopback };
    let door = match path {
        Some(path) => Door::unix(Arc::clone(&server), path),
        None => Door::tcp(Arc::clone(&server), &arguments.listen, exposure),
    }
    .map_err(Failure::failed)?;
    let door = Arc::new(door);
    let listen = match door.address() {
        Some(address) => address.to_string(),
        None => arguments.listen.clone(),
    };
    let membership = match arguments.coordinator[..] {
        [] => None,
        _ => Some(Arc::new(become_member(arguments, Arc::clone(&server), cores, &listen)?)),
    };
    let figures = ServerFigures { server, door, membership: membership.clone() };
    let shown = Endpoint::start(arguments.metrics.as_deref(), figures)?;
    let metrics = shown.as_ref().map(|endpoint| endpoint.address().to_string());
    if arguments.child {
        watch_parent(stop.clone(), None)?;
        json(&Ready { listen, metrics })?;
    } else {
        let shown =
            metrics.map_or_else(String::new, |at| format!("; figures at http://{at}/metrics"));
        complain(&format!("gradwire: {cores} shards listen on {listen}{shown}; Ctrl-C ends"));
    }
    while !stop.asked() {
        std::thread::sleep(LOOK_EVERY);
        if let Some(denial) = membership.as_deref().and_then(denied_for_good) {
            return Err(Failure::failed(denial));
        }
    }
    match membership {
        Some(membership) if !arguments.child => hand_over(&membership),
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
        memory_mib: arguments.table_mib.unwrap_or_else(memory_mib),
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

/// Memory of this host in MiB, by which shards are dealt out.
fn memory_mib() -> u64 {
    let memory = sysinfo();
    (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit)) >> 20
}

/// Why this server will never be a member, if it was none yet.
fn denied_for_good(membership: &Membership) -> Option<Denial> {
    let denial = membership.denial()?;
    let by_itself = matches!(denial, Denial::Behind { .. } | Denial::Removed { .. });
    (membership.server().is_none() && !by_itself).then_some(denial)
}

/// Gives what this server holds to others, as far as they can take it.
fn hand_over(membership: &Membership) -> Result<(), Failure> {
    complain("gradwire: hands its shards over; a second Ctrl-C ends at once");
    membership.leave();
    let until = Instant::now() + HAND_OVER_MAX;
    while !membership.is_released() {
        if Instant::now() >= until {
            let waited = HAND_OVER_MAX.as_secs();
            let why = format!("after {waited} s this server still holds what no other one does");
            return Err(Failure::failed(why));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
