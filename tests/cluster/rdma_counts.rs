//! A table of counters, pushed to by RDMA while that fails: each push counts once, in every fault
//! that a test can bring about.
//!
//! Owns two shards as threads, a worker's session with them over a wire, and what is done to the
//! wire. It needs a guest with `rxe0` and `rxe1` at the ends of one; elsewhere each test is skipped
//! by name.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kernels::Isa;
use server::{Door, Exposure, Hosting, OnClosed, Pinning, Server, ServerSpec, Way};
use shard::rule::{Rules, Sum, table_spec};
use transport::Limits;
use transport::tcp::TcpBackend;
use transport::verbs::{Breakage, VerbsSettings};
use worker::{
    ConnectSpec, Dial, Epoch, Incarnation, JobId, Join, Place, Session, Split, Staleness, TableId,
    Then, Time, Timeouts, WorkerId, connect,
};

use crate::skipped;

/// What only a guest has: nobody's own network is harmed.
const GUEST: &str = "/run/guest/net";
/// Where the kernel shows what a soft device has counted.
const DEVICES: &str = "/sys/class/infiniband";
/// How long a test waits for what must happen, before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Counters in the table.
const KEYS: u64 = 600;
/// Pushes in each phase of a test.
const PUSHES: usize = 150;
/// Pushes under way at most.
const IN_FLIGHT: usize = 8;
/// So many packets are more than a lane's setting up takes.
const PACKETS: u64 = 300;
const TABLE: TableId = TableId::new(0);
const EPOCH: Epoch = Epoch::new(1);

/// The servers, the worker, and how often each counter was pushed to.
struct Count {
    session: Session,
    /// All keys; and one alone, whose pushes are short.
    splits: [Rc<Split>; 2],
    pushed: [u64; 2],
    _door: Door,
}

impl Count {
    /// Shards and a worker that use RDMA so.
    fn start([of_server, of_worker]: [VerbsSettings; 2]) -> Count {
        let limits = Limits { spin_ns: 0, ..Limits::default() };
        let server = Server::start(&ServerSpec {
            hosting: Hosting::OneACore,
            on_closed: OnClosed::LoseWorker,
            cores: 2,
            way: Way::Tcp(TcpBackend::Verbs(of_server)),
            limits,
            pinning: Pinning::Free,
            epoch: EPOCH,
            rules: Rules::builtin(),
            table_bytes_max: 1 << 30,
            memory_bytes_max: u64::MAX,
            isa: Isa::detect(),
        });
        let server = Arc::new(server.expect("shards start"));
        let door = Door::tcp(server, "127.0.0.1:0", Exposure::Loopback).expect("a port is free");
        let address = door.address().expect("it listens by TCP").to_string();
        let session = connect(&ConnectSpec {
            places: vec![Place::Tcp(address)],
            epoch: EPOCH,
            dial: Dial {
                worker: WorkerId::new(0),
                incarnation: Incarnation::new(1),
                backend: TcpBackend::Verbs(of_worker),
                limits,
                timeouts: Timeouts { give_up: PATIENCE, ..Timeouts::default() },
                connect_max: PATIENCE,
            },
        });
        let mut session = session.expect("the shards are there");
        let join = Join { job: JobId::new(1), workers: 1, staleness: Staleness::ASP };
        session.join(join, deadline(&session)).expect("the first job");
        let counters = table_spec("counters", 1, &Sum);
        session.define(TABLE, &counters, deadline(&session)).expect("a new table");
        let keys: Vec<u64> = (0..KEYS).map(|key| key * 7 + 1).collect();
        let splits = [&keys[..], &keys[..1]].map(|keys| session.split(keys).expect("in order"));
        Count { session, splits, pushed: [0; 2], _door: door }
    }

