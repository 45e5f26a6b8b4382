//! Network namespaces: hosts of a test on this machine, joined by a bridge.
//!
//! Owns building them and running things in them. What is cut between them is each test's.

use std::process::{Command, Stdio};

use crate::gradwire;
use crate::processes::Running;

/// The address of the host that has the bridge.
pub(crate) const HUB: &str = "10.77.32.1";

/// Namespaces on one bridge; gone with it.
pub(crate) struct Hosts {
    /// The one that has the bridge.
    pub(crate) hub: String,
    pub(crate) others: Vec<String>,
}

impl Hosts {
    /// Builds the hub and so many others; nothing where this process may not.
    pub(crate) fn build(test: &str, count: usize) -> Option<Hosts> {
        let id = format!("{}{test}", std::process::id());
        let other = |number: usize| format!("gw{id}s{number}");
        let hosts = Hosts { hub: format!("gw{id}h"), others: (0..count).map(other).collect() };
        let hub = &hosts.hub;
        let mut steps = vec![
            format!("ip netns add {hub}"),
            format!("ip -n {hub} link set lo up"),
            format!("ip -n {hub} link add br0 type bridge"),
            format!("ip -n {hub} addr add {HUB}/24 dev br0"),
            format!("ip -n {hub} link set br0 up"),
        ];
        for (number, name) in hosts.others.iter().enumerate() {
            steps.extend([
                format!("ip netns add {name}"),
                format!("ip link add v{number} netns {hub} type veth peer name gw0 netns {name}"),
                format!("ip -n {hub} link set v{number} master br0"),
                format!("ip -n {hub} link set v{number} up"),
                format!("ip -n {name} addr add {}/24 dev gw0", address(number)),
                format!("ip -n {name} link set lo up"),
                format!("ip -n {name} link set gw0 up"),
            ]);
        }
        steps.iter().all(|step| succeeds(step)).then_some(hosts)
    }

    /// Runs the program on a host.
    pub(crate) fn run(&self, namespace: &str, arguments: &[&str]) -> Running {
        Running::start(&mut inside(namespace, &gradwire(arguments)))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in self.others.iter().chain([&self.hub]) {
            succeeds(&format!("ip netns del {namespace}"));
        }
    }
}

/// The address of one of the others.
pub(crate) fn address(number: usize) -> String {
    format!("10.77.32.{}", number + 2)
}

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
