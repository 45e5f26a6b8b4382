//! Somebody is killed: the job ends with the name of who it was, and nobody hangs.

use std::fs;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{gradwire, wait_for, wait_for_worker};

/// More rows than a test has time for.
const ENDLESS: &str = "gen:criteo?rows=1000000000&seed=1";

/// A run under way; dropped, it is killed, and with it its children.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Job {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Job {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

fn endless(arguments: &[&str]) -> Job {
    let mut all = vec!["train", "--train", ENDLESS, "--workers", "2", "--servers-local", "2"];
    all.extend(arguments);
    let mut command = gradwire(&all);
    Job(command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts"))
}

/// The children of a process whose command has this word.
pub(crate) fn children(parent: u32, word: &str) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let numbers = list.unwrap_or_default();
    let numbers = numbers.split_whitespace().filter_map(|number| number.parse().ok());
    let has_word = |&number: &u32| {
        let command = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        command.split(|&byte| byte == 0).nth(1) == Some(word.as_bytes())
    };
    numbers.filter(has_word).collect()
}

fn kill(process: u32) {
    let pid = Pid::from_raw(i32::try_from(process).expect("a process number"));
    kill_process(pid.expect("not zero"), Signal::KILL).expect("it is there");
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
    kill(victim);
    let status = wait_for("end of the job", || job.try_wait().expect("it is ours"));
    assert_eq!(status.code(), Some(1));
    let mut said = String::new();
    job.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
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
    let mut job = endless(&["--processes"]);
    let orphans = wait_for("four children", || {
        let mut found = children(job.id(), "worker");
        found.extend(children(job.id(), "serve"));
        (found.len() == 4).then_some(found)
    });
    job.kill().expect("it is ours");
    job.wait().expect("it is ours");
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
        let pid = Pid::from_raw(i32::try_from(job.id()).expect("a process number"));
        kill_process(pid.expect("not zero"), Signal::INT).expect("it is there");
        let status = wait_for("end of the job", || job.try_wait().expect("it is ours"));
        assert_eq!(status.code(), Some(1), "an interrupted run is not a whole one");
        let mut printed = String::new();
        job.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
        assert!(printed.contains("\"rows\":"), "{printed}");
        assert!(fs::metadata(files.path("model/model.json")).is_ok(), "the model is saved");
        fs::remove_dir_all(&model).expect("it is ours");
    }
}
