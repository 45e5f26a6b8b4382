//! Opening: every Rust file begins with `//!`, what it owns and what it leaves to whom.

use super::Report;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("opening", "files");
    for (path, text) in tree.with_extension("rs") {
        report.looked_at += 1;
        if !text.starts_with("//! ") {
            report.find(path, 1, "the file does not begin with `//!` and a sentence");
        }
    }
    report.done()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    #[test]
    fn a_file_that_begins_with_anything_else_is_found() {
        let expected = "a.rs:1: the file does not begin with `//!` and a sentence";
        assert_eq!(findings(check, &[("a.rs", "use b;\n//! A\n")]), [expected]);
        assert_eq!(findings(check, &[("a.rs", "//!\nuse b;\n")]), [expected]);
        assert_eq!(findings(check, &[("a.rs", "//! A.\nuse b;\n")]), [""; 0]);
    }
}
