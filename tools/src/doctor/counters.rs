//! What ports have counted: losses, marks of congestion, pauses.
//!
//! Owns reading a port's counters and what their growth means. Two looks, some time apart, tell
//! what happens now from what happened once: only growth is a warning.
//!
//! A pause frame holds a priority for at most 65 535 quanta of 512 bit times, 0.34 ms at
//! 100 Gbit/s (IEEE 802.1Qbb), so 300 of them a second may hold it for a tenth of the time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fabric::Port;
use super::finding::{Finding, because};
use super::lossless::PRIORITIES;
use super::tree::Tree;

/// Pause frames of one priority in a second from which on it is a storm.
const PAUSES_PER_SECOND_MAX: f64 = 300.0;

/// The share of time that a priority may be held before it is a storm.
const PAUSED_SHARE_MAX: f64 = 0.1;

/// All counters of one port at one time, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted(BTreeMap<String, u64>);

/// Counters that mean the same: by their names in the drivers.
struct Group {
    is: &'static str,
    names: &'static [&'static str],
    reason: &'static str,
    remedy: &'static str,
}

const GROUPS: [Group; 5] = [
    Group {
        is: "not received",
        names: &[
            "out_of_buffer",
            "rnr_nak_retry_err",
            "send_rnr_err",
            "rcvd_rnr_err",
            "retry_rnr_exceeded_err",
        ],
        reason: "messages came for which a program had posted no receive",
        remedy: "find which program does it: rdma resource show qp",
    },
    Group {
        is: "sent again",
        names: &[
            "local_ack_timeout_err",
            "packet_seq_err",
            "out_of_sequence",
            "out_of_seq_request",
            "rcvd_seq_err",
            "completer_retry_err",
            "retry_exceeded_err",
            "implied_nak_seq_err",
        ],
        reason: "packets are lost between hosts, and each loss stops a lane for a moment",
        remedy: "no loss: PFC on the priority that lanes use, on hosts and switches alike, or ECN",
    },
    Group {
        is: "bad wire",
        names: &[
            "symbol_error",
            "port_rcv_errors",
            "link_error_recovery",
            "local_link_integrity_errors",
            "rx_icrc_encapsulated",
            "rx_crc_errors_phy",
            "rx_symbol_err_phy",
        ],
        reason: "bits are wrong on the wire",
        remedy: "another cable or module; clean the optics",
    },
    Group {
        is: "dropped",
        names: &[
            "port_xmit_discards",
            "rx_discards_phy",
            "rx_out_of_buffer",
            "excessive_buffer_overrun_errors",
        ],
        reason: "the NIC had no room for packets and dropped them",
        remedy: "PFC on the priority that lanes use; larger buffers of that priority",
    },
    Group {
        is: "congestion",
        names: &["np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"],
        reason: "a switch marks packets as its queue grows, and senders slow down, as they should",
        remedy: "nothing, if it is rare; else fewer senders to one host, or a faster link to it",
    },
];

impl Counted {
    /// What a port shows now, with what its NIC shows besides, if anything.
    pub(super) fn read(tree: &Tree, port: &Port, nic: Option<&str>) -> Counted {
        let mut counted = BTreeMap::new();
        for folder in ["counters", "hw_counters"] {
            let folder = format!("{}/{folder}", port.folder);
            for name in tree.names(&folder) {
                let number = tree.number(&format!("{folder}/{name}"));
                counted.extend(number.map(|number| (name, number)));
            }
        }
        counted.extend(nic.into_iter().flat_map(str::lines).filter_map(|line| {
            let (name, number) = line.split_once(':')?;
            Some((name.trim().to_owned(), number.trim().parse().ok()?))
        }));
        Counted(counted)
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// What the growth from one look at a port to the next one means.
pub(super) fn judge(
    port: &Port,
    before: &Counted,
    after: &Counted,
    apart: Duration,
) -> Vec<Finding> {
    let grown = |name: &str| after.get(name).saturating_sub(before.get(name));
    let mut findings: Vec<Finding> =
        GROUPS.iter().filter_map(|group| judge_group(port, group, after, grown)).collect();
    for priority in 0..PRIORITIES {
        findings.extend(judge_pauses(port, priority, after, grown, apart));
        findings.extend(judge_discards(port, priority, after, grown));
    }
    if findings.is_empty() && !after.0.is_empty() {
        findings.push(Finding::ok(format!("{} counters", port.name), "no loss, no pause"));
    }
    findings
}

fn judge_group(
    port: &Port,
    group: &Group,
    after: &Counted,
    grown: impl Fn(&str) -> u64,
) -> Option<Finding> {
    let there = || group.names.iter().filter(|name| after.get(name) > 0);
    let value: Vec<String> =
        there().map(|name| growth(name, after.get(name), grown(name))).collect();
    let finding = Finding::ok(format!("{} {}", port.name, group.is), value.join(", "));
    let is_growing = there().any(|name| grown(name) > 0);
    (!value.is_empty()).then(|| match is_growing {
        true => finding.warning(because(group.reason).mend(group.remedy)),
        false => finding,
    })
}

/// Priority flow control: who is made to wait, for how long.
fn judge_pauses(
    port: &Port,
    priority: u32,
    after: &Counted,
    grown: impl Fn(&str) -> u64,
    apart: Duration,
) -> Option<Finding> {
    let [frames, held] =
        [format!("rx_prio{priority}_pause"), format!("rx_prio{priority}_pause_duration")];
    let told = after.get(&frames);
    if told == 0 {
        return None;
    }
    let per_second = grown(&frames) as f64 / apart.as_secs_f64();
    // In microseconds.
    let share = grown(&held) as f64 / 1e6 / apart.as_secs_f64();
    let value = format!(
        "{told} pauses received, {per_second:.0} a second, held {:.0} % of the time",
        share * 100.0
    );
    let finding = Finding::ok(format!("{} priority {priority}", port.name), value);
    if per_second < PAUSES_PER_SECOND_MAX && share < PAUSED_SHARE_MAX {
        return Some(finding);
    }
    let reason = format!(
        "a storm of pauses: the switch stops port {} for priority {priority}, and with it every \
         host whose packets wait behind",
        port.name
    );
    let remedy = format!(
        "find the host whose NIC sends them (tx_prio{priority}_pause grows there) and what keeps \
         it from receiving; the pause watchdog of the switch; ECN, which slows senders before"
    );
    Some(finding.warning(because(reason).mend(remedy)))
}

/// Drops of one priority, which flow control on it should make impossible.
fn judge_discards(
    port: &Port,
    priority: u32,
    after: &Counted,
    grown: impl Fn(&str) -> u64,
) -> Option<Finding> {
    let names = [format!("rx_prio{priority}_discards"), format!("rx_prio{priority}_buf_discard")];
    let name = names.iter().find(|name| after.get(name) > 0)?;
    let value = growth(name, after.get(name), grown(name));
    let finding = Finding::ok(format!("{} priority {priority} drops", port.name), value);
    if grown(name) == 0 {
        return Some(finding);
    }
    let reason =
        format!("port {} drops packets of priority {priority}: it is not without loss", port.name);
    let remedy =
        format!("PFC for priority {priority}, on this host and its switch: dcb pfc show dev ...");
    Some(finding.warning(because(reason).mend(remedy)))
}

fn growth(name: &str, total: u64, grown: u64) -> String {
    match grown {
        0 => format!("{name} {total}"),
        grown => format!("{name} {total} (+{grown} now)"),
    }
}
