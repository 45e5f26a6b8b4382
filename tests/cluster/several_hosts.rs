//! A job whose launchers are on several hosts, here processes with directories of their own: the
//! coordinator deals batches, and anybody may be killed.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::etcd::{Etcd, free_port, is_installed};
use crate::processes::{Running, children, signal};
use crate::{Files, gradwire, run, run_well, skipped, stderr, train, wait_for};

/// A cluster with one coordinator on a file, or with two on an etcd, which may be killed and
/// started again.
pub(crate) struct Cluster {
    pub(crate) files: Files,
    shards: u16,
    etcd: Option<Etcd>,
    /// Where the coordinators listen.
    places: Vec<String>,
    coordinators: Vec<Option<Running>>,
    _servers: Vec<Running>,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
        Cluster::begin(None, 1, 4)
    }

    pub(crate) fn begin(etcd: Option<Etcd>, coordinators: usize, shards: u16) -> Cluster {
        let files = Files::new();
        std::fs::create_dir(files.path("log")).expect("a new one");
        let places = (0..coordinators).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let (coordinators, _servers) = ((0..coordinators).map(|_| None).collect(), Vec::new());
        let mut cluster = Cluster { files, shards, etcd, places, coordinators, _servers };
        (0..cluster.places.len()).for_each(|number| cluster.start_coordinator(number));
        wait_for("a coordinator", || cluster.status());
        for name in ["s1", "s2"] {
            let own = ["serve", "--listen", "127.0.0.1:0", "--cores", "1", "--name", name];
            let all = cluster.places.join(",");
            let at = ["--host", name, "--coordinator", &all, "--cluster", "ctr"];
            let mut command = gradwire(&[&own[..], &at].concat());
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            cluster._servers.push(Running::start(command));
        }
        cluster
    }

    /// Starts a coordinator, and kills the one that there was.
    pub(crate) fn start_coordinator(&mut self, number: usize) {
        self.coordinators[number] = None;
        let log = self.files.path("log");
        let kept = match &self.etcd {
            Some(etcd) => ["--etcd", &etcd.endpoint],
            None => ["--data", &log],
        };
        let shards = self.shards.to_string();
        let own = ["coordinate", "--shards", &shards, "--cluster", "ctr"];
        let at = ["--listen", &self.places[number]];
        let mut command = gradwire(&[&own[..], &kept, &at].concat());
        self.coordinators[number] = Some(Running::start(&mut command));
    }

    /// Kills the coordinator that leads, and starts it again once the other one does.
    fn replace_leader(&mut self) {
        let status = wait_for("a leader", || self.status());
        let term = status["term"].as_u64().expect("a term");
        let old = self.places.iter().position(|place| status["leader"] == **place);
        let old = old.expect("one of them");
        self.coordinators[old] = None;
        wait_for("another leader", || (self.status()?["term"].as_u64()? > term).then_some(()));
        self.start_coordinator(old);
    }

    /// A launcher on a host of this name.
    pub(crate) fn launch(&self, host: &str, more: &[&str]) -> Running {
        Running::start(&mut self.command(host, more))
    }

    pub(crate) fn command(&self, host: &str, more: &[&str]) -> Command {
        let all = self.places.join(",");
        let at = ["train", "--json", "--cluster", "ctr", "--coordinator", &all];
        let mut command = gradwire(&[&at[..], &["--job-dir", &self.files.path(host)]].concat());
        command.args(more);
        command
    }

    /// Gives the coordinator an order.
    pub(crate) fn order(&self, words: &[&str]) -> Output {
        let all = self.places.join(",");
        let at = ["--coordinator", &all, "--cluster", "ctr"];
        run(&[&["cluster"], words, &at[..]].concat())
    }

    fn status(&self) -> Option<Value> {
        let all = self.places.join(",");
        let at = ["--coordinator", &all, "--cluster", "ctr"];
        let output = run(&[&["status", "--json"], &at[..]].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    pub(crate) fn job(&self, name: &str) -> Option<Value> {
        let status = self.status()?;
        status["jobs"].as_array()?.iter().find(|job| job["name"] == name).cloned()
    }

    /// Starts a job without end, of a worker on each of the hosts `a` and `b`, and waits until it
    /// is under way.
    ///
    /// - `words`: what both are told besides. `of_first`: what `a` alone is.
    fn begin_endless(&self, name: &str, words: &[&str], of_first: &[&str]) -> (Running, Running) {
        let both = [&endless(name)[..], words].concat();
        let first = self.launch("a", &[&both[..], of_first].concat());
        wait_for("the first host", || self.job(name));
        let second = self.launch("b", &both);
        self.wait_dealt(name, 4);
        (first, second)
    }

    /// Waits until a job has been dealt so many portions.
    pub(crate) fn wait_dealt(&self, name: &str, portions: u64) {
        wait_for("portions that are dealt", || {
            let job = self.job(name)?;
            (job["portions"].as_u64()? >= portions).then_some(())
        });
    }
}

/// What a launcher of a job without end of two workers is told.
fn endless(name: &str) -> [&str; 6] {
    ["--train", "gen:criteo?rows=1000000000&seed=1", "--job", name, "--job-workers", "2"]
}

/// The figures of a launcher that ends well.
pub(crate) fn figures(launcher: &mut Running) -> (Value, String) {
    let mut out = launcher.stdout();
    let (status, said) = launcher.end();
    assert!(status.success(), "{said}");
    let mut printed = String::new();
    out.read_to_string(&mut printed).expect("text");
    (serde_json::from_str(&printed).expect("one line of JSON"), said)
}

/// Kills a launcher as by `kill -9`; its workers end with it.
pub(crate) fn kill_launcher(launcher: Running) {
    let workers = children(launcher.id(), "worker");
    drop(launcher);
    wait_for("end of the workers", || {
        let is_there = |worker: &&u32| Path::new(&format!("/proc/{worker}/stat")).exists();
        workers.iter().filter(is_there).count().eq(&0).then_some(())
    });
}

const DATA: &str = "gen:criteo?rows=400000&seed=5";

#[test]
fn two_hosts_count_each_batch_once_though_worker_launcher_and_coordinator_are_killed() {
    let calm = train(&["--train", DATA, "--epochs", "2"]);
    let mut cluster = Cluster::start();
    let model = cluster.files.path("model");
    let common = ["--train", DATA, "--epochs", "2", "--job", "two", "--job-workers", "4"];
    let both = [&common[..], &["--workers", "2"]].concat();
    let mut first = cluster.launch("a", &[&both[..], &["--save", &model]].concat());
    wait_for("the first host", || cluster.job("two"));
    let mut second = cluster.launch("b", &both);
    cluster.wait_dealt("two", 12);
    let worker = wait_for("a worker", || children(second.id(), "worker").first().copied());
    signal(worker, Signal::KILL);
    cluster.wait_dealt("two", 24);
    kill_launcher(second);
    second = cluster.launch("b", &both);
    cluster.wait_dealt("two", 36);
    cluster.start_coordinator(0);
    cluster.wait_dealt("two", 48);
    kill_launcher(first);
    first = cluster.launch("a", &[&both[..], &["--save", &model]].concat());
    let (whole, said) = figures(&mut first);
    assert!(said.contains("workers 0 to 1 of 4 again"), "{said}");
    let (part, said) = figures(&mut second);
    assert!(said.contains("workers 2 to 3 of 4 again"), "{said}");
    assert_eq!(whole["rows"], calm["rows"], "{whole}");
    assert_eq!((&part["first_worker"], &part["workers"]), (&Value::from(2), &Value::from(2)));
    let rows = |result: &Value| result["rows"].as_u64().expect("a count");
    assert!(rows(&part) > 0 && rows(&part) < rows(&whole), "{part}");
    let loss = |result: &Value| result["test_logloss"].as_f64().expect("rows to test on");
    assert!((loss(&whole) - loss(&calm)).abs() < 0.05, "{whole}\n{calm}");
    assert!(run_well(&["model", "inspect", &model]).contains("weights"));
    assert_eq!(cluster.job("two").expect("known")["state"], "done");
    assert!(!Path::new(&cluster.files.path("b")).join("launcher.json").exists());
}

/// Rows of the text that [`write_text`] makes.
const TEXT_ROWS: u64 = 240_000;

/// A text of some 24 MB, whose rows' labels go by their first number.
fn write_text(path: &str) -> u64 {
    let mut text = String::new();
    let mut draw = 1_u64;
    for row in 0..TEXT_ROWS {
        let label = row * 7 % 10 / 5;
        text += &format!("{label} {}:1", 10 + label * 10 + row % 10);
        for field in 1..10 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text += &format!(" {}:1", 1_000_000 * field + (draw >> 40) % 1000);
        }
        text.push('\n');
    }
    std::fs::write(path, &text).expect("written");
    text.len() as u64
}

