//! Links: a link from one file of the repository to another resolves.
//!
//! Looks at Markdown outside of code. Links into the network are not followed.

use super::Report;
use crate::tree::Tree;

const FENCE: &str = "```";

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("links", "pages");
    for (path, text) in tree.with_extension("md") {
        report.looked_at += 1;
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with(FENCE) {
                in_code = !in_code;
            } else if !in_code {
                for target in targets(line) {
                    find_broken(tree, &mut report, path, index + 1, &target);
                }
            }
        }
    }
    report.done()
}

/// Where the links of one line lead: `[words](target)` and `[name]: target`.
fn targets(line: &str) -> Vec<String> {
    let prose: Vec<&str> = line.split('`').step_by(2).collect();
    let prose = prose.join("");
    let mut found: Vec<String> = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    if let Some((_, target)) = prose.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
        found.push(target.trim().to_owned());
    }
    found
}

fn find_broken(tree: &Tree, report: &mut Report, page: &str, line: usize, target: &str) {
    let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
    let file = target.split('#').next().unwrap_or_default();
    if is_elsewhere || file.is_empty() {
        return;
    }
    let resolved = resolve(page, file);
    if !resolved.as_deref().is_some_and(|resolved| tree.holds(resolved)) {
        report.find(page, line, format!("the link to `{file}` leads nowhere"));
    }
}

/// The path that `link` means on `page`; `None` if it leaves the repository.
fn resolve(page: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    if link.starts_with('/') {
        parts.clear();
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let page =
            "[a](wire.md#x) [b](../README.md)\n[c](gone.md)\n[d]: ../gone.md\n[e](../../f)\n";
        let files = [("docs/index.md", page), ("docs/wire.md", ""), ("README.md", "")];
        let expected = [
            "docs/index.md:2: the link to `gone.md` leads nowhere",
            "docs/index.md:3: the link to `../gone.md` leads nowhere",
            "docs/index.md:4: the link to `../../f` leads nowhere",
        ];
        assert_eq!(findings(check, &files), expected);
    }

    #[test]
    fn code_anchors_and_the_network_are_no_links_to_files() {
        let page = "`[a](gone)` [b](#here) [c](https://d.org/e)\n```text\n[f](gone)\n```\n";
        assert_eq!(findings(check, &[("a.md", page)]), [""; 0]);
    }
}