    /// Adds one to all counters, and then to the first again; waits until few pushes are open.
    fn push(&mut self) {
        for (split, pushed) in self.splits.iter().zip(&mut self.pushed) {
            let mut ones = self.session.deltas_buffer(split.keys_count());
            Rc::get_mut(&mut ones).expect("nobody's").fill(1.0);
            self.session.push(TABLE, split, ones, 1, Then::More).expect("it is taken");
            *pushed += 1;
        }
        let until = deadline(&self.session);
        self.session.wait_pushes(IN_FLIGHT, until).expect("pushes are answered");
    }

    fn push_some(&mut self) {
        (0..PUSHES).for_each(|_| self.push());
    }

    /// Pushes until this device has sent so many packets more: a lane is there, and is used.
    fn push_by(&mut self, device: &str) {
        let (before, until) = (sent_packets(device), deadline(&self.session));
        while sent_packets(device) < before + PACKETS {
            assert!(self.session.now() < until, "{device} sends nothing");
            self.push();
        }
    }

    /// Every push was answered, and counted once.
    fn check(mut self) {
        let until = deadline(&self.session);
        self.session.wait_pushes(0, until).expect("all pushes are answered");
        let ticket = self.session.pull(TABLE, &self.splits[0], 1).expect("it is taken");
        let values = self.session.wait_pull(ticket, until).expect("it is answered");
        let [all, first] = self.pushed.map(|pushed| pushed as f32);
        assert_eq!(values.as_slice()[0], all + first, "the first counter");
        for (key, &value) in values.as_slice().iter().enumerate().skip(1) {
            assert_eq!(value, all, "counter {key}");
        }
        self.session.recycle(values);
    }
}

fn deadline(session: &Session) -> Time {
    session.now() + PATIENCE
}

fn sent_packets(device: &str) -> u64 {
    counted(device, "sent_pkts")
}

