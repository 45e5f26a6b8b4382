//! RDMA devices: which there are, one that is open, its ports, and what it reports by itself.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::error::VerbsError;
use super::gid::{Gid, GidKind};

/// What one device shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name, as `rdma link` shows it.
    pub name: String,
    /// The GUID of its node.
    pub node_guid: u64,
    /// What carries its packets.
    pub transport: TransportKind,
    /// Its ports, in order, the first of number 1.
    pub ports: Vec<PortInfo>,
}

/// What carries a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// InfiniBand's transport: over InfiniBand or Ethernet.
    InfiniBand,
    /// iWARP: over TCP. Lanes do not use it.
    Iwarp,
    /// Another one.
    Other(i32),
}

/// What one port shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number, from 1.
    pub port: u8,
    /// Whether packets may go.
    pub state: PortState,
    /// State of the wire, as the device numbers it: 5 is up.
    pub physical_state: u8,
    /// What the packets lie in.
    pub link_layer: LinkLayer,
    /// The longest payload of a packet now.
    pub mtu: Mtu,
    /// Its local identifier on InfiniBand; 0 on Ethernet.
    pub lid: u16,
    /// Rate of the link, in Mbit/s; 0 if not known.
    pub rate_mbit_per_s: u32,
    /// Entries that the GID table has, used or not.
    pub gid_entries: u32,
    /// The GIDs in use.
    pub gids: Vec<GidInfo>,
}

/// One entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidInfo {
    /// Its place in the table.
    pub index: u32,
    /// The GID.
    pub gid: Gid,
    /// What it is good for.
    pub kind: GidKind,
    /// The network device it belongs to; none on InfiniBand.
    pub netdev: Option<String>,
}

/// Whether packets may go through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No.
    Down,
    /// Not yet: the subnet manager has not spoken.
    Init,
    /// Not yet.
    Armed,
    /// Yes.
    Active,
    /// Another one, by its number.
    Other(u32),
}

/// What packets lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand's own frames.
    InfiniBand,
    /// Ethernet frames.
    Ethernet,
}

/// The longest payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mtu {
    /// 256 bytes.
    Bytes256 = 1,
    /// 512 bytes.
    Bytes512 = 2,
    /// 1024 bytes.
    Bytes1024 = 3,
    /// 2048 bytes.
    Bytes2048 = 4,
    /// 4096 bytes.
    Bytes4096 = 5,
}

/// What a device can do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceLimits {
    /// Queue pairs.
    pub(crate) qps_max: u32,
    /// Work requests in one queue.
    pub(crate) requests_max: u32,
    /// Completion queues.
    pub(crate) cqs_max: u32,
    /// Entries of a completion queue.
    pub(crate) completions_max: u32,
    /// Registered regions.
    pub(crate) regions_max: u32,
    /// Bytes of a registered region.
    pub(crate) region_bytes_max: u64,
    /// Reads under way at one queue pair, as the one that answers.
    pub(crate) reads_max: u8,
    /// Ports, numbered from 1.
    pub(crate) ports: u8,
}

/// What a device reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsyncEvent {
    /// A queue pair failed.
    QpFailed { qp_number: u32, event: u32 },
    /// Something harmless about a queue pair.
    QpNews { qp_number: u32, event: u32 },
    /// A completion queue overran.
    CqOverrun,
    /// A port is active.
    PortActive { port: u8 },
    /// A port is down.
    PortError { port: u8 },
    /// A port's LID, partition keys, GIDs or subnet manager are others.
    PortChanged { port: u8, event: u32 },
    /// The device is gone or dead.
    DeviceFatal,
    /// Another one.
    Other { event: u32 },
}

/// An open device with a protection domain; copies are the same one.
#[derive(Clone)]
pub(crate) struct Device(Rc<Opened>);

struct Opened {
    null: std::fs::File,
}

/// Every device that the library shows, with its ports and GIDs.
pub fn devices() -> Result<Vec<DeviceInfo>, VerbsError> {
    Err(VerbsError::Unwritten("devices"))
}

impl Device {
    /// Opens the device of this name.
    pub(crate) fn open(name: &str) -> Result<Device, VerbsError> {
        let _ = name;
        Err(VerbsError::Unwritten("Device::open"))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        ""
    }

    /// What it shows now: ports and GIDs are asked again.
    pub(crate) fn info(&self) -> Result<DeviceInfo, VerbsError> {
        Err(VerbsError::Unwritten("Device::info"))
    }

    /// What the port shows now.
    pub(crate) fn port(&self, port: u8) -> Result<PortInfo, VerbsError> {
        let _ = port;
        Err(VerbsError::Unwritten("Device::port"))
    }

    /// What it can do at most, as it said when it was opened.
    pub(crate) fn limits(&self) -> DeviceLimits {
        unreachable!("no device is open")
    }

    /// Readable when [`Device::async_event`] has something.
    pub(crate) fn async_fd(&self) -> BorrowedFd<'_> {
        self.0.null.as_fd()
    }

    /// What it reports next; none if there is nothing. Never waits.
    pub(crate) fn async_event(&self) -> Result<Option<AsyncEvent>, VerbsError> {
        Ok(None)
    }
}
