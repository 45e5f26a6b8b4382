//! Two ends with lanes, streams of numbered messages between them, and faults for a guest's wires.
//!
//! Owns sending, checking that what arrives is whole and the next one, and what a test needs to
//! run at all: devices, wires and the right to break them. What is broken is left to the tests.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use transport::verbs::{LaneCounts, Verbs, VerbsSettings, devices};
use transport::{Event, Limits, Link, PeerId, RecvSlot, SendRefusal, Transport};

use crate::message;

/// What only a guest has: nobody's own network is harmed.
const GUEST: &str = "/run/guest/net";
/// How long a test waits for what must happen, before it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long an end rests when it has nothing to do and the other may have.
const REST: Duration = Duration::from_micros(50);
/// Messages under way of one stream, while they are sent until something happens.
const UNDER_WAY: u64 = 20;
/// Lengths of messages, in bytes: inline ones, short ones and long ones.
const SIZES: [usize; 5] = [64, 200, 700, 5_000, 40_000];

/// Bounds of both ends.
pub const LIMITS: Limits = Limits {
    message_bytes_max: 64 << 10,
    send_bytes_max: 512 << 10,
    recv_bytes_max: 512 << 10,
    spin_ns: 0,
};

/// One end, with a stream each way on each of its links.
pub struct End {
    /// What it sends by.
    pub side: Side,
    /// One a link, in the order in which they were made.
    pub streams: Vec<Stream>,
    events: Vec<Event>,
}

/// A transport with lanes, or one without.
pub enum Side {
    /// With.
    Verbs(Box<Verbs>),
    /// Without.
    Plain(Box<dyn Transport>),
}

/// One end of a link: a stream of messages each way.
pub struct Stream {
    /// What the link is called here.
    pub peer: PeerId,
    /// Messages that were posted.
    pub sent: u64,
    /// Messages that came.
    pub received: u64,
    /// Received and not released: some are held for a while.
    held: Vec<RecvSlot>,
}

impl Side {
    /// The transport, whichever it is.
    pub fn transport(&mut self) -> &mut dyn Transport {
        match self {
            Side::Verbs(verbs) => &mut **verbs,
            Side::Plain(plain) => &mut **plain,
        }
    }
}

impl End {
    /// Whether messages of all links go by lanes.
    pub fn goes_by_lane(&self) -> bool {
        let Side::Verbs(verbs) = &self.side else { return false };
        self.streams.iter().all(|stream| verbs.goes_by_lane(stream.peer))
    }

    /// What its lanes did so far.
    pub fn counts(&self) -> LaneCounts {
        match &self.side {
            Side::Verbs(verbs) => verbs.lane_counts(),
            Side::Plain(_) => LaneCounts::default(),
        }
    }

    /// What its rails have carried: device, lanes now, messages sent. By device.
    pub fn rails(&self) -> Vec<(String, u32, u64)> {
        let Side::Verbs(verbs) = &self.side else { return Vec::new() };
        let counts = verbs.rail_counts().into_iter();
        let mut rails: Vec<_> =
            counts.map(|count| (count.device, count.lanes, count.messages_sent)).collect();
        rails.sort();
        rails
    }

    /// Sends messages of each stream up to before number `goal` of it, as far as there is credit.
    pub fn send_to(&mut self, goal: impl Fn(usize) -> u64) {
        let transport = self.side.transport();
        for (index, stream) in self.streams.iter_mut().enumerate() {
            while stream.sent < goal(index) {
                let bytes = SIZES[stream.sent as usize % SIZES.len()];
                let mut slot = match transport.acquire(stream.peer, bytes) {
                    Ok(slot) => slot,
                    Err(SendRefusal::NoCredit) => break,
                    Err(refusal) => panic!("message {} gets no slot: {refusal}", stream.sent),
                };
                message::fill(slot.bytes_mut(), stream.sent);
                transport.post(slot);
                stream.sent += 1;
            }
        }
    }

    /// Flushes, polls, and checks that each message is whole and the next one of its stream.
    pub fn turn(&mut self) {
        let transport = self.side.transport();
        transport.flush();
        transport.poll(&mut self.events);
        for event in self.events.drain(..) {
            match event {
                Event::Received { peer, slot } => {
                    let stream = self.streams.iter_mut().find(|stream| stream.peer == peer);
                    let stream = stream.expect("a peer of a link");
                    assert_eq!(message::number_of(slot.bytes()), stream.received, "the next one");
                    stream.received += 1;
                    stream.held.push(slot);
                }
                Event::Closed { fault, .. } => panic!("closed: {fault}"),
            }
        }
        // Out of order, and the oldest not at once.
        for stream in &mut self.streams {
            while stream.held.len() > 3 {
                transport.release(stream.held.swap_remove(1));
                transport.release(stream.held.remove(0));
            }
        }
    }

    fn rest(&mut self) {
        let transport = self.side.transport();
        let until = transport.now() + REST;
        transport.park(until);
    }
}

