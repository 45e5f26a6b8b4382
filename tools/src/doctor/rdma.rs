//! RDMA: whether messages can go by it, and what stands in the way.
//!
//! Owns what is said of the library, devices, ports, addresses and limits. Reading devices is left
//! to `fabric`, which core uses which to `rails`, flow control to `lossless`, what they have
//! counted to `counters`.

use transport::verbs::Windows;

use super::Need;
use super::answers::{Answers, Library};
use super::fabric::{DEVICES, Device, Gid, GidKind, Kind, LinkLayer, Port};
use super::finding::{Finding, because};
use super::lossless;
use super::memory::{Allowed, amount, locked};
use super::rails;
use super::tree::{Tree, release};

/// What has the library and what it needs for each kind of device.
const PACKAGES: &str = "apt install libibverbs1 ibverbs-providers, or dnf install libibverbs";

/// Less locked memory than this does not hold one core's slots and a few peers' rings.
const LOCKED_BYTES_MIN: u64 = 64 << 20;

/// The longest payload that packets of verbs may have, in bytes.
const PAYLOAD_BYTES_WANTED: u64 = 4096;

/// The first kernel that gives a forked child copies of pages that a device writes to.
const FORK_SAFE_KERNEL: (u32, u32) = (5, 12);

/// Capability to lock any amount of memory: its bit.
const CAP_IPC_LOCK: u32 = 14;

/// Addresses of a port that are told; the rest is counted.
const GIDS_TOLD_MAX: usize = 4;

/// The PCI vendor (Mellanox, now NVIDIA) whose NICs nearly all have RDMA, and the module for it.
const MAKER: (&str, &str) = ("0x15b3", "mlx5_ib");

/// Looks at all but counters. The last finding tells whether messages can go by RDMA, which is
/// unfit if that is needed and they cannot.
pub(super) fn look(
    tree: &Tree,
    answers: &Answers,
    devices: &[Device],
    need: Option<Need>,
) -> Vec<Finding> {
    let loaded = &answers.library;
    let mut findings = vec![library(devices, loaded), list(tree, devices)];
    for device in devices {
        findings.push(describe(tree, loaded, device));
        findings.extend(windows(loaded, device));
        for port in &device.ports {
            findings.push(state(port));
            findings.extend(mtu(loaded, port));
            findings.push(addresses(port));
            let pfc = port.netdev.as_ref().and_then(|netdev| answers.pfc.get(&netdev.name));
            findings.extend(lossless::look(tree, device, port, pfc.map(String::as_str)));
        }
    }
    if !devices.is_empty() {
        findings.extend(locked_memory(tree));
        findings.extend(fork(tree));
    }
    let usable = usable_ports(tree, loaded, devices);
    findings.extend(rails::look(tree, devices, &usable));
    findings.push(lanes(loaded, &usable, need));
    findings
}

fn library(devices: &[Device], library: &Library) -> Finding {
    let (value, reason) = match library {
        Library::Shows(_) => return Finding::ok("library", "libibverbs.so.1 is loaded"),
        Library::Missing(reason) => ("none", reason),
        Library::Refuses(reason) => ("opens no device", reason),
    };
    let finding = Finding::ok("library", value);
    let advice = because(reason.as_str()).mend(PACKAGES);
    match devices {
        [] => finding.note(advice),
        _ => finding.warning(advice),
    }
}

fn list(tree: &Tree, devices: &[Device]) -> Finding {
    if !devices.is_empty() {
        return Finding::ok("devices", devices.len().to_string());
    }
    let finding = Finding::ok("devices", "none");
    if has_idle_nic(tree) {
        let (_, module) = MAKER;
        let reason = format!("there is a Mellanox NIC, and its module {module} is not loaded");
        return finding.warning(because(reason).mend(format!("modprobe {module}")));
    }
    let reason = match tree.has(DEVICES) {
        true => "the kernel has RDMA and no device has shown up",
        false => "the kernel has no RDMA loaded (module ib_core)",
    };
    let remedy = "nothing, if this host has no such NIC; else its driver, from the distribution or \
                  its maker";
    finding.note(because(reason).mend(remedy))
}

fn has_idle_nic(tree: &Tree) -> bool {
    let slots = "/sys/bus/pci/devices";
    tree.names(slots).iter().any(|slot| {
        let file = |name: &str| tree.text(&format!("{slots}/{slot}/{name}")).unwrap_or_default();
        file("class").starts_with("0x02") && file("vendor") == MAKER.0
    })
}

