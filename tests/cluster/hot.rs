//! Pulls that replicas behind heads answer: the same values, also while such a replica dies.

use rustix::process::Signal;
use serde_json::Value;

use crate::processes::{Running, children, signal};
use crate::{Files, gradwire, run, run_well, stderr, wait_for_worker};

const DATA: &str = "gen:criteo?rows=200000&seed=3";

fn figure(figures: &Value, name: &str) -> u64 {
    let found = figures[name].as_u64();
    found.unwrap_or_else(|| panic!("no {name} in {figures}"))
}

#[test]
fn under_bsp_a_model_has_the_same_bytes_whoever_answers_pulls_and_while_servers_die() {
    let files = Files::new();
    let export = |dir: &str| run_well(&["model", "export", dir]);
    let train = |read: &str| {
        let save = files.path(read);
        let arguments = ["train", "--json", "--train", DATA, "--save", &save, "--read", read];
        let servers = ["--servers-local", "3", "--replicas", "2"];
        let printed = run_well(&[&arguments[..], &servers].concat());
        let figures: Value = serde_json::from_str(&printed).expect("one line of JSON");
        (export(&save), figure(&figures, "keys_from_replicas"), figure(&figures, "keys_pulled"))
    };
    let (calm, from_replicas, _) = train("heads");
    assert_eq!(from_replicas, 0);
    let (spread, from_replicas, pulled) = train("replicas");
    assert!(from_replicas * 5 > pulled, "{from_replicas} of {pulled} keys");
    assert!(calm == spread, "the models differ");
    let save = files.path("hurt");
    let arguments = ["train", "--train", DATA, "--save", &save, "--read", "replicas"];
    let servers = ["--servers-local", "3", "--replicas", "2"];
    let mut job = Running::start(&mut gradwire(&[&arguments[..], &servers].concat()));
    wait_for_worker(job.id());
    signal(children(job.id(), "serve")[1], Signal::KILL);
    let (status, said) = job.end();
    assert!(status.success(), "{said}");
    assert!(calm == export(&save), "the models differ");
}

#[test]
fn heads_of_hot_keys_have_fewer_pulls_where_replicas_answer() {
    let size = ["--resident", "20k", "--keys", "1", "--dim", "1", "--shards", "3"];
    let time = ["--seconds", "1", "--repeats", "1", "--in-flight", "8", "--zipf", "1.5"];
    let printed = run_well(&[&["bench", "hot", "--json"], &size[..], &time].concat());
    let report: Value = serde_json::from_str(&printed).expect("one line of JSON");
    let median = |row: usize, name: &str| {
        let ratio = report["rows"][row][name]["median"].as_f64();
        ratio.unwrap_or_else(|| panic!("no {name} in row {row} of {report}"))
    };
    assert!(median(0, "busiest_keys_ratio") > 0.4, "nothing is hot: {report}");
    assert_eq!(median(0, "from_replicas_ratio"), 0.0, "{report}");
    // How much of it depends on how fast each answers, and whether a shard is found to be hot in so
    // short a time on the machine: that is `auto`.
    let from_replicas = median(2, "from_replicas_ratio");
    assert!((0.1..0.95).contains(&from_replicas), "{report}");
    for name in ["wrong", "lost", "doubled"] {
        assert_eq!(report[name].as_u64(), Some(0), "{name}: {report}");
    }
}

#[test]
fn servers_without_a_coordinator_have_no_replicas_to_read_from() {
    let output = run(&["train", "--read", "replicas"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--read is for clusters"), "{}", stderr(&output));
}
