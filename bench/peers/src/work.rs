//! The work: what goes there and back, what streams, what is looked up.
//!
//! Invariant: everyone is given the same sizes, keys and processors.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Bytes of a ping and of its answer.
pub(crate) const PING_BYTES: usize = 64;

/// Values a key.
pub(crate) const DIM: usize = 8;

/// Keys a request.
pub(crate) const REQUEST_KEYS: usize = 10_000;

/// Keys in the table.
pub(crate) const RESIDENT_KEYS: usize = 2_000_000;

/// Requests under way.
pub(crate) const IN_FLIGHT: usize = 8;

/// Bytes of a message of a stream: a push of [`REQUEST_KEYS`] keys.
pub(crate) const MESSAGE_BYTES: usize = 64 + REQUEST_KEYS * (8 + 4 * DIM);

/// How long any wait on a socket may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Figures of one turn, each with its name and unit.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// Which work a pair of threads does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// [`PING_BYTES`] there and back, one after another.
    Echo,
    /// Messages of [`MESSAGE_BYTES`] one way, then a byte back.
    Stream,
}

/// The two ends of a TCP connection over loop-back, non-blocking.
pub(crate) fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (other, _) = listener.accept()?;
    for stream in [&one, &other] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    Ok((one, other))
}

/// The processors of the server's and of the worker's thread; the same one where there is no other.
pub(crate) fn processors() -> (usize, usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return (0, 0) };
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = cpus.next().unwrap_or(0);
    (first, cpus.next().unwrap_or(first))
}

/// Keeps the calling thread on one processor, where the kernel allows it.
pub(crate) fn pin(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu);
    let _ = sched_setaffinity(None, &one);
}

/// Median and 99th percentile of round trips, in microseconds.
pub(crate) fn echo_figures(mut trips: Vec<Duration>) -> Figures {
    trips.sort_unstable();
    let at = |part: f64| {
        let index = ((trips.len() as f64 * part) as usize).min(trips.len().saturating_sub(1));
        trips.get(index).map_or(0.0, |trip| trip.as_secs_f64() * 1e6)
    };
    vec![("echo of 64 B, us_p50", at(0.5)), ("echo of 64 B, us_p99", at(0.99))]
}

/// Of so many messages in so long.
pub(crate) fn stream_figures(messages: usize, elapsed: Duration) -> Figures {
    let bytes = (messages * MESSAGE_BYTES) as f64;
    vec![("stream of 400 kB, GB_per_s", bytes / elapsed.as_secs_f64() / 1e9)]
}

/// Reads a word of each cache line of a message.
pub(crate) fn read_lines(message: &[u8]) {
    let words = message.chunks_exact(64).filter_map(|line| line.first_chunk());
    let sum = words.fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    std::hint::black_box(sum);
}

/// A generator (splitmix64); its numbers serve as keys.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// [`RESIDENT_KEYS`] different keys in random order. `next` is a bijection of its count.
    pub(crate) fn keys(&mut self) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..RESIDENT_KEYS).map(|_| self.next()).collect();
        self.shuffle(&mut keys);
        keys
    }

    pub(crate) fn shuffle(&mut self, keys: &mut [u64]) {
        for last in (1..keys.len()).rev() {
            keys.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}
