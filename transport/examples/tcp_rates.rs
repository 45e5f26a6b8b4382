//! How fast TCP over loop-back is: both back ends beside bare sockets, in alternating rounds.
//!
//! Owns the measurement; the harness proper is left to `bench`. Each cell is the median over the
//! rounds: a round trip of 64 bytes with both sides polling; messages of one length one way, with
//! the processor time of both sides, which other programs disturb least; the same over several
//! connections between one pair of threads, in turns.
//!
//! Run it with `cargo run --release -p gradwire-transport --example tcp_rates`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that prints figures")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use gradwire_transport::tcp::{self, TcpBackend};
use gradwire_transport::{Event, Limits, Link, PeerId, Transport};
use wire::{HEADER_BYTES, Header, Kind};

const ROUNDS: usize = 5;
const PINGS: usize = 5_000;
/// Bytes that one streaming measurement moves.
const STREAM_BYTES: usize = 256 << 20;
/// Messages that one streaming measurement moves at most.
const STREAM_MESSAGES_MAX: usize = 100_000;
/// Lengths of streamed messages, in bytes.
const LENGTHS: [usize; 4] = [256, 16_000, 65_536, 400_000];

/// Connections between one pair of threads.
const STRIPES: [usize; 3] = [1, 2, 4];

#[derive(Clone, Copy)]
enum Way {
    Bare,
    Backend(TcpBackend),
}

fn main() {
    let ways = [
        ("bare sockets", Way::Bare),
        ("uring", Way::Backend(TcpBackend::Uring)),
        ("epoll", Way::Backend(TcpBackend::Epoll)),
    ];
    println!("{:<13} {:>8} {:>15}", "way", "bytes", "ping_us_p50");
    let mut laps = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for ((_, way), laps) in ways.iter().zip(&mut laps) {
            laps.push(ping_us_p50(*way));
        }
    }
    for ((name, _), laps) in ways.iter().zip(&mut laps) {
        println!("{name:<13} {:>8} {:>15.1}", 64, median(laps));
    }
    println!("\n{:<13} {:>8} {:>15} {:>12}", "way", "bytes", "stream_GB_per_s", "cpu_s_per_GB");
    for bytes in LENGTHS {
        let (mut rates, mut costs) = (vec![Vec::new(); ways.len()], vec![Vec::new(); ways.len()]);
        for _ in 0..ROUNDS {
            for (index, (_, way)) in ways.iter().enumerate() {
                let (rate, cost) = stream(*way, bytes);
                rates[index].push(rate);
                costs[index].push(cost);
            }
        }
        for ((name, _), (rates, costs)) in ways.iter().zip(rates.iter_mut().zip(&mut costs)) {
            let (rate, cost) = (median(rates), median(costs));
            println!("{name:<13} {bytes:>8} {rate:>15.2} {cost:>12.3}");
        }
    }
    stripes();
}

/// By io_uring, over several connections.
fn stripes() {
    println!("\n{:<13} {:>8} {:>15} {:>12}", "stripes", "bytes", "stream_GB_per_s", "cpu_s_per_GB");
    for bytes in LENGTHS {
        let (mut rates, mut costs) = (vec![Vec::new(); STRIPES.len()], vec![Vec::new(); 3]);
        for _ in 0..ROUNDS {
            for (index, &stripes) in STRIPES.iter().enumerate() {
                let (rate, cost) = striped(stripes, bytes);
                rates[index].push(rate);
                costs[index].push(cost);
            }
        }
        for (stripes, (rates, costs)) in STRIPES.iter().zip(rates.iter_mut().zip(&mut costs)) {
            let (rate, cost) = (median(rates), median(costs));
            println!("{stripes:<13} {bytes:>8} {rate:>15.2} {cost:>12.3}");
        }
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let left = tcp::connect(&address, Duration::from_secs(1)).unwrap();
    let right = listener.accept().unwrap().0;
    left.set_nodelay(true).unwrap();
    right.set_nodelay(true).unwrap();
    (left, right)
}

fn message(bytes: usize) -> Vec<u8> {
    let mut message = vec![7; bytes];
    message[..HEADER_BYTES].fill(0);
    message[..4].copy_from_slice(&wire::MAGIC.to_le_bytes());
    message[4..6].copy_from_slice(&wire::VERSION.to_le_bytes());
    message[6] = Kind::Push as u8;
    let (at, body_bytes) = (std::mem::offset_of!(Header, body_bytes), bytes - HEADER_BYTES);
    message[at..at + 4].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    message
}

fn adopt(backend: TcpBackend, socket: TcpStream) -> (Box<dyn Transport>, PeerId) {
    let (transport, peers) = adopt_all(backend, vec![socket]);
    (transport, peers[0])
}

fn adopt_all(backend: TcpBackend, sockets: Vec<TcpStream>) -> (Box<dyn Transport>, Vec<PeerId>) {
    let mut transport = tcp::open(backend, Limits::default()).unwrap();
    let adopted = sockets.into_iter().map(|socket| transport.adopt(Link::Tcp(socket)).unwrap());
    let peers = adopted.collect();
    (transport, peers)
}

/// Polls until one message has come, and releases it.
fn take(transport: &mut dyn Transport, events: &mut Vec<Event>) {
    while events.is_empty() {
        transport.poll(events);
    }
    match events.pop().unwrap() {
        Event::Received { slot, .. } => transport.release(slot),
        Event::Closed { fault, .. } => panic!("{fault}"),
    }
}

fn send(transport: &mut dyn Transport, peer: PeerId, head: &[u8]) {
    let mut slot = transport.acquire(peer, head.len()).unwrap();
    slot.bytes_mut().copy_from_slice(head);
    transport.post(slot);
    transport.flush();
}

fn ping_us_p50(way: Way) -> f64 {
    let (left, right) = sockets();
    let mut laps = match way {
        Way::Bare => {
            let echo = thread::spawn(move || bare_pings(right, &[]));
            let laps = bare_pings(left, &message(64));
            echo.join().unwrap();
            laps
        }
        Way::Backend(backend) => {
            let echo = thread::spawn(move || {
                let (mut transport, peer) = adopt(backend, right);
                let (ping, mut events) = (message(64), Vec::new());
                for _ in 0..PINGS {
                    take(&mut *transport, &mut events);
                    send(&mut *transport, peer, &ping);
                }
                while !matches!(events.pop(), Some(Event::Closed { .. })) {
                    transport.poll(&mut events);
                }
            });
            let (mut transport, peer) = adopt(backend, left);
            let (ping, mut events) = (message(64), Vec::new());
            let lap = |_| {
                let start = Instant::now();
                send(&mut *transport, peer, &ping);
                take(&mut *transport, &mut events);
                start.elapsed().as_secs_f64() * 1e6
            };
            let laps: Vec<f64> = (0..PINGS).map(lap).collect();
            drop(transport);
            echo.join().unwrap();
            laps
        }
    };
    median(&mut laps)
}

/// Pings, or with an empty message echoes, over a socket that is read in a spin.
fn bare_pings(mut socket: TcpStream, ping: &[u8]) -> Vec<f64> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    let mut laps = Vec::new();
    for _ in 0..PINGS {
        let start = Instant::now();
        if !ping.is_empty() {
            socket.write_all(ping).unwrap();
        }
        loop {
            match socket.read_exact(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => break read.unwrap(),
            }
        }
        if ping.is_empty() {
            socket.write_all(&buffer).unwrap();
        }
        laps.push(start.elapsed().as_secs_f64() * 1e6);
    }
    laps
}

