//! Unsafe: three crates may hold it, each block with its proof; the roots of all others forbid it.
//!
//! That a block does one unsafe thing is left to clippy; that a proof proves, to the reader.

use super::Report;
use crate::manifest::{self, UNSAFE_HOMES};
use crate::rust_source::Source;
use crate::tree::Tree;

const PROOF: &str = "// SAFETY:";
const FORBID: &str = "#![forbid(unsafe_code)]";
const ROOTS: [&str; 2] = ["src/lib.rs", "src/main.rs"];
const BINARIES: &str = "src/bin/";

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("unsafe", "files");
    for (path, text) in tree.with_extension("rs") {
        report.looked_at += 1;
        let source = Source::new(text);
        let home = UNSAFE_HOMES.iter().any(|home| path.starts_with(&format!("{home}/")));
        for offset in source.words(&source.code, "unsafe") {
            let line = source.line_at(offset);
            if !home {
                report.find(path, line, "`unsafe` outside of its homes");
            } else if needs_proof(&source.code[offset..]) && !has_proof(&source, offset) {
                report.find(path, line, format!("`unsafe` without `{PROOF}` above it"));
            }
        }
    }
    find_roots_that_allow(tree, &mut report);
    report.done()
}

/// Whether the `unsafe` that `code` starts with takes on a duty: a block or an implementation. A
/// function or type that is declared so hands the duty on.
fn needs_proof(code: &str) -> bool {
    let next = code["unsafe".len()..].trim_start();
    next.starts_with('{') || next.starts_with("impl")
}

/// Whether a proof stands between the statement's start and the `unsafe` at `offset`.
fn has_proof(source: &Source<'_>, offset: usize) -> bool {
    let start = source.code[..offset].rfind([';', '{', '}']).map_or(0, |end| end + 1);
    source.text[start..offset].contains(PROOF)
}

fn find_roots_that_allow(tree: &Tree, report: &mut Report) {
    for member in manifest::members(tree).iter().filter(|member| !UNSAFE_HOMES.contains(member)) {
        let binaries = format!("{member}/{BINARIES}");
        let roots = ROOTS.map(|root| format!("{member}/{root}"));
        for (path, text) in tree.with_extension("rs") {
            let is_root = roots.iter().any(|root| root == path) || path.starts_with(&binaries);
            if is_root && !text.contains(FORBID) {
                report.find(path, 1, format!("no `{FORBID}`"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    #[test]
    fn unsafe_outside_of_its_homes_is_found_in_tests_too() {
        let text = "//! unsafe\n#[cfg(test)]\nmod tests { fn a() { unsafe { b() } } }\n";
        let expected = "shard/src/a.rs:3: `unsafe` outside of its homes";
        assert_eq!(findings(check, &[("shard/src/a.rs", text)]), [expected]);
    }

    #[test]
    fn a_block_or_impl_without_proof_is_found_and_a_declaration_is_not() {
        let text = "unsafe fn a() {}\n// SAFETY: of another statement.\nb();\n\
            let c = unsafe { a() };\nunsafe impl Send for D {}\n";
        let expected = [
            "memory/src/a.rs:4: `unsafe` without `// SAFETY:` above it",
            "memory/src/a.rs:5: `unsafe` without `// SAFETY:` above it",
        ];
        assert_eq!(findings(check, &[("memory/src/a.rs", text)]), expected);
    }

    #[test]
    fn a_proof_above_the_statement_or_the_arm_counts() {
        let text = "fn a() {\n    // SAFETY: b's line.\n    let c =\n        unsafe { b() };\n\
            match d {\nE => f(),\n// SAFETY: as above.\nG => unsafe { b() },\n}\n}\n";
        assert_eq!(findings(check, &[("kernels/src/a.rs", text)]), [""; 0]);
    }

    #[test]
    fn a_root_that_does_not_forbid_is_found() {
        let files = [
            ("Cargo.toml", "members = [\"wire\", \"tools\", \"memory\"]"),
            ("wire/src/lib.rs", "#![forbid(unsafe_code)]"),
            ("tools/src/bin/a.rs", ""),
            ("memory/src/lib.rs", ""),
        ];
        let expected = "tools/src/bin/a.rs:1: no `#![forbid(unsafe_code)]`";
        assert_eq!(findings(check, &files), [expected]);
    }
}
