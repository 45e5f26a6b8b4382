//! Rigs: how the endpoints of one back end are opened and joined.
//!
//! Owns one rig per back end. What must hold is left to `laws`.

use std::env;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use transport::simulated::{Faults, World};
use transport::{Limits, Link, PeerId, Transport, shm, tcp};

/// One back end.
pub trait Rig {
    /// A new endpoint.
    fn open(&self, limits: Limits) -> Box<dyn Transport>;

    /// The two ends of a new connection, good for messages of up to `limits`.
    fn link(&self, limits: Limits) -> (Link, Link);

    /// Joins two endpoints. Returns how each calls the other.
    fn join(&self, one: &mut dyn Transport, other: &mut dyn Transport) -> [PeerId; 2] {
        let (left, right) = self.link(one.limits());
        [
            one.adopt(left).expect("the transport takes its own kind"),
            other.adopt(right).expect("the transport takes its own kind"),
        ]
    }
}

/// A back end whose ends may lie in two processes.
pub trait Across: Rig + Sync {
    /// Waits for a process at a new address.
    fn listen(&self) -> Door;

    /// Knocks at the address of a door that another process listens at.
    fn knock(&self, address: &str) -> Link;
}

/// Where another process is waited for.
pub struct Door {
    /// What the other process is told.
    pub address: String,
    /// Takes in the one that knocks. Blocks until it does.
    pub open: Box<dyn FnOnce(Limits) -> Link>,
}

/// The simulated network, without faults but with delays of all lengths.
pub struct SimulatedRig(World);

impl SimulatedRig {
    /// The rig of this seed.
    pub fn new(seed: u64) -> SimulatedRig {
        SimulatedRig(World::new(seed, Faults { delay_ns: 1_000..=50_000, ..Faults::NONE }))
    }
}

impl Rig for SimulatedRig {
    fn open(&self, limits: Limits) -> Box<dyn Transport> {
        Box::new(self.0.endpoint(limits))
    }

    fn link(&self, _: Limits) -> (Link, Link) {
        let (left, right) = self.0.link();
        (Link::Simulated(left), Link::Simulated(right))
    }
}

/// Rings in shared memory.
pub struct ShmRig;

impl Rig for ShmRig {
    fn open(&self, limits: Limits) -> Box<dyn Transport> {
        Box::new(shm::Shm::new(limits).expect("a shared-memory transport opens"))
    }

    fn link(&self, limits: Limits) -> (Link, Link) {
        let (left, right) = shm::pair(shm::ring_bytes(&limits)).expect("a pair of rings is mapped");
        (Link::Shm(left), Link::Shm(right))
    }
}

impl Across for ShmRig {
    fn listen(&self) -> Door {
        static DOORS: AtomicU32 = AtomicU32::new(0);
        let number = DOORS.fetch_add(1, Ordering::Relaxed);
        let name = format!("gradwire-conformance-{}-{number}", process::id());
        let path: PathBuf = env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).expect("a socket is bound");
        let address = path.to_str().expect("the path is text").to_owned();
        let open = move |limits| {
            let (stream, _) = listener.accept().expect("the other process knocks");
            std::fs::remove_file(path).expect("the socket is there");
            Link::Shm(shm::offer(stream, shm::ring_bytes(&limits)).expect("the rings are offered"))
        };
        Door { address, open: Box::new(open) }
    }

    fn knock(&self, address: &str) -> Link {
        let stream = UnixStream::connect(address).expect("the other process listens");
        Link::Shm(shm::accept(stream).expect("the rings are accepted"))
    }
}

/// TCP over loop-back.
pub struct TcpRig(tcp::TcpBackend);

impl TcpRig {
    /// The rig of this back end, or why this machine has none.
    pub fn new(backend: tcp::TcpBackend) -> Result<TcpRig, String> {
        match tcp::open(backend, Limits::default()) {
            Ok(_) => Ok(TcpRig(backend)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A link and a plain socket at its other end.
    pub fn raw(&self) -> (Link, TcpStream) {
        let (left, right) = streams();
        (Link::Tcp(left), right)
    }
}

impl Rig for TcpRig {
    fn open(&self, limits: Limits) -> Box<dyn Transport> {
        tcp::open(self.0, limits).expect("it opened before")
    }

    fn link(&self, _: Limits) -> (Link, Link) {
        let (left, right) = streams();
        (Link::Tcp(left), Link::Tcp(right))
    }
}

impl Across for TcpRig {
    fn listen(&self) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let open = move |_| Link::Tcp(listener.accept().expect("the other process knocks").0);
        Door { address, open: Box::new(open) }
    }

    fn knock(&self, address: &str) -> Link {
        Link::Tcp(TcpStream::connect(address).expect("the other process listens"))
    }
}

fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let left = TcpStream::connect(address).expect("the listener is there");
    let (right, _) = listener.accept().expect("someone connects");
    (left, right)
}
