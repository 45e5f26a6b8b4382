//! Measurements of clusters: what they print, and that nothing is lost while servers come and go.

use serde_json::Value;

use crate::run_well;

/// A load that a busy machine carries, too.
const SMALL: [&str; 8] =
    ["--json", "--resident", "20k", "--keys", "1k", "--seconds", "0.5", "--shards"];

fn measure(what: &str, more: &[&str]) -> Value {
    let printed = run_well(&[&["bench", what], &SMALL[..], more].concat());
    let report: Value = serde_json::from_str(&printed).expect("one line of JSON");
    assert_eq!((&report["lost"], &report["doubled"]), (&0.into(), &0.into()), "{report}");
    assert!(report["pushes"].as_u64() > Some(10), "{report}");
    report
}

#[test]
fn replicas_are_filled_and_pushed_to_over_shared_memory_and_over_tcp() {
    for transport in ["shm", "uring"] {
        let report = measure("replication", &["2", "--repeats", "1", "--transport", transport]);
        for cost in ["server_ns_per_key_alone", "server_ns_per_key_replicated"] {
            assert!(report[cost]["median"].as_f64() > Some(0.0), "{cost} in {report}");
        }
    }
}

#[test]
fn servers_that_join_and_leave_under_load_lose_and_double_nothing() {
    let report = measure("elastic", &["8"]);
    for (change, servers) in [("grown", 4), ("shrunk", 2)] {
        let change = &report[change];
        assert_eq!(change["servers"], servers, "{report}");
        // Of 8 shards with 2 replicas each, 4 servers hold 4 each.
        assert!(change["moved_replicas"].as_u64() >= Some(8), "{report}");
    }
}
