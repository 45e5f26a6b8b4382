//! Tells the program which commit it was built from, as far as git knows.

use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let state = match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => " (clean)",
        Some(_) => " (changed)",
        None => "",
    };
    let commit = commit.map_or("unknown".to_owned(), |commit| commit + state);
    let mut out = std::io::stdout().lock();
    // The log of HEAD changes with each commit, HEAD itself with a branch only.
    let log = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]);
    let watched = log.unwrap_or_else(|| "build.rs".to_owned());
    let line =
        format!("cargo::rustc-env=GRADWIRE_COMMIT={commit}\ncargo::rerun-if-changed={watched}\n");
    std::io::Write::write_all(&mut out, line.as_bytes()).expect("cargo reads this");
}
