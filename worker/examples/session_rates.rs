//! What a session costs its worker: the CPU time of a pull and a push, beside that of `memcpy`.
//!
//! Owns a stand-in shard that only moves bytes, in the same thread, over shared memory; its own
//! time is not counted. Prints medians to stdout.
#![allow(clippy::print_stdout)] // A program's result goes to stdout.

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gradwire_worker::{Session, SessionSpec, Then, Timeouts};
use kernels::{Isa, crc32c::crc32c};
use transport::shm::{self, Shm};
use transport::{Event, Limits, Link, PeerId, Transport};
use wire::{
    Epoch, HEADER_BYTES, Header, Incarnation, Keyed, Kind, Message, Routing, Seal, TableId,
    WorkerId,
};

const KEYS: usize = 10_000;
const WIDTH: u16 = 8;
const ROUNDS: usize = 400;
const TABLE: TableId = TableId::new(0);

/// Answers pulls with what lies in the ring, and pushes with nothing.
struct Echo {
    shm: Shm,
    peer: PeerId,
}

impl Echo {
    fn turn(&mut self, isa: Isa) {
        let mut events = Vec::new();
        self.shm.poll(&mut events);
        for event in events {
            let Event::Received { slot, .. } = event else { continue };
            let opened = wire::open(slot.bytes(), |bytes| crc32c(isa, 0, bytes));
            let (request, message) = opened.expect("the session seals what it sends");
            let body_bytes = match message {
                Message::Pull(keys) => keys.as_slice().len() * usize::from(WIDTH) * 4,
                _ => 0,
            };
            let mut answer = Header { flags: 0, credit: 64, clock: 0, ..request };
            (answer.kind, answer.width) = match body_bytes {
                0 => (Kind::Reply as u8, 0),
                _ => (Kind::Values as u8, WIDTH),
            };
            let mut reply =
                self.shm.acquire(self.peer, HEADER_BYTES + body_bytes).expect("the ring has room");
            let crc = |bytes: &[u8]| crc32c(isa, 0, bytes);
            wire::seal(reply.bytes_mut(), answer, Seal::HeaderOnly, crc);
            self.shm.post(reply);
            self.shm.release(slot);
        }
        self.shm.flush();
    }
}

fn main() {
    println!("{KEYS} keys of {WIDTH} values, medians of {ROUNDS} rounds, in us");
    println!("shards  split   pull  values   push  acked  memcpy_push");
    for shards in [1, 2, 4] {
        measure(shards);
    }
}

fn measure(shards: usize) {
    let isa = Isa::detect();
    let limits = Limits::default();
    let mut ours = Shm::new(limits).expect("this host has shared memory");
    let (mut peers, mut echoes) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let (one, other) = shm::pair(4 << 20).expect("this host has shared memory");
        let mut theirs = Shm::new(limits).expect("this host has shared memory");
        peers.push(ours.adopt(Link::Shm(one)).expect("it is the right kind"));
        let peer = theirs.adopt(Link::Shm(other)).expect("it is the right kind");
        echoes.push(Echo { shm: theirs, peer });
    }
    let mut session = Session::new(SessionSpec {
        transport: Box::new(ours),
        peers,
        servers: (0..shards).map(|shard| format!("echo {shard}")).collect(),
        routing: Routing::new(Epoch::new(1), shards).expect("shards are in range"),
        worker: WorkerId::new(0),
        incarnation: Incarnation::new(1),
        isa,
        timeouts: Timeouts::default(),
    });
    let keys: Vec<u64> = (0..KEYS as u64).map(|key| key * 977).collect();
    let deltas = Rc::new(vec![0.5_f32; KEYS * usize::from(WIDTH)]);
    let mut times: [Vec<Duration>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let split = timed(&mut times[0], || session.split(&keys).expect("sorted"));
        let ticket = timed(&mut times[1], || {
            let ticket = session.pull(TABLE, &split, WIDTH).expect("there is room");
            session.flush();
            ticket
        });
        echoes.iter_mut().for_each(|echo| echo.turn(isa));
        timed(&mut times[2], || {
            let values = session.wait_pull(ticket, session.now() + Duration::from_secs(1));
            session.recycle(values.expect("it was answered"));
        });
        timed(&mut times[3], || {
            session.push(TABLE, &split, Rc::clone(&deltas), WIDTH, Then::Tick).expect("room");
            session.flush();
        });
        echoes.iter_mut().for_each(|echo| echo.turn(isa));
        timed(&mut times[4], || {
            let deadline = session.now() + Duration::from_secs(1);
            session.wait_pushes(0, deadline).expect("they were answered");
        });
        copy(&mut times[5], &keys, &deltas);
    }
    let [split, pull, values, push, acked, memcpy] = times.map(median_us);
    println!(
        "{shards:>6} {split:>6.1} {pull:>6.1} {values:>7.1} {push:>6.1} {acked:>6.1} {memcpy:>12.1}"
    );
}

/// The bytes of one push, copied to memory that goes round like a ring.
fn copy(times: &mut Vec<Duration>, keys: &[u64], deltas: &[f32]) {
    use zerocopy::IntoBytes;
    thread_local!(static RING: std::cell::RefCell<(Vec<u8>, usize)> =
        std::cell::RefCell::new((vec![1; 4 << 20], 0)));
    RING.with_borrow_mut(|(ring, at)| {
        let bytes = Keyed::message_bytes(keys.len(), usize::from(WIDTH));
        if *at + bytes > ring.len() {
            *at = 0;
        }
        let to = &mut ring[*at..][..bytes];
        timed(times, || {
            to[..keys.len() * 8].copy_from_slice(keys.as_bytes());
            to[keys.len() * 8..][..deltas.len() * 4].copy_from_slice(deltas.as_bytes());
            black_box(to);
        });
        *at += bytes;
    });
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    times.push(start.elapsed());
    result
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