/// Checks that a host has read about as much of the data as it has of the rows, once an epoch.
fn check_read(part: &Value, bytes: u64, rows: u64) {
    let number = |name: &str| part[name].as_u64().expect("a count") as f64;
    let (read, learned) = (number("bytes_read") / bytes as f64, number("rows") / rows as f64);
    assert!(read < learned + 0.15, "{read} of the bytes, {learned} of the rows: {part}");
}

#[test]
fn hosts_read_about_their_part_of_a_text_though_worker_launcher_and_coordinator_are_killed() {
    let mut cluster = Cluster::start();
    let text = cluster.files.path("a.libsvm");
    let bytes = 2 * write_text(&text);
    let common = ["--train", &text, "--epochs", "2", "--job-workers", "4", "--workers", "2"];
    let run = |cluster: &Cluster, job: &str, host: &str| {
        cluster.launch(host, &[&common[..], &["--job", job]].concat())
    };
    let mut first = run(&cluster, "calm", "a");
    wait_for("the first host", || cluster.job("calm"));
    let mut second = run(&cluster, "calm", "b");
    let ((calm, _), (part, _)) = (figures(&mut first), figures(&mut second));
    let count = |result: &Value, name: &str| result[name].as_u64().expect("a count");
    let rows = 2 * (TEXT_ROWS - count(&calm, "test_rows"));
    assert_eq!(count(&calm, "rows"), rows, "what is held out is held out by all: {calm}");
    let read = count(&calm, "bytes_read");
    assert!((bytes..bytes + bytes / 10).contains(&read), "{read} of {bytes}");
    check_read(&part, bytes, rows);

    let mut first = run(&cluster, "killed", "a");
    wait_for("the first host", || cluster.job("killed"));
    let mut second = run(&cluster, "killed", "b");
    cluster.wait_dealt("killed", 8);
    let worker = wait_for("a worker", || children(second.id(), "worker").first().copied());
    signal(worker, Signal::KILL);
    cluster.wait_dealt("killed", 14);
    kill_launcher(second);
    second = run(&cluster, "killed", "b");
    cluster.wait_dealt("killed", 20);
    cluster.start_coordinator(0);
    cluster.wait_dealt("killed", 26);
    kill_launcher(first);
    first = run(&cluster, "killed", "a");
    let (whole, _) = figures(&mut first);
    let (part, said) = figures(&mut second);
    assert!(said.contains("workers 2 to 3 of 4 again"), "{said}");
    for name in ["rows", "test_rows"] {
        assert_eq!(whole[name], calm[name], "{whole}");
    }
    check_read(&whole, bytes, rows);
    check_read(&part, bytes, rows);
    assert_eq!(cluster.job("killed").expect("known")["state"], "done");
}

