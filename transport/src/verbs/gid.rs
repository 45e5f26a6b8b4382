//! Which port and GID a link uses, from what the devices show.
//!
//! Owns the choice, which is pure. Asking the devices is left to [`super::device`].

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::device::{DeviceInfo, LinkLayer};
use super::error::VerbsError;

/// A port's address: 128 bits, in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Gid(pub [u8; 16]);

/// What a GID is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GidKind {
    /// Of an InfiniBand port.
    Ib,
    /// RoCE on Ethernet frames; no router passes it on.
    RoceV1,
    /// RoCE on UDP.
    RoceV2,
}

/// What a person asked for, and the link that a lane is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Only this device.
    pub(crate) device: Option<String>,
    /// Only this port, from 1.
    pub(crate) port: Option<u8>,
    /// This entry of the port's GID table.
    pub(crate) gid_index: Option<u32>,
    /// The local address of the TCP link.
    pub(crate) local: IpAddr,
}

/// The port and GID to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) device: String,
    pub(crate) port: u8,
    pub(crate) gid_index: u8,
    pub(crate) gid: Gid,
    pub(crate) link_layer: LinkLayer,
}

/// Chooses a port and GID among `devices`.
pub(crate) fn choose(devices: &[DeviceInfo], wish: &Wish) -> Result<Choice, VerbsError> {
    let _ = (devices, wish);
    Err(VerbsError::Unwritten("gid::choose"))
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}
