//! A coordinator as a process: what it shows, what it refuses, and that it may be killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::{gradwire, run, run_well, stderr};

/// A coordinator that is killed, and not asked, when it is dropped.
pub(crate) struct Coordinator {
    process: Child,
    pub(crate) address: String,
}

impl Coordinator {
    pub(crate) fn start(data: &Path, cluster: &str) -> Coordinator {
        let data = data.to_str().expect("text");
        let arguments = ["coordinate", "--listen", "127.0.0.1:0", "--shards", "8", "--json"];
        let mut command = gradwire(&arguments);
        command.args(["--data", data, "--cluster", cluster]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program runs");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("one line of JSON");
        Coordinator { process, address: ready["listen"].as_str().expect("an address").to_owned() }
    }

    fn status(&self, more: &[&str]) -> String {
        let arguments = ["status", "--coordinator", &self.address, "--cluster", "ctr"];
        run_well(&[&arguments, more].concat())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_cluster_without_servers_shows_what_it_waits_for() {
    let data = tempfile::tempdir().expect("a directory");
    let coordinator = Coordinator::start(data.path(), "ctr");
    let text = coordinator.status(&[]);
    assert!(text.contains("nothing is placed yet: 0 of 2 servers are there"), "{text}");
    let status: Value = serde_json::from_str(&coordinator.status(&["--json"])).expect("JSON");
    assert_eq!((&status["cluster"], &status["epoch"]), (&"ctr".into(), &0.into()));
}

#[test]
fn a_killed_coordinator_starts_again_on_its_directory_and_nobody_else_does() {
    let data = tempfile::tempdir().expect("a directory");
    let first = Coordinator::start(data.path(), "ctr");
    let again = |cluster: &str| {
        let data = data.path().to_str().expect("text");
        let output = run(&[
            "coordinate",
            "--listen",
            "127.0.0.1:0",
            "--shards",
            "8",
            "--data",
            data,
            "--cluster",
            cluster,
        ]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output)
    };
    let in_use = again("ctr");
    assert!(in_use.contains("open in another process"), "{in_use}");
    drop(first);
    let other = again("ads");
    assert!(other.contains("holds cluster \"ctr\""), "{other}");
    let second = Coordinator::start(data.path(), "ctr");
    assert!(second.status(&[]).contains("cluster ctr"));
}

#[test]
fn what_cannot_be_done_ends_in_one_line() {
    let data = tempfile::tempdir().expect("a directory");
    let coordinator = Coordinator::start(data.path(), "ctr");
    let at = ["--coordinator", &coordinator.address, "--cluster", "ctr"];
    let stories = [
        (vec!["cluster", "drain", "--server", "3"], "server 3 is no member"),
        (vec!["cluster", "forget", "--server", "3"], "server 3 is no member"),
        (
            vec!["cluster", "move", "--shard", "1", "--from", "1", "--to", "2"],
            "there is no shard 1",
        ),
    ];
    for (words, line) in stories {
        let output = run(&[&words[..], &at].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(line), "{said}");
    }
    let elsewhere = ["status", "--coordinator", &coordinator.address, "--cluster", "ads"];
    let said = stderr(&run(&elsewhere));
    assert!(said.contains("\"ads\"") && said.contains("\"ctr\""), "{said}");
    let elsewhere = ["train", "--coordinator", &coordinator.address, "--cluster", "ads"];
    let said = stderr(&run(&elsewhere));
    assert!(said.contains("the coordinator denies") && said.contains("\"ctr\""), "{said}");
}
