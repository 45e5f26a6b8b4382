//! Processes of a test: killed with it, heard to their end, and sent signals.
//!
//! Owns no story: what is done to them is each test's.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// A process; dropped, it is killed, and with it those that end with it.
pub(crate) struct Running(Child);

impl Running {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Running {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("it starts"))
    }

    /// Starts it; what it says to anybody goes into a file.
    pub(crate) fn start_into(command: &mut Command, log: File) -> Running {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Running(command.spawn().expect("it starts"))
    }

    /// One that was started.
    pub(crate) fn of(child: Child) -> Running {
        Running(child)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, number: Signal) {
        signal(self.id(), number);
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is ours")
    }

    /// How it ends, and what it says to people. What it prints for programs must fit a pipe.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let status = wait_for("end of the process", || self.ended());
        let mut said = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status, said)
    }

    /// What it prints for programs, once; to be read from the beginning.
    pub(crate) fn stdout(&mut self) -> impl Read + use<> {
        self.0.stdout.take().expect("piped")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of a cluster.
pub(crate) struct Server {
    /// What the cluster calls it.
    pub(crate) name: String,
    pub(crate) process: Running,
}

impl Server {
    /// The program that it runs.
    pub(crate) fn program(&self) -> PathBuf {
        let link = format!("/proc/{}/exe", self.process.id());
        fs::read_link(link).expect("it runs")
    }

    /// Waits until it has handed over what it held.
    pub(crate) fn hands_over(mut self) {
        let (status, said) = self.process.end();
        assert!(status.success(), "it hands over what it holds: {said}");
    }
}

/// Makes a command one that runs in a control group.
pub(crate) fn in_group(group: &Path, program: &Command) -> Command {
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.display());
    let mut command = Command::new("sh");
    command.args(["-c", &enter, "sh"]).arg(program.get_program()).args(program.get_args());
    if let Some(dir) = program.get_current_dir() {
        command.current_dir(dir);
    }
    command.stdin(Stdio::null());
    command
}

/// Sends a process a signal.
pub(crate) fn signal(process: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process).expect("a process number"));
    kill_process(pid.expect("not zero"), signal).expect("it is there");
}

/// The children of a process whose command has this word.
pub(crate) fn children(parent: u32, word: &str) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let numbers = list.unwrap_or_default();
    let numbers = numbers.split_whitespace().filter_map(|number| number.parse().ok());
    let has_word = |&number: &u32| {
        let command = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        command.split(|&byte| byte == 0).nth(1) == Some(word.as_bytes())
    };
    numbers.filter(has_word).collect()
}