#[test]
fn data_of_fewer_splits_than_workers_is_told_in_a_line_and_learned_from() {
    let cluster = Cluster::start();
    let both = ["--train", "gen:criteo?rows=5000&seed=1", "--job", "few", "--job-workers", "2"];
    let mut first = cluster.launch("a", &both);
    wait_for("the first host", || cluster.job("few"));
    let mut second = cluster.launch("b", &both);
    let ((whole, said), (part, _)) = (figures(&mut first), figures(&mut second));
    assert!(said.contains("the data has fewer splits (1) than the job workers (2)"), "{said}");
    let rows = |result: &Value| result["rows"].as_u64().expect("a count");
    assert_eq!(rows(&whole) + whole["test_rows"].as_u64().expect("a count"), 5000, "{whole}");
    assert!(rows(&part) == 0 || rows(&part) == rows(&whole), "one worker has it: {part}");
}

#[test]
fn a_host_that_finds_no_place_or_was_told_another_job_is_told_so_in_one_line() {
    let cluster = Cluster::start();
    let endless = ["--train", "gen:criteo?rows=1000000000&seed=1", "--job", "full"];
    let alone = [&endless[..], &["--job-workers", "1"]].concat();
    let launcher = cluster.launch("a", &alone);
    cluster.wait_dealt("full", 1);
    let refused = |host: &str, words: &[&str]| {
        let output = cluster.command(host, words).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let full = refused("b", &alone);
    assert!(full.contains("all of the job's 1 places are taken"), "{full}");
    let clock = refused("c", &[&alone[..], &["--clock", "asp"]].concat());
    assert!(clock.contains("--clock \"bsp\", this one \"asp\""), "{clock}");
    let count = refused("d", &[&endless[..], &["--job-workers", "2"]].concat());
    assert!(count.contains("--job-workers \"1\", this one \"2\""), "{count}");
    let busy = refused("a", &alone);
    assert!(busy.contains("another launcher uses it"), "{busy}");
    drop(launcher);
}

#[test]
fn who_interrupts_one_host_ends_the_whole_job_in_good_order() {
    let cluster = Cluster::start();
    let model = cluster.files.path("model");
    let (mut first, mut second) = cluster.begin_endless("stopped", &[], &["--save", &model]);
    signal(second.id(), Signal::INT);
    for launcher in [&mut first, &mut second] {
        let (status, said) = launcher.end();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("interrupted on "), "{said}");
    }
    assert!(run_well(&["model", "inspect", &model]).contains("weights"));
    assert_eq!(cluster.job("stopped").expect("known")["state"], "stopped");
    // The servers are free again, and so is the name.
    let few = ["--train", "gen:criteo?rows=20000&seed=1", "--job", "stopped"];
    let mut next = cluster.launch("a", &[&few[..], &["--job-workers", "1"]].concat());
    let (whole, _) = figures(&mut next);
    assert!(whole["rows"].as_u64() > Some(10_000), "{whole}");
}

