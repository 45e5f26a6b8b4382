//! Training by RDMA where the machine has it; and that the program does without it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{Files, gradwire, run, run_well, skipped, stderr, wait_for_worker};

/// Where the kernel shows RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";
/// What only a guest has: nobody's own network is harmed.
const GUEST: &str = "/run/guest/net";

fn has_rdma() -> bool {
    Path::new(DEVICES).read_dir().is_ok_and(|mut devices| devices.next().is_some())
}

#[test]
fn by_rdma_the_flights_model_has_the_same_bytes_as_by_shared_memory_and_by_tcp() {
    if !has_rdma() {
        let test = "by_rdma_the_flights_model_has_the_same_bytes_as_by_shared_memory_and_by_tcp";
        return skipped(test, "the kernel shows no RDMA device");
    }
    let files = Files::new();
    let export = |transport: &str| {
        let dir = files.path(transport);
        let how = ["--workers", "1", "--clock", "bsp", "--transport", transport];
        let output = run(&[&["train", "--log", "info", "--save", &dir], &how[..]].concat());
        assert!(output.status.success(), "{transport}: {}", stderr(&output));
        let says_rdma = stderr(&output).contains("messages go by RDMA");
        assert_eq!(says_rdma, transport == "verbs", "{transport}: {}", stderr(&output));
        run_well(&["model", "export", &dir])
    };
    let by_rdma = export("verbs");
    assert!(by_rdma.lines().count() > 8000, "{} lines", by_rdma.lines().count());
    assert!(by_rdma == export("shm"), "shared memory differs");
    assert!(by_rdma == export("uring"), "TCP differs");
}

#[test]
fn the_model_has_the_same_bytes_where_the_link_fails_while_it_is_learnt() {
    if !Path::new(GUEST).exists() || !has_rdma() {
        let test = "the_model_has_the_same_bytes_where_the_link_fails_while_it_is_learnt";
        return skipped(test, "no guest with an RDMA device that may be broken");
    }
    let files = Files::new();
    let how = "--log info --workers 1 --clock bsp --epochs 2 --transport verbs --rdma-device rxe0";
    let train = |dir: &str| {
        let arguments = ["train", "--save", dir].into_iter().chain(how.split(' '));
        let mut command = gradwire(&arguments.collect::<Vec<_>>());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs")
    };
    let (calm, broken) = (files.path("calm"), files.path("broken"));
    let output = train(&calm).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));

    let run = train(&broken);
    wait_for_worker(run.id());
    change("ip link set rdma0 down");
    std::thread::sleep(Duration::from_millis(300));
    change("ip link set rdma0 up");
    let output = run.wait_with_output().expect("it ends");
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let first_break = said.find("a lane broke").unwrap_or_else(|| panic!("no break: {said}"));
    assert!(said[first_break..].contains("messages go by RDMA"), "it is not back: {said}");
    let export = |dir: &str| run_well(&["model", "export", dir]);
    assert!(export(&calm) == export(&broken), "a push was lost or counted twice: {said}");
}

/// Runs a program that changes the guest.
fn change(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("there is a shell");
    assert!(status.success(), "{command}: {status}");
}

#[test]
fn rdma_that_is_asked_for_and_is_not_there_is_named_with_a_way_out() {
    if has_rdma() {
        let test = "rdma_that_is_asked_for_and_is_not_there_is_named_with_a_way_out";
        return skipped(test, "there is RDMA here");
    }
    let output = run(&["train", "--transport", "verbs"]);
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains("RDMA") || said.contains("libibverbs"), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[test]
fn the_program_asks_the_dynamic_linker_for_no_library_of_rdma() {
    let mut command = gradwire(&["--version"]);
    // Has the dynamic linker list what it would load, and run nothing.
    let output = command.env("LD_TRACE_LOADED_OBJECTS", "1").output().expect("the program runs");
    let listed = String::from_utf8(output.stdout).expect("text");
    if !listed.contains("libc.so") {
        let test = "the_program_asks_the_dynamic_linker_for_no_library_of_rdma";
        return skipped(test, "the program is not linked to glibc at run time");
    }
    for library in ["ibverbs", "rdmacm", "mlx5", "efa"] {
        assert!(!listed.contains(library), "{listed}");
    }
}
