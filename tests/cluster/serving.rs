//! `gradwire serve`, and jobs that use running servers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::{Files, gradwire, run, stderr, train, wait_for_worker};

/// A running server; dropped, it is killed.
struct Serving {
    child: Child,
    listen: String,
}

impl Serving {
    fn start(arguments: &[&str]) -> Serving {
        let mut all = vec!["serve", "--cores", "2"];
        all.extend(arguments);
        let mut child = gradwire(&all).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().expect("piped"));
        said.read_line(&mut line).expect("text");
        let after = line.split("listen on ").nth(1).unwrap_or_else(|| panic!("{line}"));
        let listen = after.split(';').next().expect("it says what ends it").to_owned();
        Serving { child, listen }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_job_after_the_other_uses_the_same_servers() {
    let (one, two) = (
        Serving::start(&["--listen", "127.0.0.1:0"]),
        Serving::start(&["--listen", "127.0.0.1:0"]),
    );
    let servers = format!("{},{}", one.listen, two.listen);
    let alone = train(&[]);
    for workers in ["1", "2"] {
        let result = train(&["--servers", &servers, "--workers", workers]);
        assert_eq!(result["servers"], 4, "two servers of two shards");
        let (loss, alone) = (result["test_logloss"].as_f64(), alone["test_logloss"].as_f64());
        let apart = (loss.expect("a loss") / alone.expect("a loss") - 1.0).abs();
        assert!(apart < 0.01, "{loss:?} is not {alone:?}");
    }
}

#[test]
fn a_server_in_the_file_system_serves_by_shared_memory() {
    let files = Files::new();
    let listen = format!("unix:{}", files.path("server.sock"));
    let server = Serving::start(&["--listen", &listen]);
    let result = train(&["--servers", &server.listen, "--processes", "--workers", "2"]);
    assert_eq!(result["transport"], "shm");
}

#[test]
fn a_busy_server_refuses_another_job() {
    let server = Serving::start(&["--listen", "127.0.0.1:0"]);
    let endless = ["train", "--train", "gen:criteo?rows=1000000000", "--servers", &server.listen];
    let mut first = gradwire(&endless).stderr(Stdio::null()).spawn().expect("it starts");
    wait_for_worker(first.id());
    let second = run(&["train", "--servers", &server.listen]);
    let _ = first.kill();
    let _ = first.wait();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another job"), "{}", stderr(&second));
    // The first one's end is seen, and the server is free again.
    let third = (0..50).find(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        run(&["train", "--servers", &server.listen]).status.success()
    });
    assert!(third.is_some(), "the server stays busy");
}
