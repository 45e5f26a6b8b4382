//! Servers of one process in a chain, over TCP: placed, filled, and one head after another gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use gradwire_server::{
    Door, Exposure, Hosting, OnClosed, Pinning, Report, Server, ServerSpec, Way,
};
use kernels::Isa;
use kernels::crc32c::crc32c;
use shard::rule::{Rules, Sum, table_spec};
use transport::Limits;
use transport::tcp::TcpBackend;
use wire::{
    Announced, Chain, Define, Epoch, Flags, HEADER_BYTES, Header, JobId, Join, Keyed, Kind, Member,
    Placement, Refusal, Seal, ServerId, ShardId, Staleness, Status, WorkerId, framed_bytes,
};
use zerocopy::{FromBytes, IntoBytes};

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
const SHARD: ShardId = ShardId::new(1);
/// More than one page of rows.
const KEYS: u64 = 100_000;

fn crc(bytes: &[u8]) -> u32 {
    crc32c(Isa::detect(), 0, bytes)
}

struct Node {
    server: Arc<Server>,
    door: Door,
    id: ServerId,
    reports: Receiver<Report>,
}

fn node(id: u32) -> Node {
    let spec = ServerSpec {
        hosting: Hosting::ByPlacement,
        on_closed: OnClosed::AwaitReconnect,
        cores: 1,
        way: Way::Tcp(TcpBackend::Epoll),
        limits: Limits::default(),
        pinning: Pinning::Free,
        epoch: Epoch::new(1),
        rules: Rules::builtin(),
        table_bytes_max: 1 << 26,
        memory_bytes_max: u64::MAX,
        isa: Isa::detect(),
    };
    let server = Arc::new(Server::start(&spec).expect("a thread"));
    let door = Door::tcp(Arc::clone(&server), "127.0.0.1:0", Exposure::Loopback);
    let reports = server.reports().expect("nobody took them");
    Node { server, door: door.expect("a free port"), id: ServerId::new(id), reports }
}

/// Two shards with the same chain.
fn placement(epoch: u64, nodes: &[&Node], replicas: &[u32], joining: Option<u32>) -> Placement {
    let member = |node: &&Node| Member {
        server: node.id,
        name: node.id.to_string(),
        place: node.door.address().expect("it is TCP").to_string(),
        host: node.id.to_string(),
        memory_mib: 64,
    };
    let chain = Chain {
        epoch: Epoch::new(epoch),
        replicas: replicas.iter().map(|&id| ServerId::new(id)).collect(),
        joining: joining.map(ServerId::new),
    };
    let placement = Placement {
        epoch: Epoch::new(epoch),
        cause: "a test".into(),
        servers: nodes.iter().map(member).collect(),
        chains: vec![chain.clone(), chain],
        restored_from: None,
    };
    placement.check().expect("a good placement");
    placement
}

fn place(nodes: &[&Node], placement: &Placement) {
    nodes.iter().for_each(|node| node.server.place(node.id, placement));
}

/// A worker's plain connection.
struct Caller {
    stream: TcpStream,
    epoch: u64,
}

impl Caller {
    /// A connection to a shard's head, or what the welcome says instead.
    fn greet(address: SocketAddr, epoch: u64) -> Result<Caller, Refusal> {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        let sequence = Limits::default().message_bytes_max as u64;
        let hello = Header { table: SHARD.get(), sequence, ..Header::new(Kind::Hello) };
        let mut bytes = [0; HEADER_BYTES];
        wire::seal(&mut bytes, hello, Seal::HeaderOnly, crc);
        stream.write_all(&bytes).expect("a hello goes");
        stream.read_exact(&mut bytes).expect("a welcome comes");
        let welcome = wire::read_header(&bytes, crc).expect("a welcome");
        match welcome.status() {
            Ok(Status::Refused(refusal)) => Err(refusal),
            _ => Ok(Caller { stream, epoch }),
        }
    }

    /// Asks until the head has heard of its placement.
    fn patiently(address: SocketAddr, epoch: u64) -> Caller {
        let until = Instant::now() + PATIENCE;
        loop {
            match Caller::greet(address, epoch) {
                Ok(caller) => return caller,
                Err(refusal) => assert!(Instant::now() < until, "{refusal}"),
            }
        }
    }

