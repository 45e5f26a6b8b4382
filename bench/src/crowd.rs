//! A crowd: connections that only sit there, and such as do harm, around a server that works.
//!
//! Owns the crowd, by raw sockets, and the sessions that work meanwhile and know what they pushed.
//! Starting the server, and what it shows of itself, is left to the caller.
//!
//! Invariant: a crowd's connections are bounded and its threads few and slow, so that what a server
//! loses to it is the server's own work and not the processor that the crowd takes.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::Isa;
use kernels::crc32c::crc32c;
use shard::rule::{Sum, table_spec};
use wire::{HEADER_BYTES, Header, Kind, Seal, WorkerId, seal};
use worker::{
    ConnectError, ConnectSpec, JobId, Join, Staleness, TableId, Then, WorkerError, connect,
};

use crate::random::Random;

/// Keys of one push of a session.
const PUSH_KEYS: usize = 256;

/// Keys of each session.
const KEYS: u64 = 16 << 10;

/// Messages of pushes that a session leaves unanswered.
const PUSHES_OUTSTANDING_MAX: usize = 16;

/// Counters are exact as long as an f32 can count.
const COUNT_MAX: u64 = 1 << 24;

/// How long anything may take before a session has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long one connection of the crowd may take to come to be.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How often those who do harm do something.
const HARM_EVERY: Duration = Duration::from_millis(50);

/// How often those who are slow send a byte.
const SLOW_EVERY: Duration = Duration::from_secs(1);

/// The longest message, in bytes, that those who do harm begin.
const HARM_BYTES: usize = 256 << 10;

const TABLE: TableId = TableId::new(0);

/// What a member of the crowd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Says hello, and nothing more.
    Idle,
    /// Sends half a hello.
    HalfOpen,
    /// Sends a long message, a byte a second.
    Slow,
    /// Sends what is no message.
    Garbage,
    /// Asks, and never reads an answer.
    Deaf,
    /// Pushes as much as goes, and never reads an answer.
    Greedy,
}

/// All manners that do harm, in turn.
pub const HARMFUL: [Manner; 5] =
    [Manner::HalfOpen, Manner::Slow, Manner::Garbage, Manner::Deaf, Manner::Greedy];

/// A crowd; dropped, it goes.
#[derive(Debug)]
pub struct Crowd {
    /// Those who sit there.
    idle: Vec<TcpStream>,
    stopping: Arc<AtomicBool>,
    /// How often one who does harm was shut out, and came again.
    shut_out: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// One who does harm.
struct Fiend {
    manner: Manner,
    stream: Option<TcpStream>,
    /// What is left of the message that it sends.
    left_bytes: usize,
    acts_at: Instant,
}

/// What sessions share while they work.
#[derive(Debug, Default)]
pub struct CrowdLoad {
    /// Keys whose pushes were acknowledged.
    pub keys_pushed: AtomicU64,
    /// Set once they shall finish.
    pub over: AtomicBool,
}

/// What a session found in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrowdTally {
    /// Keys that it pushed.
    pub pushed: u64,
    /// Additions that are not there.
    pub lost: u64,
    /// Additions that are there and were not made.
    pub doubled: u64,
}

/// Why a session cannot go on.
#[derive(Debug)]
pub enum CrowdError {
    /// There is no session.
    Connect(ConnectError),
    /// It broke.
    Worker(WorkerError),
    /// The crowd does not come together.
    Gather {
        /// How many had come.
        there: usize,
        /// Why no more.
        error: io::Error,
    },
}

impl Crowd {
    /// Brings so many around the shards of a server, in turn.
    ///
    /// # Errors
    ///
    /// Not all idle ones find room.
    pub fn gather(
        server: SocketAddr,
        shards: u16,
        idle: usize,
        hostile: usize,
    ) -> Result<Crowd, CrowdError> {
        let mut sitting = Vec::with_capacity(idle);
        for number in 0..idle {
            let shard = number as u16 % shards.max(1);
            let stream = greeted(server, shard)
                .map_err(|error| CrowdError::Gather { there: number, error })?;
            sitting.push(stream);
        }
        let (stopping, shut_out) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut crowd = Crowd { idle: sitting, stopping, shut_out, threads: Vec::new() };
        let threads = HARMFUL.iter().enumerate().map(|(place, &manner)| {
            let count = (hostile + HARMFUL.len() - 1 - place) / HARMFUL.len();
            let (stopping, shut_out) = (Arc::clone(&crowd.stopping), Arc::clone(&crowd.shut_out));
            std::thread::Builder::new().name("crowd".to_owned()).spawn(move || {
                harm(server, shards, (manner, count), (&stopping, &shut_out));
            })
        });
        crowd.threads = threads
            .collect::<io::Result<_>>()
            .map_err(|error| CrowdError::Gather { there: idle, error })?;
        Ok(crowd)
    }

