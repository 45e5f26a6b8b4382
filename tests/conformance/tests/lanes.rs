//! Lanes, healthy and broken: a stream of numbered messages each way arrives once and in order,
//! by RDMA while that works and over TCP while it does not.
//!
//! Owns the faults. They need two devices with a wire between them, `rxe0` on `rdma0` and `rxe1` on
//! `rdma1`, and the right to break it: a guest has both. Elsewhere each test is skipped by name.
//! Times are printed and never a condition.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conformance::message;
use transport::tcp::{self, TcpBackend};
use transport::verbs::{Breakage, Verbs, VerbsSettings, devices};
use transport::{Event, Limits, Link, PeerId, RecvSlot, SendRefusal, Transport};

/// What only a guest has: nobody's own network is harmed.
const GUEST: &str = "/run/guest/net";
/// How long a test waits for what must happen, before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an end rests when it has nothing to do and the other may have.
const REST: Duration = Duration::from_micros(50);
/// Messages of one exchange, each way.
const MESSAGES: u64 = 300;
/// Lengths of messages, in bytes: inline ones, short ones and long ones.
const SIZES: [usize; 5] = [64, 200, 700, 5_000, 40_000];

const LIMITS: Limits = Limits {
    message_bytes_max: 64 << 10,
    send_bytes_max: 512 << 10,
    recv_bytes_max: 512 << 10,
    spin_ns: 0,
};

/// One end of a stream each way.
struct End {
    transport: Box<dyn Tell>,
    peer: PeerId,
    sent: u64,
    received: u64,
    /// Received and not released: some are held for a while.
    held: Vec<RecvSlot>,
    events: Vec<Event>,
}

/// A transport that may have lanes.
trait Tell: Transport {
    fn verbs(&self) -> Option<&Verbs>;
}

impl Tell for Verbs {
    fn verbs(&self) -> Option<&Verbs> {
        Some(self)
    }
}

struct Plain(Box<dyn Transport>);

impl End {
    fn goes_by_lane(&self) -> bool {
        self.transport.verbs().is_some_and(|verbs| verbs.goes_by_lane(self.peer))
    }

    fn breaks(&self) -> u64 {
        self.transport.verbs().map_or(0, |verbs| verbs.lane_counts().breaks)
    }

    fn sent_by_lane(&self) -> u64 {
        self.transport.verbs().map_or(0, |verbs| verbs.lane_counts().messages_sent)
    }

    /// Sends messages up to before number `end`, as far as there is credit.
    fn send_to(&mut self, end: u64) {
        while self.sent < end {
            let bytes = SIZES[self.sent as usize % SIZES.len()];
            let mut slot = match self.transport.acquire(self.peer, bytes) {
                Ok(slot) => slot,
                Err(SendRefusal::NoCredit) => break,
                Err(refusal) => panic!("message {} gets no slot: {refusal}", self.sent),
            };
            message::fill(slot.bytes_mut(), self.sent);
            self.transport.post(slot);
            self.sent += 1;
        }
    }

    /// Flushes, polls, and checks that each message is whole and the next one.
    fn turn(&mut self) {
        self.transport.flush();
        self.transport.poll(&mut self.events);
        for event in self.events.drain(..) {
            match event {
                Event::Received { slot, .. } => {
                    assert_eq!(message::number_of(slot.bytes()), self.received, "the next one");
                    self.received += 1;
                    self.held.push(slot);
                }
                Event::Closed { fault, .. } => panic!("closed: {fault}"),
            }
        }
        // Out of order, and the oldest not at once.
        while self.held.len() > 3 {
            let slot = self.held.swap_remove(1);
            self.transport.release(slot);
            let slot = self.held.remove(0);
            self.transport.release(slot);
        }
    }

    fn rest(&mut self) {
        let until = self.transport.now() + REST;
        self.transport.park(until);
    }
}

