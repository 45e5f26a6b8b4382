//! The door: listeners for TCP and for shared memory, and the thread that opens it.
//!
//! Owns listening and the rule that nobody listens in the open unasked. Who comes in by it is left
//! to `porter`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::core_thread::Server;
use crate::porter::{Listener, Porter};
use crate::view::DoorView;

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
    shown: Arc<Mutex<DoorView>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
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

    /// What has come to it, some tenths of a second ago at most.
    pub fn view(&self) -> DoorView {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(server: Arc<Server>, listener: Listener, place: Place) -> Result<Door, ListenError> {
        let closing = Arc::new(AtomicBool::new(false));
        let shown = Arc::<Mutex<DoorView>>::default();
        let failed = |error| ListenError::Bind { place: "the door's thread".to_owned(), error };
        let mut porter = Porter::new(server, listener, Arc::clone(&closing), Arc::clone(&shown))
            .map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("door".to_owned())
            .spawn(move || porter.run())
            .map_err(failed)?;
        Ok(Door { place, closing, shown, thread: Some(thread) })
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
