//! Which ports may be used, and which GID of each, from what the devices show.
//!
//! Owns the choice, which is pure. Asking the devices is left to [`super::device`], which port a
//! lane takes to [`super::rails`].
//!
//! The rules, in order: what a person named holds. On a port, a link-local GID is taken if there is
//! no other, RoCE v2 goes before v1, and the TCP link's own address before others. Where one port
//! is to be chosen without asking the peer, it is over Ethernet the one that has that address, so
//! that RDMA takes the way that TCP takes; a loop-back link takes the first active port. An
//! InfiniBand port has no such GID and is taken where no Ethernet port fits.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::device::{DeviceInfo, GidInfo, LinkLayer, PortInfo, PortState, TransportKind};
use super::error::VerbsError;
use super::settings::{RailName, RailNames};

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
    /// Only these devices and ports; all if it is empty.
    pub(crate) rails: RailNames,
    /// Only this port of each device, from 1, where its name says none.
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
    pub(crate) kind: GidKind,
    pub(crate) link_layer: LinkLayer,
    /// The network device that the GID is of.
    pub(crate) netdev: Option<String>,
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

/// All ports that may be used, in the order of `devices`, each with its GID for a link of this
/// address.
pub(crate) fn choices(devices: &[DeviceInfo], wish: &Wish) -> Vec<Choice> {
    let local = wish.local.to_canonical();
    let of_port = |at: &At<'_>| match wish.gid_index {
        None => at.choice(at.best_gid(local)?),
        Some(gid_index) => at.choice(at.port.gids.iter().find(|gid| gid.index == gid_index)?),
    };
    let ports = wished_ports(devices, wish);
    ports.iter().filter(|at| at.is_usable()).filter_map(of_port).collect()
}

/// Chooses a port and GID among `devices`, without asking the peer.
///
/// Errors: [`VerbsError::NoDevice`], [`VerbsError::UnknownDevice`], [`VerbsError::UnknownPort`],
/// [`VerbsError::NoActivePort`], [`VerbsError::UnknownGid`] and [`VerbsError::NoGid`].
pub(crate) fn choose(devices: &[DeviceInfo], wish: &Wish) -> Result<Choice, VerbsError> {
    let active = active_ports(devices, wish)?;
    if let Some(gid_index) = wish.gid_index {
        let found = active.iter().find_map(|at| {
            at.port.gids.iter().find(|gid| gid.index == gid_index).map(|gid| at.choice(gid))
        });
        return found.flatten().ok_or_else(|| unknown_gid(&active[0], gid_index));
    }
    let local = wish.local.to_canonical();
    let is_of_link = |at: &&At<'_>| at.has_gid_of(local);
    let is_infiniband = |at: &&At<'_>| at.port.link_layer == LinkLayer::InfiniBand;
    let anywhere = !wish.rails.is_empty() || local.is_loopback() || local.is_unspecified();
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
    fn is_usable(&self) -> bool {
        self.device.transport == TransportKind::InfiniBand && self.port.state == PortState::Active
    }

    fn lacks(&self, gid_index: u32) -> bool {
        self.port.gids.iter().all(|gid| gid.index != gid_index)
    }

    fn is_called(&self, name: RailName<'_>, port: Option<u8>) -> bool {
        name.device == self.device.name
            && name.port.or(port).is_none_or(|port| port == self.port.port)
    }

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
            kind: found.kind,
            link_layer: self.port.link_layer,
            netdev: found.netdev.clone(),
        })
    }
}

/// The ports that a person left to choose from, whatever their state.
fn wished_ports<'a>(devices: &'a [DeviceInfo], wish: &Wish) -> Vec<At<'a>> {
    let ports = |device: &'a DeviceInfo| device.ports.iter().map(move |port| At { device, port });
    let is_wished = |at: &At<'_>| match wish.rails.is_empty() {
        true => wish.port.is_none_or(|port| port == at.port.port),
        false => wish.rails.iter().any(|name| at.is_called(name, wish.port)),
    };
    devices.iter().flat_map(ports).filter(is_wished).collect()
}