/// A TCP link over loop-back. How each end calls the other.
fn join_two(one: &mut dyn Transport, other: &mut dyn Transport) -> [PeerId; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let left = TcpStream::connect(address).expect("the listener is there");
    let (right, _) = listener.accept().expect("someone connects");
    [
        one.adopt(Link::Tcp(left)).expect("it takes TCP"),
        other.adopt(Link::Tcp(right)).expect("it takes TCP"),
    ]
}

/// Two ends with a TCP link between them.
fn join(mut one: Box<dyn Tell>, mut other: Box<dyn Tell>) -> [End; 2] {
    let [to_other, to_one] = join_two(&mut *one, &mut *other);
    let end = |transport, peer| End {
        transport,
        peer,
        sent: 0,
        received: 0,
        held: Vec::new(),
        events: Vec::new(),
    };
    [end(one, to_other), end(other, to_one)]
}

/// Turns both ends until `reached` is true. How long that took.
fn until(
    ends: &mut [End; 2],
    goal: &str,
    mut reached: impl FnMut(&mut [End; 2]) -> bool,
) -> Duration {
    let start = Instant::now();
    loop {
        for end in ends.iter_mut() {
            end.turn();
        }
        if reached(ends) {
            return start.elapsed();
        }
        let counts = ends.each_ref().map(|end| (end.sent, end.received, end.goes_by_lane()));
        assert!(start.elapsed() < PATIENCE, "no {goal} after {PATIENCE:?}: {counts:?}");
        for end in ends.iter_mut() {
            end.rest();
        }
    }
}

/// Sends so many messages each way until all have arrived.
fn exchange(ends: &mut [End; 2], messages: u64) {
    let goals = ends.each_ref().map(|end| end.sent + messages);
    until(ends, "last message", |ends| {
        for (end, goal) in ends.iter_mut().zip(goals) {
            end.send_to(goal);
        }
        ends[0].received == goals[1] && ends[1].received == goals[0]
    });
}

/// Keeps messages coming until `reached` is true.
fn exchange_until(
    ends: &mut [End; 2],
    goal: &str,
    mut reached: impl FnMut(&[End; 2]) -> bool,
) -> Duration {
    until(ends, goal, |ends| {
        for index in [0, 1] {
            // A few under way at a time, so that much goes through whatever happens.
            let goal = ends[1 - index].received + 20;
            ends[index].send_to(goal);
        }
        reached(ends)
    })
}

/// Says a line past the capture of the test harness.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}"); // There is nobody to tell that it failed.
}

/// One test at a time, since they share the wire.
fn alone() -> MutexGuard<'static, ()> {
    static WIRE: Mutex<()> = Mutex::new(());
    WIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the test `name` unless there is no device.
fn with_device(name: &str, test: impl FnOnce()) {
    match Verbs::open(VerbsSettings::default(), LIMITS) {
        Ok(_) => {
            let _alone = alone();
            test();
        }
        Err(error) => tell(&format!("SKIPPED: {name}: {error}")),
    }
}

/// Runs the test `name` unless there are no two devices with a wire that may be broken.
fn with_wire(name: &str, test: impl FnOnce()) {
    let names = devices().unwrap_or_default().into_iter().map(|device| device.name);
    let names: Vec<String> = names.collect();
    let has_both = ["rxe0", "rxe1"].iter().all(|known| names.iter().any(|name| name == known));
    if !has_both || !Path::new(GUEST).exists() {
        return tell(&format!("SKIPPED: {name}: no rxe0 and rxe1 with a wire between them"));
    }
    let _alone = alone();
    test();
}

fn on(device: &str) -> VerbsSettings {
    VerbsSettings { device: device.parse().ok(), ..VerbsSettings::default() }
}

fn open(settings: VerbsSettings) -> Box<dyn Tell> {
    Box::new(Verbs::open(settings, LIMITS).expect("the device opens"))
}

/// Runs a program that changes the machine.
fn change(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("there is a shell");
    assert!(status.success(), "{command}: {status}");
}

