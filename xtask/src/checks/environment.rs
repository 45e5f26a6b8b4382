//! Environment: code that ships reads no environment variable. A setting stands on the command
//! line or in a file, where `--help` and the run's own record show it.

use super::Report;
use crate::manifest;
use crate::rust_source::Source;
use crate::tree::Tree;

/// What reads variables in `std::env`.
const READERS: [&str; 4] = ["var", "var_os", "vars", "vars_os"];
/// What reads variables elsewhere: the log filter's constructors.
const READING_METHODS: [&str; 4] =
    ["from_default_env", "try_from_default_env", "from_env", "try_from_env"];

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("env", "files");
    let members = manifest::shipped_members(tree);
    for (path, text) in tree.with_extension("rs") {
        if !members.iter().any(|member| path.starts_with(&format!("{member}/src/"))) {
            continue;
        }
        report.looked_at += 1;
        let source = Source::new(text);
        let code = source.code_without_tests();
        let readers = source.segments_after(code, "env").into_iter();
        let readers = readers.filter(|(_, item)| READERS.contains(item));
        let methods = READING_METHODS
            .iter()
            .flat_map(|method| source.words(code, method).into_iter().map(|at| (at, *method)));
        for (offset, name) in readers.chain(methods) {
            let what = format!("`{name}` reads the environment; a setting is an argument");
            report.find(path, source.line_at(offset), what);
        }
    }
    report.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    const MEMBERS: (&str, &str) = ("Cargo.toml", "members = [\"learn\", \"xtask\"]");

    #[test]
    fn each_way_to_read_a_variable_is_found() {
        for text in [
            "//! A\nfn a() { std::env::var(\"A\"); }",
            "//! A\nuse std::env::{args, var_os};",
            "//! A\nfn a() { EnvFilter::from_default_env() }",
        ] {
            let found = findings(check, &[MEMBERS, ("learn/src/lib.rs", text)]);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("learn/src/lib.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn arguments_tests_and_chores_are_free() {
        let text = "use std::env;\nfn a() { env::args(); }\n#[cfg(test)]\nmod tests { fn a() { \
            env::var(b); } }\n";
        let chores = ("xtask/src/main.rs", "fn a() { env::var(b); }");
        let found = findings(check, &[MEMBERS, ("learn/src/lib.rs", text), chores]);
        assert_eq!(found, [""; 0]);
    }
}
