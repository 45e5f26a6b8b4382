//! An etcd of a test, where the program is installed: started, killed, started again on its data.
//!
//! Owns its process and its ports. What befalls it is each test's.

use std::fs::File;
use std::io::{Read, Write};
use std::iter;
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::processes::Running;
use crate::wait_for;

/// One etcd, alone or one of several.
pub(crate) struct Etcd {
    process: Option<Running>,
    data: TempDir,
    /// Where it answers.
    pub(crate) endpoint: String,
    peer: String,
    /// Its name among those that it begins with.
    name: String,
    /// All of these, itself included, as etcd wants to be told.
    members: String,
}

/// Whether the program is there.
pub(crate) fn is_installed() -> bool {
    Command::new("etcd").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A port that nobody listens on, of those that the kernel gives to nobody by itself: no connection
/// of another test takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    let mut ports = iter::repeat_with(|| {
        let next = std::process::id() + TAKEN.fetch_add(1, Ordering::Relaxed);
        PORTS.start + (next % count) as u16
    });
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.by_ref().take(count as usize).find(is_free).expect("a free port")
}

/// Below where the kernel's range begins, 32768, unless somebody has moved it.
const PORTS: Range<u16> = 20_000..32_000;

impl Etcd {
    /// Starts one on this host and waits until it answers.
    pub(crate) fn start() -> Etcd {
        Etcd::start_several(1).remove(0)
    }

    /// Starts several on this host that are one, and waits until they answer.
    pub(crate) fn start_several(count: usize) -> Vec<Etcd> {
        let alone = (0..count).map(|_| Etcd::at("127.0.0.1", free_port(), free_port()));
        let name = |number: usize| format!("e{number}");
        let mut etcds: Vec<Etcd> = alone.collect();
        let member =
            |(number, etcd): (usize, &Etcd)| format!("{}=http://{}", name(number), etcd.peer);
        let members: Vec<String> = etcds.iter().enumerate().map(member).collect();
        for (number, etcd) in etcds.iter_mut().enumerate() {
            (etcd.name, etcd.members) = (name(number), members.join(","));
            etcd.run(|command| command);
        }
        etcds.iter().for_each(Etcd::wait_healthy);
        etcds
    }

    /// Waits until it answers, and knows who leads.
    pub(crate) fn wait_healthy(&self) {
        wait_for("etcd", || is_healthy(&self.endpoint).then_some(()));
    }

    /// One that does not run yet.
    pub(crate) fn at(host: &str, port: u16, peer_port: u16) -> Etcd {
        let data = tempfile::tempdir().expect("a temporary directory");
        let (endpoint, peer) = (format!("{host}:{port}"), format!("{host}:{peer_port}"));
        let (name, members) = ("default".to_owned(), format!("default=http://{peer}"));
        Etcd { process: None, data, endpoint, peer, name, members }
    }

    /// Starts it, on the data that it has.
    pub(crate) fn run(&mut self, wrap: impl FnOnce(Command) -> Command) {
        let (client, peer) = (format!("http://{}", self.endpoint), format!("http://{}", self.peer));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.data.path());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--name", &self.name, "--initial-cluster", &self.members]);
        let log = File::create(self.data.path().join("log")).expect("a log");
        self.process = Some(Running::start_into(&mut wrap(command), log));
    }

    /// As `kill -9`, or a host that is gone.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }
}

/// Whether an etcd answers, and has a leader.
fn is_healthy(endpoint: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(endpoint)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"true\""))
}
