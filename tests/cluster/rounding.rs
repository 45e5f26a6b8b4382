//! Checkpoints whose numbers are rounded, and clusters that begin from one.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use shard::rule::{Sgd, table_spec};
use worker::{Session, TableId, Then, WorkerId};

use crate::restoring::{Running, session, verify};
use crate::{Files, run, run_well, stderr};

/// Sums, which `session` defines, and weights.
const TABLES: [TableId; 2] = [TableId::new(0), TableId::new(1)];
const KEYS: u64 = 3000;

/// What is pushed for a key: more digits than bf16 has.
fn pushed(key: u64, time: u64) -> f32 {
    (key * 7 + time) as f32 / 1021.0 - 3.0
}

fn define_weights(session: &mut Session) {
    let deadline = session.now() + Duration::from_secs(30);
    let spec = table_spec("weights", 1, &Sgd { rate: 1.0 });
    session.define(TABLES[1], &spec, deadline).expect("defined");
}

/// Adds to each key of both tables, of some keys alone at later times.
fn push(session: &mut Session, time: u64) {
    let keys: Vec<u64> = (0..KEYS / time).collect();
    let deadline = session.now() + Duration::from_secs(30);
    for (table, sign) in TABLES.into_iter().zip([1.0, -1.0]) {
        let split = session.split(&keys).expect("placed");
        let deltas = keys.iter().map(|&key| sign * pushed(key, time)).collect();
        session.push(table, &split, Rc::new(deltas), 1, Then::More).expect("pushed");
    }
    session.wait_pushes(0, deadline).expect("answered");
}

fn read(session: &mut Session, table: TableId) -> Vec<f32> {
    let keys: Vec<u64> = (0..KEYS).collect();
    let split = session.split(&keys).expect("placed");
    let ticket = session.pull(table, &split, 1).expect("asked");
    let deadline = session.now() + Duration::from_secs(30);
    session.wait_pull(ticket, deadline).expect("values").as_slice().to_vec()
}

/// The nearest bf16, of two that are as near the even one.
fn nearest(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

#[test]
fn a_cluster_begins_again_from_weights_that_were_rounded_and_sums_that_were_not() {
    let files = Files::new();
    let place = files.path("checkpoints");
    let store = ["--checkpoints", &place, "--checkpoint-values", "bf16"];
    let more = [&store[..], &["--checkpoint-full-every", "2"]].concat();
    let first = Running::start(&files.path("data"), 2, 3, 2, &more);
    let mut worker = session(&first.address, WorkerId::new(0), 1);
    define_weights(&mut worker);
    push(&mut worker, 1);
    first.take_well();
    push(&mut worker, 2);
    let taken = first.take_well();
    let was = TABLES.map(|table| read(&mut worker, table));
    assert!(was[1].iter().any(|&value| nearest(value) != value), "there is something to round");
    first.kill();
    verify(&place);
    let number = taken["number"].to_string();
    let said = run_well(&["checkpoint", "inspect", &place, "--number", &number, "--json"]);
    let manifest: Value = serde_json::from_str(&said).expect("one line of JSON");
    assert_eq!((&manifest["format"], &manifest["parts"][2]["values"]), (&3.into(), &"bf16".into()));
    let changes = manifest["content"]["changes-since"].as_u64();
    assert_eq!(changes, taken["number"].as_u64().map(|number| number - 1), "{manifest}");
    let listed = run_well(&["checkpoint", "list", &place]);
    assert!(listed.lines().skip(1).all(|line| line.contains("bf16")), "{listed}");
    let restore = ["--restore", place.as_str()];
    let second = Running::start(&files.path("again"), 1, 3, 1, &restore);
    second.wait_restored();
    let mut reader = session(&second.address, WorkerId::OBSERVER, 1);
    define_weights(&mut reader);
    assert_eq!(read(&mut reader, TABLES[0]), was[0], "sums count exactly");
    let rounded: Vec<f32> = was[1].iter().map(|&value| nearest(value)).collect();
    assert_eq!(read(&mut reader, TABLES[1]), rounded);
    second.kill();
}

#[test]
fn values_that_no_checkpoint_has_are_refused_and_values_without_checkpoints() {
    let files = Files::new();
    let data = files.path("data");
    let at = ["coordinate", "--listen", "127.0.0.1:0", "--data", &data, "--shards", "1"];
    let place = files.path("checkpoints");
    for (more, said) in [
        (&["--checkpoints", &place, "--checkpoint-values", "int8"][..], "int8"),
        (&["--checkpoint-values", "bf16"][..], "--checkpoints"),
    ] {
        let output = run(&[&at[..], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}
