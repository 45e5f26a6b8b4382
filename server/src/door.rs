//! The door: listeners for TCP and for shared memory, and the thread that opens it.
//!
//! Owns accepting, the rule that nobody listens in the open unasked, and the bound on handshakes
//! under way. A connection that is through belongs to its core.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use transport::{Link, shm};
use wire::{Header, Refusal};

use crate::core_thread::Server;
use crate::handshake::{Guest, TurnedAway, receive};

/// How long a guest may take to introduce itself.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Guests at the door at once; more are turned away.
const HANDSHAKES_MAX: usize = 64;

/// How often the door looks whether it should close.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether a listener may be reached from other hosts. The wire has no encryption and no
/// authentication yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Only from this host.
    Loopback,
    /// From anywhere: the operator has said `--insecure`.
    Insecure,
}

/// Why a server does not listen.
#[derive(Debug)]
pub enum ListenError {
    /// The text names no address.
    Address {
        /// The text.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The address can be reached from other hosts, and nobody said that it may.
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The operating system says no: the port is in use, or not ours.
    Bind {
        /// Where.
        place: String,
        /// Why.
        error: io::Error,
    },
}

/// A listener and its thread; dropped, it closes.
#[derive(Debug)]
pub struct Door {
    place: Place,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Door {
    /// Listens on `host:port`; port 0 takes a free one.
    pub fn tcp(
        server: Arc<Server>,
        address: &str,
        exposure: Exposure,
    ) -> Result<Door, ListenError> {
        let listener = listen(address, exposure)?;
        let bind = |error| ListenError::Bind { place: address.to_owned(), error };
        listener.set_nonblocking(true).map_err(bind)?;
        let place = Place::Tcp(listener.local_addr().map_err(bind)?);
        Door::open(server, Listener::Tcp(listener), place)
    }

    /// Listens on a socket in the file system, for workers of this host over shared memory. Who
    /// may open the socket may read and write the rings.
    pub fn unix(server: Arc<Server>, path: &Path) -> Result<Door, ListenError> {
        let bind = |error| ListenError::Bind { place: path.display().to_string(), error };
        let listener = UnixListener::bind(path).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        Door::open(server, Listener::Unix(listener), Place::Unix(path.to_owned()))
    }

    /// The address it listens on; none for a socket in the file system.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.place {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        }
    }

    fn open(server: Arc<Server>, listener: Listener, place: Place) -> Result<Door, ListenError> {
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let thread = std::thread::Builder::new()
            .name("door".to_owned())
            .spawn(move || attend(&server, &listener, &seen))
            .map_err(|error| ListenError::Bind { place: "the door's thread".to_owned(), error })?;
        Ok(Door { place, closing, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Place::Unix(path) = &self.place {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Lets guests in until the door closes.
fn attend(server: &Arc<Server>, listener: &Listener, closing: &AtomicBool) {
    let under_way = Arc::new(AtomicUsize::new(0));
    let timeout = Timespec::try_from(LOOK_EVERY).expect("100 ms");
    while !closing.load(Ordering::Relaxed) {
        let mut polled = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        if !poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            continue;
        }
        let Ok(stream) = listener.accept() else { continue };
        if under_way.fetch_add(1, Ordering::Relaxed) >= HANDSHAKES_MAX {
            under_way.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(HANDSHAKES_MAX, "too many handshakes under way: one is turned away");
            continue;
        }
        let (server, done) = (Arc::clone(server), Arc::clone(&under_way));
        let greet = move || {
            match greet(&server, stream) {
                Ok(()) => {}
                // Where shards move, some come before their server has heard of it, or after.
                Err(TurnedAway::Refused(
                    refusal @ (Refusal::EpochMismatch { .. } | Refusal::NotHead { .. }),
                )) => tracing::debug!(%refusal, "a guest is sent on"),
                Err(error) => tracing::warn!(%error, "a guest is turned away"),
            }
            done.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("handshake".to_owned()).spawn(greet).is_err() {
            under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Does the handshake and brings the guest to its core.
fn greet(server: &Server, stream: Stream) -> Result<(), TurnedAway> {
    let (shards, bytes_max) = (server.shards(), server.message_bytes_max());
    let admits = |hello: &Header| server.admits(hello);
    match stream {
        Stream::Tcp(mut stream) => {
            stream.set_nonblocking(false).map_err(TurnedAway::Io)?;
            stream.set_read_timeout(Some(HANDSHAKE_MAX)).map_err(TurnedAway::Io)?;
            stream.set_write_timeout(Some(HANDSHAKE_MAX)).map_err(TurnedAway::Io)?;
            stream.set_nodelay(true).map_err(TurnedAway::Io)?;
            if let Guest::Wants(who) = receive(&mut stream, shards, bytes_max, admits)? {
                server.attach(Link::Tcp(stream), who);
            }
        }
        Stream::Unix(mut stream) => {
            stream.set_nonblocking(false).map_err(TurnedAway::Io)?;
            stream.set_read_timeout(Some(HANDSHAKE_MAX)).map_err(TurnedAway::Io)?;
            stream.set_write_timeout(Some(HANDSHAKE_MAX)).map_err(TurnedAway::Io)?;
            if let Guest::Wants(who) = receive(&mut stream, shards, bytes_max, admits)? {
                let end = shm::accept(stream)
                    .map_err(|error| TurnedAway::Io(io::Error::other(error.to_string())))?;
                server.attach(Link::Shm(end), who);
            }
        }
    }
    Ok(())
}

impl Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Listens at the first address of `host:port`; port 0 takes a free one.
///
/// Errors: [`ListenError`]; also if it can be reached from other hosts and nobody said that it may.
pub fn listen(address: &str, exposure: Exposure) -> Result<TcpListener, ListenError> {
    let unknown = |error| ListenError::Address { address: address.to_owned(), error };
    let none = || io::Error::new(io::ErrorKind::NotFound, "no such host");
    let found = address.to_socket_addrs().map_err(unknown)?.next();
    let found = found.ok_or_else(none).map_err(unknown)?;
    if exposure == Exposure::Loopback && !found.ip().is_loopback() {
        return Err(ListenError::NotLoopback { address: found });
    }
    TcpListener::bind(found).map_err(|error| ListenError::Bind { place: found.to_string(), error })
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::Address { address, error } => {
                write!(f, "'{address}' is no host:port to listen on: {error}")
            }
            ListenError::NotLoopback { address } => write!(
                f,
                "{address} can be reached from other hosts, and the wire is neither encrypted nor \
                 authenticated: listen on 127.0.0.1, or say --insecure"
            ),
            ListenError::Bind { place, error } => write!(f, "cannot listen on {place}: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}