/// A stream over the wire outlives `hurt`, goes by TCP until `heal`, and by RDMA after.
fn outlives(name: &str, hurt: &str, heal: &str) {
    with_wire(name, || {
        let mut ends = join(open(on("rxe0")), open(on("rxe1")));
        until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        exchange(&mut ends, MESSAGES);
        change(hurt);
        let broken = |end: &End| end.breaks() > 0 && !end.goes_by_lane();
        let noticed = exchange_until(&mut ends, "break", |ends| ends.iter().all(broken));
        exchange(&mut ends, MESSAGES);
        assert!(!ends.iter().any(End::goes_by_lane), "it is still broken");
        change(heal);
        let back = exchange_until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        let before = ends.each_ref().map(End::sent_by_lane);
        exchange(&mut ends, MESSAGES);
        assert!(ends.iter().zip(before).all(|(end, before)| end.sent_by_lane() > before));
        tell(&format!("{name}: over TCP after {noticed:?}, by RDMA again after {back:?}"));
    });
}

#[test]
fn messages_go_by_the_lane_and_arrive_once_and_in_order() {
    with_device("messages_go_by_the_lane_and_arrive_once_and_in_order", || {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        exchange(&mut ends, 5); // Over TCP, or not: the lane comes when it comes.
        until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        let before = ends.each_ref().map(End::sent_by_lane);
        exchange(&mut ends, MESSAGES);
        for (end, before) in ends.iter().zip(before) {
            assert_eq!(end.sent_by_lane() - before, MESSAGES);
            assert_eq!(end.breaks(), 0);
        }
    });
}

#[test]
fn a_slot_held_over_the_switch_to_the_lane_keeps_its_place() {
    with_device("a_slot_held_over_the_switch_to_the_lane_keeps_its_place", || {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        // Acquired before the turn in which the lane comes: over TCP, and before all by the lane.
        let (transport, peer) = (&mut ends[0].transport, ends[0].peer);
        let mut held = transport.acquire(peer, 100).expect("there is credit");
        message::fill(held.bytes_mut(), 0);
        ends[0].sent = 1;
        until(&mut ends, "lane", |ends| {
            if ends[0].goes_by_lane() {
                return true;
            }
            let end = &mut ends[0];
            let next = end.transport.acquire(end.peer, 100).expect("there is credit");
            let slot = std::mem::replace(&mut held, next);
            end.transport.post(slot);
            message::fill(held.bytes_mut(), end.sent);
            end.sent += 1;
            false
        });
        let received = ends[0].sent - 1;
        let goal = ends[0].sent + 20;
        ends[0].send_to(goal);
        for _ in 0..100 {
            ends.iter_mut().for_each(End::turn);
        }
        assert_eq!(ends[1].received, received, "one is held, and all behind it");
        ends[0].transport.post(held);
        exchange(&mut ends, MESSAGES);
    });
}

#[test]
fn messages_to_a_peer_without_rdma_go_over_tcp() {
    with_device("messages_to_a_peer_without_rdma_go_over_tcp", || {
        let plain = tcp::open(TcpBackend::Epoll, LIMITS).expect("epoll is everywhere");
        let mut ends = join(open(VerbsSettings::default()), Box::new(Plain(plain)));
        exchange(&mut ends, MESSAGES);
        assert_eq!(ends[0].sent_by_lane(), 0);
    });
}

#[test]
fn a_wrong_rkey_is_found_before_a_message_is_sent_to_it() {
    with_device("a_wrong_rkey_is_found_before_a_message_is_sent_to_it", || {
        let wrong = VerbsSettings { breakage: Breakage::WrongRkey, ..VerbsSettings::default() };
        let mut ends = join(open(VerbsSettings::default()), open(wrong));
        for _ in 0..5 {
            exchange(&mut ends, MESSAGES / 5);
        }
        assert_eq!(ends[0].sent_by_lane(), 0, "it would have gone to the wrong place");
    });
}

