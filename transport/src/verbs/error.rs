//! Why a call of the verbs library failed, and what to do about it.
//!
//! Owns the words. What a failed work request means is left to [`super::completion`]; what becomes
//! of a link whose lane failed, to whoever holds it.

use std::fmt;
use std::io;

/// Why the verbs library is not there. Nothing is left loaded; the caller goes on without RDMA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The dynamic linker did not find or take the library.
    Open {
        /// The file it was asked for.
        library: &'static str,
        /// What it said.
        reason: String,
    },
    /// The library lacks a function: it is older than version 1.1 of its interface.
    Symbol {
        /// The function.
        symbol: &'static str,
        /// What the dynamic linker said.
        reason: String,
    },
}

/// Why something that needs an RDMA device was not done. Nothing is left half made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerbsError {
    /// There is no verbs library.
    Library(LoadError),
    /// A call of the library failed.
    Call {
        /// The function.
        call: &'static str,
        /// What it was called for: the device, and the port, queue or size.
        on: String,
        /// `errno`.
        errno: i32,
    },
    /// Memory was not registered.
    Register {
        /// The device.
        device: String,
        /// How much memory, in bytes.
        bytes: usize,
        /// How much this process may lock, in bytes; none where there is no limit.
        locked_bytes_max: Option<u64>,
        /// `errno`.
        errno: i32,
    },
    /// No memory to register could be mapped.
    Memory(memory::MapError),
    /// There is no RDMA device at all.
    NoDevice,
    /// There is no device of this name.
    UnknownDevice {
        /// The name asked for.
        device: String,
        /// Those that are there.
        devices: Vec<String>,
    },
    /// The device has no such port.
    UnknownPort {
        /// The device.
        device: String,
        /// The port asked for.
        port: u8,
        /// How many it has; they count from 1.
        ports: u8,
    },
    /// No port is active.
    NoActivePort {
        /// What was looked at: `device/port state`, one after the other.
        looked_at: String,
    },
    /// The port's table has no usable GID at this index.
    UnknownGid {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// The index asked for.
        gid_index: u32,
        /// Entries of the table; indices count from 0.
        entries: u32,
    },
    /// No port has a GID of the address that the TCP link uses.
    NoGid {
        /// The address.
        address: std::net::IpAddr,
        /// What was looked at: `device/port`, one after the other.
        looked_at: String,
    },
    /// A bound of a queue is more than the device has.
    Limit {
        /// What was asked for.
        what: &'static str,
        /// The device.
        device: String,
        /// How many.
        wanted: u32,
        /// How many it has.
        limit: u32,
    },
    /// This part is not written yet.
    Unwritten(&'static str),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Open { library, reason } => {
                write!(f, "{library} cannot be loaded: {reason}")
            }
            LoadError::Symbol { symbol, reason } => write!(f, "{symbol} is missing: {reason}"),
        }
    }
}

impl fmt::Display for VerbsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerbsError::Library(error) => error.fmt(f),
            VerbsError::Call { call, on, errno } => {
                write!(f, "{call} ({on}): {}", io::Error::from_raw_os_error(*errno))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl std::error::Error for LoadError {}
impl std::error::Error for VerbsError {}
