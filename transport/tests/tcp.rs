//! Both TCP back ends over loop-back.
//!
//! Owns the tests of what only sockets can do: cut streams, garbage, full buffers, resets. What
//! every transport must do is left to the conformance suite.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test says why it stops")]

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gradwire_transport::tcp::{self, ConnectError, OpenError, TcpBackend};
use gradwire_transport::{Event, Fault, Limits, Link, PeerId, RecvSlot, SendRefusal, Transport};
use wire::{HEADER_BYTES, Header, Kind};

/// No test may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` for each back end that this machine has.
fn for_each_backend(name: &str, test: impl Fn(TcpBackend)) {
    for backend in [TcpBackend::Uring, TcpBackend::Epoll] {
        match tcp::open(backend, Limits::default()) {
            Ok(_) => test(backend),
            Err(error) => println!("SKIPPED: {name}: {error}"),
        }
    }
}

/// Two transports of one thread, and the connection between them.
struct Pair {
    here: Box<dyn Transport>,
    there: Box<dyn Transport>,
    to_there: PeerId,
    to_here: PeerId,
}

fn pair(backend: TcpBackend, limits: Limits) -> Pair {
    let mut here = tcp::open(backend, limits).unwrap();
    let mut there = tcp::open(backend, limits).unwrap();
    let (left, right) = sockets();
    let to_there = here.adopt(Link::Tcp(left)).unwrap();
    let to_here = there.adopt(Link::Tcp(right)).unwrap();
    Pair { here, there, to_there, to_here }
}

/// One transport and the bare socket at its other end.
fn half(backend: TcpBackend, limits: Limits) -> (Box<dyn Transport>, PeerId, TcpStream) {
    let mut here = tcp::open(backend, limits).unwrap();
    let (left, right) = sockets();
    let peer = here.adopt(Link::Tcp(left)).unwrap();
    (here, peer, right)
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let left = tcp::connect(&address, PATIENCE).unwrap();
    (left, listener.accept().unwrap().0)
}

/// Writes a message that fills `bytes` and whose body repeats `mark`.
fn write_message(bytes: &mut [u8], mark: u8) {
    let body_bytes = (bytes.len() - HEADER_BYTES) as u32;
    bytes[HEADER_BYTES..].fill(mark);
    bytes[..HEADER_BYTES].fill(0);
    bytes[..4].copy_from_slice(&wire::MAGIC.to_le_bytes());
    bytes[4..6].copy_from_slice(&wire::VERSION.to_le_bytes());
    bytes[6] = Kind::Push as u8;
    bytes[7] = mark;
    let at = std::mem::offset_of!(Header, body_bytes);
    bytes[at..at + 4].copy_from_slice(&body_bytes.to_le_bytes());
}

fn message(bytes: usize, mark: u8) -> Vec<u8> {
    let mut message = vec![0; bytes];
    write_message(&mut message, mark);
    message
}

fn assert_is(slot: &RecvSlot, bytes: usize, mark: u8) {
    assert_eq!((slot.bytes().len(), slot.bytes()[7]), (bytes, mark));
    assert!(slot.bytes().as_ptr().addr().is_multiple_of(64));
    assert!(slot.bytes()[HEADER_BYTES..].iter().all(|&byte| byte == mark));
}

fn send(transport: &mut dyn Transport, peer: PeerId, bytes: usize, mark: u8) {
    let mut slot = transport.acquire(peer, bytes).unwrap();
    write_message(slot.bytes_mut(), mark);
    transport.post(slot);
}

/// Polls until an event comes.
fn next(transport: &mut dyn Transport, events: &mut Vec<Event>) -> Event {
    let deadline = Instant::now() + PATIENCE;
    while events.is_empty() {
        assert!(Instant::now() < deadline, "no event came");
        transport.poll(events);
    }
    events.remove(0)
}

fn received(event: Event) -> RecvSlot {
    match event {
        Event::Received { slot, .. } => slot,
        Event::Closed { fault, .. } => panic!("closed: {fault}"),
    }
}

/// Polls for a while in which nothing must come.
fn assert_silent(transport: &mut dyn Transport) {
    let mut events = Vec::new();
    for _ in 0..2000 {
        transport.poll(&mut events);
    }
    assert!(events.is_empty(), "{events:?}");
}

/// A small generator of numbers, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }

    /// Mostly short, some long.
    fn bytes(&mut self) -> usize {
        let bytes_max = match self.next() % 20 {
            0 => 300_000,
            1..5 => 20_000,
            _ => 1_000,
        };
        HEADER_BYTES + (self.next() % bytes_max) as usize
    }
}