    fn ask(&mut self, header: Header, body: &[u8]) -> (Header, Vec<u8>) {
        let mut words = vec![0_u64; (HEADER_BYTES + body.len()).div_ceil(8)];
        let bytes = &mut words.as_mut_bytes()[..HEADER_BYTES + body.len()];
        bytes[HEADER_BYTES..].copy_from_slice(body);
        wire::seal(bytes, Header { epoch: self.epoch, ..header }, Seal::Body, crc);
        self.stream.write_all(bytes).expect("a request goes");
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).expect("an answer comes");
        let mut body = vec![0; framed_bytes(&head).expect("a message") - HEADER_BYTES];
        self.stream.read_exact(&mut body).expect("its body");
        (Header::peek(&head).expect("a header"), body)
    }

    fn done(&mut self, header: Header, body: &[u8]) {
        let (answer, _) = self.ask(header, body);
        assert_eq!(answer.status(), Ok(Status::Done), "{:?}", header.kind());
    }

    fn push(&mut self, sequence: u64, keys: &[u64]) -> Status {
        let deltas = vec![1_f32; keys.len()];
        let body = [keys.as_bytes(), deltas.as_bytes()].concat();
        assert_eq!(HEADER_BYTES + body.len(), Keyed::message_bytes(keys.len(), 1));
        let (keys, width, flags) = (keys.len() as u32, 1, Flags::NONE.get());
        let push = Header { keys, width, sequence, flags, ..Header::new(Kind::Push) };
        self.ask(push, &body).0.status().expect("a status")
    }

    fn pull(&mut self, keys: &[u64]) -> Vec<f32> {
        let pull = Header { keys: keys.len() as u32, sequence: 1 << 63, ..Header::new(Kind::Pull) };
        let (answer, body) = self.ask(pull, keys.as_bytes());
        assert_eq!(answer.kind(), Kind::Values, "{:?}", answer.status());
        body.chunks_exact(4).map(|four| f32::read_from_bytes(four).expect("4 bytes")).collect()
    }
}

fn begin_job(caller: &mut Caller) {
    let join = Join { job: JobId::new(7), workers: 1, staleness: Staleness::BSP };
    caller.done(Header::new(Kind::Join), &join.to_bytes());
    let define = Define::new(&table_spec("counts", 1, &Sum), Announced::default());
    caller.done(Header::new(Kind::Define), define.expect("a short name").as_bytes());
    assert_eq!(Header::new(Kind::Join).worker(), WorkerId::new(0));
}

#[test]
fn what_was_acknowledged_survives_one_head_after_another_and_a_joining_server_gets_all() {
    let (one, two, three) = (node(1), node(2), node(3));
    let all = [&one, &two, &three];
    place(&all, &placement(1, &all, &[1, 2], None));
    let address = |node: &Node| node.door.address().expect("it is TCP");
    let mut caller = Caller::patiently(address(&one), 1);
    begin_job(&mut caller);
    let keys: Vec<u64> = (0..KEYS).collect();
    let messages = keys.chunks(50_000).enumerate();
    for (number, keys) in messages {
        assert_eq!(caller.push(1 + number as u64, keys), Status::Done);
    }
    // The third is filled behind the second, and then the first is gone.
    place(&all, &placement(2, &all, &[1, 2], Some(3)));
    for _ in 0..2 {
        let report = two.reports.recv_timeout(PATIENCE).expect("a shard is filled");
        assert!(matches!(report, Report::Filled { epoch, .. } if epoch == Epoch::new(2)));
    }
    let rest = [&two, &three];
    place(&rest, &placement(3, &all, &[2, 3], None));
    drop((caller, one));
    let mut caller = Caller::patiently(address(&two), 3);
    assert_eq!(caller.push(2, &keys[50_000..]), Status::Duplicate, "it is known there");
    assert_eq!(caller.push(3, &keys[..10]), Status::Done);
    place(&rest, &placement(4, &rest, &[3], None));
    let fenced = caller.push(4, &keys[..10]);
    drop((caller, two));
    let mut caller = Caller::patiently(address(&three), 4);
    assert!(matches!(fenced, Status::Refused(Refusal::EpochMismatch { .. }) | Status::Done));
    let again = caller.push(4, &keys[..10]);
    assert_eq!(again == Status::Duplicate, fenced == Status::Done, "{again:?} {fenced:?}");
    let values = caller.pull(&keys);
    assert!(values[..10].iter().all(|&value| value == 3.0), "{:?}", &values[..10]);
    assert!(values[10..].iter().all(|&value| value == 1.0));
}

