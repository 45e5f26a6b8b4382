//! Crowds, and what a server has too little of: files and memory. Sessions go on, and what is said
//! is clear.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::metrics::{Running, Shown};
use crate::processes::in_group;
use crate::{Files, gradwire, run_well, skipped, wait_for};

/// What one connection may have unreleased and unsent by the transport's limits, in bytes, and one
/// message besides.
const CONNECTION_BYTES_MAX: u32 = (4 + 4 + 1) << 20;

const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--cores", "1"];

#[test]
fn pushes_are_exact_amid_a_crowd_and_its_memory_is_bounded() {
    let crowd = ["bench", "crowd", "--idle", "300", "--hostile", "50"];
    let taking = ["--seconds", "2", "--repeats", "1", "--json"];
    let report = run_well(&[&crowd[..], &taking].concat());
    let report: Value = serde_json::from_str(&report).expect("one line of JSON");
    assert_eq!((&report["lost"], &report["doubled"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(report["idle_lost"], 0, "{report}");
    assert!(report["shut_out"].as_u64() > Some(0), "{report}");
    // What each of the hostile may have unreleased and unsent, by the transport's limits, and 64
    // KiB for each of the idle.
    let bound_kib = 50 * u64::from(CONNECTION_BYTES_MAX >> 10) + 300 * 64;
    let grown_kib = report["server_kib_in_crowd"].as_u64().expect("a figure")
        - report["server_kib_alone"].as_u64().expect("a figure");
    assert!(grown_kib < bound_kib, "{report}");
}

#[test]
fn who_sends_what_is_no_message_is_shut_out_and_counted() {
    let server = Shown::start(&SERVE);
    let mut guest = TcpStream::connect(&server.listen).expect("it listens");
    guest.write_all(&[7; 64]).expect("sent");
    guest.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    assert!(matches!(guest.read(&mut [0]), Ok(0) | Err(_)), "what is no hello is not answered");
    wait_for("a guest that was turned away", || {
        (server.figure("gradwire_handshakes_total", "no_hello") == 1.0).then_some(())
    });
    let _silent = TcpStream::connect(&server.listen).expect("it listens");
    wait_for("a guest that took too long", || {
        (server.figure("gradwire_handshakes_total", "broken_off") == 1.0).then_some(())
    });
}

#[test]
fn a_server_without_files_says_so_and_goes_on_with_those_who_are_there() {
    let files = Files::new();
    let log = files.path("log");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=64:64", env!("CARGO_BIN_EXE_gradwire")]).args(SERVE);
    command.stderr(File::create(&log).expect("made"));
    if Command::new("prlimit").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skipped("a_server_without_files", "there is no prlimit");
    }
    let server = Shown::of(command);
    let run = Running::start(&["--servers", &server.listen]);
    let before = run.wait_for_rows(1.0);
    let crowd: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(&server.listen).ok()).collect();
    let said = || std::fs::read_to_string(&log).expect("it is there");
    wait_for("a word about it", || said().contains("a connection is not accepted").then_some(()));
    assert!(said().contains("few files may be open"), "{}", said());
    run.wait_for_rows(before + 10_000.0);
    drop(crowd);
    wait_for("room for others", || {
        (server.try_figure("gradwire_handshakes_total", "no_resources")? > 0.0).then_some(())
    });
}

#[test]
fn a_server_whose_memory_is_used_up_says_that_it_is_busy_and_holds_no_more() {
    let server = Shown::start(&[&SERVE[..], &["--memory-mib", "24"]].concat());
    becomes_busy(&server);
    let held = server.figure("gradwire_memory_held_bytes", "");
    let bound = server.figure("gradwire_memory_bound_bytes", "");
    // Of the worker and of who watches the run: slots of connections that are there may grow when
    // tables may not.
    let slots = f64::from(2 * CONNECTION_BYTES_MAX);
    assert!(held <= bound + slots, "{held} of {bound} bytes");
}

#[test]
fn a_server_in_a_small_control_group_is_busy_and_is_not_killed() {
    let group = PathBuf::from(format!("/sys/fs/cgroup/memory/gradwire-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&group) {
        let why = format!("no control group can be made: {}: {error}", group.display());
        return skipped("a_server_in_a_small_control_group", &why);
    }
    std::fs::write(group.join("memory.limit_in_bytes"), "134217728").expect("a bound");
    let server = Shown::of(in_group(&group, &gradwire(&SERVE)));
    assert_eq!(server.figure("gradwire_memory_bound_bytes", ""), 96.0 * 1024.0 * 1024.0);
    becomes_busy(&server);
    assert!(server.figure("gradwire_keys_pushed_total", "") > 0.0, "it is there");
    drop(server);
    wait_for("an empty group", || std::fs::remove_dir(&group).ok());
}

/// Has a job that knows ever more keys fill a server's memory.
fn becomes_busy(server: &Shown) {
    let run = Running::start(&["--servers", &server.listen, "--batch-rows", "4000"]);
    wait_for("a push that is told to come later", || {
        (server.figure("gradwire_refusals_total", "busy") > 0.0).then_some(())
    });
    drop(run);
}
