//! Somebody is killed: the job ends with the name of who it was, and nobody hangs.

use std::fs;
use std::io::Read;
use std::time::Duration;

use rustix::process::Signal;

use crate::processes::{Running, children, signal};
use crate::{gradwire, wait_for, wait_for_worker};

/// More rows than a test has time for.
const ENDLESS: &str = "gen:criteo?rows=1000000000&seed=1";

fn endless(arguments: &[&str]) -> Running {
    let mut all = vec!["train", "--train", ENDLESS, "--workers", "2", "--servers-local", "2"];
    all.extend(arguments);
    Running::start(&mut gradwire(&all))
}

/// Kills one of the two children of this kind once they are at work. Returns what was said.
fn killed(word: &str, arguments: &[&str]) -> (String, u32) {
    let mut job = endless(arguments);
    let victim = wait_for("two workers", || {
        let workers = children(job.id(), "worker");
        let found = children(job.id(), word);
        (workers.len() == 2 && found.len() == 2).then(|| found[1])
    });
    // Somewhere in the middle of the work, after both have joined.
    std::thread::sleep(Duration::from_millis(700));
    signal(victim, Signal::KILL);
    let (status, said) = job.end();
    assert_eq!(status.code(), Some(1));
    (said, victim)
}

#[test]
fn a_killed_worker_ends_the_job_with_its_name() {
    for transport in ["shm", "uring"] {
        let (said, victim) = killed("worker", &["--processes", "--transport", transport]);
        assert!(said.contains(&format!("(process {victim}) died")), "{said}");
        assert!(said.contains("worker"), "{said}");
    }
}

#[test]
fn a_killed_server_ends_the_job_with_its_name() {
    for transport in ["shm", "uring"] {
        let (said, victim) = killed("serve", &["--processes", "--transport", transport]);
        assert!(said.contains(&format!("(process {victim}) died")), "{said}");
        assert!(said.contains("server"), "{said}");
    }
}

#[test]
fn children_end_when_their_parent_is_killed() {
    let job = endless(&["--processes"]);
    let orphans = wait_for("four children", || {
        let mut found = children(job.id(), "worker");
        found.extend(children(job.id(), "serve"));
        (found.len() == 4).then_some(found)
    });
    drop(job);
    for orphan in orphans {
        let gone = || match fs::read_to_string(format!("/proc/{orphan}/stat")) {
            Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z')),
            Err(_) => true,
        };
        wait_for("end of an orphan", || gone().then_some(()));
    }
}

#[test]
fn ctrl_c_ends_a_run_in_good_order_and_keeps_the_model() {
    let files = crate::Files::new();
    let model = files.path("model");
    for processes in [&[][..], &["--processes"]] {
        let mut arguments = vec!["--save", &model, "--json"];
        arguments.extend(processes);
        let mut job = endless(&arguments);
        wait_for_worker(job.id());
        signal(job.id(), Signal::INT);
        let (status, _) = job.end();
        assert_eq!(status.code(), Some(1), "an interrupted run is not a whole one");
        let mut printed = String::new();
        job.stdout().read_to_string(&mut printed).expect("text");
        assert!(printed.contains("\"rows\":"), "{printed}");
        assert!(fs::metadata(files.path("model/model.json")).is_ok(), "the model is saved");
        fs::remove_dir_all(&model).expect("it is ours");
    }
}
