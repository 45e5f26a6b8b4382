//! Rails: the ports that messages can go by, in the order in which a core uses them.
//!
//! Owns how far each is from each memory node's processors. That order is `transport`'s own; here
//! it is told from the same files, for all nodes at once.

use super::fabric::{Device, Port};
use super::finding::{Finding, because};
use super::machine::allowed;
use super::tree::{Tree, numbers};

/// Where the kernel shows memory nodes.
const NODES: &str = "/sys/devices/system/node";

/// What the kernel counts for what lies at the same node, and what nobody knows counts as.
const DISTANCE_NEAR: u64 = 10;

/// Looks at the order for each memory node whose processors may be used; none without a port.
pub(super) fn look(tree: &Tree, devices: &[Device], usable: &[&Port]) -> Vec<Finding> {
    if usable.is_empty() {
        return Vec::new();
    }
    let nodes = numbers(&tree.text(&format!("{NODES}/online")).unwrap_or_default());
    if nodes.len() <= 1 {
        let names: Vec<&str> = usable.iter().map(|port| port.name.as_str()).collect();
        let value = match names[..] {
            [_] => names.join(", "),
            _ => format!("{}: as many lanes each", names.join(", ")),
        };
        return vec![Finding::ok("rails", value)];
    }
    let mut findings = Vec::new();
    let mut is_any_near = false;
    for node in nodes.into_iter().filter(|&node| may_be_used(tree, node)) {
        let rails = of_node(tree, node, devices, usable);
        is_any_near |= rails.iter().any(|rail| rail.distance == DISTANCE_NEAR);
        let value: Vec<String> = rails.iter().map(Rail::to_string).collect();
        findings.push(Finding::ok(format!("rails of node {node}"), value.join(", ")));
    }
    if !is_any_near && let Some(last) = findings.pop() {
        findings.push(far(last, devices));
    }
    findings
}

/// One port, as a memory node's processors see it.
struct Rail<'a> {
    port: &'a str,
    node: Option<usize>,
    distance: u64,
}

impl std::fmt::Display for Rail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.node {
            Some(node) => write!(f, "{} (node {node}, distance {})", self.port, self.distance),
            None => write!(f, "{} (node unknown)", self.port),
        }
    }
}

/// All ports, the nearest first; equally near ones as the kernel lists them.
fn of_node<'a>(tree: &Tree, node: usize, devices: &[Device], usable: &[&'a Port]) -> Vec<Rail<'a>> {
    let distances = tree.text(&format!("{NODES}/node{node}/distance")).unwrap_or_default();
    let distance = |other: usize| distances.split_whitespace().nth(other)?.parse().ok();
    let rail = |port: &&'a Port| {
        let has_it = |device: &&Device| device.ports.iter().any(|one| one.name == port.name);
        let node = devices.iter().find(has_it).and_then(|device| device.node);
        let distance = node.and_then(distance).unwrap_or(DISTANCE_NEAR);
        Rail { port: &port.name, node, distance }
    };
    let mut rails: Vec<Rail<'_>> = usable.iter().map(rail).collect();
    rails.sort_by_key(|rail| rail.distance);
    rails
}

/// Whether the process may run on a processor of this node.
fn may_be_used(tree: &Tree, node: usize) -> bool {
    let allowed = allowed(tree);
    let cpus = numbers(&tree.text(&format!("{NODES}/node{node}/cpulist")).unwrap_or_default());
    cpus.iter().any(|cpu| allowed.contains(cpu))
}

/// No port is near any processor that may be used.
fn far(finding: Finding, devices: &[Device]) -> Finding {
    let Some(node) = devices.iter().find_map(|device| device.node) else { return finding };
    let reason = "no port is at a node whose processors may be used: each message crosses nodes";
    let remedy = format!("numactl --cpunodebind={node} --membind={node} gradwire ...");
    finding.warning(because(reason).mend(remedy))
}