fn describe(tree: &Tree, library: &Library, device: &Device) -> Finding {
    let finding = |value: String| Finding::ok(device.name.as_str(), value);
    let Some(uverbs) = &device.uverbs else {
        let reason = "programs have no file to use it by: the module ib_uverbs is not loaded";
        return finding("no uverbs".to_owned()).warning(because(reason).mend("modprobe ib_uverbs"));
    };
    let path = format!("/dev/infiniband/{uverbs}");
    if let Err(error) = tree.try_open(&path) {
        let reason = format!("{path} cannot be opened: {error}");
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => "in a container: --device=/dev/infiniband",
            _ => {
                "udev's rule of rdma-core makes it 0666; else chmod a+rw, or the group that has it"
            }
        };
        return finding("not open to us".to_owned()).warning(because(reason).mend(remedy));
    }
    let is_shown = device.ports.iter().any(|port| library.port(&port.name).is_some());
    if matches!(library, Library::Shows(_)) && !is_shown {
        let reason = "the kernel shows it and the library does not: its provider is not installed";
        return finding("no provider".to_owned()).warning(because(reason).mend(PACKAGES));
    }
    match &device.kind {
        Kind::Nic { driver } => finding(driver.clone()),
        Kind::Software { netdev } => finding(format!("software, on {netdev}")).note(
            because("the kernel makes its packets, on processors: nothing is won over TCP")
                .mend("nothing, in a test; else a NIC that has RDMA"),
        ),
        Kind::Iwarp => finding("iWARP".to_owned()).note(
            because("lanes need InfiniBand's transport; messages go by TCP, over the same NIC")
                .mend("nothing; or, where the NIC has both, RoCE in its driver's settings"),
        ),
    }
}

/// Whether a ring can be opened to its own peer alone.
fn windows(library: &Library, device: &Device) -> Option<Finding> {
    let shown = device.ports.iter().find_map(|port| library.port(&port.name))?;
    let finding = |value: &str| Finding::ok(format!("{} windows", device.name), value);
    Some(match shown.windows {
        Windows::OfQueuePair => finding("2B: a ring is open to its own peer alone"),
        Windows::None => finding("none").note(
            because("every peer of a core knows a key that all its rings can be written by").mend(
                "nothing, where all peers are trusted; else a device with windows of type 2B",
            ),
        ),
    })
}

fn state(port: &Port) -> Finding {
    let layer = match port.link_layer {
        LinkLayer::InfiniBand => format!("InfiniBand, LID {}", port.lid),
        LinkLayer::Ethernet => {
            let netdev = port.netdev.as_ref().map_or("no interface", |netdev| &netdev.name);
            format!("Ethernet ({netdev})")
        }
    };
    let word = match port.state {
        1 => "down",
        2 => "init",
        3 => "armed",
        4 => "active",
        _ => "unknown",
    };
    let finding =
        Finding::ok(format!("{} state", port.name), format!("{word}, {layer}, {}", port.rate));
    match (port.state, &port.netdev) {
        (4, _) => finding,
        (2 | 3, _) => finding.warning(
            because("the wire is up, and no subnet manager has given the port its address")
                .mend("start opensm on one host, or the manager of the switch"),
        ),
        (_, Some(netdev)) => {
            let reason = "no packet goes in or out: the interface is down, or has no carrier";
            let remedy =
                format!("ip link set {} up; if it is up: cable, module, switch", netdev.name);
            finding.warning(because(reason).mend(remedy))
        }
        (_, None) => {
            let (reason, remedy) = match port.physical_state {
                3 => ("the port is switched off", "ibportstate, or the switch's settings"),
                _ => ("there is nobody at the other end", "cable, module, the port of the switch"),
            };
            finding.warning(because(reason).mend(remedy))
        }
    }
}

fn mtu(library: &Library, port: &Port) -> Option<Finding> {
    let shown = library.port(&port.name).map(|shown| shown.payload_bytes);
    let payload = shown.or_else(|| port.mtu())?;
    let frame = port.netdev.as_ref().and_then(|netdev| netdev.mtu);
    let frame = frame.map_or(String::new(), |bytes| format!(", in frames of {bytes}"));
    let finding = Finding::ok(format!("{} MTU", port.name), format!("{payload} bytes{frame}"));
    if payload >= PAYLOAD_BYTES_WANTED || !port.is_active() {
        return Some(finding);
    }
    let reason = format!(
        "packets of {payload} bytes: {PAYLOAD_BYTES_WANTED} is possible, with fewer headers"
    );
    let remedy = match &port.netdev {
        Some(netdev) => {
            format!("ip link set {} mtu 9000, on all hosts and their switches", netdev.name)
        }
        None => "the subnet manager's MTU of the partition".to_owned(),
    };
    Some(finding.note(because(reason).mend(remedy)))
}

