//! Connecting: from the names of servers to a session with all their shards.
//!
//! Owns what is asked of each server and the choice of the transport that a place needs. The
//! handshake itself is `transport::dial`, the servers' side `server::handshake`.
//!
//! Invariant: a session is returned only when every shard of every server has welcomed it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kernels::Isa;
use kernels::crc32c::crc32c;
use transport::dial::{self, Address, DialError, UNIX_PREFIX};
use transport::shm::Shm;
use transport::tcp::{self, TcpBackend};
use transport::{AdoptError, Limits, Link, Transport};
use wire::{
    DEFINE_BODY_BYTES, Epoch, Flags, HEADER_BYTES, Header, Incarnation, Kind, Malformed, Refusal,
    Routing, RoutingError, WorkerId,
};

use crate::session::{Session, SessionSpec, Timeouts};

/// The shard number of a hello that only asks how many shards there are.
const ASK: u16 = u16::MAX;

/// A server must take messages at least so long, in bytes: every request of fixed size fits.
const MESSAGE_BYTES_MIN: usize = HEADER_BYTES + DEFINE_BODY_BYTES;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `host:port`, reached by TCP.
    Tcp(String),
    /// `unix:PATH`, a socket in this host's file system; bytes then move by shared memory.
    Unix(PathBuf),
}

/// Gives sessions with all shards of a cluster.
pub trait Servers: Sync {
    /// Why there is no session.
    type Error: fmt::Display;

    /// A session for the thread that calls.
    fn session(&self, worker: WorkerId, incarnation: Incarnation) -> Result<Session, Self::Error>;
}

/// Who connects to whom, and how.
#[derive(Clone, Debug)]
pub struct ConnectSpec {
    /// All servers; their shards are numbered in this order. All by TCP, or all in the file
    /// system.
    pub places: Vec<Place>,
    /// The generation of the routing table.
    pub epoch: Epoch,
    /// Who, and how.
    pub dial: Dial,
}

/// How a worker connects to a server, whichever that is.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Who connects.
    pub worker: WorkerId,
    /// Which life of this worker.
    pub incarnation: Incarnation,
    /// How TCP is driven.
    pub backend: TcpBackend,
    /// Bounds of the transport.
    pub limits: Limits,
    /// Time-outs of the session.
    pub timeouts: Timeouts,
    /// How long connecting to one server, with its handshake, may take.
    pub connect_max: Duration,
}

/// Why there is no session. Whatever was connected is closed again.
#[derive(Debug)]
pub enum ConnectError {
    /// No server is named, or servers of both kinds.
    Places,
    /// The server cannot be reached.
    Unreachable {
        /// Which one.
        place: Place,
        /// Why.
        reason: String,
    },
    /// The handshake broke off.
    Handshake {
        /// With whom.
        place: Place,
        /// Why.
        error: io::Error,
    },
    /// What answers there speaks another language or version.
    Malformed {
        /// Who.
        place: Place,
        /// What it said.
        malformed: Malformed,
    },
    /// The server says no.
    Refused {
        /// Who.
        place: Place,
        /// Why.
        refusal: Refusal,
    },
    /// The servers' shards make no routing table.
    Routing(RoutingError),
    /// The transport cannot be opened on this side.
    Transport {
        /// Why.
        reason: String,
    },
    /// The transport does not take the connection.
    Adopt {
        /// To whom.
        place: Place,
        /// Why.
        error: AdoptError,
    },
}

/// What a server told about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    shards: u16,
    pub(crate) message_bytes_max: usize,
}

/// What a worker says of the link that it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) shard: u16,
    /// At which the worker takes the shard to be served.
    pub(crate) epoch: Epoch,
    /// [`Flags::ANY_REPLICA`], or none.
    pub(crate) flags: Flags,
    pub(crate) message_bytes_max: usize,
}

/// Connects to every shard of every server.
///
/// Errors: [`ConnectError`], naming the server.
pub fn connect(spec: &ConnectSpec) -> Result<Session, ConnectError> {
    let by_tcp = spec.places.iter().all(|place| matches!(place, Place::Tcp(_)));
    let by_unix = spec.places.iter().all(|place| matches!(place, Place::Unix(_)));
    if spec.places.is_empty() || !(by_tcp || by_unix) {
        return Err(ConnectError::Places);
    }
    let isa = Isa::detect();
    let mut shards = Vec::new();
    let dial = &spec.dial;
    let mut limits = dial.limits;
    for place in &spec.places {
        let told = ask(isa, place, dial)?;
        limits.message_bytes_max = limits.message_bytes_max.min(told.message_bytes_max);
        shards.extend((0..told.shards).map(|shard| (place, shard)));
    }
    let routing = Routing::new(spec.epoch, shards.len()).map_err(ConnectError::Routing)?;
    let mut transport = open(by_unix, dial.backend, limits)?;
    let mut peers = Vec::new();
    for &(place, shard) in &shards {
        let (epoch, flags) = (spec.epoch, Flags::NONE);
        let hello = Hello { shard, epoch, flags, message_bytes_max: limits.message_bytes_max };
        let link = greet(isa, place, hello, dial)?;
        let adopt = |error| ConnectError::Adopt { place: place.clone(), error };
        peers.push(transport.adopt(link).map_err(adopt)?);
    }
    let servers = shards.iter().map(|(place, shard)| format!("{place} shard {shard}")).collect();
    Ok(Session::new(SessionSpec {
        transport,
        peers,
        servers,
        routing,
        worker: dial.worker,
        incarnation: dial.incarnation,
        isa,
        timeouts: dial.timeouts,
    }))
}

