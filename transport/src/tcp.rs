//! TCP: which back end to use, and how to get a connected socket.
//!
//! Owns the choice between `uring` and `epoll`, and of RDMA beside them, and connecting with a
//! limit of time. The handshake on the socket is left to the caller.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Once;
use std::time::{Duration, Instant};

use memory::MapError;
use rustix::io::Errno;

use crate::api::{Fault, Limits, Transport};
use crate::desk::Beneath;
use crate::epoll::Epoll;
use crate::uring::Uring;
use crate::verbs::{Verbs, VerbsError, VerbsSettings};

/// How long a peer's host may leave probes or sent bytes unacknowledged, or its process may take
/// nothing of what waits for it, before the kernel ends the link. Workers give a silent server up
/// by their own time-outs, which are shorter; this ends what nobody waits for by a clock.
pub const LINK_SILENCE_MAX: Duration = Duration::from_secs(20);

/// From one probe of an idle link to the next.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(4);

/// Probes in a row that may go unanswered.
pub(crate) const PROBES_MAX: u32 = 4;

const _: () = {
    let idle = PROBE_INTERVAL.as_secs() * (1 + PROBES_MAX as u64);
    assert!(idle <= LINK_SILENCE_MAX.as_secs(), "an idle link is noticed no later");
};

/// How TCP is driven, and whether RDMA goes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpBackend {
    /// With RDMA where there is a device with an active port, else without; TCP by io_uring where
    /// the kernel has it (Linux 6.1) and allows it, else by epoll.
    Auto(VerbsSettings),
    /// TCP by io_uring alone.
    Uring,
    /// TCP by epoll alone.
    Epoll,
    /// With RDMA: there must be a device. Messages go over TCP to peers that have none, and while
    /// RDMA fails.
    Verbs(VerbsSettings),
}

impl Default for TcpBackend {
    fn default() -> TcpBackend {
        TcpBackend::Auto(VerbsSettings::default())
    }
}

/// Why there is no TCP transport.
#[derive(Debug)]
pub enum OpenError {
    /// The longest message that was asked for is shorter than a header or longer than the wire's
    /// longest.
    MessageBytes {
        /// What was asked.
        message_bytes_max: usize,
    },
    /// The kernel has no use of this back end for us.
    Os {
        /// The back end.
        transport: &'static str,
        /// What was tried.
        call: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// There is no address space for the slots.
    Memory(MapError),
    /// No RDMA device can be used.
    Verbs(VerbsError),
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The name has no address, or is none.
    Resolve {
        /// The name.
        address: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// None of the name's addresses answered.
    Connect {
        /// The name.
        address: String,
        /// The address that was tried last; none if time was up before.
        tried: Option<SocketAddr>,
        /// What it said.
        error: io::Error,
    },
}

/// Opens a TCP transport on this thread, which must be the one that polls it.
///
/// Errors: [`OpenError`]. With [`TcpBackend::Auto`], why RDMA or io_uring was not used is logged
/// once.
pub fn open(backend: TcpBackend, limits: Limits) -> Result<Box<dyn Transport>, OpenError> {
    let message_bytes_max = limits.message_bytes_max;
    if !(wire::HEADER_BYTES..=wire::FRAME_BYTES_MAX).contains(&message_bytes_max) {
        return Err(OpenError::MessageBytes { message_bytes_max });
    }
    match backend {
        TcpBackend::Uring => Ok(Box::new(Uring::new(limits)?)),
        TcpBackend::Epoll => Ok(Box::new(Epoll::new(limits)?)),
        TcpBackend::Verbs(settings) => Ok(Box::new(Verbs::open(settings, limits)?)),
        TcpBackend::Auto(settings) => match Verbs::open(settings, limits) {
            Ok(verbs) => Ok(Box::new(verbs)),
            Err(OpenError::Verbs(error)) => {
                static LOGGED: Once = Once::new();
                LOGGED.call_once(|| tracing::info!(%error, "messages go by TCP alone"));
                Ok(open_beneath(limits)?)
            }
            Err(error) => Err(error),
        },
    }
}

/// TCP alone: by io_uring, or by epoll and then why is logged once.
pub(crate) fn open_beneath(limits: Limits) -> Result<Box<dyn Beneath>, OpenError> {
    match Uring::new(limits) {
        Ok(uring) => Ok(Box::new(uring)),
        Err(error) => {
            static LOGGED: Once = Once::new();
            LOGGED.call_once(|| tracing::warn!(%error, "TCP is driven by epoll"));
            Ok(Box::new(Epoll::new(limits)?))
        }
    }
}

/// Connects to `address` (`host:port`), trying each address of the name until `timeout` is over.
/// Looking the name up is the resolver's, with its own limit of time.
///
/// Errors: [`ConnectError`], naming the address.
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + timeout;
    let resolve = |error| ConnectError::Resolve { address: address.to_owned(), error };
    let mut last = (None, io::Error::from(io::ErrorKind::TimedOut));
    for candidate in address.to_socket_addrs().map_err(resolve)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = (Some(candidate), error),
        }
    }
    let (tried, error) = last;
    Err(ConnectError::Connect { address: address.to_owned(), tried, error })
}

/// What a failed system call on a connection makes of it.
pub(crate) fn os_fault(call: &'static str, errno: Errno) -> Fault {
    Fault::Os { call, errno: errno.raw_os_error() }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::MessageBytes { message_bytes_max } => write!(
                f,
                "messages of at most {message_bytes_max} bytes: {} to {} are possible",
                wire::HEADER_BYTES,
                wire::FRAME_BYTES_MAX
            ),
            OpenError::Os { transport, call, error } => {
                write!(f, "the {transport} transport cannot be opened: {call}: {error}")
            }
            OpenError::Memory(error) => write!(f, "memory for slots: {error}"),
            OpenError::Verbs(error) => write!(f, "RDMA cannot be used: {error}"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Resolve { address, error } => {
                write!(f, "the address {address} cannot be found: {error}")
            }
            ConnectError::Connect { address, tried: Some(tried), error } => {
                write!(f, "no connection to {address} (at {tried}): {error}")
            }
            ConnectError::Connect { address, tried: None, error } => {
                write!(f, "no connection to {address}: {error}")
            }
        }
    }
}

impl std::error::Error for OpenError {}
impl std::error::Error for ConnectError {}
