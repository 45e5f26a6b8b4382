//! The machine: its kernel, processors, memory nodes and clock.
//!
//! Owns what is said of them. Reading is left to `tree`, what no file tells to `answers`.

use kernels::Level;

use super::answers::Answers;
use super::finding::{Finding, because};
use super::tree::{Tree, chosen, numbers, release};

/// The first kernel whose io_uring has all that the transport uses.
const URING_KERNEL: (u32, u32) = (6, 1);

/// Clocks that are read without a system call.
const FAST_CLOCKS: [&str; 4] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

/// Looks at all of it.
pub(super) fn look(tree: &Tree, answers: &Answers) -> Vec<Finding> {
    let mut findings = vec![
        Finding::ok("kernel", tree.text("/proc/sys/kernel/osrelease").unwrap_or(unknown())),
        io_uring(tree, answers),
        processors(tree),
        instructions(answers.level),
    ];
    findings.extend(quota(tree));
    findings.extend(governor(tree));
    findings.push(nodes(tree));
    findings.extend(clock(tree));
    findings
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn io_uring(tree: &Tree, answers: &Answers) -> Finding {
    let Err(why) = &answers.io_uring else { return Finding::ok("io_uring", "usable") };
    let kernel = tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let switch = tree.number("/proc/sys/kernel/io_uring_disabled");
    let remedy = match switch {
        Some(1 | 2) => {
            "sysctl -w kernel.io_uring_disabled=0, and the same in /etc/sysctl.d".to_owned()
        }
        _ if release(&kernel).is_some_and(|found| found < URING_KERNEL) => {
            format!("a kernel from {}.{} on; this one is {kernel}", URING_KERNEL.0, URING_KERNEL.1)
        }
        _ => "in a container, a seccomp profile that lets io_uring_setup, io_uring_enter and \
              io_uring_register through"
            .to_owned(),
    };
    let reason = format!("TCP is driven by epoll instead, with more system calls: {why}");
    Finding::ok("io_uring", "not usable").warning(because(reason).mend(remedy))
}

fn processors(tree: &Tree) -> Finding {
    let online = numbers(&tree.text("/sys/devices/system/cpu/online").unwrap_or_default()).len();
    let allowed = allowed(tree).len();
    let model = tree.field("/proc/cpuinfo", "model name").unwrap_or_default();
    let finding = Finding::ok("processors", format!("{allowed} of {online}  {model}").trim_end());
    match allowed {
        1 => finding.note(
            because("servers and workers take turns on it: nothing runs at the same time").mend(
                "let the process use more of them: taskset, cpuset or the container's limits",
            ),
        ),
        _ => finding,
    }
}

/// The processors that this process may use.
pub(super) fn allowed(tree: &Tree) -> Vec<usize> {
    numbers(&tree.field("/proc/self/status", "Cpus_allowed_list").unwrap_or_default())
}

fn instructions(level: Level) -> Finding {
    let finding = Finding::ok("instructions", level.to_string());
    match level {
        Level::Scalar => {
            finding.warning(because("kernels run without vectors, several times slower").mend(
                "a processor with AVX2; in a virtual machine, one that shows the host's: -cpu host",
            ))
        }
        _ => finding,
    }
}

/// A container's share of processor time, where there is a limit.
fn quota(tree: &Tree) -> Option<Finding> {
    let text = tree.text(&format!("{}/cpu.max", cgroup(tree)?))?;
    let (quota_us, period_us) = text.split_once(' ')?;
    let (quota_us, period_us): (f64, f64) = (quota_us.parse().ok()?, period_us.parse().ok()?);
    let share = quota_us / period_us;
    let finding = Finding::ok("processor quota", format!("{share:.2} processors"));
    let allowed = allowed(tree).len();
    Some(if share < allowed as f64 {
        let reason = format!(
            "{allowed} processors are to be seen; threads that use more than the quota together \
             are stopped for the rest of each {:.0} ms, and spinning uses it up",
            period_us / 1000.0
        );
        let remedy =
            format!("a quota of {allowed}, or {} processors (cpuset)", share.max(1.0) as u64);
        finding.warning(because(reason).mend(remedy))
    } else {
        finding
    })
}

/// The folder of this process's control group (version 2).
pub(super) fn cgroup(tree: &Tree) -> Option<String> {
    let own = tree.text("/proc/self/cgroup")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("/sys/fs/cgroup{}", path.trim_end_matches('/')))
}

fn governor(tree: &Tree) -> Option<Finding> {
    let cpus = "/sys/devices/system/cpu";
    let mut governors: Vec<String> = allowed(tree)
        .iter()
        .filter_map(|cpu| tree.text(&format!("{cpus}/cpu{cpu}/cpufreq/scaling_governor")))
        .collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() {
        return None;
    }
    let finding = Finding::ok("governor", governors.join(", "));
    Some(if governors == ["performance"] {
        finding
    } else {
        finding.note(
            because("processors start slow after each sleep, which short requests feel")
                .mend("cpupower frequency-set --governor performance"),
        )
    })
}

fn nodes(tree: &Tree) -> Finding {
    let nodes =
        numbers(&tree.text("/sys/devices/system/node/online").unwrap_or_default()).len().max(1);
    let finding = Finding::ok("memory nodes", nodes.to_string());
    let moves = tree.number("/proc/sys/kernel/numa_balancing").is_some_and(|mode| mode > 0);
    if nodes > 1 && moves {
        finding.note(
            because(
                "the kernel unmaps pages to see who uses them; a shard's already lie on its node",
            )
            .mend("sysctl -w kernel.numa_balancing=0, if nothing else here wants it"),
        )
    } else {
        finding
    }
}

fn clock(tree: &Tree) -> Option<Finding> {
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let current = tree.text(&format!("{folder}/current_clocksource"))?;
    let finding = Finding::ok("clock", current.as_str());
    if FAST_CLOCKS.contains(&current.as_str()) {
        return Some(finding);
    }
    let available = tree.text(&format!("{folder}/available_clocksource")).unwrap_or_default();
    let faster =
        FAST_CLOCKS.iter().find(|fast| available.split_whitespace().any(|word| word == **fast));
    let remedy = match faster {
        Some(fast) => format!("echo {fast} > {folder}/current_clocksource"),
        None => format!("a clock that needs no call; the kernel offers: {available}"),
    };
    Some(finding.warning(
        because("each look at the clock is a system call, and turns have many").mend(remedy),
    ))
}

/// How transparent huge pages are given.
pub(super) fn huge_page_mode(tree: &Tree) -> Option<String> {
    let words = tree.text("/sys/kernel/mm/transparent_hugepage/enabled")?;
    chosen(&words).map(str::to_owned)
}
