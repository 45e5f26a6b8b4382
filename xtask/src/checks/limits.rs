//! Limits: 100 columns a line, 70 lines a function, 500 lines a file without its tests.
//!
//! A file that a program wrote, and says so in its first words, is left out: nobody reads it.

use super::Report;
use crate::rust_source::Source;
use crate::tree::Tree;

const COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;
const GENERATED: &str = "//! @generated";

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("limits", "files");
    let test_files = test_files(tree);
    for (path, text) in tree.with_extension("rs") {
        report.looked_at += 1;
        if text.starts_with(GENERATED) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                report.find(path, index + 1, format!("{columns} columns, limit {COLUMNS_MAX}"));
            }
        }
        let source = Source::new(text);
        for function in source.functions() {
            let lines = function.lines.len();
            if lines > FUNCTION_LINES_MAX {
                let what =
                    format!("`{}` has {lines} lines, limit {FUNCTION_LINES_MAX}", function.name);
                report.find(path, function.lines.start, what);
            }
        }
        let lines = source.code_without_tests().lines().count();
        if lines > FILE_LINES_MAX && !is_test(path, &test_files) {
            let what = format!("{lines} lines without tests, limit {FILE_LINES_MAX}");
            report.find(path, 1, what);
        }
    }
    report.done()
}

/// Whether the whole file is tests: below a folder `tests`, or a test module of its own.
fn is_test(path: &str, test_files: &[String]) -> bool {
    path.split('/').any(|part| part == "tests") || test_files.iter().any(|file| file == path)
}

/// The files that `#[cfg(test)] mod name;` names, in both places where they may lie.
fn test_files(tree: &Tree) -> Vec<String> {
    let mut files = Vec::new();
    for (path, text) in tree.with_extension("rs") {
        let source = Source::new(text);
        let Some(name) = source.test_file() else { continue };
        let stem = path.trim_end_matches(".rs");
        let folder = stem.rsplit_once('/').map_or("", |(folder, _)| folder);
        files.extend([format!("{stem}/{name}.rs"), format!("{folder}/{name}.rs")]);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    #[test]
    fn a_line_of_101_columns_is_found_and_columns_are_characters() {
        let text = format!("{}\n{}\n", "ü".repeat(100), "a".repeat(101));
        assert_eq!(findings(check, &[("a.rs", &text)]), ["a.rs:2: 101 columns, limit 100"]);
    }

    #[test]
    fn a_function_of_71_lines_is_found() {
        let function = |lines: usize| format!("fn a() {{\n{}}}\n", "b();\n".repeat(lines - 2));
        assert_eq!(findings(check, &[("a.rs", &function(70))]), [""; 0]);
        let found = findings(check, &[("a.rs", &function(71))]);
        assert_eq!(found, ["a.rs:1: `a` has 71 lines, limit 70"]);
    }

    #[test]
    fn a_file_of_501_lines_is_found_and_its_tests_do_not_count() {
        let long = "//! A\n".repeat(501);
        let found = findings(check, &[("a.rs", &long)]);
        assert_eq!(found, ["a.rs:1: 501 lines without tests, limit 500"]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// b\n".repeat(500));
        assert_eq!(findings(check, &[("a.rs", &tests)]), [""; 0]);
        assert_eq!(findings(check, &[("a/tests/b.rs", &long)]), [""; 0]);
        let generated = format!("//! @generated: numbers\n{long}");
        assert_eq!(findings(check, &[("a.rs", &generated)]), [""; 0]);
        let parent = ("src/a.rs", "#[cfg(test)]\nmod trials;\n");
        assert_eq!(findings(check, &[parent, ("src/a/trials.rs", &long)]), [""; 0]);
    }
}
