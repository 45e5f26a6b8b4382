//! What a checkpoint takes of a server's memory: a part of what is left, and it is told.

use std::rc::Rc;
use std::time::Duration;

use shard::rule::{Sum, table_spec};
use worker::{TableId, Then, WorkerId};

use crate::etcd::free_port;
use crate::metrics::figure_at;
use crate::restoring::{Begin, session, verify};
use crate::{Files, wait_for};

const MIB: f64 = 1024.0 * 1024.0;
/// Numbers of a row.
const DIM: u16 = 64;
/// Rows of 41 MiB, keys not counted.
const KEYS: u64 = 168_000;
/// What is left of this beside the rows is a good deal less than they take.
const MEMORY_MIB: &str = "80";

#[test]
fn a_checkpoint_takes_half_of_the_memory_that_is_left_and_not_a_copy_of_all_rows() {
    let files = Files::new();
    let place = files.path("checkpoints");
    let metrics = format!("127.0.0.1:{}", free_port());
    let serve = ["--memory-mib", MEMORY_MIB, "--metrics", &metrics].map(str::to_owned).to_vec();
    let begin = Begin { serve, ..Begin::new(files.path("data")) };
    // Slow enough for all that may wait to do so.
    let cluster = begin.running(&["--checkpoints", &place, "--checkpoint-rate", "8"]);
    fill(&cluster.address);
    let held = || figure_at(&metrics, "gradwire_memory_held_bytes", "").expect("it listens") / MIB;
    // A core shows itself every 20 ms, and what a connection had is given back.
    let before = wait_for("a server that holds its rows alone", || {
        let now = held();
        std::thread::sleep(Duration::from_millis(200));
        (now == held()).then_some(now)
    });
    assert!(before > 41.0, "{before} MiB of rows");
    let (taken, most) = std::thread::scope(|scope| {
        let taking = scope.spawn(|| cluster.take_well());
        let mut most = before;
        while !taking.is_finished() {
            most = most.max(held());
            std::thread::sleep(Duration::from_millis(10));
        }
        (taking.join().expect("no panic"), most)
    });
    assert!(taken["number"].is_u64(), "{taken}");
    assert!(most > before + 1.0, "what waits is held: {most} MiB of {before} before");
    // Half of what is left: what waits, and memory that came back from who writes. And what came
    // since the core was last told how much that is.
    let left = MEMORY_MIB.parse::<f64>().expect("a number") - before;
    let bound = left / 2.0 + 4.0;
    assert!(bound < 25.0, "a copy of all rows takes a good deal more: {before} MiB before");
    assert!(most < before + bound, "{most} MiB, {before} before: not {bound} more");
    verify(&place);
    cluster.kill();
}

/// Pushes all rows, and leaves.
fn fill(address: &str) {
    const WIDE: TableId = TableId::new(1);
    let mut session = session(address, WorkerId::new(0), 1);
    let deadline = session.now() + Duration::from_secs(60);
    session.define(WIDE, &table_spec("wide", DIM.into(), &Sum), deadline).expect("defined");
    for first in (0..KEYS).step_by(1000) {
        let keys: Vec<u64> = (first..first + 1000).collect();
        let split = session.split(&keys).expect("placed");
        let ones = Rc::new(vec![1.0; keys.len() * usize::from(DIM)]);
        session.push(WIDE, &split, ones, DIM, Then::More).expect("pushed");
        session.wait_pushes(0, deadline).expect("answered");
    }
    session.leave(deadline).expect("left");
}
