//! What a server is made of, and why one does not start.
//!
//! Owns the types. Starting is left to `core_thread`.

use std::fmt;

use kernels::Isa;
use shard::rule::Rules;
use transport::Limits;
use transport::tcp::TcpBackend;
use wire::Epoch;

use crate::pinning::Pinning;
use crate::turn::OnClosed;

/// How a server's bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Shared memory, between threads or processes of this host.
    Shm,
    /// TCP, by io_uring where the kernel allows it and by epoll where not.
    Tcp(TcpBackend),
}

/// Which shards a server holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hosting {
    /// As many as it has cores, alone: there is no coordinator.
    #[default]
    OneACore,
    /// Those that [`crate::Server::place`] gives it, shard `i` on core `i % cores`.
    ByPlacement,
}

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Which shards it holds.
    pub hosting: Hosting,
    /// What the end of a worker's connection means; in a cluster, [`OnClosed::AwaitReconnect`].
    pub on_closed: OnClosed,
    /// Threads; each has one shard, or those that it is given.
    pub cores: u16,
    /// How bytes move.
    pub way: Way,
    /// Bounds of each core's transport.
    pub limits: Limits,
    /// Whether threads stay on one processor.
    pub pinning: Pinning,
    /// The generation of the routing table.
    pub epoch: Epoch,
    /// The rules that the shards know.
    pub rules: Rules,
    /// What the rows of one table may take on one shard, in bytes.
    pub table_bytes_max: u64,
    /// What all that peers can make the server hold may take together, in bytes: tables, logs of
    /// chains, slots of connections.
    pub memory_bytes_max: u64,
    /// The instruction set of the shards' kernels.
    pub isa: Isa,
}

/// Why a server does not start.
#[derive(Debug)]
pub enum StartError {
    /// No core, or more than there are shard numbers.
    Cores {
        /// Asked for.
        cores: u16,
    },
    /// A core could not build its transport, or its thread.
    Core {
        /// Which one.
        core: u16,
        /// Why.
        reason: String,
    },
    /// There is no thread that makes links to other servers.
    Links {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Cores { cores } => {
                write!(f, "{cores} cores; a server has 1 to {}", u16::MAX - 1)
            }
            StartError::Core { core, reason } => {
                write!(f, "core {core} does not start: {reason}")
            }
            StartError::Links { reason } => {
                write!(f, "links to other servers cannot be made: {reason}")
            }
        }
    }
}

impl std::error::Error for StartError {}
