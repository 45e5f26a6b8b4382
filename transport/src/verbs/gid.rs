//! Which port and GID a link uses, from what the devices show.
//!
//! Owns the choice, which is pure. Asking the devices is left to [`super::device`].
//!
//! The rules, in order: what a person named holds. Else, over Ethernet, the port that has a GID of
//! the TCP link's own address, so that RDMA takes the way that TCP takes; a loop-back link takes
//! the first active port. An InfiniBand port has no such GID and is taken where no Ethernet port
//! fits. On a port, RoCE v2 goes before v1, and a link-local GID is taken if there is no other.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::device::{DeviceInfo, GidInfo, LinkLayer, PortInfo, PortState, TransportKind};
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

impl Gid {
    /// The IP address that it is made of, on Ethernet: an IPv4-mapped one is IPv4.
    pub fn address(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    /// Whether it is good on its own link alone.
    pub fn is_link_local(self) -> bool {
        Ipv6Addr::from(self.0).is_unicast_link_local()
    }
}

/// Chooses a port and GID among `devices`.
///
/// Errors: [`VerbsError::NoDevice`], [`VerbsError::UnknownDevice`], [`VerbsError::UnknownPort`],
/// [`VerbsError::NoActivePort`], [`VerbsError::UnknownGid`] and [`VerbsError::NoGid`].
pub(crate) fn choose(devices: &[DeviceInfo], wish: &Wish) -> Result<Choice, VerbsError> {
    let active = active_ports(devices, wish)?;
    if let Some(gid_index) = wish.gid_index {
        let found = active.iter().find_map(|at| {
            at.port.gids.iter().find(|gid| gid.index == gid_index).map(|gid| at.choice(gid))
        });
        return found.flatten().ok_or_else(|| VerbsError::UnknownGid {
            device: active[0].device.name.clone(),
            port: active[0].port.port,
            gid_index,
            entries: active[0].port.gid_entries,
        });
    }
    let local = wish.local.to_canonical();
    let is_of_link = |at: &&At<'_>| at.has_gid_of(local);
    let is_infiniband = |at: &&At<'_>| at.port.link_layer == LinkLayer::InfiniBand;
    let anywhere = wish.device.is_some() || local.is_loopback() || local.is_unspecified();
    let first = if anywhere { active.first() } else { None };
    let of_link = active.iter().find(is_of_link);
    let at = of_link.or(first).or_else(|| active.iter().find(is_infiniband));
    at.and_then(|at| at.choice(at.best_gid(local)?))
        .ok_or_else(|| VerbsError::NoGid { address: local, looked_at: looked_at(&active) })
}

/// A port of a device.
struct At<'a> {
    device: &'a DeviceInfo,
    port: &'a PortInfo,
}

impl At<'_> {
    fn has_gid_of(&self, local: IpAddr) -> bool {
        self.port.link_layer == LinkLayer::Ethernet
            && self.port.gids.iter().any(|gid| gid.gid.address() == local)
    }

    /// The GID to use for a link of this address: one for all before a link-local one, RoCE v2
    /// before v1, the address's own before others, IPv4 before IPv6, and the first of those.
    fn best_gid(&self, local: IpAddr) -> Option<&GidInfo> {
        let rank = |found: &&GidInfo| {
            let address = found.gid.address();
            let index_from_last = u32::MAX - found.index;
            let is_global = !found.gid.is_link_local();
            (is_global, found.kind, address == local, address.is_ipv4(), index_from_last)
        };
        let has_number = |gid: &&GidInfo| u8::try_from(gid.index).is_ok();
        self.port.gids.iter().filter(has_number).max_by_key(rank)
    }

    /// None for an index that no queue pair can be given.
    fn choice(&self, found: &GidInfo) -> Option<Choice> {
        Some(Choice {
            device: self.device.name.clone(),
            port: self.port.port,
            gid_index: u8::try_from(found.index).ok()?,
            gid: found.gid,
            link_layer: self.port.link_layer,
        })
    }
}

