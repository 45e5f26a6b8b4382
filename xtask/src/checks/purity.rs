//! Purity: `wire`, `kernels` and `shard` read no clock, socket, file, environment, thread or random
//! number. The same input gives the same bytes, in a simulation and on a server.

use super::Report;
use crate::manifest;
use crate::rust_source::Source;
use crate::tree::Tree;

const PURE: [&str; 3] = ["wire", "kernels", "shard"];
const STD_MODULES: [&str; 6] = ["env", "fs", "net", "process", "thread", "*"];
const WORDS: [&str; 2] = ["Instant", "SystemTime"];
/// Crates whose whole purpose is what these rooms may not do.
const CRATES: [&str; 4] = ["getrandom", "libc", "rand", "rustix"];

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("purity", "files");
    for crate_name in PURE {
        let folder = format!("{crate_name}/src/");
        for (path, text) in tree.with_extension("rs").filter(|(path, _)| path.starts_with(&folder))
        {
            report.looked_at += 1;
            check_file(&mut report, crate_name, path, text);
        }
        let path = format!("{crate_name}/Cargo.toml");
        for (dependency, line) in manifest::dependencies(tree.text(&path).unwrap_or_default()) {
            if CRATES.contains(&dependency) {
                report.find(&path, line, impure(crate_name, dependency));
            }
        }
    }
    report.done()
}

fn check_file(report: &mut Report, crate_name: &str, path: &str, text: &str) {
    let source = Source::new(text);
    let code = source.code_without_tests();
    for (offset, module) in source.segments_after(code, "std") {
        if STD_MODULES.contains(&module) {
            let what = impure(crate_name, &format!("std::{module}"));
            report.find(path, source.line_at(offset), what);
        }
    }
    for word in WORDS {
        for offset in source.words(code, word) {
            report.find(path, source.line_at(offset), impure(crate_name, word));
        }
    }
}

fn impure(crate_name: &str, what: &str) -> String {
    format!("`{what}` in `{crate_name}`: time, bytes and seeds are arguments there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    #[test]
    fn each_impure_module_word_and_crate_is_found() {
        let text =
            "//! A\nuse std::{\n    fs,\n    fmt,\n};\nfn a() { std::time::Instant::now(); }\n";
        let manifest = "[dependencies]\nrand = \"1\"\n";
        let files = [("shard/src/lib.rs", text), ("shard/Cargo.toml", manifest)];
        let tail = "in `shard`: time, bytes and seeds are arguments there";
        let expected = [
            format!("shard/src/lib.rs:2: `std::fs` {tail}"),
            format!("shard/src/lib.rs:6: `Instant` {tail}"),
            format!("shard/Cargo.toml:2: `rand` {tail}"),
        ];
        assert_eq!(findings(check, &files), expected);
    }

    #[test]
    fn tests_comments_and_other_crates_are_free() {
        let shard = "//! Reads no Instant.\nuse std::time::Duration;\n#[cfg(test)]\n\
            mod tests { use std::thread; }\n";
        let files = [("shard/src/lib.rs", shard), ("server/src/lib.rs", "use std::thread;\n")];
        assert_eq!(findings(check, &files), [""; 0]);
    }
}
