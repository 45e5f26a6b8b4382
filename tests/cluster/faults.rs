//! Faults that no other story has: two deaths at once, a rolling restart, replicas that are moved
//! while somebody dies, a server that hardly runs, clocks that differ and clocks that jump.
//!
//! Owns a cluster of processes on this host. The load, and the comparison of what it counted, is
//! `gradwire soak` against a running cluster; `docs/faults.md` lists all faults with their tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::etcd::free_port;
use crate::processes::{Running, Server, in_group};
use crate::under_load::{soak, survives, wait_whole};
use crate::{gradwire, run, skipped, stderr, wait_for};

/// The coordinator's number; those of servers count from 0.
pub(crate) const COORDINATOR: usize = usize::MAX;

/// A coordinator and servers.
pub(crate) struct Cluster {
    _data: TempDir,
    coordinator: Option<Running>,
    /// What it is started with.
    coordinate: Vec<String>,
    place: String,
    /// The oldest first.
    pub(crate) servers: Vec<Server>,
    started: usize,
    /// How many servers there shall be.
    size: usize,
    /// What a command is made of to run in it: whose it is, and the command.
    wrap: fn(usize, Command) -> Command,
}

impl Cluster {
    pub(crate) fn start(
        replicas: usize,
        size: usize,
        wrap: fn(usize, Command) -> Command,
    ) -> Cluster {
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
    pub(crate) fn start_coordinator(&mut self) {
        self.coordinator = None;
        let arguments: Vec<&str> = self.coordinate.iter().map(String::as_str).collect();
        let mut command = (self.wrap)(COORDINATOR, gradwire(&arguments));
        self.coordinator = Some(Running::start(&mut command));
    }

    pub(crate) fn add_server(&mut self) {
        let name = format!("s{}", self.started);
        let arguments = [
            &["serve", "--listen", "127.0.0.1:0", "--cores", "1", "--coordinator"][..],
            &[&self.place, "--cluster", "hurt", "--name", &name, "--host", &name],
        ];
        let mut command = (self.wrap)(self.started, gradwire(&arguments.concat()));
        self.servers.push(Server { name, process: Running::start(&mut command) });
        self.started += 1;
    }

    fn status(&self) -> Option<Value> {
        let at = ["status", "--json", "--coordinator", &self.place, "--cluster", "hurt"];
        serde_json::from_slice(&gradwire(&at).output().expect("it runs").stdout).ok()
    }

    /// Waits until exactly these servers take part and no shard is in trouble.
    pub(crate) fn wait_whole(&self) {
        wait_whole(&self.servers, || self.status());
    }

    /// Orders that a shard's first replica goes to a server that has none of it. Their names, the
    /// old one's first.
    fn order_move(&self, shard: usize) -> [String; 2] {
        // Between the status and the order replicas may go elsewhere by themselves.
        wait_for("a move that can be ordered", || self.try_order_move(shard))
    }

    fn try_order_move(&self, shard: usize) -> Option<[String; 2]> {
        let status = self.status()?;
        let replicas = status["chains"][shard]["replicas"].as_array()?;
        let servers = status["servers"].as_array()?;
        let is_other =
            |one: &&Value| one["state"] == "Fit" && !replicas.contains(&one["member"]["server"]);
        let from = servers.iter().find(|one| one["member"]["server"] == replicas[0])?;
        let to = servers.iter().find(is_other)?;
        let both = [from, to].map(|one| &one["member"]);
        let [from, to] = both.map(|member| member["server"].to_string());
        let number = shard.to_string();
        let order = [
            &["cluster", "move", "--shard", &number, "--from", &from, "--to", &to][..],
            &["--coordinator", &self.place, "--cluster", "hurt"],
        ];
        let output = run(&order.concat());
        let (is_taken, said) = (output.status.success(), stderr(&output));
        let went = ["has shard", "does not hold"].iter().any(|why| said.contains(why));
        assert!(is_taken || went, "{said}");
        is_taken.then(|| both.map(|member| member["name"].as_str().expect("text").to_owned()))
    }

    /// Kills the server of this name.
    fn kill(&mut self, name: &str) {
        self.servers.retain(|server| server.name != name);
    }

    /// The names of those who hold a shard, the head first.
    fn holders(&self, shard: usize) -> Option<Vec<String>> {
        let status = self.status()?;
        let servers = status["servers"].as_array()?;
        let name = |number: &Value| {
            let server = servers.iter().find(|one| one["member"]["server"] == *number)?;
            Some(server["member"]["name"].as_str()?.to_owned())
        };
        status["chains"][shard]["replicas"].as_array()?.iter().map(name).collect()
    }

    /// Lets a load run for so long while something happens, and compares what it counted.
    pub(crate) fn survive(&mut self, duration: &str, story: impl FnOnce(&mut Cluster)) {
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
            server.process.signal(Signal::KILL);
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
            let old = cluster.servers.remove(0);
            old.process.signal(Signal::TERM);
            old.hands_over();
            cluster.wait_whole();
        }
    });
    cluster.wait_whole();
}

