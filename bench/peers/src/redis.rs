//! The table's work on a Redis server: MSET and MGET of as many keys as a request has, pipelined.
//!
//! Owns the server's process, which keeps nothing on disk, and as much of RESP as two commands
//! need. MSET overwrites a value and applies no rule, which is less than a push does.
//!
//! Invariant: the process ends with its [`Redis`].

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::work::{self, DIM, Figures, IN_FLIGHT, PATIENCE, REQUEST_KEYS, Random, read_lines};

/// Bytes of a value: a row.
const VALUE_BYTES: usize = 4 * DIM;

/// What answers an MSET.
const OK: &[u8] = b"+OK\r\n";

/// A running server, filled.
pub(crate) struct Redis {
    child: Child,
    stream: TcpStream,
    /// Commands as they are sent, one a batch.
    msets: Vec<Vec<u8>>,
    mgets: Vec<Vec<u8>>,
    answer: Vec<u8>,
}

impl Redis {
    /// Starts `redis-server` of the path, and fills it.
    ///
    /// - Errors: why there is none, in words.
    pub(crate) fn start() -> Result<Redis, String> {
        start().map_err(|error| error.to_string())
    }

    pub(crate) fn measure(&mut self, phase: Duration) -> Result<Figures, String> {
        let (server_cpu, worker_cpu) = work::processors();
        let mut one = CpuSet::new();
        one.set(server_cpu);
        let _ = sched_setaffinity(Pid::from_child(&self.child).into(), &one);
        let (stream, answer) = (&mut self.stream, &mut self.answer);
        // The thread that asks is pinned, and no other.
        std::thread::scope(|scope| {
            let (msets, mgets) = (&self.msets, &self.mgets);
            let asking = scope.spawn(move || {
                work::pin(worker_cpu);
                let push = keys_per_s(stream, msets, &mut answer[..OK.len()], phase)?;
                let pull = keys_per_s(stream, mgets, answer, phase)?;
                Ok(vec![
                    ("push over TCP, M keys_per_s", push / 1e6),
                    ("pull over TCP, M keys_per_s", pull / 1e6),
                ])
            });
            let asked = asking.join().map_err(|_| "a thread panicked".to_owned())?;
            asked.map_err(|error: io::Error| error.to_string())
        })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> io::Result<Redis> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .spawn()?;
    let since = Instant::now();
    let stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) if since.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let keys = Random(1).keys();
    let batches = || keys.chunks_exact(REQUEST_KEYS);
    let (msets, mgets) = (batches().map(mset).collect(), batches().map(mget).collect());
    let value = b"$32\r\n".len() + VALUE_BYTES + b"\r\n".len();
    let answer = vec![0; format!("*{REQUEST_KEYS}\r\n").len() + REQUEST_KEYS * value];
    let mut redis = Redis { child, stream, msets, mgets, answer };
    for command in &redis.msets {
        redis.stream.write_all(command)?;
        redis.stream.read_exact(&mut redis.answer[..OK.len()])?;
    }
    Ok(redis)
}

/// Sends commands in turn, [`IN_FLIGHT`] under way, and reads their answers, which are all of one
/// length.
fn keys_per_s(
    stream: &mut TcpStream,
    commands: &[Vec<u8>],
    answer: &mut [u8],
    phase: Duration,
) -> io::Result<f64> {
    let (start, mut keys, mut under_way) = (Instant::now(), 0, VecDeque::new());
    let mut commands = commands.iter().cycle();
    loop {
        let over = start.elapsed() >= phase;
        if !over && under_way.len() < IN_FLIGHT {
            let command = commands.next().expect("a cycle has no end");
            stream.write_all(command)?;
            under_way.push_back(REQUEST_KEYS);
            continue;
        }
        let Some(answered) = under_way.pop_front() else { break };
        stream.read_exact(answer)?;
        if !matches!(answer[0], b'+' | b'*') {
            return Err(io::Error::other(String::from_utf8_lossy(answer).into_owned()));
        }
        read_lines(answer);
        keys += answered;
    }
    Ok(keys as f64 / start.elapsed().as_secs_f64())
}

fn mset(keys: &[u64]) -> Vec<u8> {
    let mut command = format!("*{}\r\n$4\r\nMSET\r\n", 1 + 2 * keys.len()).into_bytes();
    for key in keys {
        bulk(&mut command, &key.to_le_bytes());
        bulk(&mut command, &[1; VALUE_BYTES]);
    }
    command
}

fn mget(keys: &[u64]) -> Vec<u8> {
    let mut command = format!("*{}\r\n$4\r\nMGET\r\n", 1 + keys.len()).into_bytes();
    keys.iter().for_each(|key| bulk(&mut command, &key.to_le_bytes()));
    command
}

/// A string of RESP.
fn bulk(command: &mut Vec<u8>, bytes: &[u8]) {
    command.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    command.extend_from_slice(bytes);
    command.extend_from_slice(b"\r\n");
}