/// A TCP link over loop-back. How each end calls the other.
pub fn join_two(one: &mut dyn Transport, other: &mut dyn Transport) -> [PeerId; 2] {
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
pub fn join(one: Side, other: Side) -> [End; 2] {
    let end = |side| End { side, streams: Vec::new(), events: Vec::new() };
    let mut ends = [end(one), end(other)];
    link(&mut ends);
    ends
}

/// A further link between the ends.
pub fn link(ends: &mut [End; 2]) {
    let [one, other] = ends;
    let peers = join_two(one.side.transport(), other.side.transport());
    for (end, peer) in ends.iter_mut().zip(peers) {
        end.streams.push(Stream { peer, sent: 0, received: 0, held: Vec::new() });
    }
}

/// Turns both ends until `reached` is true. How long that took.
///
/// Panics: if it is not after [`PATIENCE`], with `goal` in words.
pub fn until(
    ends: &mut [End; 2],
    goal: &str,
    mut reached: impl FnMut(&mut [End; 2]) -> bool,
) -> Duration {
    let start = Instant::now();
    loop {
        ends.iter_mut().for_each(End::turn);
        if reached(ends) {
            return start.elapsed();
        }
        if start.elapsed() > PATIENCE {
            let standing = ends.each_ref().map(|end| {
                let streams = end.streams.iter().map(|stream| (stream.sent, stream.received));
                (streams.collect::<Vec<_>>(), end.rails())
            });
            panic!("no {goal} after {PATIENCE:?}: {standing:?}");
        }
        ends.iter_mut().for_each(End::rest);
    }
}

/// Waits until all messages would go by lanes.
pub fn until_lanes(ends: &mut [End; 2]) -> Duration {
    until(ends, "lane", |ends| ends.iter().all(End::goes_by_lane))
}

/// Sends so many messages each way on each link until all have arrived.
pub fn exchange(ends: &mut [End; 2], messages: u64) {
    let goals = ends
        .each_ref()
        .map(|end| end.streams.iter().map(|stream| stream.sent + messages).collect::<Vec<u64>>());
    let has = |end: &End, goals: &[u64]| {
        end.streams.iter().zip(goals).all(|(stream, goal)| stream.received == *goal)
    };
    until(ends, "last message", |ends| {
        for (end, goals) in ends.iter_mut().zip(&goals) {
            end.send_to(|index| goals[index]);
        }
        has(&ends[0], &goals[1]) && has(&ends[1], &goals[0])
    });
}

/// Keeps messages coming until `reached` is true. How long that took.
pub fn exchange_until(
    ends: &mut [End; 2],
    goal: &str,
    mut reached: impl FnMut(&[End; 2]) -> bool,
) -> Duration {
    until(ends, goal, |ends| {
        for index in [0, 1] {
            // A few under way at a time, so that much goes through whatever happens.
            let arrived: Vec<u64> =
                ends[1 - index].streams.iter().map(|stream| stream.received).collect();
            ends[index].send_to(|stream| arrived[stream] + UNDER_WAY);
        }
        reached(ends)
    })
}

/// Says a line past the capture of the test harness.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}"); // There is nobody to tell that it failed.
}

/// One test at a time, since they share devices and wires.
fn alone() -> MutexGuard<'static, ()> {
    static WIRE: Mutex<()> = Mutex::new(());
    WIRE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the test `name` unless there is no device.
pub fn with_device(name: &str, test: impl FnOnce()) {
    match Verbs::open(VerbsSettings::default(), LIMITS) {
        Ok(_) => {
            let _alone = alone();
            test();
        }
        Err(error) => tell(&format!("SKIPPED: {name}: {error}")),
    }
}

/// Runs the test `name` unless there are not all of these devices, with wires that may be broken:
/// `rxeN` lies on `rdmaN`, and a wire goes from each of an even number to the next.
pub fn with_wires(name: &str, wanted: &[&str], test: impl FnOnce()) {
    let shown = devices().unwrap_or_default();
    let has_all = wanted.iter().all(|name| shown.iter().any(|device| device.name == *name));
    if !has_all || !Path::new(GUEST).exists() {
        let wanted = wanted.join(", ");
        return tell(&format!("SKIPPED: {name}: no {wanted} with wires that may be broken"));
    }
    let _alone = alone();
    test();
}

/// Settings of an end that uses these rails.
pub fn on(rails: &str) -> VerbsSettings {
    let rails = rails.parse().expect("names of rails");
    VerbsSettings { rails, ..VerbsSettings::default() }
}

/// A side with lanes.
pub fn open(settings: VerbsSettings) -> Side {
    Side::Verbs(Box::new(Verbs::open(settings, LIMITS).expect("the device opens")))
}

/// Runs a program that changes the machine.
pub fn change(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("there is a shell");
    assert!(status.success(), "{command}: {status}");
}
