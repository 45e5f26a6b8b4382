//! What a person may say of lanes: which devices and ports, and how packets are marked.
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
    /// Only these devices and ports; else all.
    pub rails: RailNames,
    /// Only this port of each device, from 1, where its name says none.
    pub port: Option<u8>,
    /// This entry of each port's GID table; else the best.
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

/// Names of devices and ports, in the order in which they were given; none stands for all.
///
/// As a text: `mlx5_0,mlx5_1:2` is any port of the one and port 2 of the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RailNames {
    text: [u8; RAIL_NAMES_BYTES_MAX],
    bytes: u8,
}

/// Longest list of names, in bytes: it is carried by value, to every core.
pub const RAIL_NAMES_BYTES_MAX: usize = 127;

/// Names in a list at most: as many as a peer can be told of.
pub const RAIL_NAMES_MAX: usize = wire::LANE_RAILS_MAX;

/// A device, or one port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RailName<'a> {
    /// The device, as `rdma link` shows it.
    pub device: &'a str,
    /// Its port, from 1; else any.
    pub port: Option<u8>,
}

/// The text is no list of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RailNamesError {
    /// The text.
    pub found: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Default for VerbsSettings {
    fn default() -> VerbsSettings {
        VerbsSettings {
            rails: RailNames::default(),
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

impl Default for RailNames {
    fn default() -> RailNames {
        RailNames { text: [0; RAIL_NAMES_BYTES_MAX], bytes: 0 }
    }
}

impl RailNames {
    /// Whether all devices are meant.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The list as text; empty if all devices are meant.
    pub fn as_str(&self) -> &str {
        let bytes = &self.text[..usize::from(self.bytes)];
        std::str::from_utf8(bytes).expect("only `from_str` makes one, from text")
    }

    /// The names, in order.
    pub fn iter(&self) -> impl Iterator<Item = RailName<'_>> {
        let names = self.as_str().split(',').filter(|name| !name.is_empty());
        names.map(|name| rail_name(name).expect("`from_str` has looked at it"))
    }
}

/// One name; none if it is none.
fn rail_name(text: &str) -> Option<RailName<'_>> {
    let (device, port) = match text.split_once(':') {
        None => (text, None),
        Some((device, port)) => (device, Some(port.parse().ok().filter(|&port: &u8| port > 0)?)),
    };
    let is_name = !device.is_empty() && !device.contains(['/', '\0', ' ']);
    is_name.then_some(RailName { device, port })
}

impl FromStr for RailNames {
    type Err = RailNamesError;

    fn from_str(text: &str) -> Result<RailNames, RailNamesError> {
        let wrong = |why| Err(RailNamesError { found: text.to_owned(), why });
        if text.len() > RAIL_NAMES_BYTES_MAX {
            return wrong("it is longer than 127 bytes");
        }
        let names: Vec<&str> = text.split(',').collect();
        if names.iter().any(|name| rail_name(name).is_none()) {
            return wrong("expected names such as mlx5_0 or mlx5_0:1, with commas between");
        }
        if names.len() > RAIL_NAMES_MAX {
            return wrong("it has more than 8 names");
        }
        let mut names = RailNames::default();
        names.text[..text.len()].copy_from_slice(text.as_bytes());
        names.bytes = text.len() as u8;
        Ok(names)
    }
}

impl fmt::Display for RailNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RailNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for RailNamesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no list of RDMA devices: {}", self.found, self.why)
    }
}

impl std::error::Error for RailNamesError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_rails_reads_as_it_was_written() {
        let text = "mlx5_0,mlx5_1:2,rxe0";
        let names: RailNames = text.parse().unwrap();
        let found: Vec<_> = names.iter().map(|name| (name.device, name.port)).collect();
        assert_eq!(found, [("mlx5_0", None), ("mlx5_1", Some(2)), ("rxe0", None)]);
        assert_eq!((names.to_string().as_str(), names.is_empty()), (text, false));
        assert!(RailNames::default().is_empty() && RailNames::default().iter().next().is_none());
    }

    #[test]
    fn what_is_no_list_of_rails_is_refused_with_a_reason() {
        let long = "n".repeat(RAIL_NAMES_BYTES_MAX + 1);
        let many = ["d"; RAIL_NAMES_MAX + 1].join(",");
        for text in ["", "a/b", "a,,b", "a:0", "a:256", "a:", ":1", "a b", &long, &many] {
            let error = text.parse::<RailNames>().unwrap_err();
            assert_eq!(error.found, text);
            assert!(!error.why.is_empty());
        }
        assert!("n".repeat(RAIL_NAMES_BYTES_MAX).parse::<RailNames>().is_ok());
    }
}
