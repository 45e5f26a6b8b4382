//! `gradwire serve`: a server that runs until it is told to stop.
//!
//! Owns its start, its one line of greeting, and its end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use server::{Door, Exposure, Pinning, Server, Way};

use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::flags::TransportFlag;
use crate::output::{complain, json};
use crate::rdma::backend;
use crate::signals::Stop;
use crate::train::child::watch_parent;
use crate::train::cluster::{Ready, server_spec};
use crate::train::plan::isa;

/// How often a server looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Begins the name of a socket in the file system.
const UNIX_PREFIX: &str = "unix:";

/// Runs the command.
pub(crate) fn run(arguments: &ServeArgs) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
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
    spec.table_bytes_max = match arguments.table_mib {
        Some(mib) => mib.saturating_mul(1 << 20),
        None => arguments.table_gib.saturating_mul(1 << 30),
    };
    let server = Arc::new(Server::start(&spec).map_err(Failure::failed)?);
    let exposure = if arguments.insecure { Exposure::Insecure } else { Exposure::Loopback };
    let door = match path {
        Some(path) => Door::unix(server, path),
        None => Door::tcp(server, &arguments.listen, exposure),
    }
    .map_err(Failure::failed)?;
    let listen = match door.address() {
        Some(address) => address.to_string(),
        None => arguments.listen.clone(),
    };
    if arguments.child {
        watch_parent(stop.clone(), None)?;
        json(&Ready { listen })?;
    } else {
        complain(&format!("gradwire: {cores} shards listen on {listen}; Ctrl-C ends"));
    }
    while !stop.asked() {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
