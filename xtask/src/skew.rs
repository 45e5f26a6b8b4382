//! `cargo xtask skew`: an earlier build beside this one, for tests of clusters of both.
//!
//! Owns how that build is made and where it lies. What is done with it is the tests':
//! `tests/cluster/skew.rs`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// The build that clusters are upgraded from: the first of the wire version that is spoken now.
const EARLIER: &str = "56c1ea8";

/// What is run with it.
const TEST: [&str; 7] = ["test", "--workspace", "--release", "--test", "cluster", "--", "skew::"];

/// Builds a revision, by default [`EARLIER`], and runs the tests.
///
/// Errors: a command cannot be run, or does not succeed.
pub(crate) fn run(root: &Path, revision: Option<&str>) -> io::Result<()> {
    let revision = revision.unwrap_or(EARLIER);
    let place = root.join("target").join("skew");
    let (tree, build) = (place.join("tree"), place.join("build"));
    fs::create_dir_all(&place)?;
    // What an earlier call has left, if it was interrupted.
    let _ = remove(root, &tree);
    let git = |command: &mut Command| well(command.current_dir(root));
    git(Command::new("git").args(["worktree", "add", "--detach"]).arg(&tree).arg(revision))?;
    let built = well(
        Command::new("cargo")
            .args(["build", "--release", "--bin", "gradwire"])
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", &build),
    );
    let removed = remove(root, &tree);
    built.and(removed)?;
    fs::copy(build.join("release").join("gradwire"), place.join("gradwire"))?;
    well(Command::new("cargo").args(TEST).current_dir(root))
}

fn remove(root: &Path, tree: &Path) -> io::Result<()> {
    let mut command = Command::new("git");
    well(command.args(["worktree", "remove", "--force"]).arg(tree).current_dir(root))
}

/// Runs a command, which is expected to succeed, with the caller's output.
fn well(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{program} did not succeed: {status}"))),
    }
}
