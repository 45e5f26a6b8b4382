//! Repository chores: `cargo xtask tidy` checks what the compiler cannot, `cargo xtask guest` runs
//! a command where there is RDMA, `cargo xtask skew` an earlier build beside this one.
//!
//! Owns the command line and the order of the checks. Reading files is left to `tree`, reading
//! them to `rust_source` and `manifest`, each rule to one file of `checks`, guests to `guest`,
//! builds to `skew`.
//!
//! Invariant: a check that found nothing to look at is a finding, not a pass.
#![forbid(unsafe_code)]

mod checks;
mod guest;
mod manifest;
mod rust_source;
mod skew;
mod tree;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use checks::Report;
use tree::Tree;

const USAGE: &str = "usage: cargo xtask tidy
       cargo xtask guest [OPTION]... -- COMMAND [ARGUMENT]...
       cargo xtask guest --suite
       cargo xtask guest --two [OPTION]... -- COMMAND [ARGUMENT]... -- COMMAND [ARGUMENT]...
       cargo xtask skew [REVISION]
`cargo xtask guest --help` tells more";
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let root = workspace_root();
    let done =
        match arguments.split_first() {
            Some((command, [])) if command == "tidy" => tidy(&root).map(|findings_count| {
                if findings_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }),
            Some((command, rest)) if command == "guest" => {
                guest::run(&root, rest).map(ExitCode::from)
            }
            Some((command, rest)) if command == "skew" && rest.len() <= 1 => {
                let revision = rest.first().map(String::as_str);
                skew::run(&root, revision).map(|()| ExitCode::SUCCESS)
            }
            _ => {
                let _ = writeln!(io::stderr(), "{USAGE}");
                return ExitCode::from(EXIT_USAGE);
            }
        };
    done.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "xtask: {error}");
        ExitCode::FAILURE
    })
}

/// The folder above this crate's own: where the workspace's `Cargo.toml` lies.
fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| own.to_path_buf(), Path::to_path_buf)
}

/// Runs every check over the tree below `root` and prints one line a finding on stdout, the
/// summary on stderr. Returns the count of findings.
fn tidy(root: &Path) -> io::Result<usize> {
    let tree = Tree::read(root)?;
    let reports = checks::all(&tree);
    let mut findings: Vec<_> = reports.iter().flat_map(|report| &report.findings).collect();
    findings.sort();
    findings.dedup();

    let mut stdout = io::stdout().lock();
    for finding in &findings {
        writeln!(stdout, "{finding}")?;
    }
    summarise(&reports, findings.len())?;
    Ok(findings.len())
}

fn summarise(reports: &[Report], findings_count: usize) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "check     findings  looked_at")?;
    for Report { check, looked_at, unit, findings } in reports {
        writeln!(stderr, "{check:<8} {:>9}  {looked_at} {unit}", findings.len())?;
    }
    writeln!(stderr, "tidy: {} checks, {findings_count} findings", reports.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_root_holds_this_crate() {
        let root = workspace_root();
        assert!(root.join("xtask/src/main.rs").is_file(), "{}", root.display());
    }

    #[test]
    fn an_empty_tree_passes_no_check() {
        for report in checks::all(&Tree::from_files(&[])) {
            assert_eq!(report.looked_at, 0, "{}", report.check);
            assert!(!report.findings.is_empty(), "{} is content with nothing", report.check);
        }
    }
}
