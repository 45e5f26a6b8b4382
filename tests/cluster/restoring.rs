//! Checkpoints of a running cluster, and clusters that begin from one.
//!
//! Workers add one to each key in each step, all in step with each other. So in a cut at clock C
//! each key is exactly the number of workers times C.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use shard::rule::{Sum, table_spec};
use transport::Limits;
use transport::tcp::TcpBackend;
use worker::{
    ClusterSpec, Dial, Incarnation, JobId, Join, Reading, Session, Staleness, TableId, Then,
    Timeouts, Watch, WorkerError, WorkerId, connect_cluster,
};

use crate::processes::{Running as Process, Server};
use crate::under_load::wait_whole;
use crate::{Files, gradwire, run, run_well, stderr, wait_for};

pub(crate) const NAME: &str = "kept";
const TABLE: TableId = TableId::new(0);
const WORKERS: u32 = 2;
/// Steps that each worker does before anything is done to the cluster.
pub(crate) const STEPS_FIRST: u64 = 20;

/// A coordinator and its servers, as processes.
pub(crate) struct Running {
    coordinator: Process,
    pub(crate) address: String,
    servers: Vec<Server>,
    /// How many servers were started.
    started: usize,
    /// Further arguments of each server.
    serve: Vec<String>,
}

/// What a cluster is begun with.
pub(crate) struct Begin {
    /// Where its coordinator's log lies.
    pub(crate) data: String,
    pub(crate) servers: usize,
    pub(crate) shards: u16,
    pub(crate) replicas: u8,
    /// Further arguments of each server.
    pub(crate) serve: Vec<String>,
}

impl Begin {
    /// One server with one shard.
    pub(crate) fn new(data: String) -> Begin {
        Begin { data, servers: 1, shards: 1, replicas: 1, serve: Vec::new() }
    }

    /// Starts it, its coordinator with these arguments, too.
    pub(crate) fn running(self, coordinate: &[&str]) -> Running {
        let (shards, replicas) = (self.shards.to_string(), self.replicas.to_string());
        let least = self.servers.to_string();
        let mut command = gradwire(&["coordinate", "--listen", "127.0.0.1:0", "--json"]);
        command.args(["--data", &self.data, "--cluster", NAME, "--shards", &shards]);
        command.args(["--replicas", &replicas, "--servers-min", &least]).args(coordinate);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("one line of JSON");
        let address = ready["listen"].as_str().expect("an address").to_owned();
        let coordinator = Process::of(process);
        let (servers, serve) = (Vec::new(), self.serve);
        let mut running = Running { coordinator, address, servers, started: 0, serve };
        (0..self.servers).for_each(|_| running.add_server());
        running
    }
}

impl Running {
    pub(crate) fn start(
        data: &str,
        servers: usize,
        shards: u16,
        replicas: u8,
        more: &[&str],
    ) -> Running {
        let begin = Begin { servers, shards, replicas, ..Begin::new(data.to_owned()) };
        begin.running(more)
    }

    pub(crate) fn add_server(&mut self) {
        let name = format!("s{}", self.started);
        let mut command = gradwire(&["serve", "--listen", "127.0.0.1:0", "--cores", "1"]);
        command.args(["--coordinator", &self.address, "--cluster", NAME]);
        command.args(["--name", &name, "--host", &name]).args(&self.serve);
        command.stderr(Stdio::null());
        let process = Process::of(command.spawn().expect("the program runs"));
        self.servers.push(Server { name, process });
        self.started += 1;
    }

    fn at(&self) -> [&str; 4] {
        ["--coordinator", &self.address, "--cluster", NAME]
    }

