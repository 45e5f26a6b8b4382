//! How much memory this process may have.
//!
//! Owns where the kernel says so: the machine's, or the least that any control group allows.

use std::path::Path;

use rustix::system::sysinfo;

/// What this process may have, in bytes.
pub(crate) fn memory_here_bytes() -> u64 {
    let memory = sysinfo();
    let machine = (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit));
    group_bytes(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
        .map_or(machine, |group| group.min(machine))
}

/// The least bound of the process's control groups, if there is one.
///
/// - `membership`: lines of `number:controllers:path`.
/// - `mounted`: where the hierarchies are.
fn group_bytes(membership: &Path, mounted: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(membership).ok()?;
    let bounds = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (hierarchy, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            "memory" => (mounted.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        // A group is bound by those above it, too.
        let group = hierarchy.join(path);
        let groups = group.ancestors().take_while(|one| one.starts_with(&hierarchy));
        let bound =
            |group: &Path| std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok();
        groups.filter_map(bound).min()
    });
    bounds.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn the_least_bound_of_a_group_and_those_above_it_counts() {
        let files = tempfile::tempdir().expect("a directory");
        let (root, membership) = (files.path().join("cgroup"), files.path().join("membership"));
        write(&membership, "5:cpu:/a\n3:memory:/a/b\n0::/c\n");
        assert_eq!(group_bytes(&membership, &root), None, "none is written down");
        write(&root.join("memory/a/b/memory.limit_in_bytes"), "9223372036854771712\n");
        write(&root.join("memory/a/memory.limit_in_bytes"), "268435456\n");
        write(&root.join("c/memory.max"), "max\n");
        assert_eq!(group_bytes(&membership, &root), Some(256 << 20));
        write(&root.join("c/memory.max"), "1048576\n");
        assert_eq!(group_bytes(&membership, &root), Some(1 << 20));
    }
}