#[test]
fn a_host_whose_worker_has_no_life_left_ends_the_others_too() {
    let cluster = Cluster::start();
    let (mut first, mut second) = cluster.begin_endless("lost", &["--restarts", "0"], &[]);
    std::thread::sleep(Duration::from_millis(300));
    let worker = wait_for("a worker", || children(second.id(), "worker").first().copied());
    signal(worker, Signal::KILL);
    for launcher in [&mut second, &mut first] {
        let (status, said) = launcher.end();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("worker 1") && said.contains(" died: "), "{said}");
    }
    assert_eq!(cluster.job("lost").expect("known")["state"], "failed");
}

#[test]
fn a_standby_that_takes_over_under_a_job_of_two_hosts_deals_each_batch_once() {
    let test = "a_standby_that_takes_over_under_a_job_of_two_hosts_deals_each_batch_once";
    if !is_installed() {
        return skipped(test, "etcd is not installed");
    }
    let calm = train(&["--train", DATA, "--epochs", "2"]);
    let mut cluster = Cluster::begin(Some(Etcd::start()), 2, 4);
    let common = ["--train", DATA, "--epochs", "2", "--job", "led", "--job-workers", "4"];
    let both = [&common[..], &["--workers", "2"]].concat();
    let mut first = cluster.launch("a", &both);
    wait_for("the first host", || cluster.job("led"));
    let mut second = cluster.launch("b", &both);
    cluster.wait_dealt("led", 16);
    cluster.replace_leader();
    cluster.wait_dealt("led", 48);
    cluster.replace_leader();
    let (whole, _) = figures(&mut first);
    let (part, _) = figures(&mut second);
    assert_eq!(whole["rows"], calm["rows"], "{whole}");
    assert_eq!(whole["test_rows"], calm["test_rows"], "{whole}");
    let rows = |result: &Value| result["rows"].as_u64().expect("a count");
    assert!(rows(&part) > 0 && rows(&part) < rows(&whole), "{part}");
    let loss = |result: &Value| result["test_logloss"].as_f64().expect("rows to test on");
    assert!((loss(&whole) - loss(&calm)).abs() < 0.05, "{whole}\n{calm}");
    let status = cluster.status().expect("somebody leads");
    assert!(status["term"].as_u64() >= Some(3), "{status}");
    assert_eq!(cluster.job("led").expect("known")["state"], "done");
}

