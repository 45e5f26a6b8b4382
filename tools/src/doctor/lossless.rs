//! What a RoCE port has against loss: flow control by priority (PFC), marks of congestion (ECN).
//!
//! Owns what is said of the host's side of it, as far as the driver shows it. The switches' side
//! only their own management tells.

use super::fabric::{Device, INTERFACES, Kind, LinkLayer, Port};
use super::finding::{Finding, because};
use super::tree::Tree;

/// Priorities of Ethernet.
pub(super) const PRIORITIES: u32 = 8;

/// Looks at a port, with what `dcb pfc show` says of its interface, if anything. None for a port
/// that it does not matter to, or of which nothing is told.
pub(super) fn look(
    tree: &Tree,
    device: &Device,
    port: &Port,
    pfc: Option<&str>,
) -> Option<Finding> {
    let is_nic = matches!(device.kind, Kind::Nic { .. });
    let netdev = &port.netdev.as_ref()?.name;
    if !is_nic || port.link_layer != LinkLayer::Ethernet || !port.is_active() {
        return None;
    }
    let folder = format!("{INTERFACES}/{netdev}");
    let paused = pfc.and_then(paused_priorities);
    // As NVIDIA's own driver shows it; that of the kernel has it in the firmware's settings.
    let marked: Option<Vec<u32>> = tree.has(&format!("{folder}/ecn/roce_np/enable")).then(|| {
        let is_on = |side: &str, priority: &u32| {
            tree.number(&format!("{folder}/ecn/{side}/enable/{priority}")) == Some(1)
        };
        (0..PRIORITIES).filter(|at| is_on("roce_np", at) && is_on("roce_rp", at)).collect()
    });
    let trust = tree.text(&format!("{folder}/qos/trust"));
    let told = [
        paused.as_deref().map(|on| format!("PFC {}", priorities(on))),
        marked.as_deref().map(|on| format!("ECN {}", priorities(on))),
        trust.as_ref().map(|by| format!("priority by {by}")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() {
        return None;
    }
    let finding = Finding::ok(format!("{} lossless", port.name), told.join("; "));
    let is_any_on = [&paused, &marked].into_iter().flatten().any(|on| !on.is_empty());
    // Without PFC, ECN that the driver does not show may still be on: the firmware's default.
    Some(if is_any_on || paused.is_none() {
        finding
    } else {
        let reason = "a full switch drops packets, and each loss stops a lane for a moment";
        let remedy = format!(
            "for one priority, the same on all hosts and switches: dcb pfc set dev {netdev} \
             prio-pfc all:off 3:on; or ECN (docs/deploy-rdma.md)"
        );
        finding.note(because(reason).mend(remedy))
    })
}

/// The priorities that are on in `prio-pfc 0:off 1:off 2:off 3:on ...`; none if there is no such
/// line.
fn paused_priorities(text: &str) -> Option<Vec<u32>> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("prio-pfc "))?;
    let on = |word: &str| word.strip_suffix(":on")?.parse().ok();
    Some(line.split_whitespace().filter_map(on).collect())
}

fn priorities(on: &[u32]) -> String {
    match on {
        [] => "on no priority".to_owned(),
        _ => format!("on {}", on.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}
