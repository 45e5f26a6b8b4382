//! The workspace's `Cargo.toml` files as the checks see them: members, and who depends on whom.
//!
//! Owns the reading of the two things the checks need, line by line. Whether a manifest is valid
//! is left to cargo.

use crate::tree::Tree;

/// Crates that may hold `unsafe`.
pub(crate) const UNSAFE_HOMES: [&str; 3] = ["memory", "kernels", "transport"];
/// Folder of the members that test the others from outside.
pub(crate) const TESTS_FOLDER: &str = "tests/";
/// The member that holds this program.
pub(crate) const OWN_FOLDER: &str = "xtask";

/// Folders of the workspace's members, as the root manifest lists them.
pub(crate) fn members(tree: &Tree) -> Vec<&str> {
    let manifest = tree.text("Cargo.toml").unwrap_or_default();
    let Some((_, list)) = manifest.split_once("members = [") else { return Vec::new() };
    let Some((list, _)) = list.split_once(']') else { return Vec::new() };
    list.split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|m| !m.is_empty())
        .collect()
}

/// Members whose code ships: neither tests nor this program.
pub(crate) fn shipped_members(tree: &Tree) -> Vec<&str> {
    let is_shipped = |member: &&str| !member.starts_with(TESTS_FOLDER) && *member != OWN_FOLDER;
    members(tree).into_iter().filter(is_shipped).collect()
}

/// Names and 1-based lines of what a manifest depends on; what only its tests need is left out.
pub(crate) fn dependencies(manifest: &str) -> Vec<(&str, usize)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let is_test = section.contains("dev-dependencies");
            inside = !is_test && section.ends_with("dependencies");
            if let Some((_, name)) = section.split_once("dependencies.").filter(|_| !is_test) {
                found.push((name, index + 1));
            }
        } else if inside && let Some(end) = line.find(['.', '=', ' ']) {
            found.push((&line[..end], index + 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_over_several_lines_and_tests_do_not_ship() {
        let manifest =
            "[workspace]\nmembers = [\n    \"wire\", \"xtask\",\n    \"tests/sim\",\n]\n";
        let tree = Tree::from_files(&[("Cargo.toml", manifest)]);
        assert_eq!(members(&tree), ["wire", "xtask", "tests/sim"]);
        assert_eq!(shipped_members(&tree), ["wire"]);
    }

    #[test]
    fn dependencies_are_found_in_each_form_and_those_of_tests_are_not() {
        let manifest = "[package]\nname = \"a\"\n[dependencies]\nwire.workspace = true\n\
            memory = { path = \"x\" } # why\n[dev-dependencies]\nrand = \"1\"\n\
            [dependencies.shard]\npath = \"y\"\n[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n";
        assert_eq!(
            dependencies(manifest),
            [("wire", 4), ("memory", 5), ("shard", 8), ("libc", 11)]
        );
    }
}
