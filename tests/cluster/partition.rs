//! A cluster on hosts of its own, whose network is cut: namespaces joined by a bridge.
//!
//! Owns the cuts. The load, and the comparison of what it counted,
//! is `gradwire soak` against a running cluster.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::namespaces::{HUB, Hosts, address, inside, succeeds};
use crate::processes::{Running, Server};
use crate::under_load::{soak, survives, wait_whole};
use crate::{gradwire, skipped};

const COORDINATOR: &str = "10.77.32.1:7200";
const SERVERS: usize = 3;

/// How long a cut lasts: longer than anybody believes in a server that says nothing.
const CUT: Duration = Duration::from_secs(3);

/// Packets of a thousand that are dropped on their way into each host, one stretch after the other.
const DROPPED_PER_THOUSAND: [u32; 3] = [1, 10, 50];

/// A coordinator and workers on the hub, servers on the others.
struct Cluster(Hosts);

/// Command lines that do something to wires, and those that undo it.
struct Cut {
    breaks: Vec<String>,
    mends: Vec<String>,
}

impl Cut {
    fn of(breaks: String, mends: String) -> Vec<Cut> {
        vec![Cut { breaks: vec![breaks], mends: vec![mends] }]
    }
}

impl Cluster {
    /// Starts the coordinator and all servers, two replicas of each shard.
    fn start(&self) -> (TempDir, Running, Vec<Server>) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().to_str().expect("text");
        let coordinate = [
            ["coordinate", "--insecure", "--listen", COORDINATOR, "--data", data, "--cluster"],
            ["cut", "--shards", "4", "--replicas", "2", "--servers-min", "3"],
        ];
        let coordinator = self.0.run(&self.0.hub, &coordinate.concat());
        let start_server = |(number, namespace): (usize, &String)| {
            let (listen, name) = (format!("{}:7201", address(number)), format!("s{number}"));
            let serve = [
                &["serve", "--insecure", "--cores", "1", "--listen", &listen][..],
                &["--coordinator", COORDINATOR, "--cluster", "cut", "--name", &name],
                &["--host", &name],
            ];
            let process = self.0.run(namespace, &serve.concat());
            Server { name, process }
        };
        let servers = self.0.others.iter().enumerate().map(start_server).collect();
        (directory, coordinator, servers)
    }

    /// What the coordinator says of the cluster.
    fn status(&self) -> Option<Value> {
        let status =
            gradwire(&["status", "--json", "--coordinator", COORDINATOR, "--cluster", "cut"]);
        let output = inside(&self.0.hub, &status).output().expect("`ip` runs");
        serde_json::from_slice(&output.stdout).ok()
    }
}

/// Lets a load run for so long while wires are cut and mended, one cut after the other, and
/// compares.
fn survive(test: &str, name: &str, duration: &str, cuts: impl Fn(&Hosts) -> Vec<Cut>) {
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "network namespaces need root");
    }
    let Some(hosts) = Hosts::build(name, SERVERS) else {
        return skipped(test, "`ip` cannot join namespaces by a bridge here");
    };
    let cluster = Cluster(hosts);
    let (_directory, _coordinator, servers) = cluster.start();
    wait_whole(&servers, || cluster.status());
    let hosts = &cluster.0;
    let soak = inside(&hosts.hub, &gradwire(&soak(duration, COORDINATOR, "cut")));
    survives(soak, || {
        for Cut { breaks, mends } in cuts(hosts) {
            breaks.iter().for_each(|line| assert!(succeeds(line), "{line}"));
            sleep(CUT);
            mends.iter().for_each(|line| assert!(succeeds(line), "{line}"));
        }
    });
    wait_whole(&servers, || cluster.status());
}

#[test]
fn a_server_that_is_cut_off_is_replaced_and_comes_back() {
    let test = "a_server_that_is_cut_off_is_replaced_and_comes_back";
    survive(test, "a", "16s", |hosts| {
        let wire = |to: &str| format!("ip -n {} link set v1 {to}", hosts.hub);
        Cut::of(wire("down"), wire("up"))
    });
}

#[test]
fn a_server_that_hears_and_is_not_heard_is_replaced_and_comes_back() {
    let test = "a_server_that_hears_and_is_not_heard_is_replaced_and_comes_back";
    survive(test, "b", "16s", |hosts| {
        let route =
            |does: &str| format!("ip -n {} route {does} blackhole {HUB}/32", hosts.others[1]);
        Cut::of(route("add"), route("del"))
    });
}

#[test]
fn neighbours_in_a_chain_that_cannot_reach_each_other_are_parted() {
    let test = "neighbours_in_a_chain_that_cannot_reach_each_other_are_parted";
    survive(test, "c", "16s", |hosts| {
        let (from, to) = (&hosts.others[1], address(2));
        let route = |does: &str| format!("ip -n {from} route {does} blackhole {to}/32");
        Cut::of(route("add"), route("del"))
    });
}

#[test]
fn wires_that_drop_packets_lose_and_double_nothing() {
    let test = "wires_that_drop_packets_lose_and_double_nothing";
    if !succeeds("nft --version") {
        return skipped(test, "nft is not installed");
    }
    survive(test, "e", "20s", |hosts| {
        let all = || hosts.others.iter().chain([&hosts.hub]);
        let nft = |host: &str, does: &str| format!("ip netns exec {host} nft {does}");
        for host in all() {
            let chain = "add chain ip lossy in { type filter hook input priority 0 ; }";
            for line in [nft(host, "add table ip lossy"), nft(host, chain)] {
                assert!(succeeds(&line), "{line}");
            }
        }
        let cut = |dropped: u32| {
            let rule =
                format!("add rule ip lossy in numgen random mod 1000 < {dropped} counter drop");
            Cut {
                breaks: all().map(|host| nft(host, &rule)).collect(),
                mends: all().map(|host| nft(host, "flush chain ip lossy in")).collect(),
            }
        };
        DROPPED_PER_THOUSAND.map(cut).into()
    });
}
