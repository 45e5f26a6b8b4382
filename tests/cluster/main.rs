//! The program as its users run it: real processes, real files, real deaths.
//!
//! Owns running the built program and reading what it says. Each file holds one kind of story.
#![forbid(unsafe_code)]

mod bad_input;
mod bare_link;
mod checkpoints;
mod cluster_bench;
mod coordinating;
mod crowds;
mod death;
mod disks;
mod doctor;
mod etcd;
mod failover;
mod faults;
mod hot;
mod lives;
mod metrics;
mod namespaces;
#[cfg(feature = "s3")]
mod object_store;
mod own_rule;
mod partition;
mod processes;
mod rdma;
mod rdma_counts;
mod recording_memory;
mod restoring;
mod rounding;
mod row_life;
mod serving;
mod several_hosts;
mod shaped_link;
mod skew;
mod stand_by;
mod standby;
mod training;
mod under_load;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program, told to run from the repository's root.
pub(crate) fn gradwire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradwire"));
    command.current_dir(root()).args(arguments).stdin(Stdio::null());
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    gradwire(arguments).output().expect("the program runs")
}

/// Runs the program, which is expected to succeed. Returns its stdout.
pub(crate) fn run_well(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Trains with `--json`. Returns its figures.
pub(crate) fn train(arguments: &[&str]) -> Value {
    let mut all = vec!["train", "--json"];
    all.extend(arguments);
    serde_json::from_str(&run_well(&all)).expect("one line of JSON")
}

/// What the program said to people.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with files in it.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Files {
        Files(tempfile::tempdir().expect("a temporary directory"))
    }

    /// Writes a file. Returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.path().join(name), content).expect("written");
        self.path(name)
    }

    /// The path of a file that may or may not be there.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    /// Names of all that is there.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("readable");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.map(name).map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Far beyond what anything here may take: a test that waits longer hangs.
const HANG: Duration = Duration::from_secs(60);

/// Waits until there is something to see.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    look_until_hang(look).unwrap_or_else(|| panic!("no {what}"))
}

/// The first thing that there is to see; nothing where there is none for so long that it hangs.
pub(crate) fn look_until_hang<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + HANG;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a run has a worker at work: as a thread, or as a process.
pub(crate) fn wait_for_worker(run: u32) {
    wait_for("worker at work", || {
        let tasks = std::fs::read_dir(format!("/proc/{run}/task")).ok()?;
        let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
        let works = |name: &str| name.starts_with("worker-0");
        let thread = names.flatten().any(|name| works(&name));
        (thread || !processes::children(run, "worker").is_empty()).then_some(())
    });
    // It has yet to join, and to learn from a first batch.
    std::thread::sleep(Duration::from_millis(700));
}

/// Says that a test did not run, past the test runner's capture.
pub(crate) fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// So many rows of LibSVM with two classes that one feature tells apart.
pub(crate) fn rows(count: usize) -> String {
    let row =
        |number: usize| format!("{} {}:1 {}:1\n", number % 2, number % 2 + 1, number % 7 + 10);
    (0..count).map(row).collect()
}