/// The active ports that a person left to choose from; at least one.
fn active_ports<'a>(devices: &'a [DeviceInfo], wish: &Wish) -> Result<Vec<At<'a>>, VerbsError> {
    if devices.is_empty() {
        return Err(VerbsError::NoDevice);
    }
    let is_wished =
        |device: &&DeviceInfo| wish.device.as_ref().is_none_or(|name| *name == device.name);
    let wished: Vec<&DeviceInfo> = devices.iter().filter(is_wished).collect();
    if let (Some(name), true) = (&wish.device, wished.is_empty()) {
        let devices = devices.iter().map(|device| device.name.clone()).collect();
        return Err(VerbsError::UnknownDevice { device: name.clone(), devices });
    }
    let ports = |device: &'a DeviceInfo| device.ports.iter().map(move |port| At { device, port });
    let mut all: Vec<At<'a>> = wished.iter().flat_map(|device| ports(device)).collect();
    if let Some(port) = wish.port {
        all.retain(|at| at.port.port == port);
        if all.is_empty() {
            let ports = wished.iter().map(|device| device.ports.len()).max().unwrap_or(0);
            return Err(VerbsError::UnknownPort {
                device: wished.iter().map(|device| &*device.name).collect::<Vec<_>>().join(", "),
                port,
                ports: u8::try_from(ports).unwrap_or(u8::MAX),
            });
        }
    }
    let looked_at = looked_at(&all);
    let is_usable = |at: &At<'_>| {
        at.device.transport == TransportKind::InfiniBand && at.port.state == PortState::Active
    };
    all.retain(is_usable);
    if all.is_empty() { Err(VerbsError::NoActivePort { looked_at }) } else { Ok(all) }
}

