//! RDMA devices, as the kernel's files show them.
//!
//! Owns reading `/sys/class/infiniband`: devices, ports, GIDs. What is wrong with them is left to
//! `rdma`, what they have counted to `counters`.

use std::net::Ipv6Addr;

use super::tree::Tree;

/// Where the kernel shows devices.
pub(super) const DEVICES: &str = "/sys/class/infiniband";

/// Where the kernel shows network interfaces.
pub(super) const INTERFACES: &str = "/sys/class/net";

/// What the headers of RoCE take of an Ethernet frame at most, in bytes: GRH 40, UDP 8, BTH 12,
/// XRC 4, atomics 28, ICRC 4.
const ROCE_HEADER_BYTES: u64 = 96;

/// Payloads that packets of verbs may have, in bytes.
const MTUS: [u64; 5] = [4096, 2048, 1024, 512, 256];

/// What carries a device's packets, and what makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A NIC that speaks InfiniBand's transport, with this driver.
    Nic { driver: String },
    /// The kernel itself, over this interface.
    Software { netdev: String },
    /// A NIC that speaks iWARP.
    Iwarp,
}

/// One device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The memory node that its slot is at, where there is more than one.
    pub(super) node: Option<usize>,
    /// The name of the file by which processes use it.
    pub(super) uverbs: Option<String>,
    pub(super) ports: Vec<Port>,
}

/// What packets lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkLayer {
    InfiniBand,
    Ethernet,
}

/// One port.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Device and number, as `rdma link` writes them: `mlx5_0/1`.
    pub(super) name: String,
    /// Where its files are.
    pub(super) folder: String,
    /// 1 down, 2 init, 3 armed, 4 active.
    pub(super) state: u64,
    /// 2 polling, 3 disabled, 5 up.
    pub(super) physical_state: u64,
    pub(super) link_layer: LinkLayer,
    /// Speed and width, in the kernel's words.
    pub(super) rate: String,
    /// Its local identifier on InfiniBand.
    pub(super) lid: u64,
    pub(super) gids: Vec<Gid>,
    /// The interface that it belongs to, on Ethernet.
    pub(super) netdev: Option<Interface>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mtu: Option<u64>,
}

/// One address of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gid {
    pub(super) index: u64,
    pub(super) gid: Ipv6Addr,
    pub(super) is: GidKind,
}

/// What a GID is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GidKind {
    InfiniBand,
    RoceV1,
    RoceV2,
}

/// All devices, by name.
pub(super) fn read(tree: &Tree) -> Vec<Device> {
    tree.names(DEVICES).into_iter().map(|name| device(tree, name)).collect()
}

impl Port {
    /// Packets may go.
    pub(super) fn is_active(&self) -> bool {
        self.state == 4
    }

    /// Other hosts can send to it: on Ethernet, by an address that routers and neighbours know.
    pub(super) fn has_address(&self) -> bool {
        match self.link_layer {
            LinkLayer::InfiniBand => self.lid != 0,
            LinkLayer::Ethernet => self.gids.iter().any(|gid| !gid.is_link_local()),
        }
    }

    /// The longest payload of a packet that the interface's frames have room for, in bytes.
    pub(super) fn mtu(&self) -> Option<u64> {
        let frame_bytes = self.netdev.as_ref()?.mtu?;
        MTUS.into_iter().find(|mtu| mtu + ROCE_HEADER_BYTES <= frame_bytes)
    }
}

impl Gid {
    /// Known on one link only: `fe80::/10`.
    pub(super) fn is_link_local(&self) -> bool {
        self.gid.is_unicast_link_local()
    }
}

fn device(tree: &Tree, name: String) -> Device {
    let folder = format!("{DEVICES}/{name}");
    let software =
        tree.text(&format!("{folder}/parent")).filter(|_| !tree.has(&format!("{folder}/device")));
    let is_iwarp =
        tree.text(&format!("{folder}/node_type")).is_some_and(|kind| kind.starts_with('4'));
    let kind = match software {
        _ if is_iwarp => Kind::Iwarp,
        Some(netdev) => Kind::Software { netdev },
        None => {
            let driver = tree.link_name(&format!("{folder}/device/driver"));
            Kind::Nic { driver: driver.unwrap_or_else(|| "unknown driver".to_owned()) }
        }
    };
    let ports = tree.names(&format!("{folder}/ports"));
    let uverbs = tree.names("/sys/class/infiniband_verbs").into_iter();
    let is_ours = |file: &String| {
        let device = tree.text(&format!("/sys/class/infiniband_verbs/{file}/ibdev"));
        device.as_deref() == Some(name.as_str())
    };
    Device {
        kind,
        // -1 where there is one node.
        node: tree.number(&format!("{folder}/device/numa_node")).map(|node| node as usize),
        uverbs: uverbs.into_iter().find(is_ours),
        ports: ports.into_iter().map(|port| read_port(tree, &folder, &name, &port)).collect(),
        name,
    }
}

fn read_port(tree: &Tree, device_folder: &str, device: &str, number: &str) -> Port {
    let folder = format!("{device_folder}/ports/{number}");
    let file = |name: &str| tree.text(&format!("{folder}/{name}")).unwrap_or_default();
    // `4: ACTIVE`
    let coded = |name: &str| file(name).split(':').next().unwrap_or_default().parse().unwrap_or(0);
    let is_ethernet = file("link_layer") == "Ethernet";
    let link_layer = if is_ethernet { LinkLayer::Ethernet } else { LinkLayer::InfiniBand };
    let netdev = is_ethernet.then(|| interface(tree, device_folder, &folder)).flatten();
    Port {
        name: format!("{device}/{number}"),
        state: coded("state"),
        physical_state: coded("phys_state"),
        link_layer,
        rate: file("rate"),
        lid: u64::from_str_radix(file("lid").trim_start_matches("0x"), 16).unwrap_or(0),
        gids: gids(tree, &folder, link_layer),
        netdev,
        folder,
    }
}

/// The interface of a port: its GIDs name it, or the software device does, or the slot has one.
fn interface(tree: &Tree, device: &str, port: &str) -> Option<Interface> {
    let by_gid = || {
        let folder = format!("{port}/gid_attrs/ndevs");
        tree.names(&folder).iter().find_map(|index| tree.text(&format!("{folder}/{index}")))
    };
    let by_slot = || match &tree.names(&format!("{device}/device/net"))[..] {
        [one] => Some(one.clone()),
        _ => None,
    };
    let name = by_gid().or_else(|| tree.text(&format!("{device}/parent"))).or_else(by_slot)?;
    let mtu = tree.number(&format!("{INTERFACES}/{name}/mtu"));
    Some(Interface { name, mtu })
}

/// The entries in use.
fn gids(tree: &Tree, port: &str, link_layer: LinkLayer) -> Vec<Gid> {
    let entry = |name: String| {
        let gid: Ipv6Addr = tree.text(&format!("{port}/gids/{name}"))?.parse().ok()?;
        if gid.is_unspecified() {
            return None;
        }
        let kind = tree.text(&format!("{port}/gid_attrs/types/{name}"));
        let is = match (link_layer, kind.as_deref()) {
            (LinkLayer::InfiniBand, _) => GidKind::InfiniBand,
            (LinkLayer::Ethernet, Some("RoCE v2")) => GidKind::RoceV2,
            (LinkLayer::Ethernet, _) => GidKind::RoceV1,
        };
        Some(Gid { index: name.parse().ok()?, gid, is })
    };
    tree.names(&format!("{port}/gids")).into_iter().filter_map(entry).collect()
}