#[test]
fn whoever_dies_while_a_server_hands_over_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(2, 4, as_it_is);
    cluster.survive("30s", |cluster| {
        // One that fills others, or is being filled.
        let leaving = cluster.servers.remove(0);
        leaving.process.signal(Signal::TERM);
        drop(cluster.servers.remove(0));
        (0..2).for_each(|_| cluster.add_server());
        leaving.hands_over();
        cluster.wait_whole();
        // The one that hands over.
        let leaving = cluster.servers.remove(0);
        leaving.process.signal(Signal::TERM);
        drop(leaving);
        cluster.add_server();
        cluster.wait_whole();
        // The one that has to say who takes what.
        let leaving = cluster.servers.remove(0);
        leaving.process.signal(Signal::TERM);
        cluster.start_coordinator();
        cluster.add_server();
        leaving.hands_over();
        cluster.wait_whole();
    });
    cluster.wait_whole();
}

#[test]
fn whoever_dies_while_a_replica_is_moved_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(2, 4, as_it_is);
    cluster.survive("30s", |cluster| {
        // From the order to a replica that is filled and one that is dropped.
        for (round, after_ms) in [0, 15, 60].into_iter().enumerate() {
            for who in 0..3 {
                let names = cluster.order_move((3 * round + who) % 4);
                sleep(Duration::from_millis(after_ms));
                match names.get(who) {
                    Some(name) => {
                        cluster.kill(name);
                        cluster.add_server();
                    }
                    None => cluster.start_coordinator(),
                }
                cluster.wait_whole();
            }
        }
        let [old, new] = cluster.order_move(0);
        wait_for("a replica that was moved", || {
            let holders = cluster.holders(0)?;
            (holders.contains(&new) && !holders.contains(&old)).then_some(())
        });
    });
    cluster.wait_whole();
}

/// The control group of a server that hardly runs.
fn slow_group() -> PathBuf {
    PathBuf::from(format!("/sys/fs/cgroup/cpu/gradwire-slow-{}", std::process::id()))
}

/// The second server in that group, the others as they are.
fn second_is_slow(number: usize, program: Command) -> Command {
    if number == 1 { in_group(&slow_group(), &program) } else { program }
}

#[test]
fn a_server_that_hardly_gets_a_processor_loses_and_doubles_nothing() {
    let group = slow_group();
    if let Err(error) = std::fs::create_dir(&group) {
        let why = format!("no control group can be made: {}: {error}", group.display());
        return skipped("a_server_that_hardly_gets_a_processor_loses_and_doubles_nothing", &why);
    }
    let mut cluster = Cluster::start(2, 3, second_is_slow);
    cluster.survive("14s", |_| {
        // Of each 100 ms.
        for quota_us in [20_000, 4000, -1] {
            std::fs::write(group.join("cpu.cfs_quota_us"), quota_us.to_string()).expect("a quota");
            sleep(Duration::from_secs(4));
        }
    });
    cluster.wait_whole();
    drop(cluster);
    wait_for("an empty group", || std::fs::remove_dir(&group).ok());
}

/// In a time namespace whose clocks are hours from those of the others.
#[expect(clippy::needless_pass_by_value, reason = "others give the program back")]
fn apart(number: usize, program: Command) -> Command {
    let offset = ["7200", "0", "86400"][number.wrapping_add(2) % 3];
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
        cluster.servers[0].process.signal(Signal::KILL);
        cluster.servers.remove(0);
        cluster.add_server();
        cluster.wait_whole();
    });
}

/// What tells the time of day to the processes of this test.
fn clock_file() -> PathBuf {
    std::env::temp_dir().join(format!("gradwire-clock-{}", std::process::id()))
}

/// Under libfaketime, by which the time of day is as that file says; time that passes is as ever.
fn by_another_clock(_: usize, mut program: Command) -> Command {
    let folder = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    program.env("LD_PRELOAD", format!("{folder}/libfaketimeMT.so.1"));
    program.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
    program.env("FAKETIME_TIMESTAMP_FILE", clock_file());
    program
}

/// Seconds since 1970 by that clock; none where there is no libfaketime.
fn told_by_clock() -> Option<i64> {
    let mut date = Command::new("date");
    let output = by_another_clock(0, {
        date.arg("+%s");
        date
    })
    .output()
    .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[test]
fn clocks_that_jump_by_an_hour_change_nothing() {
    let test = "clocks_that_jump_by_an_hour_change_nothing";
    let jump = |to: &str| std::fs::write(clock_file(), to).expect("written");
    jump("+0");
    let before = told_by_clock();
    jump("+1h");
    let after = told_by_clock();
    if before.zip(after).is_none_or(|(before, after)| after - before < 3600) {
        return skipped(test, "libfaketime is not installed");
    }
    jump("+0");
    let mut cluster = Cluster::start(2, 3, by_another_clock);
    cluster.survive("18s", |cluster| {
        let epoch = |cluster: &Cluster| cluster.status().expect("it lives")["epoch"].clone();
        // On a busy machine somebody may be late and put out of a chain in between, but not by
        // each jump.
        for jumps in [["+1h", "+2h", "+3h"], ["-1h", "-2h", "-3h"]] {
            let changes_nothing = |to: &&str| {
                let before = epoch(cluster);
                jump(to);
                sleep(Duration::from_millis(1500));
                cluster.wait_whole();
                epoch(cluster) == before
            };
            let harmless = jumps.iter().filter(|to| changes_nothing(to)).count();
            assert!(harmless > 0, "each of {jumps:?} put somebody out of a chain");
        }
        cluster.servers.remove(0);
        cluster.add_server();
        cluster.wait_whole();
    });
    drop(cluster);
    std::fs::remove_file(clock_file()).expect("it is there");
}