/// GB/s, and seconds of processor time of both sides per GB.
fn stream(way: Way, bytes: usize) -> (f64, f64) {
    let (left, right) = sockets();
    let count = (STREAM_BYTES / bytes).min(STREAM_MESSAGES_MAX);
    let sender = thread::spawn(move || match way {
        Way::Bare => bare_send(left, bytes, count),
        Way::Backend(backend) => stream_out(backend, vec![left], bytes, count),
    });
    let (start, cpu_start) = (Instant::now(), cpu_s());
    match way {
        Way::Bare => bare_receive(right, bytes, count),
        Way::Backend(backend) => stream_in(backend, vec![right], count),
    }
    let seconds = start.elapsed().as_secs_f64();
    sender.join().unwrap();
    let gigabytes = (count * bytes) as f64 / 1e9;
    (gigabytes / seconds, (cpu_s() - cpu_start) / gigabytes)
}

/// As [`stream`], in turns over so many connections.
fn striped(stripes: usize, bytes: usize) -> (f64, f64) {
    let (left, right): (Vec<_>, Vec<_>) = (0..stripes).map(|_| sockets()).unzip();
    let count = (STREAM_BYTES / bytes).min(STREAM_MESSAGES_MAX);
    let sender = thread::spawn(move || stream_out(TcpBackend::Uring, left, bytes, count));
    let (start, cpu_start) = (Instant::now(), cpu_s());
    stream_in(TcpBackend::Uring, right, count);
    let seconds = start.elapsed().as_secs_f64();
    sender.join().unwrap();
    let gigabytes = (count * bytes) as f64 / 1e9;
    (gigabytes / seconds, (cpu_s() - cpu_start) / gigabytes)
}

/// Processor time of this process so far, in seconds.
fn cpu_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn bare_send(mut socket: TcpStream, bytes: usize, count: usize) {
    let message = message(bytes);
    (0..count).for_each(|_| socket.write_all(&message).unwrap());
}

fn bare_receive(mut socket: TcpStream, bytes: usize, count: usize) {
    let mut buffer = vec![0; bytes];
    (0..count).for_each(|_| socket.read_exact(&mut buffer).unwrap());
}

fn stream_out(backend: TcpBackend, sockets: Vec<TcpStream>, bytes: usize, count: usize) {
    let (mut transport, peers) = adopt_all(backend, sockets);
    let (message, mut sent, mut events) = (message(bytes), 0, Vec::new());
    while !matches!(events.pop(), Some(Event::Closed { .. })) {
        // Only the header is written anew: filling messages is not what is measured.
        while sent < count
            && let Ok(mut slot) = transport.acquire(peers[sent % peers.len()], bytes)
        {
            slot.bytes_mut()[..HEADER_BYTES].copy_from_slice(&message[..HEADER_BYTES]);
            transport.post(slot);
            sent += 1;
        }
        transport.flush();
        let soon = transport.now() + Duration::from_millis(1);
        transport.park(soon);
        transport.poll(&mut events);
    }
}

fn stream_in(backend: TcpBackend, sockets: Vec<TcpStream>, count: usize) {
    let (mut transport, _) = adopt_all(backend, sockets);
    let (mut got, mut events) = (0, Vec::new());
    while got < count {
        let soon = transport.now() + Duration::from_millis(1);
        transport.park(soon);
        transport.poll(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Received { slot, .. } => transport.release(slot),
                Event::Closed { fault, .. } => panic!("{fault}"),
            }
            got += 1;
        }
    }
}
