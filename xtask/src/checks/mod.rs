//! The checks, one rule a file, and what they report.
//!
//! Owns the list and the form of a finding. A check takes the tree and returns a [`Report`].

mod arrows;
mod environment;
mod folders;
mod kernels;
mod layout;
mod limits;
mod links;
mod opening;
mod purity;
mod unsafety;

use std::fmt;

use crate::tree::Tree;

/// Runs every check.
pub(crate) fn all(tree: &Tree) -> Vec<Report> {
    let checks = [
        arrows::check,
        environment::check,
        folders::check,
        kernels::check,
        layout::check,
        limits::check,
        links::check,
        opening::check,
        purity::check,
        unsafety::check,
    ];
    checks.into_iter().map(|check| check(tree)).collect()
}

/// What one check has looked at and found.
pub(crate) struct Report {
    pub(crate) check: &'static str,
    pub(crate) looked_at: usize,
    /// What `looked_at` counts.
    pub(crate) unit: &'static str,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    fn new(check: &'static str, unit: &'static str) -> Self {
        Self { check, looked_at: 0, unit, findings: Vec::new() }
    }

    fn find(&mut self, path: &str, line: usize, what: impl Into<String>) {
        self.findings.push(Finding { path: path.to_owned(), line, what: what.into() });
    }

    /// Ends the check. One that has looked at nothing has found that.
    fn done(mut self) -> Self {
        if self.looked_at == 0 {
            let what = format!("the check `{}` found no {} to look at", self.check, self.unit);
            self.find("Cargo.toml", 1, what);
        }
        self
    }
}

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// 1-based.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Findings of one check over a tree of these files, as printed.
#[cfg(test)]
fn findings(check: fn(&Tree) -> Report, files: &[(&str, &str)]) -> Vec<String> {
    check(&Tree::from_files(files)).findings.iter().map(ToString::to_string).collect()
}
