//! Workers are killed, as by `kill -9`, and their jobs go on without losing or doubling a batch.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::coordinating::Coordinator;
use crate::processes::{children, signal};
use crate::{Files, gradwire, run, run_well, stderr, train, wait_for};

/// A run under way; dropped, it is killed, and with it its children.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Job {
    fn start(arguments: &[&str]) -> Job {
        let mut all = vec!["train", "--json", "--processes"];
        all.extend(arguments);
        let mut command = gradwire(&all);
        Job(command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts"))
    }

    /// Kills one of the run's children of this kind, drawn by a number; none that has gone.
    fn kill_one(&self, word: &str, draw: u64) {
        let found = children(self.0.id(), word);
        let victim = found.get(draw as usize % found.len().max(1));
        let pid = victim.and_then(|&process| Pid::from_raw(process as i32));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_some()
    }

    /// Its figures, once it has ended well.
    fn figures(mut self) -> Value {
        let status = wait_for("end of the job", || self.0.try_wait().expect("it is ours"));
        let mut said = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(status.success(), "{said}");
        let mut printed = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
        serde_json::from_str(&printed).expect("one line of JSON")
    }
}

/// The numbers of a seed, one after another.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

/// Kills workers at moments that the seed draws, and one server, until the run ends. How many.
fn torment(job: &mut Job, seed: u64, workers: usize) -> u64 {
    wait_for("workers", || (children(job.0.id(), "worker").len() == workers).then_some(()));
    let mut draws = Draws(seed);
    let mut kills = 0;
    while !job.has_ended() && kills < 8 {
        std::thread::sleep(Duration::from_millis(30 + draws.next() % 400));
        job.kill_one("worker", draws.next());
        kills += 1;
        if kills == 3 {
            job.kill_one("serve", draws.next());
        }
    }
    kills
}

#[test]
fn under_bsp_a_model_whose_worker_was_killed_again_and_again_has_the_bytes_of_an_undisturbed_one() {
    let files = Files::new();
    let data = "gen:criteo?rows=600000&seed=3";
    let calm = files.path("calm");
    train(&["--train", data, "--save", &calm]);
    let export = |dir: &str| run_well(&["model", "export", dir]);
    for seed in [1, 2] {
        let hurt = files.path(&format!("hurt-{seed}"));
        let servers = ["--servers-local", "3", "--replicas", "2"];
        let mut job = Job::start(&[&["--train", data, "--save", &hurt], &servers[..]].concat());
        torment(&mut job, seed, 1);
        let figures = job.figures();
        assert!(figures["worker_restarts"].as_u64() >= Some(2), "seed {seed}: {figures}");
        assert!(export(&calm) == export(&hurt), "seed {seed}: the models differ");
    }
}

#[test]
fn each_batch_of_each_epoch_counts_once_however_many_workers_die() {
    let data = "gen:criteo?rows=200000&seed=5";
    let common = ["--train", data, "--workers", "4", "--epochs", "2"];
    let calm = train(&common);
    for (seed, clock) in [(3, "bsp"), (4, "ssp:2"), (5, "asp")] {
        let more = ["--servers-local", "2", "--replicas", "2", "--clock", clock];
        let mut job = Job::start(&[&common[..], &more].concat());
        torment(&mut job, seed, 4);
        let figures = job.figures();
        assert!(figures["worker_restarts"].as_u64() >= Some(2), "seed {seed}: {figures}");
        assert_eq!(figures["rows"], calm["rows"], "seed {seed}: {figures}");
    }
}

#[test]
fn a_worker_without_another_life_ends_the_job_with_its_name() {
    let endless = "gen:criteo?rows=1000000000&seed=1";
    for restarts in ["0", "1"] {
        let arguments = ["--train", endless, "--replicas", "2", "--restarts", restarts];
        let mut job = Job::start(&arguments);
        wait_for("end of the job", || {
            job.kill_one("worker", 0);
            std::thread::sleep(Duration::from_millis(300));
            job.has_ended().then_some(())
        });
        let mut said = String::new();
        job.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(said.contains("worker 0") && said.contains(" died: "), "{said}");
        assert_eq!(said.contains("it had 2 lives, and no more"), restarts == "1", "{said}");
    }
}