fn addresses(port: &Port) -> Finding {
    let text = |gid: &Gid| {
        let kind = match gid.is {
            GidKind::InfiniBand => "IB",
            GidKind::RoceV1 => "RoCE v1",
            GidKind::RoceV2 => "RoCE v2",
        };
        format!("{} {} {kind}", gid.index, gid.gid)
    };
    let mut told: Vec<String> = port.gids.iter().take(GIDS_TOLD_MAX).map(text).collect();
    if port.gids.len() > GIDS_TOLD_MAX {
        told.push(format!("{} more", port.gids.len() - GIDS_TOLD_MAX));
    }
    let value = if told.is_empty() { "none".to_owned() } else { told.join("; ") };
    let finding = Finding::ok(format!("{} GIDs", port.name), value);
    if port.link_layer == LinkLayer::InfiniBand || !port.is_active() {
        return finding;
    }
    let netdev = port.netdev.as_ref().map_or("its interface", |netdev| &netdev.name);
    if !port.has_address() {
        let reason =
            "only addresses of the link itself: no other host finds this one by its IP address";
        let remedy = format!("ip address add ADDRESS/BITS dev {netdev}");
        return finding.warning(because(reason).mend(remedy));
    }
    let is_routed = |gid: &Gid| gid.is == GidKind::RoceV2 && !gid.is_link_local();
    if !port.gids.iter().any(is_routed) {
        let reason = "RoCE v1 only: routers do not pass it on, and switches do not see its class";
        return finding.note(because(reason).mend("RoCE v2, in the driver's settings"));
    }
    finding
}

fn locked_memory(tree: &Tree) -> Option<Finding> {
    let allowed = locked(tree)?;
    let finding = |value: String| Finding::ok("locked memory", value);
    let Allowed::UpTo(bytes) = allowed else { return Some(finding(amount(allowed))) };
    if may_lock_any(tree) {
        let value = format!("{}, which does not bind us (CAP_IPC_LOCK)", amount(allowed));
        return Some(finding(value));
    }
    let finding = finding(amount(allowed));
    let remedy = "ulimit -l unlimited; for good: '* - memlock unlimited' in \
                  /etc/security/limits.conf, LimitMEMLOCK=infinity in a service";
    Some(if bytes < LOCKED_BYTES_MIN {
        let reason = format!(
            "what a NIC reads and writes is locked: slots and the rings of peers take more than {}",
            amount(allowed)
        );
        finding.warning(because(reason).mend(remedy))
    } else {
        let reason = "each peer's ring counts: with many peers the limit is reached";
        finding.note(because(reason).mend(remedy))
    })
}

fn may_lock_any(tree: &Tree) -> bool {
    let effective = tree.field("/proc/self/status", "CapEff").unwrap_or_default();
    u64::from_str_radix(&effective, 16)
        .is_ok_and(|capabilities| capabilities >> CAP_IPC_LOCK & 1 == 1)
}

fn fork(tree: &Tree) -> Option<Finding> {
    let kernel = release(&tree.text("/proc/sys/kernel/osrelease")?)?;
    Some(if kernel >= FORK_SAFE_KERNEL {
        Finding::ok("fork", "safe: the child gets copies")
    } else {
        let (major, minor) = FORK_SAFE_KERNEL;
        let reason = "a process that starts another one may lose pages that a NIC writes to";
        let remedy = format!("a kernel from {major}.{minor} on; until then, no --processes");
        Finding::ok("fork", "not safe").warning(because(reason).mend(remedy))
    })
}

/// The ports that messages can go by.
fn usable_ports<'a>(tree: &Tree, library: &Library, devices: &'a [Device]) -> Vec<&'a Port> {
    let usable = |device: &&Device| {
        let file = device.uverbs.as_ref().map(|file| format!("/dev/infiniband/{file}"));
        device.kind != Kind::Iwarp && file.is_some_and(|file| tree.try_open(&file).is_ok())
    };
    let ports = devices.iter().filter(usable).flat_map(|device| &device.ports);
    let may_carry =
        |port: &&Port| port.is_active() && port.has_address() && library.port(&port.name).is_some();
    ports.filter(may_carry).collect()
}

/// Whether messages can go by RDMA at all.
fn lanes(library: &Library, usable: &[&Port], need: Option<Need>) -> Finding {
    if !usable.is_empty() {
        let ports: Vec<&str> = usable.iter().map(|port| port.name.as_str()).collect();
        return Finding::ok("messages", format!("can go by RDMA: {}", ports.join(", ")));
    }
    let finding = Finding::ok("messages", "go by TCP and shared memory");
    let advice = because(match library {
        Library::Shows(_) => "no device has a port that is active and has an address",
        Library::Missing(_) | Library::Refuses(_) => "there is no library that opens a device",
    })
    .mend("what is said above");
    match need {
        Some(Need::Rdma) => finding.unfit(advice),
        None => finding.note(advice),
    }
}