/// What a soft device has counted.
fn counted(device: &str, name: &str) -> u64 {
    let path = format!("{DEVICES}/{device}/ports/1/hw_counters/{name}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().expect("a number")
}

fn on(device: &str) -> VerbsSettings {
    let rails = device.parse().expect("a name");
    VerbsSettings { rails, ..VerbsSettings::default() }
}

fn broken(breakage: Breakage) -> [VerbsSettings; 2] {
    [VerbsSettings { breakage, ..on("rxe0") }, on("rxe1")]
}

/// Runs a program that changes the guest.
fn change(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("there is a shell");
    assert!(status.success(), "{command}: {status}");
}

/// Whether there is a wire that may be broken; says so if not.
fn has_wire(test: &str) -> bool {
    let has = |device: &str| Path::new(DEVICES).join(device).exists();
    let has_all = Path::new(GUEST).exists() && has("rxe0") && has("rxe1");
    if !has_all {
        skipped(test, "no rxe0 and rxe1 with a wire between them");
    }
    has_all
}

/// Counts while the wire is hurt, and after it was healed.
fn outlives(test: &str, hurt: &str, heal: &str) {
    if !has_wire(test) {
        return;
    }
    let mut count = Count::start([on("rxe0"), on("rxe1")]);
    count.push_by("rxe1");
    change(hurt);
    count.push_some();
    change(heal);
    count.push_by("rxe1");
    count.check();
}

#[test]
fn each_push_counts_once_while_a_link_goes_down_and_up() {
    let test = "each_push_counts_once_while_a_link_goes_down_and_up";
    outlives(test, "ip link set rdma0 down", "ip link set rdma0 up");
}

#[test]
fn each_push_counts_once_while_a_wire_loses_everything() {
    let test = "each_push_counts_once_while_a_wire_loses_everything";
    let (hurt, heal) =
        ("tc qdisc add dev rdma1 root netem loss 100%", "tc qdisc del dev rdma1 root");
    outlives(test, hurt, heal);
}

#[test]
fn each_push_counts_once_over_a_wire_that_loses_some_packets() {
    let test = "each_push_counts_once_over_a_wire_that_loses_some_packets";
    let (hurt, heal) = ("tc qdisc add dev rdma1 root netem loss 2%", "tc qdisc del dev rdma1 root");
    outlives(test, hurt, heal);
}

#[test]
fn each_push_counts_once_while_a_port_changes_its_address() {
    let test = "each_push_counts_once_while_a_port_changes_its_address";
    // The GID comes to another place of the table than it had.
    let heal = "ip addr add 10.77.9.9/32 dev rdma0 && ip addr add 10.77.0.1/24 dev rdma0 \
                && ip addr del 10.77.9.9/32 dev rdma0";
    outlives(test, "ip addr del 10.77.0.1/24 dev rdma0", heal);
}

#[test]
fn each_push_counts_once_where_the_peer_is_told_a_wrong_key() {
    let test = "each_push_counts_once_where_the_peer_is_told_a_wrong_key";
    if !has_wire(test) {
        return;
    }
    let mut count = Count::start(broken(Breakage::WrongRkey));
    count.push_some();
    count.check();
}

#[test]
fn each_push_counts_once_where_a_peer_posts_too_few_receives() {
    let test = "each_push_counts_once_where_a_peer_posts_too_few_receives";
    if !has_wire(test) {
        return;
    }
    let refused = || counted("rxe1", "rcvd_rnr_err");
    let (mut count, before) = (Count::start(broken(Breakage::FewReceives)), refused());
    let until = deadline(&count.session);
    while refused() == before {
        assert!(count.session.now() < until, "no message finds no receive");
        count.push();
    }
    count.push_some();
    count.check();
}

#[test]
fn each_push_counts_once_where_a_completion_queue_overruns() {
    let test = "each_push_counts_once_where_a_completion_queue_overruns";
    if !has_wire(test) {
        return;
    }
    let mut count = Count::start(broken(Breakage::SmallCq));
    count.push_some();
    count.check();
}

/// Makes a device that may be taken away.
const DEVICE_COMES: &str = "ip link add gone1 type dummy && ip addr add 10.79.0.1/24 dev gone1 \
     && ip link set gone1 up mtu 4200 && rdma link add rxe8 type rxe netdev gone1";
/// Takes what it lies on away; ends once nobody has the device open.
const DEVICE_GOES: &str = "ip link del gone1";

#[test]
fn each_push_counts_once_while_a_device_is_taken_away_and_comes_back() {
    let test = "each_push_counts_once_while_a_device_is_taken_away_and_comes_back";
    if !has_wire(test) {
        return;
    }
    change(DEVICE_COMES);
    let mut count = Count::start([on("rxe8"), on("rxe8")]);
    count.push_by("rxe8");
    let mut going = Command::new("sh").args(["-c", DEVICE_GOES]).spawn().expect("a shell");
    let until = deadline(&count.session);
    while going.try_wait().expect("it is a child").is_none() {
        assert!(count.session.now() < until, "the device is held");
        count.push();
    }
    count.push_some();
    change(DEVICE_COMES);
    count.push_by("rxe8");
    count.check();
    change(DEVICE_GOES);
}

/// What a process of a user without rights may lock is bounded; here by less than a ring takes.
const SMALL_MEMLOCK: &str = "ulimit -l 256; exec setpriv --reuid 65534 --clear-groups";
/// The variable that makes this binary the process of such a user.
const SMALL_VARIABLE: &str = "GRADWIRE_CLUSTER_SMALL_MEMLOCK";

#[test]
fn each_push_counts_once_where_too_little_memory_may_be_locked() {
    let test = "rdma_counts::each_push_counts_once_where_too_little_memory_may_be_locked";
    if std::env::var_os(SMALL_VARIABLE).is_some() {
        let mut count = Count::start([on("rxe0"), on("rxe1")]);
        count.push_some();
        return count.check();
    }
    if !has_wire(test) {
        return;
    }
    let binary = std::env::current_exe().expect("the test binary has a path");
    let command = format!("{SMALL_MEMLOCK} {} --exact {test}", binary.display());
    let status = Command::new("sh").args(["-c", &command]).env(SMALL_VARIABLE, "1").status();
    assert!(status.expect("there is a shell").success());
}