    pub(crate) fn status(&self) -> Option<Value> {
        let output = run(&[&["status", "--json"], &self.at()[..]].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until exactly its servers take part and no shard is in trouble.
    pub(crate) fn wait_whole(&self) {
        wait_whole(&self.servers, || self.status());
    }

    pub(crate) fn take(&self) -> Output {
        run(&[&["checkpoint", "take", "--json"], &self.at()[..]].concat())
    }

    pub(crate) fn take_well(&self) -> Value {
        let output = self.take();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("one line of JSON")
    }

    /// Waits until each shard is placed and restored.
    pub(crate) fn wait_restored(&self) {
        wait_for("restored cluster", || {
            let status = self.status()?;
            let is_there = status["restore"]["loading"] == 0 && status["epoch"] != 0;
            is_there.then_some(())
        });
    }

    /// Workers of a job that count until the cluster is gone, or all have done so many steps.
    pub(crate) fn load(&self, job: u64, keys: u64, steps_max: u64) -> Load {
        let steps: Arc<Vec<AtomicU64>> =
            Arc::new((0..WORKERS).map(|_| AtomicU64::new(0)).collect());
        let count_as = |worker: u32| {
            let (steps, address) = (Arc::clone(&steps), self.address.clone());
            std::thread::spawn(move || {
                let mut session = session(&address, WorkerId::new(worker), job);
                // The cluster may be killed under it: then it ends.
                let _ = count(&mut session, keys, steps_max, &steps[worker as usize]);
            })
        };
        let load = Load { threads: (0..WORKERS).map(count_as).collect(), steps };
        load.wait_steps(STEPS_FIRST.min(steps_max));
        load
    }

    /// Checks what each key is, as an observer of a job reads it.
    pub(crate) fn check(&self, job: u64, keys: u64, sum: f32) {
        let mut session = session(&self.address, WorkerId::OBSERVER, job);
        let found = read(&mut session, &(0..keys).collect::<Vec<_>>()).expect("read");
        let odd = found.iter().filter(|&&found| found != sum).count();
        let bounds = found
            .iter()
            .fold((f32::MAX, f32::MIN), |(low, high), &one| (low.min(one), high.max(one)));
        assert_eq!(odd, 0, "of {keys} keys are not {sum} but from {bounds:?}");
    }

    /// The coordinator's process, then those of the servers.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let servers = self.servers.iter().map(|server| &server.process);
        [&self.coordinator].into_iter().chain(servers).map(Process::id).collect()
    }

    /// Kills the oldest server, as `kill -9`.
    pub(crate) fn kill_server(&mut self) {
        self.servers.remove(0);
    }

    pub(crate) fn kill(self) {
        self.coordinator.signal(Signal::KILL);
        self.servers.iter().for_each(|server| server.process.signal(Signal::KILL));
    }
}

/// Workers at work.
pub(crate) struct Load {
    steps: Arc<Vec<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Steps that all have finished.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.iter().map(|steps| steps.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    pub(crate) fn wait_steps(&self, least: u64) {
        wait_for("steps of all workers", || (self.steps() >= least).then_some(()));
    }

    pub(crate) fn join(self) {
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

pub(crate) fn session(address: &str, worker: WorkerId, job: u64) -> Session {
    let watch = Watch::start(&[address.to_owned()], NAME).expect("a thread");
    let dial = Dial {
        worker,
        incarnation: Incarnation::new(1),
        backend: TcpBackend::Epoll,
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        connect_max: Duration::from_secs(2),
    };
    let patience = Duration::from_secs(20);
    let spec = ClusterSpec { placements: Arc::new(watch), dial, patience, reading: Reading::Heads };
    let mut session = connect_cluster(&spec).expect("a session");
    let deadline = session.now() + Duration::from_secs(30);
    let join = Join { job: JobId::new(job), workers: WORKERS, staleness: Staleness::BSP };
    session.join(join, deadline).expect("joined");
    session.define(TABLE, &table_spec("counters", 1, &Sum), deadline).expect("that very table");
    session
}

/// Adds one to each key in each step, in step with the others.
fn count(
    session: &mut Session,
    keys: u64,
    steps_max: u64,
    steps: &AtomicU64,
) -> Result<(), WorkerError> {
    let keys: Vec<u64> = (0..keys).collect();
    let split = session.split(&keys)?;
    while steps.load(Ordering::Relaxed) < steps_max {
        let ticket = session.pull(TABLE, &split, 1)?;
        let deadline = session.now() + Duration::from_secs(30);
        let values = session.wait_pull(ticket, deadline)?;
        session.recycle(values);
        session.push(TABLE, &split, Rc::new(vec![1.0; keys.len()]), 1, Then::Tick)?;
        session.wait_pushes(0, deadline)?;
        steps.fetch_add(1, Ordering::Relaxed);
    }
    let deadline = session.now() + Duration::from_secs(30);
    session.leave(deadline)
}

fn read(session: &mut Session, keys: &[u64]) -> Result<Vec<f32>, WorkerError> {
    let mut found = Vec::new();
    for keys in keys.chunks(10_000) {
        let split = session.split(keys)?;
        let ticket = session.pull(TABLE, &split, 1)?;
        let deadline = session.now() + Duration::from_secs(30);
        let values = session.wait_pull(ticket, deadline)?;
        found.extend_from_slice(values.as_slice());
        session.recycle(values);
    }
    Ok(found)
}

/// What each key is in a checkpoint that was cut at a clock.
pub(crate) fn sum_at_cut(taken: &Value) -> f32 {
    let clock = taken["clock"].as_u64().unwrap_or_else(|| panic!("no clock in {taken}"));
    (u64::from(WORKERS) * clock) as f32
}

pub(crate) fn verify(place: &str) {
    let verified = run_well(&["checkpoint", "verify", place, "--json"]);
    let verified: Value = serde_json::from_str(&verified).expect("one line of JSON");
    let newest = verified.as_array().and_then(|all| all.last()).expect("there is one");
    assert_eq!(newest["verdict"], "good", "{verified}");
}

#[test]
fn a_killed_cluster_begins_again_on_other_servers_with_exactly_the_sums_of_the_cut() {
    const KEYS: u64 = 5000;
    let files = Files::new();
    let place = files.path("checkpoints");
    let store = ["--checkpoints", &place];
    let first = Running::start(&files.path("data"), 3, 5, 2, &store);
    let load = first.load(1, KEYS, u64::MAX);
    first.take_well();
    let taken = first.take_well();
    assert!(taken["number"].as_u64() >= Some(2), "{taken}");
    load.wait_steps(load.steps() + STEPS_FIRST);
    first.kill();
    verify(&place);
    let restore = ["--restore", place.as_str()];
    let second = Running::start(&files.path("again"), 2, 5, 1, &restore);
    second.wait_restored();
    let sum = sum_at_cut(&taken);
    assert!(sum > 0.0, "{taken}");
    second.check(1, KEYS, sum);
    // The next job goes on from these rows.
    let steps = 3;
    second.load(2, KEYS, steps).join();
    second.check(2, KEYS, sum + (u64::from(WORKERS) * steps) as f32);
    second.kill();
    load.join();
}

#[test]
fn a_server_that_is_killed_while_it_records_costs_the_checkpoint_nothing_but_time() {
    const KEYS: u64 = 60_000;
    let files = Files::new();
    let place = files.path("checkpoints");
    // Slow enough for a server to die on the way.
    let store = ["--checkpoints", &place, "--checkpoint-rate", "1"];
    let mut first = Running::start(&files.path("data"), 3, 4, 2, &store);
    let load = first.load(1, KEYS, u64::MAX);
    let at: Vec<String> = first.at().iter().map(|&word| word.to_owned()).collect();
    let taking = std::thread::spawn(move || {
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        run(&[&["checkpoint", "take", "--json"], &at[..]].concat())
    });
    wait_for("checkpoint under way", || {
        let status = first.status()?;
        let under_way = &status["checkpoints"]["under_way"];
        (under_way["number"].is_u64() && under_way["parts_done"] == 0).then_some(())
    });
    first.servers.pop().expect("three").process.signal(Signal::KILL);
    let output = taking.join().expect("no panic");
    assert!(output.status.success(), "{}", stderr(&output));
    let taken: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    load.wait_steps(load.steps() + STEPS_FIRST);
    first.kill();
    verify(&place);
    let restore = ["--restore", place.as_str()];
    let second = Running::start(&files.path("again"), 2, 4, 2, &restore);
    second.wait_restored();
    second.check(1, KEYS, sum_at_cut(&taken));
    second.kill();
    load.join();
}

#[test]
fn a_store_that_is_away_fails_the_checkpoint_and_neither_the_one_before_nor_the_job() {
    const KEYS: u64 = 5000;
    let files = Files::new();
    let (place, away) = (files.path("checkpoints"), files.path("away"));
    let running = Running::start(&files.path("data"), 2, 4, 2, &["--checkpoints", &place]);
    let load = running.load(1, KEYS, u64::MAX);
    running.take_well();
    // As a file system that is no longer mounted there.
    std::fs::rename(&place, &away).expect("renamed");
    files.file("checkpoints", "nobody's");
    let output = running.take();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&place), "{}", stderr(&output));
    load.wait_steps(load.steps() + STEPS_FIRST);
    std::fs::remove_file(&place).expect("it is there");
    std::fs::rename(&away, &place).expect("renamed");
    verify_number(&place, 1);
    assert!(running.take_well()["number"].as_u64() > Some(1));
    verify(&place);
    running.kill();
    load.join();
}

pub(crate) fn verify_number(place: &str, number: u64) {
    run_well(&["checkpoint", "verify", place, "--number", &number.to_string()]);
}

#[test]
fn a_server_that_is_told_to_end_hands_its_shards_over_and_a_coordinator_takes_a_last_checkpoint() {
    const KEYS: u64 = 3000;
    const STEPS: u64 = 300;
    let files = Files::new();
    let place = files.path("checkpoints");
    let store = ["--checkpoints", place.as_str()];
    let mut running = Running::start(&files.path("data"), 2, 4, 1, &store);
    let load = running.load(1, KEYS, STEPS);
    let mut leaves = running.servers.remove(0).process;
    leaves.signal(Signal::TERM);
    let status = wait_for("end of a server", || leaves.ended());
    assert!(status.success(), "it held what nobody else does");
    load.join();
    let sum = (u64::from(WORKERS) * STEPS) as f32;
    running.check(1, KEYS, sum);
    running.coordinator.signal(Signal::TERM);
    let status = wait_for("end of the coordinator", || running.coordinator.ended());
    assert!(status.success());
    verify(&place);
    drop(running);
    let restore = ["--restore", place.as_str()];
    let second = Running::start(&files.path("again"), 1, 4, 1, &restore);
    second.wait_restored();
    second.check(1, KEYS, sum);
}

#[test]
fn a_server_that_nobody_can_take_over_from_says_what_is_left_and_ends() {
    let files = Files::new();
    let mut running = Running::start(&files.path("data"), 1, 4, 2, &[]);
    let mut command = gradwire(&["serve", "--listen", "127.0.0.1:0", "--cores", "1"]);
    command.args(["--coordinator", &running.address, "--cluster", NAME, "--name", "other"]);
    let process = Process::start(command.args(["--host", "other", "--leave-within", "1s"]));
    running.servers.push(Server { name: "other".to_owned(), process });
    running.wait_whole();
    running.coordinator.signal(Signal::KILL);
    let mut server = running.servers.pop().expect("it was started").process;
    server.signal(Signal::TERM);
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(1), "{said}");
    let last = "not handed over within 1 s: 4 of its shards are still here";
    assert!(said.contains(last), "{said}");
}

/// A coordinator that does not begin. What it says.
fn refused(data: &str, shards: &str, cluster: &str, restore: &str) -> String {
    let mut command = gradwire(&["coordinate", "--listen", "127.0.0.1:0", "--json"]);
    command.args(["--data", data, "--shards", shards, "--cluster", cluster, "--restore", restore]);
    let (status, said) = Process::start(&mut command).end();
    assert_eq!(status.code(), Some(1));
    said
}

fn flip(place: &str, number: u64) {
    let part = Path::new(place).join(format!("ckpt-{number:010}")).join("part-00001");
    let mut bytes = std::fs::read(&part).expect("it was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).expect("written");
}

#[test]
fn what_cannot_be_restored_is_one_line_and_a_broken_newest_one_is_passed_over() {
    const KEYS: u64 = 500;
    let files = Files::new();
    let place = files.path("checkpoints");
    let data = files.path("data");
    let first = Running::start(&data, 1, 2, 1, &["--checkpoints", &place]);
    let load = first.load(1, KEYS, u64::MAX);
    let taken = [first.take_well(), first.take_well(), first.take_well()];
    first.kill();
    load.join();
    let fresh = |name: &str| files.path(name);
    let last_line = |said: &str| said.lines().last().unwrap_or_default().to_owned();
    let other = last_line(&refused(&fresh("fresh-0"), "2", "other", &place));
    assert!(other.contains("is of cluster \"kept\", this one is \"other\""), "{other}");
    let shards = last_line(&refused(&fresh("fresh-1"), "3", NAME, &place));
    assert!(shards.contains("has 2 shards, this cluster 3"), "{shards}");
    let none = last_line(&refused(&fresh("fresh-2"), "2", NAME, &files.path("nothing")));
    assert!(none.contains("nothing"), "{none}");
    let not_empty = last_line(&refused(&data, "2", NAME, &place));
    assert!(not_empty.contains("only a new one is restored"), "{not_empty}");
    flip(&place, 3);
    let damaged = last_line(&refused(&fresh("fresh-3"), "2", NAME, &format!("{place}#3")));
    assert!(damaged.contains("part-00001: damaged in the"), "{damaged}");
    // The second one is the newest good one now.
    let restore = ["--restore", place.as_str()];
    let second = Running::start(&files.path("again"), 1, 2, 1, &restore);
    second.wait_restored();
    second.check(1, KEYS, sum_at_cut(&taken[1]));
    let status = second.status().expect("it lives");
    assert_eq!(status["restore"]["from"]["number"], 2, "{status}");
    second.kill();
    // Where a server finds the damage, nobody is shown anything.
    let unchecked = format!("{place}#3");
    let restore = ["--restore", &unchecked, "--restore-check", "lengths"];
    let third = Running::start(&files.path("third"), 1, 2, 1, &restore);
    let failed = wait_for("failure to restore", || {
        let status = third.status()?;
        status["restore"]["failed"][0].as_str().map(str::to_owned)
    });
    assert!(failed.contains("part-00001: damaged in the"), "{failed}");
}

#[test]
fn a_cluster_begins_again_from_changes_over_a_full_checkpoint_and_not_without_it() {
    const KEYS: u64 = 4000;
    let files = Files::new();
    let place = files.path("checkpoints");
    let store = ["--checkpoints", &place, "--checkpoint-full-every", "3"];
    let first = Running::start(&files.path("data"), 2, 3, 2, &store);
    let load = first.load(1, KEYS, u64::MAX);
    let mut taken = Vec::new();
    for _ in 0..5 {
        load.wait_steps(load.steps() + 5);
        taken.push(first.take_well());
    }
    first.kill();
    load.join();
    verify(&place);
    // A cut that a shard was beyond costs a number, and the next one its base.
    let numbers: Vec<u64> =
        taken.iter().map(|it| it["number"].as_u64().expect("a number")).collect();
    let base = |number: &u64| {
        let number = number.to_string();
        let said = run_well(&["checkpoint", "inspect", &place, "--number", &number, "--json"]);
        let content = &serde_json::from_str::<Value>(&said).expect("one line of JSON")["content"];
        content["changes-since"].as_u64()
    };
    let bases: Vec<Option<u64>> = numbers.iter().map(base).collect();
    assert_eq!(bases[0], None);
    for (at, &base) in bases.iter().enumerate().skip(1) {
        assert!(base.is_none_or(|base| base == numbers[at - 1]), "{bases:?} of {numbers:?}");
    }
    assert!(bases.windows(3).all(|three| three.contains(&None)), "one of three has everything");
    let changes = bases.iter().rposition(Option::is_some).expect("most have changes alone");
    let base = changes - 1;
    let restore = ["--restore", place.as_str()];
    let second = Running::start(&files.path("again"), 2, 3, 1, &restore);
    second.wait_restored();
    second.check(1, KEYS, sum_at_cut(&taken[4]));
    second.kill();
    // It is nothing without its base. One before that may need others, which were kept for it.
    let manifest = |at: usize| format!("ckpt-{:010}/manifest", numbers[at]);
    std::fs::remove_file(Path::new(&place).join(manifest(base))).expect("it is there");
    let newest = if changes + 1 < taken.len() { taken.len() - 1 } else { base - 1 };
    let third = Running::start(&files.path("third"), 1, 3, 1, &restore);
    third.wait_restored();
    third.check(1, KEYS, sum_at_cut(&taken[newest]));
    third.kill();
    let number = format!("{place}#{}", numbers[changes]);
    let refused = refused(&files.path("refused"), "3", NAME, &number);
    let said = format!("{}: needs checkpoint {}, of which", manifest(changes), numbers[base]);
    assert!(refused.contains(&said), "{refused}");
}