/// Ports and their states, for a person.
fn looked_at(ports: &[At<'_>]) -> String {
    let one = |At { device, port }: &At<'_>| match device.transport {
        TransportKind::InfiniBand => format!("{}/{} {}", device.name, port.port, port.state),
        other => format!("{}/{} {other}, which is not used", device.name, port.port),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GidKind::Ib => "InfiniBand",
            GidKind::RoceV1 => "RoCE v1",
            GidKind::RoceV2 => "RoCE v2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::{Mtu, Windows};
    use super::*;

    fn gid(index: u32, address: &str, kind: GidKind) -> GidInfo {
        let address: IpAddr = address.parse().unwrap();
        let octets = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        GidInfo { index, gid: Gid(octets), kind, netdev: None }
    }

    fn port(number: u8, state: PortState, gids: Vec<GidInfo>) -> PortInfo {
        PortInfo {
            port: number,
            state,
            physical_state: 5,
            link_layer: LinkLayer::Ethernet,
            mtu: Mtu::Bytes1024,
            lid: 0,
            rate_mbit_per_s: 100_000,
            gid_entries: 255,
            gids,
        }
    }

    fn device(name: &str, ports: Vec<PortInfo>) -> DeviceInfo {
        let transport = TransportKind::InfiniBand;
        let windows = Windows::None;
        DeviceInfo { name: name.to_owned(), node_guid: 1, transport, windows, ports }
    }

    /// An adapter as RoCE shows it: each address as v1 and v2, link-local ones first.
    fn roce(name: &str, address: &str) -> DeviceInfo {
        let gids = vec![
            gid(0, "fe80::1", GidKind::RoceV1),
            gid(1, "fe80::1", GidKind::RoceV2),
            gid(2, address, GidKind::RoceV1),
            gid(3, address, GidKind::RoceV2),
        ];
        device(name, vec![port(1, PortState::Active, gids)])
    }

    fn infiniband(name: &str) -> DeviceInfo {
        let mut port = port(1, PortState::Active, vec![gid(0, "fe80::5", GidKind::Ib)]);
        (port.link_layer, port.lid) = (LinkLayer::InfiniBand, 7);
        device(name, vec![port])
    }

    fn wish(local: &str) -> Wish {
        Wish { device: None, port: None, gid_index: None, local: local.parse().unwrap() }
    }

    fn chosen(devices: &[DeviceInfo], wish: &Wish) -> (String, u8, u8) {
        let choice = choose(devices, wish).unwrap();
        (choice.device, choice.port, choice.gid_index)
    }

    #[test]
    fn the_device_with_the_links_own_address_is_chosen_and_roce_v2_goes_before_v1() {
        let devices = [roce("a", "10.0.0.1"), roce("b", "10.0.1.1"), infiniband("c")];
        assert_eq!(chosen(&devices, &wish("10.0.1.1")), ("b".to_owned(), 1, 3));
        assert_eq!(chosen(&devices, &wish("::ffff:10.0.0.1")), ("a".to_owned(), 1, 3));
        let devices = [roce("a", "2001:db8::1")];
        assert_eq!(chosen(&devices, &wish("2001:db8::1")), ("a".to_owned(), 1, 3));
    }

    #[test]
    fn a_link_local_gid_is_taken_if_there_is_no_other() {
        assert_eq!(chosen(&[roce("a", "10.0.0.1")], &wish("fe80::1")), ("a".to_owned(), 1, 3));
        let gids = vec![gid(0, "fe80::1", GidKind::RoceV1), gid(4, "fe80::1", GidKind::RoceV2)];
        let lonely = [device("a", vec![port(1, PortState::Active, gids)])];
        assert_eq!(chosen(&lonely, &wish("fe80::1")), ("a".to_owned(), 1, 4));
    }

    #[test]
    fn a_loop_back_link_takes_the_first_active_port() {
        let down = device("a", vec![port(1, PortState::Down, vec![])]);
        let devices = [down, roce("b", "10.0.0.1"), roce("c", "10.0.1.1")];
        for local in ["127.0.0.1", "::1", "0.0.0.0"] {
            assert_eq!(chosen(&devices, &wish(local)), ("b".to_owned(), 1, 3), "{local}");
        }
    }

    #[test]
    fn an_infiniband_port_is_taken_where_no_ethernet_port_has_the_address() {
        let devices = [roce("a", "10.0.0.1"), infiniband("c")];
        assert_eq!(chosen(&devices, &wish("192.168.7.7")), ("c".to_owned(), 1, 0));
        let error = choose(&devices[..1], &wish("192.168.7.7")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("192.168.7.7") && text.contains("a/1"), "{text}");
    }

    #[test]
    fn what_a_person_named_holds_whatever_the_address() {
        let devices = [roce("a", "10.0.0.1"), roce("b", "10.0.1.1")];
        let named = |gid_index| Wish { device: Some("b".into()), gid_index, ..wish("10.0.0.1") };
        assert_eq!(chosen(&devices, &named(None)), ("b".to_owned(), 1, 3));
        assert_eq!(chosen(&devices, &named(Some(2))), ("b".to_owned(), 1, 2));
        let error = choose(&devices, &named(Some(9))).unwrap_err();
        let (device, gid_index) = ("b".to_owned(), 9);
        assert_eq!(error, VerbsError::UnknownGid { device, port: 1, gid_index, entries: 255 });
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        assert_eq!(choose(&[], &wish("10.0.0.1")).unwrap_err(), VerbsError::NoDevice);
        let devices = [roce("a", "10.0.0.1")];
        let error = choose(&devices, &Wish { device: Some("z".into()), ..wish("::1") });
        assert!(error.unwrap_err().to_string().contains("device z, but a"));
        let error = choose(&devices, &Wish { port: Some(2), ..wish("::1") }).unwrap_err();
        assert_eq!(error, VerbsError::UnknownPort { device: "a".into(), port: 2, ports: 1 });
        let down = [device("a", vec![port(1, PortState::Down, vec![])])];
        let error = choose(&down, &wish("::1")).unwrap_err();
        assert_eq!(error, VerbsError::NoActivePort { looked_at: "a/1 down".into() });
    }

    #[test]
    fn iwarp_is_left_out() {
        let mut devices = [roce("a", "10.0.0.1")];
        devices[0].transport = TransportKind::Iwarp;
        let error = choose(&devices, &wish("10.0.0.1")).unwrap_err();
        assert!(error.to_string().contains("iWARP"), "{error}");
    }
}