#[test]
fn a_receiver_that_posts_too_few_receives_shows_as_a_break_and_loses_nothing() {
    with_device(
        "a_receiver_that_posts_too_few_receives_shows_as_a_break_and_loses_nothing",
        || {
            let few = VerbsSettings { breakage: Breakage::FewReceives, ..VerbsSettings::default() };
            let mut ends = join(open(VerbsSettings::default()), open(few));
            let goal = "break for want of receives";
            exchange_until(&mut ends, goal, |ends| ends.iter().any(|end| end.breaks() > 0));
            exchange(&mut ends, MESSAGES);
        },
    );
}

#[test]
fn a_completion_queue_that_overruns_loses_nothing() {
    with_device("a_completion_queue_that_overruns_loses_nothing", || {
        let small = VerbsSettings { breakage: Breakage::SmallCq, ..VerbsSettings::default() };
        let mut ends = join(open(VerbsSettings::default()), open(small));
        for _ in 0..5 {
            exchange(&mut ends, MESSAGES);
        }
    });
}

#[test]
fn a_hub_of_many_peers_has_a_lane_to_each_and_to_those_that_come_after_others_went() {
    const PEERS: usize = 12;
    let name = "a_hub_of_many_peers_has_a_lane_to_each_and_to_those_that_come_after_others_went";
    with_device(name, || {
        let mut hub = Verbs::open(VerbsSettings::default(), LIMITS).expect("the device opens");
        let mut spokes = Verbs::open(VerbsSettings::default(), LIMITS).expect("the device opens");
        for round in 0..2 {
            let joints: Vec<[PeerId; 2]> =
                (0..PEERS).map(|_| join_two(&mut hub, &mut spokes)).collect();
            let start = Instant::now();
            let (mut events, mut received) = (Vec::new(), 0);
            while joints.iter().any(|joint| !hub.goes_by_lane(joint[0])) {
                hub.poll(&mut events);
                spokes.poll(&mut events);
                assert!(start.elapsed() < PATIENCE, "no lanes in round {round}");
            }
            let before = hub.lane_counts().messages_sent;
            for (number, joint) in joints.iter().enumerate() {
                let mut slot = hub.acquire(joint[0], 3_000).expect("there is credit");
                message::fill(slot.bytes_mut(), number as u64);
                hub.post(slot);
            }
            hub.flush();
            while received < PEERS {
                hub.poll(&mut events);
                spokes.poll(&mut events);
                for event in events.drain(..) {
                    let Event::Received { peer, slot } = event else { continue };
                    let joint = joints.iter().position(|joint| joint[1] == peer);
                    assert_eq!(Some(message::number_of(slot.bytes()) as usize), joint);
                    spokes.release(slot);
                    received += 1;
                }
                assert!(start.elapsed() < PATIENCE, "{received} messages in round {round}");
            }
            let counts = hub.lane_counts();
            assert_eq!(counts.messages_sent - before, PEERS as u64);
            let registrations = counts.registrations;
            assert!((2..=8).contains(&registrations), "{registrations} registrations");
            joints.iter().for_each(|joint| hub.close(joint[0]));
        }
    });
}

#[test]
fn a_stream_outlives_a_link_that_goes_down() {
    let (down, up) = ("ip link set rdma1 down", "ip link set rdma1 up");
    outlives("a_stream_outlives_a_link_that_goes_down", down, up);
}

#[test]
fn a_stream_outlives_a_wire_that_loses_everything() {
    let hurt = "tc qdisc add dev rdma0 root netem loss 100%";
    let heal = "tc qdisc del dev rdma0 root";
    outlives("a_stream_outlives_a_wire_that_loses_everything", hurt, heal);
}

#[test]
fn a_stream_outlives_a_port_that_changes_its_address() {
    let hurt = "ip addr del 10.77.0.1/24 dev rdma0";
    // The GID comes to another place of the table than it had.
    let heal = "ip addr add 10.77.0.9/24 dev rdma0 && ip addr add 10.77.0.1/24 dev rdma0";
    outlives("a_stream_outlives_a_port_that_changes_its_address", hurt, heal);
}