#[test]
fn a_cluster_whose_job_has_failed_takes_the_next_one() {
    let files = Files::new();
    std::fs::create_dir(files.path("log")).expect("a new one");
    let coordinator = Coordinator::start(Path::new(&files.path("log")), "ctr");
    let at = ["--coordinator", &coordinator.address, "--cluster", "ctr"];
    let serve = |name| {
        let own = ["serve", "--listen", "127.0.0.1:0", "--cores", "1", "--name", name];
        let mut command = gradwire(&[&own[..], &["--host", name], &at].concat());
        Job(command.stderr(Stdio::null()).spawn().expect("it starts"))
    };
    let _servers = [serve("a"), serve("b")];
    let endless = ["--train", "gen:criteo?rows=1000000000&seed=1", "--workers", "2"];
    let mut job = Job::start(&[&endless[..], &["--restarts", "0"], &at].concat());
    wait_for("workers", || (children(job.0.id(), "worker").len() == 2).then_some(()));
    std::thread::sleep(Duration::from_millis(700));
    job.kill_one("worker", 1);
    wait_for("end of the job", || job.has_ended().then_some(()));
    let figures = train(&[&["--train", "gen:criteo?rows=3000&seed=1"], &at[..]].concat());
    assert!(figures["rows"].as_u64() > Some(2000), "{figures}");
}

/// The worker of a run that has been at work for longest, once that is long enough to tell how long
/// its steps take; none if the run has ended before.
fn busiest_worker(job: &mut Job, except: Option<u32>) -> Option<u32> {
    const TICKS_MIN: u64 = 30; // 0.3 s, some tens of steps.
    wait_for("worker at work", || {
        if job.has_ended() {
            return Some(None);
        }
        let ticks = |process: &u32| -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned());
            let fields = fields.unwrap_or_default();
            fields.split(' ').skip(11).take(2).filter_map(|time| time.parse::<u64>().ok()).sum()
        };
        let found = children(job.0.id(), "worker");
        let others = found.into_iter().filter(|&process| Some(process) != except);
        let busiest = others.max_by_key(ticks);
        busiest.filter(|process| ticks(process) >= TICKS_MIN).map(Some)
    })
}

#[test]
fn under_bsp_a_model_whose_worker_stood_still_has_the_bytes_of_an_undisturbed_one() {
    let files = Files::new();
    let data = "gen:criteo?rows=600000&seed=3";
    let (calm, hurt) = (files.path("calm"), files.path("hurt"));
    train(&["--train", data, "--save", &calm]);
    let servers = ["--servers-local", "2", "--replicas", "2", "--backup", "1"];
    let mut job = Job::start(&[&["--train", data, "--save", &hurt], &servers[..]].concat());
    let worker = busiest_worker(&mut job, None).expect("it has much to learn");
    signal(worker, Signal::STOP); // It never wakes up again.
    let figures = job.figures();
    assert!(figures["worker_backups"].as_u64() >= Some(1), "{figures}");
    assert_eq!(figures["worker_restarts"].as_u64(), Some(0), "{figures}");
    let export = |dir: &str| run_well(&["model", "export", dir]);
    assert!(export(&calm) == export(&hurt), "the models differ");
}

#[test]
fn each_batch_counts_once_where_workers_stand_still_for_a_while_and_wake_up_again() {
    let common = ["--train", "gen:criteo?rows=1000000&seed=5", "--workers", "2"];
    let calm = train(&common);
    let more = ["--servers-local", "2", "--replicas", "2", "--backup", "1"];
    let mut job = Job::start(&[&common[..], &more].concat());
    let mut draws = Draws(7);
    let first = busiest_worker(&mut job, None).expect("it has much to learn");
    signal(first, Signal::STOP); // It never wakes up again.
    for _ in 0..3 {
        let Some(worker) = busiest_worker(&mut job, Some(first)) else { break };
        let pid = Pid::from_raw(worker as i32).expect("not zero");
        let _ = kill_process(pid, Signal::STOP); // It may have ended just now.
        // About as long as it takes until a spare is asked: some wake up just then.
        std::thread::sleep(Duration::from_millis(450 + draws.next() % 300));
        let _ = kill_process(pid, Signal::CONT); // Or meanwhile.
    }
    let figures = job.figures();
    assert_eq!(figures["rows"], calm["rows"], "{figures}");
    assert!(figures["worker_backups"].as_u64() >= Some(1), "{figures}");
}

#[test]
fn spares_are_for_workers_that_keep_a_journal() {
    let output = run(&["train", "--processes", "--backup", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("in a cluster"), "{}", stderr(&output));
}

#[test]
fn where_a_dead_worker_ends_its_job_nobody_may_ask_for_restarts() {
    let output = run(&["train", "--processes", "--restarts", "3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("in a cluster"), "{}", stderr(&output));
}
