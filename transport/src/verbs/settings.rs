//! What a person may say of lanes: which device and port, and how packets are marked.
//!
//! Owns the values and their ranges. Where they come from, a flag or a file, is left to the caller.
//!
//! Invariant: the settings of the two ends need not agree; what must, the offers agree upon.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::device::Mtu;

/// How lanes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerbsSettings {
    /// Only this device; else the one that has the TCP link's address, or for a link within the
    /// host the first with an active port.
    pub device: Option<DeviceName>,
    /// Only this port of it, from 1.
    pub port: Option<u8>,
    /// This entry of the port's GID table; else the one of the TCP link's address.
    pub gid_index: Option<u8>,
    /// Traffic class of packets that carry a GID: on Ethernet, six bits of DSCP and two of ECN.
    pub traffic_class: u8,
    /// Service level, 0 to 15; on Ethernet, 0 to 7 is the priority.
    pub service_level: u8,
    /// Entry of the port's table of partition keys.
    pub pkey_index: u16,
    /// The longest payload of a packet; else the shorter of the two ports'.
    pub mtu_max: Option<Mtu>,
    /// How long a work request may take before the lane is given up and messages go over TCP.
    pub operation_max: Duration,
    /// Breaks a rule on purpose, for tests of what then happens.
    #[doc(hidden)]
    pub breakage: Breakage,
}

/// A rule that tests have a lane break.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Breakage {
    #[default]
    None,
    /// Receives are not posted again: the peer finds none.
    FewReceives,
    /// The peer is told another rkey than the ring's.
    WrongRkey,
    /// As on a device without memory windows.
    NoWindows,
    /// Completion queues have fewer entries than they need.
    SmallCq,
}

/// A device's name, as `rdma link` shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceName {
    bytes: [u8; DEVICE_NAME_BYTES_MAX],
    count: u8,
}

/// Longest name of a device, in bytes, as the kernel has it (`IB_DEVICE_NAME_MAX`, less its end).
pub const DEVICE_NAME_BYTES_MAX: usize = 63;

/// The text is no name that a device can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNameError {
    /// The text.
    pub found: String,
}

impl Default for VerbsSettings {
    fn default() -> VerbsSettings {
        VerbsSettings {
            device: None,
            port: None,
            gid_index: None,
            traffic_class: 0,
            service_level: 0,
            pkey_index: 0,
            mtu_max: None,
            operation_max: Duration::from_millis(500),
            breakage: Breakage::None,
        }
    }
}

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.count)];
        std::str::from_utf8(bytes).expect("only `from_str` makes one, from text")
    }
}

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<DeviceName, DeviceNameError> {
        let fits = (1..=DEVICE_NAME_BYTES_MAX).contains(&text.len());
        if !fits || text.contains(['/', '\0']) {
            return Err(DeviceNameError { found: text.to_owned() });
        }
        let mut bytes = [0; DEVICE_NAME_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(DeviceName { bytes, count: text.len() as u8 })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for DeviceNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = &self.found;
        write!(
            f,
            "'{found}' is no device's name: 1 to {DEVICE_NAME_BYTES_MAX} bytes without a slash"
        )
    }
}

impl std::error::Error for DeviceNameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_reads_as_it_was_written_and_what_is_none_is_refused() {
        for name in ["rxe0", "mlx5_bond_0", &"n".repeat(DEVICE_NAME_BYTES_MAX)] {
            assert_eq!(name.parse::<DeviceName>().map(|name| name.to_string()), Ok(name.into()));
        }
        for text in ["", "a/b", &"n".repeat(DEVICE_NAME_BYTES_MAX + 1)] {
            let found = text.to_owned();
            assert_eq!(text.parse::<DeviceName>(), Err(DeviceNameError { found }));
        }
    }
}
