//! Shared memory between threads and processes of one host: a pair of rings in a memfd.
//!
//! Owns the pair, its doorbells and the transport over many of them. Opening the socket over
//! which two processes share a pair is left to the caller, and with it who may connect: the
//! processes of a pair trust each other as far as the head of `ring` says.
//!
//! Invariant: an [`End`] is one of exactly two over a memory; dropping it closes the pair.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

mod bell;
mod error;
mod offer;
mod ring;
mod shared;
mod transport;
mod window;

pub use error::ShmError;
pub use offer::{accept, offer};
pub(crate) use ring::{RecvRecord, SendRecord};
pub use shared::{RING_BYTES_MAX, RING_BYTES_MIN};
pub use transport::{PEERS_MAX, Shm};

use crate::api::Limits;
use bell::{Doors, new_bell};
use shared::{Shared, Side};

/// The size of a ring where nothing speaks for another, in bytes.
pub const RING_BYTES_DEFAULT: usize = 4 << 20;

/// A ring that holds what may be under way by these limits.
pub fn ring_bytes(limits: &Limits) -> usize {
    let wanted = limits.send_bytes_max.max(4 * limits.message_bytes_max).next_power_of_two();
    wanted.clamp(RING_BYTES_MIN, RING_BYTES_MAX)
}

/// One end of a pair of rings, to be adopted by the transport of one thread. Dropping it closes
/// the pair.
#[derive(Debug)]
pub struct End {
    doors: Doors,
    /// The socket to the peer's process: its end is the socket's end.
    process: Option<UnixStream>,
}

/// Two ends for two threads of this process, with rings of `ring_bytes` each, which is a power of
/// two from [`RING_BYTES_MIN`] to [`RING_BYTES_MAX`]. A message is at most half a ring less 64
/// bytes long.
///
/// - Errors: [`ShmError::RingBytes`], or the kernel refuses memory or descriptors.
pub fn pair(ring_bytes: usize) -> Result<(End, End), ShmError> {
    let memory = Shared::create(ring_bytes)?;
    // A mapping for each end: what one writes is at an address that the other never sees.
    let one = Arc::new(Shared::map(&memory, ring_bytes as u64)?);
    let other = Arc::new(Shared::map(&memory, ring_bytes as u64)?);
    let bells = (new_bell()?, new_bell()?);
    let clone = |bell: &std::os::fd::OwnedFd| {
        rustix::io::fcntl_dupfd_cloexec(bell, 0).map_err(ShmError::os("F_DUPFD_CLOEXEC"))
    };
    let peer_bells = (clone(&bells.1)?, clone(&bells.0)?);
    let one = Doors { shared: one, side: Side::A, bell: bells.0, peer_bell: peer_bells.0 };
    let other = Doors { shared: other, side: Side::B, bell: bells.1, peer_bell: peer_bells.1 };
    Ok((End { doors: one, process: None }, End { doors: other, process: None }))
}
