//! Child processes of this program: servers and workers of one job.
//!
//! Owns spawning them, reading their lines, noticing their end and ending them. What the lines
//! mean is left to the caller.
//!
//! Invariant: a child's standard input stays open while its parent lives, so a child that reads
//! to its end knows when the parent is gone; a child is killed and reaped when it is dropped.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Longest line of a child, in bytes; more is cut off.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Lines of all children that nobody has taken yet; then the children wait.
const EVENTS_MAX: usize = 1024;

/// One child.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    ended: bool,
}

/// All children of a job, and what they say.
#[derive(Debug)]
pub struct Children {
    children: Vec<Child>,
    events: Receiver<(usize, ChildEvent)>,
    sender: SyncSender<(usize, ChildEvent)>,
}

/// What a child did.
#[derive(Debug)]
pub enum ChildEvent {
    /// It wrote a line.
    Line(String),
    /// It closed its output: it has ended, or is about to.
    Ended,
}

/// Why there is no child.
#[derive(Debug)]
pub struct ChildError {
    /// Which one.
    pub name: String,
    /// Why.
    pub error: io::Error,
}

impl Children {
    /// No child yet.
    pub fn new() -> Children {
        let (sender, events) = sync_channel(EVENTS_MAX);
        Children { children: Vec::new(), events, sender }
    }

    /// Starts this very program with `arguments`; `input` is written to its standard input, which
    /// then stays open. Returns its number.
    pub fn spawn(
        &mut self,
        name: &str,
        arguments: &[String],
        input: &str,
    ) -> Result<usize, ChildError> {
        let failed = |error| ChildError { name: name.to_owned(), error };
        let program = std::env::current_exe().map_err(failed)?;
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let number = self.children.len();
        let output = process.stdout.take().expect("it is piped");
        if let Some(stdin) = process.stdin.as_mut() {
            stdin.write_all(input.as_bytes()).and_then(|()| stdin.flush()).map_err(failed)?;
        }
        let child = Child { name: name.to_owned(), process, ended: false };
        self.children.push(child);
        let sender = self.sender.clone();
        let read = move || read_lines(number, output, &sender);
        std::thread::Builder::new().name(format!("lines-{number}")).spawn(read).map_err(failed)?;
        Ok(number)
    }

    /// What a child says next, if one says anything in `wait`.
    pub fn next(&mut self, wait: Duration) -> Option<(usize, ChildEvent)> {
        self.events.recv_timeout(wait).ok()
    }

    /// The child of this number. Panics if there is none.
    pub fn child(&mut self, number: usize) -> &mut Child {
        &mut self.children[number]
    }
}

impl Default for Children {
    fn default() -> Children {
        Children::new()
    }
}

impl Child {
    /// Its process's number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its name with its process number.
    pub fn name(&self) -> String {
        format!("{} (process {})", self.name, self.process.id())
    }

    /// How it ended, waiting for it at most `wait`; none if it goes on.
    pub fn ended(&mut self, wait: Duration) -> Option<ExitStatus> {
        const STEP: Duration = Duration::from_millis(5);
        let mut left = wait;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                self.ended = true;
                return Some(status);
            }
            if left.is_zero() {
                return None;
            }
            std::thread::sleep(STEP.min(left));
            left = left.saturating_sub(STEP);
        }
    }

    /// Sends it a signal; one that has ended hears nothing.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended || !matches!(self.process.try_wait(), Ok(None)) {
            return; // Its number may be another process's by now.
        }
        let number = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        if let Some(number) = number {
            let _ = kill_process(number, signal);
        }
    }

    /// Processor time that all of its threads have taken, their kernel's part included; none once
    /// it has ended. In steps of the kernel's clock tick, mostly 10 ms.
    pub fn processor_time(&self) -> Option<Duration> {
        const USER_FIELD: usize = 11;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
        // The name before may have spaces and brackets of its own.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut times = fields.split(' ').skip(USER_FIELD).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
    }

    /// Writes a line to its standard input. A child that has ended does not hear it.
    pub fn tell(&mut self, line: &str) {
        if let Some(stdin) = self.process.stdin.as_mut() {
            let _ = stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush());
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

fn read_lines(number: usize, output: impl io::Read, sender: &SyncSender<(usize, ChildEvent)>) {
    let mut reader = BufReader::new(output);
    let mut line = String::new();
    loop {
        line.clear();
        match io::Read::take(&mut reader, LINE_BYTES_MAX).read_line(&mut line) {
            Ok(read) if read > 0 => {
                let event = ChildEvent::Line(line.trim_end().to_owned());
                if sender.send((number, event)).is_err() {
                    return;
                }
            }
            _ => break,
        }
    }
    let _ = sender.send((number, ChildEvent::Ended));
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not start: {}", self.name, self.error)
    }
}

impl std::error::Error for ChildError {}
