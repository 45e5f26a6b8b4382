//! Layout: `docs/wire.md` was drawn from the header as it stands.
//!
//! The page carries a hash of the lines between two markers of the header's source. Whoever
//! changes the header changes the page, raises the version if peers could misread it, and writes
//! the new hash, which the finding tells. Beside that, the page has a row for each kind.

use super::Report;
use crate::tree::Tree;

const SOURCE_FILE: &str = "wire/src/header.rs";
const PAGE_FILE: &str = "docs/wire.md";
const BEGIN: &str = "// layout-begin\n";
const END: &str = "// layout-end\n";
const HASH_LINE: &str = "layout-hash: ";
const KINDS: &str = "pub enum Kind {\n";

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("layout", "layouts and kinds");
    let Some(source) = tree.text(SOURCE_FILE) else { return report.done() };
    let marked = source.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let Some((layout, _)) = marked else {
        report.find(SOURCE_FILE, 1, "the markers `layout-begin` and `layout-end` are gone");
        return report.done();
    };
    report.looked_at += 1;
    let drawn = format!("{:#018x}", fnv1a(layout.as_bytes()));
    let page = tree.text(PAGE_FILE).unwrap_or_default();
    let written = page.lines().enumerate().find_map(|(index, line)| {
        let (_, hash) = line.split_once(HASH_LINE)?;
        Some((index + 1, hash.trim_matches(['`', ' '])))
    });
    match written {
        Some((_, hash)) if hash == drawn => {}
        Some((line, hash)) => {
            let what = format!("drawn from the layout {hash}, the header's is {drawn}");
            report.find(PAGE_FILE, line, what);
        }
        None => report.find(PAGE_FILE, 1, format!("no line `{HASH_LINE}{drawn}`")),
    }
    for (name, number) in kinds(source) {
        report.looked_at += 1;
        let row = format!("| {number} | {} |", name.to_lowercase());
        if !page.contains(&row) {
            report.find(PAGE_FILE, 1, format!("no row `{row}` for the kind `{name}`"));
        }
    }
    report.done()
}

/// Names and numbers of the kinds of messages.
fn kinds(source: &str) -> Vec<(&str, &str)> {
    let Some((_, kinds)) = source.split_once(KINDS) else { return Vec::new() };
    let lines = kinds.lines().take_while(|line| *line != "}");
    lines.filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = ")).collect()
}

/// FNV-1a of 64 bits. Source: Fowler, Noll, Vo, draft-eastlake-fnv.
fn fnv1a(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    const HEADER: &str = "a\n// layout-begin\nfoobar// layout-end\nb\n";

    #[test]
    fn the_hash_has_its_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_page_drawn_from_another_layout_is_found_with_both_hashes() {
        let good = "# Wire\nlayout-hash: 0x85944171f73967e8\n";
        assert_eq!(findings(check, &[(SOURCE_FILE, HEADER), (PAGE_FILE, good)]), [""; 0]);
        let bad = "# Wire\nlayout-hash: 0x0000000000000001\n";
        let expected = "docs/wire.md:2: drawn from the layout 0x0000000000000001, the header's is \
            0x85944171f73967e8";
        assert_eq!(findings(check, &[(SOURCE_FILE, HEADER), (PAGE_FILE, bad)]), [expected]);
    }

    #[test]
    fn a_kind_without_a_row_is_found() {
        let kinds = "pub enum Kind {\n    /// Asks.\n    Pull = 5,\n    Push = 7,\n}\n";
        let source = format!("{HEADER}{kinds}");
        let page = "layout-hash: 0x85944171f73967e8\n| 5 | pull |\n";
        let found = findings(check, &[(SOURCE_FILE, &source), (PAGE_FILE, page)]);
        assert_eq!(found, ["docs/wire.md:1: no row `| 7 | push |` for the kind `Push`"]);
    }

    #[test]
    fn a_page_without_a_hash_is_found() {
        let found = findings(check, &[(SOURCE_FILE, HEADER)]);
        assert_eq!(found, ["docs/wire.md:1: no line `layout-hash: 0x85944171f73967e8`"]);
    }
}
