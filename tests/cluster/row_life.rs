//! Rows that come and go: admission of new keys, and expiry.

use serde_json::Value;

use crate::{Files, run, run_well, stderr, train};

fn figure(result: &Value, name: &str) -> f64 {
    result[name].as_f64().unwrap_or_else(|| panic!("no figure {name} in {result}"))
}

/// Trains on the flights. Returns the figures and the rows.
fn flights(name: &str, arguments: &[&str]) -> (Value, String) {
    let files = Files::new();
    let dir = files.path(name);
    let mut all = vec!["--save", &dir];
    all.extend(arguments);
    let result = train(&all);
    (result, run_well(&["model", "export", &dir]))
}

#[test]
fn the_model_has_the_same_bytes_on_one_and_on_three_servers_whichever_rows_come_and_go() {
    for admission in ["all", "probability:0.3", "count:2"] {
        for expiry in ["never", "clocks:20", "recent"] {
            let life = ["--admission", admission, "--expiry", expiry];
            let (alone, rows) = flights("alone", &life);
            let more = ["--servers-local", "3", "--processes", "--transport", "uring"];
            for codec in ["raw", "exact"] {
                let arguments = [&life[..], &more, &["--codec", codec]].concat();
                let (three, rows_of_three) = flights("three", &arguments);
                assert!(rows == rows_of_three, "{arguments:?}");
                for name in ["rows_admitted", "deltas_dropped", "test_logloss"] {
                    assert_eq!(figure(&alone, name), figure(&three, name), "{arguments:?}");
                }
            }
            assert_eq!(figure(&alone, "deltas_dropped") > 0.0, admission != "all");
            assert_eq!(figure(&alone, "rows_expired") > 0.0, expiry == "clocks:20");
            assert!(figure(&alone, "test_logloss") < 0.51, "{life:?}");
        }
    }
}

#[test]
fn a_model_goes_on_with_rows_that_come_and_go_otherwise() {
    let files = Files::new();
    let (data, dir) = (files.file("rows.libsvm", crate::rows(3000)), files.path("model"));
    train(&["--train", &data, "--save", &dir]);
    let life = ["--admission", "probability:0.000001", "--expiry", "clocks:1000"];
    let second = train(&[&["--train", &data, "--resume", &dir][..], &life].concat());
    assert_eq!(figure(&second, "features"), 10.0, "a load asks nobody");
}

#[test]
fn under_recent_a_stream_of_ever_new_features_fits_where_it_is_refused_otherwise() {
    let stream = ["--train", "gen:criteo?rows=60000&seed=7", "--table-mib", "1"];
    let full = run(&[&["train"][..], &stream].concat());
    assert_eq!(full.status.code(), Some(1));
    assert!(stderr(&full).contains("full"), "{}", stderr(&full));
    for processes in [&["--processes"][..], &[]] {
        let recent = train(&[&stream[..], &["--expiry", "recent"], processes].concat());
        assert!(figure(&recent, "rows_expired") > 1000.0, "{recent}");
        let bytes = figure(&recent, "features") * figure(&recent, "table_bytes_per_key");
        assert!(bytes < f64::from(2 << 20), "{bytes} bytes");
        assert!(figure(&recent, "test_logloss") < 0.693, "{recent}");
    }
}

#[test]
fn a_result_tells_what_came_and_went_when_something_may() {
    let table = run_well(&["train", "--admission", "count:2", "--expiry", "clocks:20"]);
    for name in ["features admitted", "deltas not admitted", "features expired", "count:2"] {
        assert!(table.contains(name), "no {name} in:\n{table}");
    }
    let plain = run_well(&["train"]);
    assert!(!plain.contains("expired") && !plain.contains("admitted"), "{plain}");
    let wrong = run(&["train", "--admission", "count:0"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("N from 1 to 255"), "{}", stderr(&wrong));
}
