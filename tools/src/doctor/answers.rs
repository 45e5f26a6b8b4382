//! What no file tells and a call does.
//!
//! Owns asking: for a ring, for the instruction set, for room in `/dev/shm`, for what the verbs
//! library shows, for what each NIC has counted and how it is set. Tests give answers of their own.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kernels::{Isa, Level};
use transport::Limits;
use transport::tcp::{TcpBackend, open};
use transport::verbs::{VerbsError, Windows, devices};

use super::fabric::Device;

/// Messages of the ring that is tried: the shortest that a transport takes will do.
const RING_MESSAGE_BYTES: usize = 1 << 16;

/// How long a tool of the system may take.
const TOOL_TIME_MAX: Duration = Duration::from_secs(2);

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
    /// What `dcb pfc show` prints, by network interface; of those that tell.
    pub(super) pfc: BTreeMap<String, String>,
}

/// The verbs library, which is loaded at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// It cannot be loaded; what is said of that.
    Missing(String),
    /// It opens no device; what is said of that.
    Refuses(String),
    /// Ports that it shows, by their names: `mlx5_0/1`.
    Shows(BTreeMap<String, Shown>),
}

/// What the library says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// The longest payload of a packet, in bytes.
    pub(super) payload_bytes: u64,
    /// Whether the device can open memory to one queue pair alone.
    pub(super) windows: Windows,
}

impl Library {
    /// What it says of a port; none if it knows no such port.
    pub(super) fn port(&self, port: &str) -> Option<Shown> {
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
    /// Asks this machine, which has these devices.
    pub(super) fn ask(devices: &[Device]) -> Answers {
        let limits = Limits { message_bytes_max: RING_MESSAGE_BYTES, ..Limits::default() };
        let io_uring = open(TcpBackend::Uring, limits).map(drop).map_err(|error| error.to_string());
        let shm = room(Path::new("/dev/shm"));
        let level = Isa::detect().level();
        Answers { io_uring, level, shm, library: library(), pfc: pfc(devices) }
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
        device.ports.iter().map(move |port| {
            let payload_bytes = u64::from(port.mtu.bytes());
            (format!("{name}/{}", port.port), Shown { payload_bytes, windows: device.windows })
        })
    });
    Library::Shows(ports.collect())
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
    tool("ethtool", &["-S", netdev])
}

/// What `dcb` shows of each interface's flow control by priority, where it is installed and the
/// driver tells.
fn pfc(devices: &[Device]) -> BTreeMap<String, String> {
    let ports = devices.iter().flat_map(|device| &device.ports);
    let netdevs = ports.filter_map(|port| Some(port.netdev.as_ref()?.name.clone()));
    let shown = |netdev: String| {
        let text = tool("dcb", &["pfc", "show", "dev", &netdev])?;
        Some((netdev, text))
    };
    netdevs.filter_map(shown).collect()
}

/// What a tool of the system prints; none if it is not there, fails, or takes too long.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let start = |program: &str| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        command.spawn().ok()
    };
    // Users' search path has no tools of administrators.
    let mut child = start(name).or_else(|| start(&format!("/usr/sbin/{name}")))?;
    let mut stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    // It ends with the tool's output.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.read_to_end(&mut bytes);
        // Nobody listens any more once the time is over.
        let _ = sender.send(read.map(|_| bytes));
    });
    let printed = receiver.recv_timeout(TOOL_TIME_MAX);
    if printed.is_err() {
        // It may have ended just now.
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let bytes = printed.ok()?.ok()?;
    status.success().then(|| String::from_utf8_lossy(&bytes).into_owned())
}
