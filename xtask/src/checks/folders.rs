//! Folders: the list in `ARCHITECTURE.md` names every workspace member and nothing that is gone.
//!
//! The list is the first fenced block below the heading `## Folders`; an entry is a line whose
//! first word ends in a slash.

use super::Report;
use crate::manifest;
use crate::tree::Tree;

const LIST_FILE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Folders";
const FENCE: &str = "```";

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("folders", "folders");
    let listed = listed(tree.text(LIST_FILE).unwrap_or_default());
    for (folder, line) in &listed {
        report.looked_at += 1;
        if !tree.holds(folder) {
            report.find(LIST_FILE, *line, format!("`{folder}/` is listed and does not exist"));
        }
    }
    for member in manifest::members(tree) {
        if !listed.iter().any(|(folder, _)| *folder == member) {
            let what = format!("the workspace member `{member}/` is not in the list of folders");
            report.find(LIST_FILE, 1, what);
        }
    }
    report.done()
}

/// The listed folders without their slash, and their lines.
fn listed(text: &str) -> Vec<(&str, usize)> {
    let lines = text.lines().zip(1..).skip_while(|(line, _)| *line != HEADING);
    let block = lines.skip_while(|(line, _)| !line.starts_with(FENCE)).skip(1);
    let entries = block.take_while(|(line, _)| !line.starts_with(FENCE));
    entries
        .filter_map(|(line, number)| Some((line.split(' ').next()?.strip_suffix('/')?, number)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    #[test]
    fn a_member_that_is_not_listed_and_a_folder_that_is_gone_are_found() {
        let list =
            "## Folders\n\nWords.\n\n```text\nwire/   names\n        more of it\ngone/   x\n```\n";
        let files = [
            ("Cargo.toml", "members = [\"wire\", \"shard\"]"),
            ("wire/Cargo.toml", ""),
            ("shard/Cargo.toml", ""),
            (LIST_FILE, list),
        ];
        let expected = [
            "ARCHITECTURE.md:8: `gone/` is listed and does not exist",
            "ARCHITECTURE.md:1: the workspace member `shard/` is not in the list of folders",
        ];
        assert_eq!(findings(check, &files), expected);
    }
}
