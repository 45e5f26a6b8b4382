//! Disks that are full, or fail: under checkpoints, and under the coordinator's log.
//!
//! Owns making them so. What is at stake, a load and a cluster of processes, is that of
//! `restoring`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::processes::Running as Process;
use crate::restoring::{Running, STEPS_FIRST, verify, verify_number};
use crate::{Files, skipped, stderr, wait_for};

const KEYS: u64 = 5000;

/// A file system of [`DISK_BYTES`]; unmounted when it is dropped.
struct SmallDisk(tempfile::TempDir);

/// Room for many checkpoints: each has what is pushed while it is taken, a few MB on a busy host.
const DISK_BYTES: usize = 64 << 20;

impl SmallDisk {
    fn mount() -> Result<SmallDisk, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"]);
        mount.arg(folder.path());
        let output = mount.output().map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(SmallDisk(folder)),
            false => Err(stderr(&output).trim().to_owned()),
        }
    }
}

/// What leaves no room on a disk, until it is dropped.
struct Filler(PathBuf);

impl Filler {
    fn of(disk: &SmallDisk) -> Filler {
        let path = disk.0.path().join("filler");
        std::fs::write(&path, vec![0; DISK_BYTES]).expect_err("it does not fit");
        Filler(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let removed = std::fs::remove_file(&self.0);
        if !std::thread::panicking() {
            removed.expect("it is there");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Makes each call of some processes that wants bytes on a disk fail, until it is dropped.
struct FailingDisk {
    _tracer: Process,
}

impl FailingDisk {
    /// None where no process can be traced.
    fn under(processes: &[u32]) -> Option<FailingDisk> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
        command.args(["-e", "inject=fsync,fdatasync:error=EIO"]);
        for process in processes {
            command.args(["-p", &process.to_string()]);
        }
        let is_there = Command::new("strace").arg("--version").stdout(Stdio::null()).status();
        if !is_there.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut tracer = Process::start(&mut command);
        let is_traced = |process: &u32| {
            let tasks = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
            let status =
                |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status"));
            let traced = tasks
                .flatten()
                .all(|task| status(task).is_ok_and(|status| !status.contains("TracerPid:\t0")));
            traced.then_some(())
        };
        let all = wait_for("a tracer, or its end", || {
            if tracer.ended().is_some() {
                return Some(false);
            }
            processes.iter().all(|process| is_traced(process).is_some()).then_some(true)
        });
        all.then_some(FailingDisk { _tracer: tracer })
    }
}

/// Has a checkpoint fail while the disk does, in this word, and sees the one before whole, the job
/// go on, and the next one good once the disk is well. None where nothing can fail.
///
/// - `fail`: has the disk fail until what it returns is dropped.
fn fails_one_checkpoint<T>(
    place: &str,
    word: &str,
    fail: impl FnOnce(&Running) -> Option<T>,
) -> Option<()> {
    let files = Files::new();
    let running = Running::start(&files.path("data"), 2, 4, 2, &["--checkpoints", place]);
    let load = running.load(1, KEYS, u64::MAX);
    let first = running.take_well()["number"].as_u64().expect("a number");
    let failing = fail(&running)?;
    let output = running.take();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(word), "{}", stderr(&output));
    load.wait_steps(load.steps() + STEPS_FIRST);
    let status = running.status().expect("the coordinator lives");
    assert!(status["checkpoints"]["failure"].is_string(), "{status}");
    drop(failing);
    verify_number(place, first);
    assert!(running.take_well()["number"].as_u64() > Some(first));
    verify(place);
    running.kill();
    load.join();
    Some(())
}

#[test]
fn a_full_disk_fails_the_checkpoint_and_neither_the_one_before_nor_the_job() {
    let test = "a_full_disk_fails_the_checkpoint_and_neither_the_one_before_nor_the_job";
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => return skipped(test, &why),
    };
    let place = disk.0.path().join("checkpoints");
    let place = place.to_str().expect("text");
    fails_one_checkpoint(place, "no space left", |_| Some(Filler::of(&disk)));
}

#[test]
fn a_disk_that_fails_fails_the_checkpoint_and_neither_the_one_before_nor_the_job() {
    let files = Files::new();
    let fail = |running: &Running| FailingDisk::under(&running.processes()[1..]);
    if fails_one_checkpoint(&files.path("checkpoints"), "Input/output error", fail).is_none() {
        skipped("a_disk_that_fails", "strace is not here, or may not trace");
    }
}

/// Has a server die while the coordinator cannot write its log, and sees another one take its place
/// once it can again.
///
/// - `failing`: has it fail until it is dropped.
fn survives<T>(mut running: Running, word: &str, failing: T) {
    let load = running.load(1, KEYS, u64::MAX);
    running.add_server();
    let why = wait_for("a store that fails", || {
        Some(running.status()?["store_error"].as_str()?.to_owned())
    });
    assert!(why.contains(word), "{why}");
    load.wait_steps(load.steps() + STEPS_FIRST);
    drop(failing);
    running.kill_server();
    running.wait_whole();
    load.wait_steps(load.steps() + STEPS_FIRST);
    running.kill();
    load.join();
}

#[test]
fn a_coordinator_whose_disk_was_full_goes_on_once_there_is_room() {
    let test = "a_coordinator_whose_disk_was_full_goes_on_once_there_is_room";
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => return skipped(test, &why),
    };
    let data = disk.0.path().join("data");
    let running = Running::start(data.to_str().expect("text"), 2, 4, 2, &[]);
    running.wait_whole();
    survives(running, "o space left", Filler::of(&disk));
}

#[test]
fn a_coordinator_whose_disk_failed_goes_on_in_a_new_file() {
    let files = Files::new();
    let running = Running::start(&files.path("data"), 2, 4, 2, &[]);
    running.wait_whole();
    let Some(failing) = FailingDisk::under(&running.processes()[..1]) else {
        return skipped("a_coordinator_whose_disk_failed", "strace is not here, or may not trace");
    };
    survives(running, "Input/output error", failing);
}
