//! What the shared-memory transport does between two threads of this machine: a round trip of
//! small messages, and a stream of large ones, written in place and read once a cache line.
//!
//! `cargo run --release -p gradwire-transport --example shm_rates`. Needs two cores of its own;
//! the rounds are printed one by one, so that a disturbed one shows.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use gradwire_transport::shm::{self, Shm};
use gradwire_transport::{Event, Limits, Link, PeerId, SendRefusal, Transport};
use wire::{Header, Kind, Seal};

/// Rounds of each measurement.
const ROUNDS: usize = 7;

/// Round trips a round.
const PINGS: usize = 200_000;

/// Length of a ping, in bytes.
const PING_BYTES: usize = 64;

/// Length of a streamed message, in bytes: a push of a few thousand keys with wide rows.
const STREAM_BYTES: usize = 400_000;

/// Messages streamed a round.
const STREAM_MESSAGES: usize = 20_000;

/// How long one message may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thread's transport and its only peer.
struct Side {
    shm: Shm,
    peer: PeerId,
    events: Vec<Event>,
}

impl Side {
    fn new(end: shm::End, spin_ns: u64) -> Side {
        let limits = Limits { spin_ns, ..Limits::default() };
        let mut shm = Shm::new(limits).expect("an epoll and an eventfd are to be had");
        let peer = shm.adopt(Link::Shm(end)).expect("there is room for one peer");
        Side { shm, peer, events: Vec::new() }
    }

    /// Posts one message whose body is filled with `content`, as soon as there is room.
    fn send(&mut self, bytes: usize, content: u8) {
        let mut slot = loop {
            match self.shm.acquire(self.peer, bytes) {
                Ok(slot) => break slot,
                Err(SendRefusal::NoCredit) => self.shm.park(self.shm.now() + PATIENCE),
                Err(refusal) => panic!("{refusal}"),
            }
        };
        slot.bytes_mut()[64..].fill(content);
        wire::seal(slot.bytes_mut(), Header::new(Kind::Push), Seal::HeaderOnly, |_| 0);
        self.shm.post(slot);
        self.shm.flush();
    }

    /// Receives at least one message and reads a word of each line. How many, and what was read.
    fn receive(&mut self) -> (usize, u64) {
        while self.events.is_empty() {
            self.shm.poll(&mut self.events);
            if self.events.is_empty() {
                self.shm.park(self.shm.now() + PATIENCE);
            }
        }
        let (mut count, mut sum) = (0, 0_u64);
        for event in self.events.drain(..) {
            let Event::Received { slot, .. } = event else { continue }; // The other has finished.
            for line in slot.bytes().chunks_exact(64) {
                let word = line.first_chunk().expect("a line has eight bytes");
                sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
            self.shm.release(slot);
            count += 1;
        }
        self.shm.flush();
        (count, sum)
    }
}

/// Median and 99th percentile of one round trip, in nanoseconds.
fn ping(spin_ns: u64, pings: usize) -> Result<(u64, u64), Box<dyn Error>> {
    let (one, other) = shm::pair(shm::RING_BYTES_DEFAULT)?;
    let mut one = Side::new(one, spin_ns);
    let echo = thread::spawn(move || {
        let mut other = Side::new(other, spin_ns);
        for _ in 0..pings {
            assert_eq!(other.receive().0, 1);
            other.send(PING_BYTES, 0);
        }
    });
    let mut times_ns = Vec::with_capacity(pings);
    for _ in 0..pings {
        let start = Instant::now();
        one.send(PING_BYTES, 0);
        one.receive();
        times_ns.push(start.elapsed().as_nanos() as u64);
    }
    echo.join().map_err(|_| "the echo failed")?;
    times_ns.sort_unstable();
    Ok((times_ns[pings / 2], times_ns[pings * 99 / 100]))
}

/// Bytes a second of a stream.
fn stream(bytes: usize, messages: usize) -> Result<f64, Box<dyn Error>> {
    let (one, other) = shm::pair(shm::RING_BYTES_DEFAULT)?;
    let spin_ns = Limits::default().spin_ns;
    let mut one = Side::new(one, spin_ns);
    let start = Instant::now();
    let reader = thread::spawn(move || {
        let mut other = Side::new(other, spin_ns);
        let (mut received, mut sum) = (0, 0_u64);
        while received < messages {
            let (count, part) = other.receive();
            received += count;
            sum = sum.wrapping_add(part);
        }
        std::hint::black_box(sum);
    });
    for number in 0..messages {
        one.send(bytes, number as u8);
    }
    reader.join().map_err(|_| "the reader failed")?;
    Ok((bytes * messages) as f64 / start.elapsed().as_secs_f64())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("round  ping_spin_ns_p50  _p99  ping_asleep_ns_p50  _p99  stream_400KB_gb_per_s  64B");
    for round in 0..ROUNDS {
        let (spin_p50, spin_p99) = ping(u64::MAX, PINGS)?;
        let (sleep_p50, sleep_p99) = ping(0, PINGS / 20)?;
        let large = stream(STREAM_BYTES, STREAM_MESSAGES)? / 1e9;
        let small = stream(PING_BYTES, 100 * STREAM_MESSAGES)? / PING_BYTES as f64 / 1e6;
        println!(
            "{round:5}  {spin_p50:16}  {spin_p99:4}  {sleep_p50:18}  {sleep_p99:5}  \
             {large:21.2}  {small:.2} M messages/s"
        );
    }
    Ok(())
}
