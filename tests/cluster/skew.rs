//! Two builds in one cluster: each takes over from the other, process by process.
//!
//! Owns which process is of which build. The other build is one that `cargo xtask skew` has made;
//! where there is none, each test says so and passes by, as one does that is for builds of one wire
//! version, or of two.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::etcd::free_port;
use crate::faults::{COORDINATOR, Cluster};
use crate::processes::Running;
use crate::{gradwire, skipped, wait_for};

/// Servers of the cluster.
const SIZE: usize = 3;

/// Whether the next coordinator is of the other build.
static COORDINATOR_IS_OTHER: AtomicBool = AtomicBool::new(true);

/// Where the other build's program lies.
fn other_build() -> PathBuf {
    let ours = Path::new(env!("CARGO_BIN_EXE_gradwire"));
    let target = ours.ancestors().nth(2).expect("target/release/gradwire");
    target.join("skew").join("gradwire")
}

/// The wire version that a program says it speaks.
fn wire_version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.rsplit_once("wire ")?.1.trim_end().trim_end_matches(')').to_owned())
}

/// The first servers are of the other build, as many after them of this one, and so on.
fn by_turns(number: usize, program: Command) -> Command {
    let is_other = match number {
        COORDINATOR => COORDINATOR_IS_OTHER.load(Ordering::Relaxed),
        _ => (number / SIZE).is_multiple_of(2),
    };
    of_build(is_other, program)
}

/// The wire versions of this build and of the other one; nothing where that is not here.
fn versions(test: &str) -> Option<[String; 2]> {
    let theirs = wire_version(&other_build());
    if theirs.is_none() {
        skipped(test, "no other build is here: `cargo xtask skew` makes one");
    }
    let ours = wire_version(Path::new(env!("CARGO_BIN_EXE_gradwire"))).expect("it says so");
    Some([ours, theirs?])
}

/// The command of this build, or the same one of the other build.
fn of_build(is_other: bool, program: Command) -> Command {
    if !is_other {
        return program;
    }
    let mut command = Command::new(other_build());
    command.args(program.get_args()).stdin(Stdio::null());
    if let Some(dir) = program.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

#[test]
fn builds_of_two_wire_versions_turn_each_other_away_in_one_line() {
    let test = "builds_of_two_wire_versions_turn_each_other_away_in_one_line";
    let Some([ours, theirs]) = versions(test) else { return };
    if ours == theirs {
        return skipped(test, &format!("both builds speak version {ours}"));
    }
    for is_other_first in [false, true] {
        let (first, second) = if is_other_first { (&theirs, &ours) } else { (&ours, &theirs) };
        let data = tempfile::tempdir().expect("a directory");
        let place = format!("127.0.0.1:{}", free_port());
        let mut command = gradwire(&["coordinate", "--shards", "2", "--listen", &place]);
        command.arg("--data").arg(data.path());
        let _coordinator = Running::start(&mut of_build(is_other_first, command));
        wait_for("coordinator", || TcpStream::connect(&place).ok());
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--coordinator", &place];
        let (status, said) =
            Running::start(&mut of_build(!is_other_first, gradwire(&arguments))).end();
        assert_eq!(status.code(), Some(1), "{said}");
        let line = format!("the coordinator's wire version is {first}, ours {second}");
        assert!(said.lines().last().is_some_and(|last| last.contains(&line)), "{said}");
    }
}

#[test]
fn builds_of_one_wire_version_take_over_from_each_other_under_load_and_lose_nothing() {
    let test = "builds_of_one_wire_version_take_over_from_each_other_under_load_and_lose_nothing";
    let Some([ours, theirs]) = versions(test) else { return };
    if ours != theirs {
        return skipped(test, &format!("the other build speaks version {theirs} and not {ours}"));
    }
    let other = other_build().canonicalize().expect("it was run");
    let others = |cluster: &Cluster| {
        cluster.servers.iter().filter(|server| server.program() == other).count()
    };
    let mut cluster = Cluster::start(2, SIZE, by_turns);
    assert_eq!(others(&cluster), SIZE);
    cluster.survive("45s", |cluster| {
        // Upwards and back.
        for is_other_next in [false, true] {
            for _ in 0..SIZE {
                cluster.add_server();
                let old = cluster.servers.remove(0);
                old.process.signal(Signal::TERM);
                old.hands_over();
                cluster.wait_whole();
            }
            assert_eq!(others(cluster), if is_other_next { SIZE } else { 0 });
            COORDINATOR_IS_OTHER.store(is_other_next, Ordering::Relaxed);
            cluster.start_coordinator();
            cluster.wait_whole();
        }
    });
    cluster.wait_whole();
}
