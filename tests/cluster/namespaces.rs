//! Network namespaces: hosts of a test on this machine.
//!
//! Owns running things in them. Which there are, and how they are joined, is each test's.

use std::process::{Command, Stdio};

/// Makes a command one that runs in a namespace.
pub(crate) fn inside(namespace: &str, program: &Command) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program.get_program());
    command.args(program.get_args()).stdin(Stdio::null());
    if let Some(dir) = program.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

/// Runs a command line without quotes. Whether it ended well.
pub(crate) fn succeeds(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a step has a program");
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}
