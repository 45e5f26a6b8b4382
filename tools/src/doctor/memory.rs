//! Memory and limits: how much there is, on which pages, and what the process may take of it.
//!
//! Owns what is said of them, and reading `/proc/self/limits`.

use super::answers::{Answers, Room};
use super::finding::{Finding, because};
use super::machine::{cgroup, huge_page_mode};
use super::tree::Tree;

/// With less memory than this not even a small job runs: slots, a table and data in decoding.
const MEMORY_BYTES_MIN: u64 = 128 << 20;

/// Files that a process has open before its first link: rings, wakers, logs, data.
const FILES_MIN: u64 = 64;

/// Enough for all links that a server takes (1024), and its files.
const FILES_WANTED: u64 = 1024 + FILES_MIN;

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Allowed {
    /// So much.
    UpTo(u64),
    /// Any amount.
    Unlimited,
}

/// Looks at all of it.
pub(super) fn look(tree: &Tree, answers: &Answers) -> Vec<Finding> {
    let mut findings = vec![memory(tree)];
    findings.extend(transparent(tree));
    findings.extend(set_aside(tree));
    findings.extend(overcommit(tree));
    findings.extend(files(tree));
    findings.extend(locked(tree).map(|allowed| Finding::ok("locked memory", amount(allowed))));
    findings.extend(answers.shm.map(shm));
    findings
}

/// How much memory the process may lock; none if the kernel does not tell.
pub(super) fn locked(tree: &Tree) -> Option<Allowed> {
    limit(tree, "Max locked memory").map(|(soft, _)| soft)
}

/// An amount of bytes for a person.
pub(super) fn amount(allowed: Allowed) -> String {
    match allowed {
        Allowed::Unlimited => "unlimited".to_owned(),
        Allowed::UpTo(bytes) => bytes_text(bytes),
    }
}

/// Bytes in the largest unit that leaves a number from 1 on: `7.8 GiB`.
pub(super) fn bytes_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let number = bytes as f64 / (1_u64 << shift) as f64;
            let digits = usize::from(number < 10.0 && number.fract() >= 0.05);
            format!("{number:.digits$} {unit}")
        }
        None => format!("{bytes} bytes"),
    }
}

fn memory(tree: &Tree) -> Finding {
    let of = |name| {
        let text = tree.field("/proc/meminfo", name)?;
        Some(text.strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    let (Some(total), Some(free)) = (of("MemTotal"), of("MemAvailable")) else {
        return Finding::ok("memory", "unknown");
    };
    let limit = cgroup(tree).and_then(|folder| tree.number(&format!("{folder}/memory.max")));
    let value = format!("{} of {} free", bytes_text(free), bytes_text(total));
    let (value, usable) = match limit {
        Some(limit) if limit < total => {
            (format!("{value}, limited to {}", bytes_text(limit)), free.min(limit))
        }
        _ => (value, free),
    };
    let finding = Finding::ok("memory", value);
    if usable >= MEMORY_BYTES_MIN {
        return finding;
    }
    let reason = format!("a job takes at least {}", bytes_text(MEMORY_BYTES_MIN));
    finding.unfit(because(reason).mend("end other programs, or raise the container's limit"))
}

fn transparent(tree: &Tree) -> Option<Finding> {
    let mode = huge_page_mode(tree)?;
    let finding = Finding::ok("huge pages", mode.as_str());
    Some(match mode.as_str() {
        "never" => finding.warning(
            because("tables lie on 4 KiB pages: most lookups of a large one miss the TLB too")
                .mend("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        ),
        _ => finding,
    })
}

fn set_aside(tree: &Tree) -> Option<Finding> {
    let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = |name| tree.number(&format!("{folder}/{name}"));
    let (all, free) = (count("nr_hugepages")?, count("free_hugepages")?);
    let promised = count("resv_hugepages").unwrap_or(0);
    let value = format!("{all} of 2 MiB, {} free", free.saturating_sub(promised));
    Some(Finding::ok("pages set aside", value))
}

fn overcommit(tree: &Tree) -> Option<Finding> {
    let strict = tree.number("/proc/sys/vm/overcommit_memory")? == 2;
    strict.then(|| {
        Finding::ok("overcommit", "strict").note(
            because("addresses count as memory, used or not, and tables reserve theirs ahead")
                .mend("sysctl -w vm.overcommit_memory=0, or --table-mib as small as it may be"),
        )
    })
}

fn files(tree: &Tree) -> Option<Finding> {
    let (soft, hard) = limit(tree, "Max open files")?;
    let Allowed::UpTo(files) = soft else { return Some(Finding::ok("open files", "unlimited")) };
    let finding = Finding::ok("open files", format!("at most {files}"));
    let wanted = match hard {
        Allowed::UpTo(hard) if hard < FILES_WANTED => {
            "LimitNOFILE=65536 in the service, or a line in /etc/security/limits.conf".to_owned()
        }
        _ => format!("ulimit -n {}", FILES_WANTED.next_power_of_two()),
    };
    Some(if files < FILES_MIN {
        let reason = format!("a process has up to {FILES_MIN} open before its first link");
        finding.unfit(because(reason).mend(wanted))
    } else if files < FILES_WANTED {
        let links = files - FILES_MIN;
        let reason =
            format!("each link is one: a server here takes some {links} workers, not 1024");
        finding.note(because(reason).mend(wanted))
    } else {
        finding
    })
}

fn shm(Room { bytes, free_bytes }: Room) -> Finding {
    let value = format!("{} of {} free; not used", bytes_text(free_bytes), bytes_text(bytes));
    Finding::ok("/dev/shm", value)
}

/// A limit of this process: soft and hard.
fn limit(tree: &Tree, name: &str) -> Option<(Allowed, Allowed)> {
    let text = tree.text("/proc/self/limits")?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = rest.split_whitespace().map(|word| match word {
        "unlimited" => Some(Allowed::Unlimited),
        number => number.parse().ok().map(Allowed::UpTo),
    });
    Some((values.next()??, values.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_leaves_a_short_number() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (8 << 20, "8 MiB"),
            (3 << 29, "1.5 GiB"),
            (24_684_092 << 10, "24 GiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
