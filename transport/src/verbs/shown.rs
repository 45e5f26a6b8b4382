//! What this host shows of its RDMA devices: ports, how far they are, which subnets they are in.
//!
//! Owns looking, and when not to look again: opening a device takes milliseconds, so those that
//! nobody uses are asked only after the kernel's list of devices and port states has changed, and
//! now and then for new addresses. Devices in use are asked by whoever has them open.
//!
//! Invariant: nothing is kept open here, so that a driver may go.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use wire::Time;

use super::device::{DeviceInfo, devices};
use super::error::VerbsError;
use super::rails::DISTANCE_NEAR;

/// Where the kernel shows devices.
const DEVICES: &str = "/sys/class/infiniband";
/// Where it shows memory nodes.
const NODES: &str = "/sys/devices/system/node";

/// After so long what devices show is looked at again, though the list is the same: ports may have
/// other addresses.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// What the devices of this host show.
#[derive(Debug)]
pub(super) struct Shown {
    /// The kernel's list when they were asked, and when that was.
    list: Option<(String, Time)>,
    devices: Vec<DeviceInfo>,
    /// The memory node of the core that looks, if the kernel tells.
    node: Option<u32>,
}

impl Shown {
    /// Nothing was looked at yet. The calling thread's processor is what distances are from.
    pub(super) fn new() -> Shown {
        Shown { list: None, devices: Vec::new(), node: memory::own_node() }
    }

    /// All devices, as they were a little while ago.
    ///
    /// Errors: as [`devices`].
    pub(super) fn look(&mut self, now: Time) -> Result<&[DeviceInfo], VerbsError> {
        let list = kernels_list();
        let is_known = |(known, at): &(String, Time)| *known == list && now < *at + KNOWN_FOR;
        if !self.list.as_ref().is_some_and(is_known) {
            self.list = None;
            self.devices = devices()?;
            self.list = Some((list, now));
        }
        Ok(&self.devices)
    }

    /// Has the next look ask again: something is not as it was shown.
    pub(super) fn forget(&mut self) {
        self.list = None;
    }

    /// How far this device is from the core, as the kernel counts: 10 is near, and what is not
    /// known counts as that.
    pub(super) fn distance(&self, device: &str) -> u8 {
        let node = text(&format!("{DEVICES}/{device}/device/numa_node"));
        let node = node.and_then(|node| node.parse::<u32>().ok()); // -1 is not known.
        let between = |own: u32, other: u32| {
            nth_distance(&text(&format!("{NODES}/node{own}/distance"))?, other)
        };
        let distance = self.node.zip(node).and_then(|(own, other)| between(own, other));
        distance.unwrap_or(DISTANCE_NEAR)
    }
}

/// Devices and the states of their ports, as the kernel's files show them.
fn kernels_list() -> String {
    let mut list = String::new();
    for device in names(DEVICES) {
        list.push_str(&device);
        for port in names(&format!("{DEVICES}/{device}/ports")) {
            let state = text(&format!("{DEVICES}/{device}/ports/{port}/state"));
            write!(list, " {port} {}", state.unwrap_or_default()).expect("a string takes it");
        }
        list.push('\n');
    }
    list
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The distance to `node`, of a line of distances to each.
fn nth_distance(distances: &str, node: u32) -> Option<u8> {
    distances.split_whitespace().nth(node as usize)?.parse().ok()
}

/// How many leading bits of this address of a network device are its subnet's; 0 if the kernel does
/// not tell.
pub(super) fn subnet_bits(netdev: &str, address: IpAddr) -> u8 {
    let found = match address {
        IpAddr::V4(address) => {
            text("/proc/net/route").and_then(|routes| ipv4_bits(&routes, netdev, address))
        }
        IpAddr::V6(address) => {
            text("/proc/net/if_inet6").and_then(|list| ipv6_bits(&list, netdev, address))
        }
    };
    found.unwrap_or(0)
}

/// The longest route without a gateway over this device that the address is in.
///
/// Source of the columns: `fib_route_seq_show` of Linux's net/ipv4/fib_trie.c. Addresses stand as
/// the host's number of their network order.
fn ipv4_bits(routes: &str, netdev: &str, address: Ipv4Addr) -> Option<u8> {
    let number =
        |text: &str| Some(u32::from_be_bytes(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let address = u32::from(address);
    let bits = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [name, network, gateway, _, _, _, _, mask, ..] = columns[..] else { return None };
        let (network, gateway, mask) = (number(network)?, number(gateway)?, number(mask)?);
        let is_in = name == netdev && gateway == 0 && address & mask == network;
        is_in.then_some(mask.count_ones() as u8)
    };
    routes.lines().filter_map(bits).max().filter(|&bits| bits > 0)
}

/// Source of the columns: `if6_seq_show` of Linux's net/ipv6/addrconf.c.
fn ipv6_bits(list: &str, netdev: &str, address: Ipv6Addr) -> Option<u8> {
    let bits = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [found, _, bits, _, _, name] = columns[..] else { return None };
        let found = Ipv6Addr::from(u128::from_str_radix(found, 16).ok()?);
        let bits = u8::from_str_radix(bits, 16).ok().filter(|&bits| bits <= 128)?;
        (name == netdev && found == address).then_some(bits)
    };
    list.lines().find_map(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a host with two rails and a way out shows it.
    const ROUTES: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
rdma0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
rdma0\t00000A0A\t00004D0A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0";

    #[test]
    fn the_subnet_of_an_ipv4_address_is_its_devices_route_without_a_gateway() {
        let bits = |netdev, address: &str| ipv4_bits(ROUTES, netdev, address.parse().unwrap());
        assert_eq!(bits("rdma0", "10.77.0.1"), Some(24));
        assert_eq!(bits("eth0", "192.168.3.4"), Some(16));
        assert_eq!(bits("eth0", "10.77.0.1"), None);
        assert_eq!(bits("rdma0", "10.10.0.1"), None, "by a gateway");
        assert_eq!(ipv4_bits("nonsense\n\n", "eth0", Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn the_subnet_of_an_ipv6_address_stands_beside_it() {
        let list = "fe800000000000000000000000000001 02 40 20 80   rdma0
20010db8000000000000000000000001 02 30 00 80   rdma0";
        let bits = |netdev, address: &str| ipv6_bits(list, netdev, address.parse().unwrap());
        assert_eq!(bits("rdma0", "2001:db8::1"), Some(48));
        assert_eq!(bits("rdma0", "fe80::1"), Some(64));
        assert_eq!((bits("rdma1", "fe80::1"), bits("rdma0", "fe80::2")), (None, None));
    }

    #[test]
    fn a_distance_is_the_one_at_the_nodes_place() {
        let found = [0, 1, 2].map(|node| nth_distance("10 21", node));
        assert_eq!(found, [Some(10), Some(21), None]);
    }

    #[test]
    fn a_device_of_which_nothing_is_known_is_near() {
        assert_eq!(Shown::new().distance("no such device"), DISTANCE_NEAR);
    }
}
