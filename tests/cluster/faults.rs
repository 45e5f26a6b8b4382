//! Faults that no other story has: two deaths at once, a rolling restart, clocks that differ.
//!
//! Owns a cluster of processes on this host. The load, and the comparison of what it counted, is
//! `gradwire soak` against a running cluster; `docs/faults.md` lists all faults with their tests.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::etcd::free_port;
use crate::processes::{Running, signal};
use crate::under_load::{soak, survives, wait_whole};
use crate::{gradwire, skipped};

/// A coordinator and servers.
struct Cluster {
    _data: TempDir,
    coordinator: Option<Running>,
    /// What it is started with.
    coordinate: Vec<String>,
    place: String,
    servers: Vec<Running>,
    started: usize,
    /// How many servers there shall be.
    size: usize,
    /// What a command is made of to run in it: its number, and the command.
    wrap: fn(usize, Command) -> Command,
}

impl Cluster {
    fn start(replicas: usize, size: usize, wrap: fn(usize, Command) -> Command) -> Cluster {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = format!("127.0.0.1:{}", free_port());
        let (replicas, least) = (replicas.to_string(), size.to_string());
        let data = directory.path().to_str().expect("text");
        let arguments = [
            &["coordinate", "--listen", &place, "--data", data, "--cluster", "hurt"][..],
            &["--shards", "4", "--replicas", &replicas, "--servers-min", &least],
        ];
        let coordinate = arguments.concat().into_iter().map(str::to_owned).collect();
        let mut cluster = Cluster {
            _data: directory,
            coordinator: None,
            coordinate,
            place,
            servers: Vec::new(),
            started: 0,
            size,
            wrap,
        };
        cluster.start_coordinator();
        (0..size).for_each(|_| cluster.add_server());
        cluster.wait_whole();
        cluster
    }

    /// Starts the coordinator, and kills the one that there was.
    fn start_coordinator(&mut self) {
        self.coordinator = None;
        let arguments: Vec<&str> = self.coordinate.iter().map(String::as_str).collect();
        self.coordinator = Some(Running::start(&mut gradwire(&arguments)));
    }

    fn add_server(&mut self) {
        let name = format!("s{}", self.started);
        let arguments = [
            &["serve", "--listen", "127.0.0.1:0", "--cores", "1", "--coordinator"][..],
            &[&self.place, "--cluster", "hurt", "--name", &name, "--host", &name],
        ];
        let mut command = (self.wrap)(self.started, gradwire(&arguments.concat()));
        self.servers.push(Running::start(&mut command));
        self.started += 1;
    }

    fn status(&self) -> Option<Value> {
        let at = ["status", "--json", "--coordinator", &self.place, "--cluster", "hurt"];
        serde_json::from_slice(&gradwire(&at).output().expect("it runs").stdout).ok()
    }

    /// Waits until exactly these servers take part and no shard is in trouble.
    fn wait_whole(&self) {
        wait_whole(self.size, || self.status());
    }

    /// Lets a load run for so long while something happens, and compares what it counted.
    fn survive(&mut self, duration: &str, story: impl FnOnce(&mut Cluster)) {
        let soak = gradwire(&soak(duration, &self.place, "hurt"));
        survives(soak, || story(self));
    }
}

fn as_it_is(_: usize, command: Command) -> Command {
    command
}

#[test]
fn two_servers_of_three_replicas_that_die_at_once_lose_and_double_nothing() {
    let mut cluster = Cluster::start(3, 4, as_it_is);
    cluster.survive("12s", |cluster| {
        for server in &cluster.servers[..2] {
            signal(server.id(), Signal::KILL);
        }
        cluster.servers.drain(..2);
        (0..2).for_each(|_| cluster.add_server());
        cluster.wait_whole();
    });
    cluster.wait_whole();
}

#[test]
fn servers_that_are_replaced_one_after_the_other_under_load_lose_and_double_nothing() {
    let mut cluster = Cluster::start(2, 3, as_it_is);
    cluster.survive("20s", |cluster| {
        for _ in 0..cluster.size {
            cluster.add_server();
            let mut old = cluster.servers.remove(0);
            signal(old.id(), Signal::TERM);
            let (status, said) = old.end();
            assert!(status.success(), "it hands over what it holds: {said}");
            cluster.wait_whole();
        }
    });
    cluster.wait_whole();
}

#[test]
fn whoever_dies_while_a_server_hands_over_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(2, 4, as_it_is);
    let hands_over = |mut leaving: Running| {
        let (status, said) = leaving.end();
        assert!(status.success(), "it hands over what it holds: {said}");
    };
    cluster.survive("30s", |cluster| {
        // One that fills others, or is being filled.
        let leaving = cluster.servers.remove(0);
        signal(leaving.id(), Signal::TERM);
        drop(cluster.servers.remove(0));
        (0..2).for_each(|_| cluster.add_server());
        hands_over(leaving);
        cluster.wait_whole();
        // The one that hands over.
        let leaving = cluster.servers.remove(0);
        signal(leaving.id(), Signal::TERM);
        drop(leaving);
        cluster.add_server();
        cluster.wait_whole();
        // The one that has to say who takes what.
        let leaving = cluster.servers.remove(0);
        signal(leaving.id(), Signal::TERM);
        cluster.start_coordinator();
        cluster.add_server();
        hands_over(leaving);
        cluster.wait_whole();
    });
    cluster.wait_whole();
}

/// In a time namespace whose clocks are hours from those of the others; the first one's are ahead,
/// the second one's as they are.
#[expect(clippy::needless_pass_by_value, reason = "others give the program back")]
fn apart(number: usize, program: Command) -> Command {
    let offset = ["7200", "0", "86400"][number % 3];
    let mut command = Command::new("unshare");
    command.args(["--time", "--monotonic", offset, "--boottime", offset, "--"]);
    command.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
    if let Some(dir) = program.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

#[test]
fn servers_whose_clocks_are_hours_apart_are_one_cluster_and_lose_nothing() {
    let test = "servers_whose_clocks_are_hours_apart_are_one_cluster_and_lose_nothing";
    let tried = apart(0, Command::new("true")).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return skipped(test, "`unshare --time` makes no time namespace here");
    }
    let mut cluster = Cluster::start(2, 3, apart);
    cluster.survive("10s", |cluster| {
        signal(cluster.servers[0].id(), Signal::KILL);
        cluster.servers.remove(0);
        cluster.add_server();
        cluster.wait_whole();
    });
}
