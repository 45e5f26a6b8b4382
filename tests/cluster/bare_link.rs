//! Bare links, measured by two processes or one.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::{gradwire, run, run_well, skipped, stderr};

const SHORT: [&str; 4] = ["--repeats", "1", "--seconds", "0.02"];

/// Checks a line of JSON of one size.
fn check(line: &str, transport: &str, size_bytes: u64) {
    let row: Value = serde_json::from_str(line).expect("one line of JSON");
    assert_eq!((&row["transport"], &row["size_bytes"]), (&transport.into(), &size_bytes.into()));
    let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"));
    assert!(number("bandwidth_bytes_per_s") > 0.0 && number("messages_per_s") > 0.0, "{line}");
    assert!(number("latency_us_p99") >= number("latency_us_p50"), "{line}");
    assert!(number("latency_us_p50") > 0.0, "{line}");
    assert!(row.get("device").is_some(), "{line}");
}

#[test]
fn a_link_of_threads_is_measured_at_every_size() {
    let bench = ["bench", "transport", "--transport", "shm", "--json"];
    let result = run_well(&[&bench[..], &SHORT].concat());
    let sizes = [64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576];
    assert_eq!(result.lines().count(), sizes.len());
    for (line, size_bytes) in result.lines().zip(sizes) {
        check(line, "shm", size_bytes);
    }
}

#[test]
fn a_link_of_processes_is_measured_and_its_far_end_ends() {
    for transport in ["epoll", "verbs"] {
        let test = "a_link_of_processes_is_measured_and_its_far_end_ends";
        let device = run(&[&["bench", "transport", "--size", "64"][..], &SHORT].concat());
        if transport == "verbs" && !device.status.success() {
            skipped(test, stderr(&device).trim());
            continue;
        }
        let mut far = gradwire(&["bench", "transport", "--listen", "127.0.0.1:0"]);
        let mut far = far.stderr(Stdio::piped()).spawn().expect("the program runs");
        let mut said = BufReader::new(far.stderr.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says where it listens");
        let address = line.split_whitespace().nth(2).expect("listening on ADDRESS");
        let bench = ["bench", "transport", address, "--transport", transport, "--json"];
        check(&run_well(&[&bench[..], &SHORT, &["--size", "4KiB"]].concat()), transport, 4096);
        assert!(far.wait().expect("it ends").success(), "the far end of {transport}");
    }
}