/// One side of the two-way test: sends and receives `MESSAGES` in any interleaving, then goes on
/// polling until both sides have all.
fn exchange(backend: TcpBackend, socket: TcpStream, seeds: [u64; 2], done: &AtomicUsize) {
    const MESSAGES: usize = 10_000;
    let mut transport = tcp::open(backend, Limits::default()).unwrap();
    let peer = transport.adopt(Link::Tcp(socket)).unwrap();
    let [mut sending, mut receiving] = seeds.map(Random);
    let (mut sent, mut got, mut events) = (0, 0, Vec::new());
    let mut bytes = sending.bytes();
    let deadline = Instant::now() + PATIENCE;
    while done.load(Ordering::Acquire) < 2 {
        assert!(Instant::now() < deadline, "{sent} sent, {got} received");
        while sent < MESSAGES
            && let Ok(mut slot) = transport.acquire(peer, bytes)
        {
            write_message(slot.bytes_mut(), sent as u8);
            transport.post(slot);
            sent += 1;
            bytes = sending.bytes();
        }
        transport.flush();
        let soon = transport.now() + Duration::from_millis(10);
        transport.park(soon);
        transport.poll(&mut events);
        for event in events.drain(..) {
            if matches!(event, Event::Closed { .. }) && done.load(Ordering::Acquire) == 2 {
                return; // The other side has all, as this one has, and was faster.
            }
            let slot = received(event);
            assert_is(&slot, receiving.bytes(), got as u8);
            transport.release(slot);
            got += 1;
            if got == MESSAGES {
                done.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

#[test]
fn messages_of_any_length_arrive_whole_and_in_order_both_ways_at_once() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64;
    for_each_backend("two ways at once", |backend| {
        println!("seed {seed}, {backend:?}");
        let ((left, right), done) = (sockets(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| exchange(backend, right, [seed + 1, seed], &done));
            exchange(backend, left, [seed, seed + 1], &done);
        });
    });
}

#[test]
fn a_sender_runs_out_of_credit_while_nothing_is_released_and_goes_on_afterwards() {
    const BYTES: usize = 50_000;
    const LIMIT_BYTES: usize = 1 << 20;
    /// Refusals in a row after which nothing is on its way any more.
    const REFUSALS: usize = 1000;
    for_each_backend("credit", |backend| {
        let limits = Limits {
            send_bytes_max: LIMIT_BYTES,
            recv_bytes_max: LIMIT_BYTES,
            ..Limits::default()
        };
        let Pair { mut here, mut there, to_there, .. } = pair(backend, limits);
        let (mut sent, mut refusals, mut events) = (0, 0, Vec::new());
        while refusals < REFUSALS {
            match here.acquire(to_there, BYTES) {
                Ok(mut slot) => {
                    write_message(slot.bytes_mut(), sent as u8);
                    here.post(slot);
                    (sent, refusals) = (sent + 1, 0);
                }
                Err(SendRefusal::NoCredit) => refusals += 1,
                Err(refusal) => panic!("{refusal}"),
            }
            here.flush();
            here.poll(&mut Vec::new());
            there.poll(&mut events);
        }
        assert_eq!(events.len(), LIMIT_BYTES / BYTES, "all that the receiver may hold, no more");
        assert!(sent > events.len(), "the rest lies in the sockets and at the sender");
        let (mut got, deadline) = (0, Instant::now() + PATIENCE);
        while got < sent {
            assert!(Instant::now() < deadline, "{got} of {sent} came");
            for event in events.drain(..) {
                let slot = received(event);
                assert_is(&slot, BYTES, got as u8);
                there.release(slot);
                got += 1;
            }
            here.poll(&mut Vec::new());
            there.poll(&mut events);
        }
        assert!(here.acquire(to_there, BYTES).is_ok());
    });
}

#[test]
fn slots_arrive_in_the_order_of_acquire_and_nothing_before_flush() {
    for_each_backend("order", |backend| {
        let Pair { mut here, mut there, to_there, .. } = pair(backend, Limits::default());
        let mut slots: Vec<_> = (0..4).map(|_| here.acquire(to_there, 1000).unwrap()).collect();
        for (mark, slot) in slots.iter_mut().enumerate() {
            slot.truncate(100 + mark);
            write_message(slot.bytes_mut(), mark as u8);
        }
        let unused = slots.remove(1);
        slots.into_iter().rev().for_each(|slot| here.post(slot));
        assert_silent(&mut *here);
        assert_silent(&mut *there);
        here.flush();
        let mut events = Vec::new();
        assert_is(&received(next(&mut *there, &mut events)), 100, 0);
        assert_silent(&mut *there);
        here.cancel(unused);
        here.flush();
        for mark in 2..4 {
            let slot = received(next(&mut *there, &mut events));
            assert_is(&slot, 100 + mark, mark as u8);
        }
        send(&mut *here, to_there, 104, 4);
        here.flush();
        assert_is(&received(next(&mut *there, &mut events)), 104, 4);
        assert_eq!(here.bytes_sent(), 100 + 102 + 103 + 104);
    });
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_message_is_closed_after_its_whole_ones() {
    for_each_backend("half a message", |backend| {
        for cut in [10, HEADER_BYTES, 70_000] {
            let (mut here, peer, mut socket) = half(backend, Limits::default());
            socket.write_all(&message(200, 1)).unwrap();
            socket.write_all(&message(90_000, 2)[..cut]).unwrap();
            socket.shutdown(Shutdown::Both).unwrap();
            let mut events = Vec::new();
            assert_is(&received(next(&mut *here, &mut events)), 200, 1);
            match next(&mut *here, &mut events) {
                Event::Closed { peer: who, fault } => {
                    assert_eq!((who, fault), (peer, Fault::PeerClosed));
                }
                event => panic!("{event:?}"),
            }
            assert_silent(&mut *here);
            assert_eq!(here.acquire(peer, 100).unwrap_err(), SendRefusal::NoSuchPeer);
        }
    });
}

#[test]
fn garbage_and_too_long_a_message_close_the_peer_as_malformed_and_no_other() {
    for_each_backend("garbage", |backend| {
        let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
        for garbage in [vec![b'G'; 100], message(1001, 1)] {
            let (mut here, bad, mut socket) = half(backend, limits);
            let (left, mut good_socket) = sockets();
            let good = here.adopt(Link::Tcp(left)).unwrap();
            socket.write_all(&garbage).unwrap();
            let mut events = Vec::new();
            match next(&mut *here, &mut events) {
                Event::Closed { peer, fault: Fault::Malformed(_) } => assert_eq!(peer, bad),
                event => panic!("{event:?}"),
            }
            good_socket.write_all(&message(500, 5)).unwrap();
            let slot = received(next(&mut *here, &mut events));
            assert_eq!(slot.peer(), good);
            assert_is(&slot, 500, 5);
        }
    });
}

#[test]
fn closing_here_is_told_once_and_the_peer_learns_of_it() {
    for_each_backend("close", |backend| {
        let Pair { mut here, mut there, to_there, to_here } = pair(backend, Limits::default());
        let mut events = Vec::new();
        send(&mut *there, to_here, 5000, 7);
        there.flush();
        let held = received(next(&mut *here, &mut events));
        here.close(to_there);
        here.close(to_there);
        here.poll(&mut events);
        assert!(
            matches!(events[..], [Event::Closed { fault: Fault::ClosedHere, .. }]),
            "{events:?}"
        );
        events.clear();
        assert_silent(&mut *here);
        assert_is(&held, 5000, 7);
        here.release(held);
        assert_eq!(here.acquire(to_there, 100).unwrap_err(), SendRefusal::NoSuchPeer);
        match next(&mut *there, &mut events) {
            Event::Closed { peer, fault } => {
                assert_eq!((peer, fault), (to_here, Fault::PeerClosed));
            }
            event => panic!("{event:?}"),
        }
    });
}

#[test]
fn a_message_that_came_before_a_reset_is_still_given_out() {
    for_each_backend("reset", |backend| {
        let (mut here, peer, mut socket) = half(backend, Limits::default());
        // More than the socket takes, so that a send is under way when the reset comes.
        for mark in 0..4 {
            send(&mut *here, peer, 1 << 20, mark);
        }
        here.flush();
        assert_silent(&mut *here);
        socket.write_all(&message(300, 9)).unwrap();
        drop(socket); // With unread bytes: that is a reset.
        let mut events = Vec::new();
        assert_is(&received(next(&mut *here, &mut events)), 300, 9);
        match next(&mut *here, &mut events) {
            Event::Closed { fault, .. } => assert_eq!(fault, Fault::PeerClosed),
            event => panic!("{event:?}"),
        }
    });
}

#[test]
fn park_ends_by_a_waker_by_the_deadline_and_by_a_message() {
    for_each_backend("park", |backend| {
        for spin_ns in [0, 10_000, u64::MAX] {
            let limits = Limits { spin_ns, ..Limits::default() };
            let Pair { mut here, mut there, to_there, .. } = pair(backend, limits);
            let in_an_hour = there.now() + Duration::from_secs(3600);
            let waker = there.waker();
            waker.wake();
            waker.wake();
            there.park(in_an_hour);
            let other = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                waker.wake();
            });
            there.poll(&mut Vec::new());
            there.park(in_an_hour);
            other.join().unwrap();
            there.poll(&mut Vec::new());
            there.park(in_an_hour.min(there.now())); // The last wake may end this one.
            let deadline = there.now() + Duration::from_millis(5);
            there.park(deadline);
            assert!(there.now() >= deadline);
            send(&mut *here, to_there, 100, 1);
            here.flush();
            let mut events = Vec::new();
            while events.is_empty() {
                there.park(in_an_hour);
                there.poll(&mut events);
            }
            assert_is(&received(events.remove(0)), 100, 1);
        }
    });
}

#[test]
fn a_released_slot_of_a_stalled_peer_ends_the_park() {
    for_each_backend("stalled park", |backend| {
        let limits = Limits { recv_bytes_max: 100, spin_ns: 0, ..Limits::default() };
        let (mut here, _, mut socket) = half(backend, limits);
        socket.write_all(&[message(100, 1), message(100, 2)].concat()).unwrap();
        let mut events = Vec::new();
        let first = received(next(&mut *here, &mut events));
        assert_silent(&mut *here);
        here.release(first);
        here.park(here.now() + Duration::from_secs(3600));
        here.poll(&mut events);
        assert_is(&received(events.remove(0)), 100, 2);
    });
}

#[test]
fn a_refused_sender_does_not_sleep_over_a_slot_that_was_given_back() {
    for_each_backend("credit and park", |backend| {
        let limits = Limits { send_bytes_max: 1000, spin_ns: 0, ..Limits::default() };
        let Pair { mut here, to_there, .. } = pair(backend, limits);
        let held = here.acquire(to_there, 1000).unwrap();
        assert_eq!(here.acquire(to_there, 1000).unwrap_err(), SendRefusal::NoCredit);
        here.cancel(held);
        let in_an_hour = here.now() + Duration::from_secs(3600);
        here.park(in_an_hour);
        let again = here.acquire(to_there, 1000);
        assert!(again.is_ok(), "{again:?}");
    });
}

#[test]
fn far_more_connections_come_and_go_than_are_possible_at_a_time() {
    for_each_backend("many connections", |backend| {
        let (mut here, mut events) = (tcp::open(backend, Limits::default()).unwrap(), Vec::new());
        let mut last = None;
        for round in 0..1500_usize {
            let (left, mut socket) = sockets();
            let peer = here.adopt(Link::Tcp(left)).unwrap();
            assert!(last < Some(peer), "a number was used again");
            last = Some(peer);
            if round % 3 == 0 {
                here.close(peer);
            } else if round % 3 == 1 {
                socket.write_all(&message(100, 1)).unwrap();
                drop(received(next(&mut *here, &mut events)));
            }
            drop(socket);
            assert!(matches!(next(&mut *here, &mut events), Event::Closed { .. }));
        }
    });
}

#[test]
fn a_transport_with_bytes_in_the_kernel_is_dropped_and_its_slots_live_on() {
    for_each_backend("drop", |backend| {
        let (mut here, peer, mut socket) = half(backend, Limits::default());
        for mark in 0..4 {
            send(&mut *here, peer, 1 << 20, mark);
        }
        here.flush();
        socket.write_all(&message(300, 9)).unwrap();
        let slot = received(next(&mut *here, &mut Vec::new()));
        let unposted = here.acquire(peer, 100);
        drop(here);
        assert_is(&slot, 300, 9);
        drop(unposted);
    });
}

#[test]
fn opening_and_connecting_fail_with_words_that_name_both_sides() {
    let limits = Limits { message_bytes_max: 17 << 20, ..Limits::default() };
    let error = tcp::open(TcpBackend::default(), limits).err().unwrap();
    assert!(matches!(error, OpenError::MessageBytes { message_bytes_max } if
        message_bytes_max == 17 << 20));
    assert!(error.to_string().contains("16777216"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = tcp::connect(&address, PATIENCE).unwrap_err();
    assert!(error.to_string().contains(&address) && error.to_string().contains("refused"));
    let refused = |error: &ConnectError| match error {
        ConnectError::Connect { error, .. } => error.kind() == ErrorKind::ConnectionRefused,
        ConnectError::Resolve { .. } => false,
    };
    assert!(refused(&error), "{error}");
    let error = tcp::connect("no port", PATIENCE).unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
}
