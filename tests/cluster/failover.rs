//! Servers are killed, stopped and replaced under a job, which goes on and loses nothing.

use rustix::process::Signal;
use serde_json::Value;

use crate::etcd::{Etcd, is_installed};
use crate::processes::{Running, children, signal};
use crate::{Files, gradwire, run, run_well, skipped, stderr, wait_for_worker};

fn soak(arguments: &[&str]) -> Value {
    let mut all = vec!["soak", "--json"];
    all.extend(arguments);
    serde_json::from_str(&run_well(&all)).expect("one line of JSON")
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Nothing was lost or doubled, and something happened at all.
fn check(report: &Value) {
    for name in ["lost", "doubled", "violations"] {
        assert_eq!(number(report, name), 0, "{name} in {report}");
    }
    assert!(number(report, "kills") >= 2, "{report}");
    assert!(number(report, "acknowledged") > 100, "{report}");
    assert!(report["recovery_ms_p50"].is_f64() && report["recovery_ms_p99"].is_f64(), "{report}");
}

#[test]
fn servers_that_are_killed_under_load_lose_and_double_nothing() {
    check(&soak(&["--for", "12s", "--every", "2s", "--seed", "1", "--replicas", "2"]));
}

#[test]
fn servers_that_sleep_and_wake_up_lose_and_double_nothing() {
    check(&soak(&["--for", "12s", "--every", "1s", "--seed", "2", "--faults", "stop"]));
}

#[test]
fn a_coordinator_that_is_killed_is_missed_by_nobody() {
    let faults = ["--faults", "coordinator,kill", "--seed", "3"];
    check(&soak(&[&["--for", "12s", "--every", "2s"], &faults[..]].concat()));
}

#[test]
fn a_server_and_the_coordinator_that_are_killed_at_one_moment_lose_and_double_nothing() {
    let faults = ["--faults", "kill-together", "--seed", "7"];
    check(&soak(&[&["--for", "12s", "--every", "1s"], &faults[..]].concat()));
    if !is_installed() {
        let test = "a_server_and_the_coordinator_that_are_killed_at_one_moment (one of two)";
        return skipped(test, "etcd is not installed");
    }
    let etcd = Etcd::start();
    let report =
        soak(&[&["--for", "15s", "--every", "1s", "--etcd", &etcd.endpoint], &faults[..]].concat());
    check(&report);
    let kills = report["caused"]["kill-together"].as_u64().unwrap_or_default();
    assert!(kills >= 1 && number(&report, "takeovers") >= kills, "{report}");
}

#[test]
fn workers_and_servers_that_are_killed_under_load_lose_and_double_nothing() {
    let faults = ["--faults", "kill-worker,kill-worker,kill,kill-coordinator", "--workers", "2"];
    check(&soak(&[&["--for", "15s", "--every", "1s", "--seed", "4"], &faults[..]].concat()));
}

#[test]
fn what_heads_alone_have_acknowledged_survives_servers_and_workers_that_are_killed() {
    let faults = ["--faults", "kill-worker,kill", "--workers", "2", "--acknowledge", "head"];
    let report = soak(&[&["--for", "15s", "--every", "1s", "--seed", "5"], &faults[..]].concat());
    check(&report);
    assert_eq!(report["acknowledge"], "head", "{report}");
    for kind in ["kill", "kill-worker"] {
        assert!(report["caused"][kind].as_u64() >= Some(1), "{kind}: another seed: {report}");
    }
}

#[test]
fn pushes_that_heads_add_up_survive_servers_and_workers_that_are_killed() {
    let faults = ["--faults", "kill-worker,kill,kill", "--workers", "3", "--aggregate"];
    let report = soak(&[&["--for", "15s", "--every", "1s", "--seed", "7"], &faults[..]].concat());
    check(&report);
    assert_eq!(report["aggregate"], true, "{report}");
    for kind in ["kill", "kill-worker"] {
        assert!(report["caused"][kind].as_u64() >= Some(1), "{kind}: another seed: {report}");
    }
}

#[test]
fn leaders_that_are_killed_or_sleep_while_servers_die_lose_and_double_nothing() {
    if !is_installed() {
        let test = "leaders_that_are_killed_or_sleep_while_servers_die_lose_and_double_nothing";
        return skipped(test, "etcd is not installed");
    }
    let etcd = Etcd::start();
    let faults = ["--faults", "coordinator,kill,stop-coordinator", "--etcd", &etcd.endpoint];
    let report = soak(&[&["--for", "20s", "--every", "1s", "--seed", "6"], &faults[..]].concat());
    check(&report);
    assert_eq!(number(&report, "standbys"), 1, "{report}");
    let kills = report["caused"]["coordinator"].as_u64().unwrap_or_default();
    assert!(kills >= 1 && number(&report, "takeovers") >= kills, "{report}");
}

const DATA: &str = "gen:criteo?rows=200000&seed=3";

fn training<'a>(save: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["train", "--json", "--train", DATA, "--save", save];
    all.extend(more);
    all
}

#[test]
fn under_bsp_a_model_that_was_learnt_while_servers_died_has_the_bytes_of_an_undisturbed_one() {
    let files = Files::new();
    let (calm, hurt) = (files.path("calm"), files.path("hurt"));
    run_well(&training(&calm, &["--servers-local", "3"]));
    let replicated = ["--servers-local", "3", "--replicas", "2"];
    let mut job = Running::start(&mut gradwire(&training(&hurt, &replicated)));
    wait_for_worker(job.id());
    let servers = children(job.id(), "serve");
    assert_eq!(servers.len(), 3, "three servers");
    signal(servers[1], Signal::KILL);
    let (status, said) = job.end();
    assert!(status.success(), "{said}");
    let export = |dir: &str| run_well(&["model", "export", dir]);
    assert!(export(&calm) == export(&hurt), "the models differ");
}

#[test]
fn a_job_without_replicas_left_ends_with_the_name_of_the_shard() {
    let files = Files::new();
    let save = files.path("model");
    let endless = "gen:criteo?rows=1000000000&seed=1";
    let arguments = ["train", "--train", endless, "--save", &save, "--replicas", "2"];
    let mut job = Running::start(&mut gradwire(&arguments));
    wait_for_worker(job.id());
    for server in children(job.id(), "serve") {
        signal(server, Signal::KILL);
    }
    let (status, said) = job.end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("is lost") || said.contains("no server left"), "{said}");
}

#[test]
fn what_cannot_be_survived_is_refused_before_it_starts() {
    let refused = |arguments: &[&str], why: &str| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    };
    refused(&["soak", "--replicas", "1"], "with 1 a dead server takes its shards along");
    refused(&["soak", "--replicas", "3", "--servers", "2"], "2 servers cannot hold 3 replicas");
    refused(&["soak", "--standbys", "1"], "--etcd");
    refused(&["train", "--servers-local", "2", "--replicas", "3"], "2 servers hold 1 to 2");
    refused(&["train", "--cluster", "a"], "--coordinator");
}