#[test]
fn a_server_that_is_no_head_refuses_a_worker_by_its_hello() {
    let (one, two) = (node(1), node(2));
    let all = [&one, &two];
    place(&all, &placement(1, &all, &[1, 2], None));
    let refused = Caller::greet(two.door.address().expect("it is TCP"), 1).err();
    assert_eq!(refused, Some(Refusal::NotHead { shard: Epoch::new(1) }));
}

/// The first report that fits, of those that come.
fn wait_for(reports: &Receiver<Report>, fits: impl Fn(&Report) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let report = reports.recv_timeout(left).expect("a report that fits, in time");
        if fits(&report) {
            return;
        }
    }
}

#[test]
fn a_successor_that_was_lost_is_said_to_be_back_when_it_has_spoken() {
    let (first, mut second) = (node(1), node(2));
    let placed = placement(2, &[&first, &second], &[1, 2], None);
    let address = second.door.address().expect("it is TCP").to_string();
    let elsewhere = Door::tcp(Arc::clone(&second.server), "127.0.0.1:0", Exposure::Loopback);
    drop(std::mem::replace(&mut second.door, elsewhere.expect("a free port")));
    place(&[&first, &second], &placed);
    let is_its = |shard: ShardId, epoch: Epoch| shard == SHARD && epoch == Epoch::new(2);
    wait_for(&first.reports, |report| match report {
        Report::SuccessorLost { shard, epoch, server } => {
            assert_eq!(*server, second.id);
            is_its(*shard, *epoch)
        }
        _ => false,
    });
    let door = Door::tcp(Arc::clone(&second.server), &address, Exposure::Loopback);
    second.door = door.expect("the port that it had");
    wait_for(
        &first.reports,
        |report| matches!(report, Report::SuccessorBack { shard, epoch } if is_its(*shard, *epoch)),
    );
    let mut caller = Caller::patiently(first.door.address().expect("it is TCP"), 2);
    begin_job(&mut caller);
    assert_eq!(caller.push(1, &[3, 5]), Status::Done);
}

/// A door that opens to everybody, and nothing behind it, until it is told to stop: how many have
/// come in.
fn door_without_a_server(listener: &TcpListener, stopping: &AtomicBool) -> usize {
    listener.set_nonblocking(true).expect("a flag");
    let mut links = Vec::new();
    while !stopping.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        stream.set_nonblocking(false).expect("a flag");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut bytes = [0; HEADER_BYTES];
        stream.read_exact(&mut bytes).expect("a hello comes");
        let hello = wire::read_header(&bytes, crc).expect("a hello");
        assert_eq!(hello.worker, WorkerId::PREDECESSOR.get());
        let sequence = Limits::default().message_bytes_max as u64;
        let welcome = Header { sequence, epoch: hello.epoch, ..Header::new(Kind::Welcome) };
        wire::seal(&mut bytes, welcome, Seal::HeaderOnly, crc);
        stream.write_all(&bytes).expect("a welcome goes");
        links.push(stream);
    }
    links.len()
}

#[test]
fn a_successor_whose_door_opens_and_whose_core_says_nothing_is_lost() {
    let (first, second) = (node(1), node(2));
    let mut placed = placement(2, &[&first, &second], &[1, 2], None);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    placed.servers[1].place = listener.local_addr().expect("bound").to_string();
    let stopping = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let door = scope.spawn(|| door_without_a_server(&listener, &stopping));
        place(&[&first], &placed);
        let lost = |report: &Report| match report {
            Report::SuccessorLost { shard, epoch, server } => {
                assert_eq!((*epoch, *server), (Epoch::new(2), second.id));
                *shard == SHARD
            }
            _ => false,
        };
        wait_for(&first.reports, lost);
        // As long as it lasts it is said again.
        wait_for(&first.reports, lost);
        stopping.store(true, Ordering::Relaxed);
        assert!(door.join().expect("it ends") >= 3);
    });
}