#[test]
fn a_host_that_stays_away_past_its_patience_ends_the_job_in_words_on_both_sides() {
    let cluster = Cluster::start();
    let (mut first, second) = cluster.begin_endless("away", &["--job-patience", "5s"], &[]);
    let longer = [&endless("away")[..], &["--job-patience", "6s"]].concat();
    let output = cluster.command("c", &longer).output().expect("it runs");
    let said = stderr(&output);
    assert!(said.contains("--job-patience \"5s\", this one \"6s\""), "{said}");
    kill_launcher(second);
    let (status, said) = first.end();
    assert_eq!(status.code(), Some(1), "{said}");
    let early = "with worker 1 was not heard of for 3 s; start the same command again there";
    assert!(said.contains(early), "{said}");
    let end = "which has worker 1, was not heard of for 5 s, and no host stood by";
    assert!(said.contains(end), "{said}");
    assert_eq!(cluster.job("away").expect("known")["state"], "failed");
    // Who comes too late is told the same, once; then the name is free.
    let both = [&endless("away")[..], &["--job-patience", "5s"]].concat();
    let late = cluster.command("b", &both).output().expect("it runs");
    assert_eq!(late.status.code(), Some(1), "{}", stderr(&late));
    assert!(stderr(&late).contains(end), "{}", stderr(&late));
    let few = ["--train", "gen:criteo?rows=20000&seed=1", "--job", "away"];
    let mut next = cluster.launch("b", &[&few[..], &["--job-workers", "1"]].concat());
    let (whole, _) = figures(&mut next);
    assert!(whole["rows"].as_u64() > Some(10_000), "{whole}");
}

#[test]
fn a_host_that_sleeps_past_its_patience_wakes_up_to_the_end_of_the_job_in_words() {
    let cluster = Cluster::start();
    let patience = ["--job-patience", "5s"];
    let (mut first, mut second) = cluster.begin_endless("asleep", &patience, &[]);
    signal(second.id(), Signal::STOP);
    let (status, said) = first.end();
    assert_eq!(status.code(), Some(1), "{said}");
    let end = "which has worker 1, was not heard of for 5 s, and no host stood by";
    assert!(said.contains(end), "{said}");
    signal(second.id(), Signal::CONT);
    let (status, said) = second.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(end), "{said}");
    assert_eq!(cluster.job("asleep").expect("known")["state"], "failed");
}

#[test]
fn settings_that_a_job_of_several_hosts_cannot_have_are_usage_errors() {
    let coordinated = ["train", "--coordinator", "127.0.0.1:1", "--job", "x"];
    let wrong: [&[&str]; 9] = [
        &["train", "--job", "x", "--job-workers", "1"],
        &["train", "--job-workers", "1"],
        &["train", "--job-patience", "60s"],
        &["train", "--stand-by"],
        &[&coordinated[..], &["--job-workers", "1", "--job-patience", "1s"]].concat(),
        &coordinated,
        &[&coordinated[..], &["--job-workers", "0"]].concat(),
        &[&coordinated[..], &["--job-workers", "2", "--workers", "3"]].concat(),
        &[&coordinated[..], &["--job-workers", "2", "--backup", "1"]].concat(),
    ];
    for words in wrong {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
    }
}