/// Makes a device that may be taken away.
const DEVICE_COMES: &str = "ip link add gone0 type dummy && ip addr add 10.78.0.1/24 dev gone0 \
     && ip link set gone0 up mtu 4200 && rdma link add rxe9 type rxe netdev gone0";
/// Takes what it lies on away; ends once nobody has the device open.
const DEVICE_GOES: &str = "ip link del gone0";

#[test]
fn a_stream_outlives_a_device_that_is_taken_away_and_uses_it_when_it_is_there_again() {
    let name = "a_stream_outlives_a_device_that_is_taken_away_and_uses_it_when_it_is_there_again";
    with_wire(name, || {
        change(DEVICE_COMES);
        let mut ends = join(open(on("rxe9")), open(on("rxe9")));
        until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        exchange(&mut ends, MESSAGES);
        let mut going = Command::new("sh").args(["-c", DEVICE_GOES]).spawn().expect("a shell");
        let broken = |end: &End| end.breaks() > 0 && !end.goes_by_lane();
        let noticed = exchange_until(&mut ends, "break", |ends| ends.iter().all(broken));
        let let_go = exchange_until(&mut ends, "end of the device", |_| {
            going.try_wait().expect("it is a child").is_some_and(|status| status.success())
        });
        exchange(&mut ends, MESSAGES);
        change(DEVICE_COMES);
        let back = exchange_until(&mut ends, "lane", |ends| ends.iter().all(End::goes_by_lane));
        exchange(&mut ends, MESSAGES);
        tell(&format!(
            "{name}: over TCP after {noticed:?}, let go of {let_go:?} later, back after {back:?}"
        ));
        drop(ends);
        change(DEVICE_GOES);
    });
}

/// What a process of a user without rights may lock is bounded; here by less than a ring takes.
const SMALL_MEMLOCK: &str = "ulimit -l 256; exec setpriv --reuid 65534 --clear-groups";
/// The variable that makes this binary the process of such a user.
const SMALL_VARIABLE: &str = "GRADWIRE_CONFORMANCE_SMALL_MEMLOCK";

#[test]
fn messages_go_over_tcp_where_too_little_memory_may_be_locked() {
    let name = "messages_go_over_tcp_where_too_little_memory_may_be_locked";
    if std::env::var_os(SMALL_VARIABLE).is_some() {
        let mut ends = join(open(VerbsSettings::default()), open(VerbsSettings::default()));
        exchange(&mut ends, MESSAGES);
        assert_eq!(ends.each_ref().map(End::sent_by_lane), [0, 0]);
        return;
    }
    with_wire(name, || {
        let binary = std::env::current_exe().expect("the test binary has a path");
        let command = format!("{SMALL_MEMLOCK} {} --exact {name}", binary.display());
        let status = Command::new("sh").args(["-c", &command]).env(SMALL_VARIABLE, "1").status();
        assert!(status.expect("there is a shell").success());
    });
}

/// Passes everything on.
macro_rules! passes_on {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        fn $name(&mut self, $($argument: $type),*) $(-> $result)? {
            self.0.$name($($argument),*)
        }
    )*};
}

impl Tell for Plain {
    fn verbs(&self) -> Option<&Verbs> {
        None
    }
}

impl Transport for Plain {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn integrity(&self) -> transport::Integrity {
        self.0.integrity()
    }

    fn now(&self) -> wire::Time {
        self.0.now()
    }

    fn waker(&self) -> transport::Waker {
        self.0.waker()
    }

    fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent()
    }

    passes_on! {
        adopt(link: Link) -> Result<PeerId, transport::AdoptError>;
        poll(events: &mut Vec<Event>);
        acquire(peer: PeerId, bytes: usize) -> Result<transport::SendSlot, SendRefusal>;
        post(slot: transport::SendSlot);
        flush();
        release(slot: RecvSlot);
        park(deadline: wire::Time);
        close(peer: PeerId);
    }
}
