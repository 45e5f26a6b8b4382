//! Arrows: a crate imports only what its row of the table in `ARCHITECTURE.md` allows.
//!
//! The table is the rule; this file only reads it. A cell says `yes`, nothing, `**never**`, or
//! names the items that may be used: `` `Isa` only ``. What tests import is free.

use std::collections::BTreeMap;

use super::Report;
use crate::manifest::{self, OWN_FOLDER, TESTS_FOLDER};
use crate::rust_source::Source;
use crate::tree::Tree;

const TABLE_FILE: &str = "ARCHITECTURE.md";
/// How the table's head begins.
const TABLE_HEAD: &str = "| |";

enum Arrow {
    Free,
    Forbidden,
    Only(Vec<String>),
}

/// For each importing crate, what it may do with each imported one.
type Table = BTreeMap<String, BTreeMap<String, Arrow>>;

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("arrows", "crates");
    let table = read_table(tree.text(TABLE_FILE).unwrap_or_default());
    let forbidden = BTreeMap::new();
    for member in manifest::members(tree) {
        if member.starts_with(TESTS_FOLDER) {
            continue;
        }
        let path = format!("{member}/Cargo.toml");
        let Some(text) = tree.text(&path) else { continue };
        report.looked_at += 1;
        let row = table.get(member).unwrap_or(&forbidden);
        if row.is_empty() && member != OWN_FOLDER {
            report.find(TABLE_FILE, 1, format!("the table of arrows has no row for `{member}`"));
        }
        for (dependency, line) in manifest::dependencies(text) {
            if !manifest::members(tree).contains(&dependency) {
                continue;
            }
            match row.get(dependency) {
                Some(Arrow::Free) => {}
                Some(Arrow::Only(items)) => restrict(tree, &mut report, member, dependency, items),
                Some(Arrow::Forbidden) | None => report.find(
                    &path,
                    line,
                    format!("`{member}` may not import `{dependency}`: see {TABLE_FILE}"),
                ),
            }
        }
    }
    report.done()
}

/// Reads the first table whose head's first cell is empty. Rows may name several crates.
fn read_table(text: &str) -> Table {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(TABLE_HEAD));
    let columns: Vec<String> = lines.next().map(cells).unwrap_or_default();
    let rows = lines.take_while(|line| line.starts_with('|')).filter(|l| !l.starts_with("|-"));
    let mut table = Table::new();
    for row in rows {
        let cells = cells(row);
        let Some(names) = cells.first() else { continue };
        for name in names.split(',') {
            let arrows = columns.iter().zip(&cells).skip(1);
            let row = arrows.map(|(column, cell)| (column.clone(), arrow(cell))).collect();
            table.insert(name.trim().to_owned(), row);
        }
    }
    table
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn arrow(cell: &str) -> Arrow {
    match cell.strip_suffix("only") {
        Some(items) => {
            let items = items.split(',').map(|item| item.trim().trim_matches('`').to_owned());
            Arrow::Only(items.collect())
        }
        None if cell == "yes" => Arrow::Free,
        None => Arrow::Forbidden,
    }
}

/// Finds each use of `imported` in `member`'s code that names something else than `items`.
fn restrict(tree: &Tree, report: &mut Report, member: &str, imported: &str, items: &[String]) {
    let folder = format!("{member}/src/");
    for (path, text) in tree.with_extension("rs").filter(|(path, _)| path.starts_with(&folder)) {
        let source = Source::new(text);
        let code = source.code_without_tests();
        for (offset, item) in source.segments_after(code, imported) {
            if is_path_start(code, offset) && !items.iter().any(|allowed| allowed == item) {
                let allowed = items.join("`, `");
                let line = source.line_at(offset);
                let what = format!(
                    "`{imported}::{item}` used; of `{imported}`, `{member}` may use `{allowed}`"
                );
                report.find(path, line, what);
            }
        }
        for whole in [format!("use {imported};"), format!("use {imported} as ")] {
            if let Some(offset) = code.find(&whole) {
                let line = source.line_at(offset);
                report.find(path, line, format!("`{imported}` is imported as a whole"));
            }
        }
    }
}

/// Whether the word at `offset` begins its path: `crate::shard::x` is no use of the crate `shard`.
fn is_path_start(code: &str, offset: usize) -> bool {
    let before = &code[..offset];
    let named = before.strip_suffix("::").is_some_and(|before| {
        before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '>')
    });
    !named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    const MEMBERS: &str = "members = [\"wire\", \"shard\", \"learn\", \"xtask\", \"tests/sim\"]";
    const TABLE: &str = "# A\n\n| | wire | shard |\n|---|---|---|\n| wire | | |\n\
        | shard | yes | **never** |\n| learn, tools | | `rule` only |\n\ntext\n";

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![("Cargo.toml", MEMBERS), (TABLE_FILE, TABLE)];
        all.extend(files);
        findings(check, &all)
    }

    #[test]
    fn an_arrow_that_the_table_does_not_draw_is_found() {
        let wire = ("wire/Cargo.toml", "[dependencies]\nshard.workspace = true\n");
        let shard = ("shard/Cargo.toml", "[dependencies]\nwire.workspace = true\nlibc = \"1\"\n");
        let expected = "wire/Cargo.toml:2: `wire` may not import `shard`: see ARCHITECTURE.md";
        assert_eq!(found(&[wire, shard]), [expected]);
    }

    #[test]
    fn a_crate_without_a_row_is_found_and_the_tests_need_none() {
        let members = "members = [\"lost\", \"tests/sim\"]";
        let files = [
            ("Cargo.toml", members),
            (TABLE_FILE, TABLE),
            ("lost/Cargo.toml", ""),
            ("tests/sim/Cargo.toml", "[dependencies]\nlost.workspace = true\n"),
        ];
        let expected = "ARCHITECTURE.md:1: the table of arrows has no row for `lost`";
        assert_eq!(findings(check, &files), [expected]);
    }

    #[test]
    fn a_restricted_arrow_allows_the_named_item_only() {
        let manifest = ("learn/Cargo.toml", "[dependencies]\nshard.workspace = true\n");
        let good = "use shard::rule::Ftrl;\nuse crate::shard::Any;\n";
        assert!(found(&[manifest, ("learn/src/lib.rs", good)]).is_empty());
        let bad = "use shard::{rule::Ftrl, Table};\nuse shard;\n";
        let expected = [
            "learn/src/lib.rs:1: `shard::Table` used; of `shard`, `learn` may use `rule`",
            "learn/src/lib.rs:2: `shard` is imported as a whole",
        ];
        assert_eq!(found(&[manifest, ("learn/src/lib.rs", bad)]), expected);
    }
}