    /// How often one who does harm was shut out.
    pub fn shut_out(&self) -> u64 {
        self.shut_out.load(Ordering::Relaxed)
    }

    /// How many idle ones the server has not closed.
    pub fn still_idle(&mut self) -> usize {
        let is_there = |stream: &mut TcpStream| {
            let _ = stream.set_nonblocking(true);
            let read = stream.read(&mut [0]);
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        self.idle.iter_mut().map(is_there).filter(|&is_there| is_there).count()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Connects, says hello as an observer and hears the welcome.
fn greeted(server: SocketAddr, shard: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, CONNECT_MAX)?;
    stream.set_read_timeout(Some(CONNECT_MAX))?;
    stream.set_write_timeout(Some(CONNECT_MAX))?;
    stream.write_all(&hello(shard))?;
    stream.read_exact(&mut [0; HEADER_BYTES])?;
    Ok(stream)
}

fn hello(shard: u16) -> [u8; HEADER_BYTES] {
    let observer = WorkerId::OBSERVER.get();
    head(Header { worker: observer, table: shard, sequence: 1 << 20, ..Header::new(Kind::Hello) })
}

fn head(header: Header) -> [u8; HEADER_BYTES] {
    let isa = Isa::detect();
    let mut bytes = [0; HEADER_BYTES];
    seal(&mut bytes, header, Seal::HeaderOnly, |bytes| crc32c(isa, 0, bytes));
    bytes
}

/// The thread of all who do the same harm.
fn harm(
    server: SocketAddr,
    shards: u16,
    (manner, count): (Manner, usize),
    (stopping, shut_out): (&AtomicBool, &AtomicU64),
) {
    let mut random = Random::new(count as u64);
    let fiend = || Fiend { manner, stream: None, left_bytes: 0, acts_at: Instant::now() };
    let mut fiends: Vec<Fiend> = (0..count).map(|_| fiend()).collect();
    while !stopping.load(Ordering::Relaxed) {
        for (number, fiend) in fiends.iter_mut().enumerate() {
            if stopping.load(Ordering::Relaxed) {
                return;
            }
            if fiend.acts_at <= Instant::now()
                && fiend.act(server, number as u16 % shards.max(1), &mut random).is_err()
            {
                fiend.stream = None;
                shut_out.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(HARM_EVERY);
    }
}

impl Fiend {
    /// Does what it does once.
    fn act(&mut self, server: SocketAddr, shard: u16, random: &mut Random) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            let stream = match self.manner {
                Manner::HalfOpen => {
                    let mut stream = TcpStream::connect_timeout(&server, CONNECT_MAX)?;
                    stream.write_all(&hello(shard)[..HEADER_BYTES / 2])?;
                    stream
                }
                _ => greeted(server, shard)?,
            };
            stream.set_nonblocking(true)?;
            (self.stream, self.left_bytes) = (Some(stream), 0);
            return Ok(());
        };
        match self.manner {
            Manner::Idle => Ok(()),
            Manner::HalfOpen => {
                self.acts_at = Instant::now() + SLOW_EVERY;
                may_wait(stream.read(&mut [0]))
            }
            Manner::Slow => {
                self.acts_at = Instant::now() + SLOW_EVERY;
                if self.left_bytes == 0 {
                    self.left_bytes = HARM_BYTES;
                    return may_wait(stream.write(&long_push()));
                }
                self.left_bytes -= 1;
                may_wait(stream.write(&[0]))
            }
            Manner::Garbage => {
                let bytes: Vec<u8> = (0..4096).map(|_| random.bits() as u8).collect();
                may_wait(stream.write(&bytes)).and_then(|()| may_wait(stream.read(&mut [0])))
            }
            Manner::Deaf => {
                let measure = head(Header { sequence: 1 << 63, ..Header::new(Kind::Measure) });
                may_wait(stream.write(&measure.repeat(64)))
            }
            Manner::Greedy => self.push(),
        }
    }

    /// Sends on the message under way, or begins the next.
    fn push(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if self.left_bytes == 0 {
            may_wait(stream.write(&long_push()))?;
            self.left_bytes = HARM_BYTES;
        }
        match stream.write(&vec![0; self.left_bytes]) {
            Ok(bytes) => self.left_bytes -= bytes,
            Err(error) => may_wait(Err(error))?,
        }
        Ok(())
    }
}

/// The header of a long push by nobody in particular.
fn long_push() -> [u8; HEADER_BYTES] {
    let mut bytes = head(Header::new(Kind::Push));
    // The length is what a server goes by; that the rest is wrong it sees once it has it all.
    let at = std::mem::offset_of!(Header, body_bytes);
    bytes[at..at + 4].copy_from_slice(&(HARM_BYTES as u32).to_le_bytes());
    bytes
}

/// An end is an error; that there is nothing yet, or no room, is none.
fn may_wait(done: io::Result<usize>) -> io::Result<()> {
    match done {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Pushes and pulls at full speed until the load is over, and then compares.
///
/// - `spec`: how it reaches the server; each worker has keys of its own.
/// - `workers`: how many there are of the job.
///
/// # Errors
///
/// There is no session, or it breaks.
pub fn crowd_work(
    load: &CrowdLoad,
    spec: &ConnectSpec,
    job: JobId,
    workers: u32,
) -> Result<CrowdTally, CrowdError> {
    let mut session = connect(spec).map_err(CrowdError::Connect)?;
    let deadline = session.now() + WAIT_MAX;
    session.join(Join { job, workers, staleness: Staleness::ASP }, deadline)?;
    session.define(TABLE, &table_spec("counters", 1, &Sum), deadline)?;
    let first = u64::from(spec.dial.worker.get()) * KEYS;
    let mut random = Random::new(first);
    let mut pushed = vec![0_u64; KEYS as usize];
    let mut tally = CrowdTally::default();
    while !load.over.load(Ordering::Relaxed) {
        let stride = KEYS / PUSH_KEYS as u64;
        let at = |place: u64, random: &mut Random| place * stride + random.below(stride);
        let places: Vec<u64> = (0..PUSH_KEYS as u64).map(|one| at(one, &mut random)).collect();
        if places.iter().any(|&place| pushed[place as usize] + 1 >= COUNT_MAX) {
            break; // An f32 counts no further.
        }
        let keys: Vec<u64> = places.iter().map(|place| first + place).collect();
        let split = session.split(&keys)?;
        let ones = Rc::new(vec![1.0; keys.len()]);
        session.push(TABLE, &split, ones, 1, Then::Tick)?;
        places.iter().for_each(|&place| pushed[place as usize] += 1);
        tally.pushed += keys.len() as u64;
        let deadline = session.now() + WAIT_MAX;
        session.wait_pushes(PUSHES_OUTSTANDING_MAX, deadline)?;
        load.keys_pushed.fetch_add(keys.len() as u64, Ordering::Relaxed);
    }
    session.wait_pushes(0, session.now() + WAIT_MAX)?;
    for start in (0..KEYS).step_by(PUSH_KEYS) {
        let keys: Vec<u64> = (first + start..first + start + PUSH_KEYS as u64).collect();
        let split = session.split(&keys)?;
        let ticket = session.pull(TABLE, &split, 1)?;
        let values = session.wait_pull(ticket, session.now() + WAIT_MAX)?;
        for (found, &pushed) in values.as_slice().iter().zip(&pushed[start as usize..]) {
            tally.lost += pushed.saturating_sub(*found as u64);
            tally.doubled += (*found as u64).saturating_sub(pushed);
        }
        session.recycle(values);
    }
    let deadline = session.now() + WAIT_MAX;
    session.leave(deadline)?;
    Ok(tally)
}

impl From<WorkerError> for CrowdError {
    fn from(error: WorkerError) -> CrowdError {
        CrowdError::Worker(error)
    }
}

impl fmt::Display for CrowdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CrowdError::Connect(error) => error.fmt(f),
            CrowdError::Worker(error) => error.fmt(f),
            CrowdError::Gather { there, error } => {
                write!(f, "{there} idle connections are there, and not one more: {error}")
            }
        }
    }
}

impl std::error::Error for CrowdError {}
