//! Roofs: what this machine does when nothing but the bare work is done.
//!
//! Owns six: memory in order ([`Triad`]), memory at random, once a row ([`Rows`]) and twice
//! ([`TwoLines`]), bytes over the transport and round trips over it ([`Wire`]), and round trips
//! over a socket without it ([`Sockets`]). A run measures them between its repeats, on the same
//! processors.

mod rows;
mod socket;
mod triad;
mod two_line;
mod wire;

use std::fmt;
use std::io;

use memory::{GrowError, MapError};
use transport::shm::ShmError;
use transport::tcp::OpenError;
use transport::{AdoptError, Fault, SendRefusal};

pub use rows::Rows;
pub(crate) use socket::PingSizes;
pub use socket::Sockets;
pub(crate) use triad::{LINE_FLOATS, lines_apart};
pub use triad::{Stores, TRIAD_BYTES, Triad};
pub use two_line::TwoLines;
pub(crate) use wire::serve_far;
#[cfg(test)]
pub(crate) use wire::tcp_pair;
pub use wire::{Pings, Wire};

/// Why a roof cannot be measured.
#[derive(Debug)]
pub enum RoofError {
    /// The kernel gives no addresses.
    Map(MapError),
    /// The kernel gives no memory.
    Grow(GrowError),
    /// Shared memory cannot be had.
    Shm(ShmError),
    /// There is no TCP transport.
    Open(OpenError),
    /// The operating system said no.
    Os {
        /// What was tried.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// The transport does not take its link.
    Adopt(AdoptError),
    /// The transport gives no slot.
    Send(SendRefusal),
    /// The link between the two threads ended.
    Closed(Fault),
    /// Nothing came for so long.
    Silent {
        /// How long, in seconds.
        seconds: u64,
    },
}

impl fmt::Display for RoofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a roof cannot be measured: ")?;
        match self {
            RoofError::Map(error) => error.fmt(f),
            RoofError::Grow(error) => error.fmt(f),
            RoofError::Shm(error) => error.fmt(f),
            RoofError::Open(error) => error.fmt(f),
            RoofError::Os { call, error } => write!(f, "{call}: {error}"),
            RoofError::Adopt(error) => error.fmt(f),
            RoofError::Send(error) => error.fmt(f),
            RoofError::Closed(fault) => fault.fmt(f),
            RoofError::Silent { seconds } => write!(f, "nothing came for {seconds} s"),
        }
    }
}

impl std::error::Error for RoofError {}

/// Zeroed memory in huge pages where the kernel has them, as tables have it.
pub(crate) fn arena(floats: usize) -> Result<memory::Arena<f32>, RoofError> {
    let mut arena = memory::Arena::reserve(floats).map_err(RoofError::Map)?;
    arena.grow_to(floats).map_err(RoofError::Grow)?;
    Ok(arena)
}
