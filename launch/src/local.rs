//! Servers as threads of this process, and sessions with them.
//!
//! Owns the way from a worker's thread to each shard: a pair of rings, or TCP over loop-back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kernels::Isa;
use server::{Door, Exposure, ListenError, Pinning, Server, ServerSpec, StartError, Way, Who};
use transport::shm::{self, Shm, ShmError};
use transport::{AdoptError, Link, Transport};
use wire::{Incarnation, Routing, RoutingError, ShardId, WorkerId};
use worker::{
    ConnectError, ConnectSpec, Dial, Place, Servers, Session, SessionSpec, Timeouts, connect,
};

/// How long connecting to a server of this process may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The servers of one process.
#[derive(Clone, Debug)]
pub struct LocalSpec {
    /// How many servers.
    pub servers: u16,
    /// What each is made of; pinned ones follow each other.
    pub server: ServerSpec,
    /// Time-outs of the sessions.
    pub timeouts: Timeouts,
}

/// Running servers; dropped, they stop.
#[derive(Debug)]
pub struct Local {
    spec: LocalSpec,
    doors: Vec<Door>,
    servers: Vec<Arc<Server>>,
}

/// Why there are no servers, or no session with them.
#[derive(Debug)]
pub enum LocalError {
    /// A server does not start.
    Start(StartError),
    /// A server does not listen.
    Listen(ListenError),
    /// A session by TCP cannot be had.
    Connect(ConnectError),
    /// The shards make no routing table.
    Routing(RoutingError),
    /// Shared memory cannot be had.
    Shm(ShmError),
    /// The transport does not take a link.
    Adopt(AdoptError),
}

impl Local {
    /// Starts all servers.
    pub fn start(spec: LocalSpec) -> Result<Local, LocalError> {
        let start = |number: u16| {
            let mut server = spec.server.clone();
            if let Pinning::Pinned { first } = &mut server.pinning {
                *first += usize::from(number) * usize::from(server.cores);
            }
            Server::start(&server).map(Arc::new)
        };
        let servers = (0..spec.servers).map(start).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(LocalError::Start)?;
        let mut doors = Vec::new();
        if matches!(spec.server.way, Way::Tcp(_)) {
            for server in &servers {
                let door = Door::tcp(Arc::clone(server), "127.0.0.1:0", Exposure::Loopback);
                doors.push(door.map_err(LocalError::Listen)?);
            }
        }
        Ok(Local { spec, doors, servers })
    }

    fn session_by_shm(
        &self,
        worker: WorkerId,
        incarnation: Incarnation,
    ) -> Result<Session, LocalError> {
        let limits = self.spec.server.limits;
        let mut shm = Shm::new(limits).map_err(LocalError::Shm)?;
        let (mut peers, mut names) = (Vec::new(), Vec::new());
        for (number, server) in self.servers.iter().enumerate() {
            for shard in 0..server.shards() {
                let (ours, theirs) =
                    shm::pair(shm::ring_bytes(&limits)).map_err(LocalError::Shm)?;
                let who = Who {
                    shard: ShardId::new(shard),
                    worker,
                    incarnation,
                    epoch: self.spec.server.epoch,
                    message_bytes_max: limits.message_bytes_max,
                };
                // A core without room closes the link, which the session sees.
                let _ = server.attach(Link::Shm(theirs), who);
                peers.push(shm.adopt(Link::Shm(ours)).map_err(LocalError::Adopt)?);
                names.push(format!("server {number} shard {shard} of this process"));
            }
        }
        let routing = Routing::new(self.spec.server.epoch, peers.len());
        Ok(Session::new(SessionSpec {
            transport: Box::new(shm),
            peers,
            servers: names,
            routing: routing.map_err(LocalError::Routing)?,
            worker,
            incarnation,
            isa: Isa::detect(),
            timeouts: self.spec.timeouts,
        }))
    }
}

impl Servers for Local {
    type Error = LocalError;

    fn session(&self, worker: WorkerId, incarnation: Incarnation) -> Result<Session, LocalError> {
        match self.spec.server.way {
            Way::Shm => self.session_by_shm(worker, incarnation),
            Way::Tcp(backend) => {
                let address = |door: &Door| door.address().map(|at| Place::Tcp(at.to_string()));
                connect(&ConnectSpec {
                    places: self.doors.iter().filter_map(address).collect(),
                    epoch: self.spec.server.epoch,
                    dial: Dial {
                        worker,
                        incarnation,
                        backend,
                        limits: self.spec.server.limits,
                        timeouts: self.spec.timeouts,
                        connect_max: CONNECT_MAX,
                    },
                })
                .map_err(LocalError::Connect)
            }
        }
    }
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalError::Start(error) => error.fmt(f),
            LocalError::Listen(error) => error.fmt(f),
            LocalError::Connect(error) => error.fmt(f),
            LocalError::Routing(error) => error.fmt(f),
            LocalError::Shm(error) => error.fmt(f),
            LocalError::Adopt(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LocalError {}