pub(crate) fn open(
    by_unix: bool,
    backend: TcpBackend,
    limits: Limits,
) -> Result<Box<dyn Transport>, ConnectError> {
    if by_unix {
        match Shm::new(limits) {
            Ok(shm) => Ok(Box::new(shm)),
            Err(error) => Err(ConnectError::Transport { reason: error.to_string() }),
        }
    } else {
        tcp::open(backend, limits)
            .map_err(|error| ConnectError::Transport { reason: error.to_string() })
    }
}

/// Asks a server how many shards it has.
pub(crate) fn ask(isa: Isa, place: &Place, dial: &Dial) -> Result<Told, ConnectError> {
    let message_bytes_max = dial.limits.message_bytes_max;
    let (epoch, flags) = (Epoch::default(), Flags::NONE);
    let hello = Hello { shard: ASK, epoch, flags, message_bytes_max };
    let crc = |bytes: &[u8]| crc32c(isa, 0, bytes);
    let welcome = dial::ask(place.address(), hello.header(dial), dial.connect_max, crc);
    let welcome = welcome.map_err(|error| ConnectError::dialing(place, error))?;
    let none = Malformed::Field { name: "keys" };
    let shards = u16::try_from(welcome.keys).ok().filter(|&shards| shards > 0);
    let shards =
        shards.ok_or_else(|| ConnectError::Malformed { place: place.clone(), malformed: none })?;
    let message_bytes_max = usize::try_from(welcome.sequence).unwrap_or(usize::MAX);
    if message_bytes_max < MESSAGE_BYTES_MIN {
        let malformed = Malformed::Field { name: "sequence" };
        return Err(ConnectError::Malformed { place: place.clone(), malformed });
    }
    Ok(Told { shards, message_bytes_max })
}

/// Connects to one shard.
pub(crate) fn greet(
    isa: Isa,
    place: &Place,
    hello: Hello,
    dial: &Dial,
) -> Result<Link, ConnectError> {
    let crc = |bytes: &[u8]| crc32c(isa, 0, bytes);
    let bounds = (&dial.limits, dial.connect_max);
    let linked = dial::link(place.address(), hello.header(dial), bounds, crc);
    linked.map(|(link, _)| link).map_err(|error| ConnectError::dialing(place, error))
}

impl Hello {
    fn header(self, dial: &Dial) -> Header {
        Header {
            flags: self.flags.get(),
            epoch: self.epoch.get(),
            worker: dial.worker.get(),
            incarnation: dial.incarnation.get(),
            table: self.shard,
            sequence: self.message_bytes_max as u64,
            ..Header::new(Kind::Hello)
        }
    }
}

impl ConnectError {
    fn dialing(place: &Place, error: DialError) -> ConnectError {
        let place = place.clone();
        match error {
            DialError::Unreachable { reason } => ConnectError::Unreachable { place, reason },
            DialError::Handshake(error) => ConnectError::Handshake { place, error },
            DialError::Malformed(malformed) => ConnectError::Malformed { place, malformed },
            DialError::Refused(refusal) => ConnectError::Refused { place, refusal },
        }
    }
}

impl Place {
    fn address(&self) -> Address<'_> {
        match self {
            Place::Tcp(address) => Address::Tcp(address),
            Place::Unix(path) => Address::Unix(path),
        }
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Place, PlaceError> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return Ok(Place::Unix(PathBuf::from(path)));
        }
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(_) => Ok(Place::Tcp(text.to_owned())),
            None => Err(PlaceError { text: text.to_owned() }),
        }
    }
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceError {
    text: String,
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no server: expected host:port or unix:PATH", self.text)
    }
}

impl std::error::Error for PlaceError {}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => f.write_str(address),
            Place::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Places => {
                write!(f, "expected servers by host:port only, or by {UNIX_PREFIX}PATH only")
            }
            ConnectError::Unreachable { place, reason } => {
                write!(f, "no server at {place}: {reason}")
            }
            ConnectError::Handshake { place, error } => {
                write!(f, "the handshake with {place} broke off: {error}")
            }
            ConnectError::Malformed { place, malformed } => write!(f, "{place}: {malformed}"),
            ConnectError::Refused { place, refusal } => write!(f, "{place} refuses: {refusal}"),
            ConnectError::Routing(error) => error.fmt(f),
            ConnectError::Transport { reason } => write!(f, "no transport: {reason}"),
            ConnectError::Adopt { place, error } => write!(f, "{place}: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}
