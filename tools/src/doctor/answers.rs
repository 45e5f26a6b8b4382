//! What no file tells and a call does.
//!
//! Owns asking: for a ring, for the instruction set, for room in `/dev/shm`, for what the verbs
//! library shows, for what each NIC has counted. Tests give answers of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kernels::{Isa, Level};
use transport::Limits;
use transport::tcp::{TcpBackend, open};
use transport::verbs::{VerbsError, devices};

/// Messages of the ring that is tried: the shortest that a transport takes will do.
const RING_MESSAGE_BYTES: usize = 1 << 16;

/// Answers of one machine.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// Whether a transport by io_uring opens; else what it says.
    pub(super) io_uring: Result<(), String>,
    /// The instructions that kernels run with.
    pub(super) level: Level,
    /// Room in `/dev/shm`; none if there is no such place.
    pub(super) shm: Option<Room>,
    /// What the verbs library says.
    pub(super) library: Library,
}

/// The verbs library, which is loaded at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// It cannot be loaded; what is said of that.
    Missing(String),
    /// It opens no device; what is said of that.
    Refuses(String),
    /// Ports that it shows, as `mlx5_0/1`, each with the longest payload of a packet in bytes.
    Shows(BTreeMap<String, u64>),
}

impl Library {
    /// The longest payload of a packet of a port, in bytes; none if the library knows no such port.
    pub(super) fn mtu(&self, port: &str) -> Option<u64> {
        match self {
            Library::Shows(ports) => ports.get(port).copied(),
            Library::Missing(_) | Library::Refuses(_) => None,
        }
    }
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// All of them.
    pub(super) bytes: u64,
    /// Those that are free.
    pub(super) free_bytes: u64,
}

impl Answers {
    /// Asks this machine.
    pub(super) fn ask() -> Answers {
        let limits = Limits { message_bytes_max: RING_MESSAGE_BYTES, ..Limits::default() };
        let io_uring = open(TcpBackend::Uring, limits).map(drop).map_err(|error| error.to_string());
        let shm = room(Path::new("/dev/shm"));
        Answers { io_uring, level: Isa::detect().level(), shm, library: library() }
    }
}

fn library() -> Library {
    let devices = match devices() {
        Ok(devices) => devices,
        Err(VerbsError::Library(error)) => return Library::Missing(error.to_string()),
        Err(error) => return Library::Refuses(error.to_string()),
    };
    let ports = devices.iter().flat_map(|device| {
        let name = &device.name;
        device.ports.iter().map(move |port| (format!("{name}/{}", port.port), port.mtu))
    });
    Library::Shows(ports.map(|(port, mtu)| (port, u64::from(mtu.bytes()))).collect())
}

fn room(path: &Path) -> Option<Room> {
    let all = rustix::fs::statvfs(path).ok()?;
    Some(Room {
        bytes: all.f_blocks.saturating_mul(all.f_frsize),
        free_bytes: all.f_bavail.saturating_mul(all.f_frsize),
    })
}

/// What the NIC behind a network interface has counted, in the words of its driver. None if
/// `ethtool`, which knows how to ask it, is not installed or the driver counts nothing.
pub(super) fn nic_counters(netdev: &str) -> Option<String> {
    let output = Command::new("ethtool").args(["-S", netdev]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