/// The active ones of them; at least one.
fn active_ports<'a>(devices: &'a [DeviceInfo], wish: &Wish) -> Result<Vec<At<'a>>, VerbsError> {
    if devices.is_empty() {
        return Err(VerbsError::NoDevice);
    }
    let known = |name: &RailName<'_>| devices.iter().find(|device| device.name == name.device);
    if let Some(name) = wish.rails.iter().find(|name| known(name).is_none()) {
        let devices = devices.iter().map(|device| device.name.clone()).collect();
        return Err(VerbsError::UnknownDevice { device: name.device.to_owned(), devices });
    }
    let lacks = |name: &RailName<'_>| {
        let (device, port) = (known(name)?, name.port.or(wish.port)?);
        let ports = u8::try_from(device.ports.len()).unwrap_or(u8::MAX);
        let device = device.name.clone();
        (port > ports).then_some(VerbsError::UnknownPort { device, port, ports })
    };
    if let Some(error) = wish.rails.iter().find_map(|name| lacks(&name)) {
        return Err(error);
    }
    let mut all = wished_ports(devices, wish);
    if let (true, Some(port)) = (all.is_empty(), wish.port) {
        let ports = devices.iter().map(|device| device.ports.len()).max().unwrap_or(0);
        let device = devices.iter().map(|device| &*device.name).collect::<Vec<_>>().join(", ");
        let ports = u8::try_from(ports).unwrap_or(u8::MAX);
        return Err(VerbsError::UnknownPort { device, port, ports });
    }
    let looked_at = looked_at(&all);
    all.retain(At::is_usable);
    if all.is_empty() { Err(VerbsError::NoActivePort { looked_at }) } else { Ok(all) }
}

/// That there is an active port of those that a person left to choose from, and that all devices
/// and ports that were named are there.
///
/// Errors: as [`choose`].
pub(crate) fn check(devices: &[DeviceInfo], wish: &Wish) -> Result<(), VerbsError> {
    let active = active_ports(devices, wish)?;
    let lacks = |&gid_index: &u32| active.iter().all(|at| at.lacks(gid_index));
    match wish.gid_index.filter(lacks) {
        None => Ok(()),
        Some(gid_index) => Err(unknown_gid(&active[0], gid_index)),
    }
}

fn unknown_gid(at: &At<'_>, gid_index: u32) -> VerbsError {
    let (device, port) = (at.device.name.clone(), at.port.port);
    VerbsError::UnknownGid { device, port, gid_index, entries: at.port.gid_entries }
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
        let rails = RailNames::default();
        Wish { rails, port: None, gid_index: None, local: local.parse().unwrap() }
    }

    fn rails(text: &str) -> RailNames {
        text.parse().unwrap()
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
        let named = |gid_index| Wish { rails: rails("b"), gid_index, ..wish("10.0.0.1") };
        assert_eq!(chosen(&devices, &named(None)), ("b".to_owned(), 1, 3));
        assert_eq!(chosen(&devices, &named(Some(2))), ("b".to_owned(), 1, 2));
        let error = choose(&devices, &named(Some(9))).unwrap_err();
        let (device, gid_index) = ("b".to_owned(), 9);
        assert_eq!(error, VerbsError::UnknownGid { device, port: 1, gid_index, entries: 255 });
    }

    #[test]
    fn every_active_port_may_be_used_or_those_that_a_person_named() {
        let mut two_ports = roce("a", "10.0.0.1");
        two_ports.ports.push(PortInfo { port: 2, ..two_ports.ports[0].clone() });
        let down = device("d", vec![port(1, PortState::Down, vec![])]);
        let devices = [two_ports, down, roce("b", "10.0.1.1"), infiniband("c")];
        let of = |wish: Wish| -> Vec<(String, u8)> {
            let choices = choices(&devices, &wish).into_iter();
            choices.map(|choice| (choice.device, choice.port)).collect()
        };
        let all = [("a", 1), ("a", 2), ("b", 1), ("c", 1)].map(|(a, b)| (a.to_owned(), b));
        assert_eq!(of(wish("127.0.0.1")), all);
        let named = Wish { rails: rails("c,a:2,d"), ..wish("10.0.1.1") };
        assert_eq!(of(named), [all[1].clone(), all[3].clone()]);
        let second = Wish { port: Some(2), ..wish("10.0.1.1") };
        assert_eq!(of(second), [all[1].clone()]);
        assert_eq!(check(&devices, &wish("::1")), Ok(()));
        let error = check(&devices, &Wish { rails: rails("a:3"), ..wish("::1") }).unwrap_err();
        assert_eq!(error, VerbsError::UnknownPort { device: "a".into(), port: 3, ports: 2 });
        let error = check(&devices, &Wish { gid_index: Some(9), ..wish("::1") }).unwrap_err();
        assert!(matches!(error, VerbsError::UnknownGid { gid_index: 9, .. }), "{error}");
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        assert_eq!(choose(&[], &wish("10.0.0.1")).unwrap_err(), VerbsError::NoDevice);
        let devices = [roce("a", "10.0.0.1")];
        let error = choose(&devices, &Wish { rails: rails("a,z"), ..wish("::1") });
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
