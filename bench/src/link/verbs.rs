//! A bare queue pair, measured: the near end drives, the far end answers.
//!
//! Owns the loops of both ends. Posting and polling is left to `transport::verbs::perf`.
//!
//! Streams keep so many requests under way, posted some at a time by one doorbell. Pings of writes
//! wait for the last byte of the peer's message to change, those of sends and reads for a
//! completion, without a pause in between: as perftest's programs do. As theirs, no thread is kept
//! on a processor: a device of software has threads of its own, which must find one.
//!
//! Invariant: a loop that waits for a device or the other end gives up after [`SILENCE_MAX`]
//! without any progress.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use transport::verbs::VerbsSettings;
use transport::verbs::perf::{Endpoint, POST_MAX, Spec, Work};

use super::LinkWork;
use super::control::{Control, Hello, Phase, PhaseKind};
use super::error::LinkError;
use crate::stats::LatencyLog;

/// How long an end waits without any progress.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Idle turns from one look at the clock to the next.
const TURNS_A_LOOK: u32 = 1024;

/// Receives posted, as a multiple of requests under way: a receiver that is late has this much
/// time.
const RECVS_PER_REQUEST: u32 = 4;

/// Doorbells that all requests under way are posted by.
const DOORBELLS: usize = 4;

/// Messages that the rate of a stream is estimated by: so many bytes, and no fewer messages.
const BYTES_FIRST: usize = 8 << 20;
const COUNT_FIRST: usize = 8;

/// Pings that a phase's length is estimated by.
const PINGS_FIRST: u64 = 32;

/// Most messages of a phase.
const COUNT_MAX: f64 = 1e9;

/// Pings of writes whose completions are taken together.
const PINGS_A_POLL: u64 = 16;

/// The near end.
pub(super) struct Client {
    control: Control,
    end: Endpoint,
    hello: Hello,
}

impl Client {
    /// Opens a queue pair and connects it to the far end.
    pub(super) fn begin(
        stream: TcpStream,
        hello: &Hello,
        verbs: VerbsSettings,
    ) -> Result<Client, LinkError> {
        let mut control = Control::over(stream)?;
        let mut end = open(&control, hello, verbs)?;
        control.write_hello(hello)?;
        control.write_address(&end.address()?)?;
        control.read_answer()?;
        end.connect(control.read_address()?)?;
        Ok(Client { control, end, hello: *hello })
    }

    /// Messages of `bytes` one way for about `phase`.
    pub(super) fn bytes_per_s(&mut self, bytes: usize, phase: Duration) -> Result<f64, LinkError> {
        let full = 2 * self.hello.in_flight as usize;
        let first = (BYTES_FIRST / bytes).min(full).max(COUNT_FIRST) as u64;
        self.stream(bytes, first)?; // Wakes everything up.
        let count = scaled(first, self.stream(bytes, first)?, phase);
        let took = self.stream(bytes, count.max(first))?;
        Ok(bytes as f64 * count.max(first) as f64 / took.as_secs_f64())
    }

    /// Messages of `bytes` one after another for about `phase`: how long each was under way.
    pub(super) fn latencies(
        &mut self,
        bytes: usize,
        phase: Duration,
    ) -> Result<LatencyLog, LinkError> {
        let start = Instant::now();
        self.pings(bytes, PINGS_FIRST)?;
        let count = scaled(PINGS_FIRST, start.elapsed(), phase);
        self.pings(bytes, count.max(PINGS_FIRST))
    }

    /// Ends the far end. Device and GID of this one.
    pub(super) fn close(mut self) -> Result<(String, String), LinkError> {
        self.control.write_phase(&Phase { kind: PhaseKind::End, bytes: 0, count: 0 })?;
        Ok((self.end.device(), self.end.gid()))
    }

    fn begin_phase(&mut self, kind: PhaseKind, bytes: usize, count: u64) -> Result<(), LinkError> {
        self.end.clear_last_byte(bytes);
        self.control.write_phase(&Phase { kind, bytes, count })?;
        self.control.read_answer()
    }

    fn stream(&mut self, bytes: usize, count: u64) -> Result<Duration, LinkError> {
        self.begin_phase(PhaseKind::Stream, bytes, count)?;
        let (end, work) = (&mut self.end, work(self.hello.work));
        let in_flight = u64::from(self.hello.in_flight);
        let chain = (self.hello.in_flight as usize / DOORBELLS).clamp(1, POST_MAX) as u64;
        let (mut posted, mut done) = (0, 0);
        let mut patience = Patience::new();
        let start = Instant::now();
        while done < count {
            let next = chain.min(count - posted);
            if next > 0 && posted - done + next <= in_flight {
                end.post(work, bytes, next as usize)?;
                posted += next;
            }
            let sent = end.poll()?.sent as u64;
            done += sent;
            patience.note(sent)?;
        }
        Ok(start.elapsed())
    }

    fn pings(&mut self, bytes: usize, count: u64) -> Result<LatencyLog, LinkError> {
        self.begin_phase(PhaseKind::Pings, bytes, count)?;
        let mut log = LatencyLog::new();
        let mut waiter = Waiter::new(&mut self.end, bytes);
        let is_whole_way = self.hello.work == LinkWork::Read;
        let mut sent_at = Instant::now();
        for number in 0..count {
            waiter.post(self.hello.work, number)?;
            waiter.wait(self.hello.work, number)?;
            let answered_at = Instant::now();
            let took = answered_at - sent_at;
            log.record(if is_whole_way { took } else { took / 2 });
            sent_at = answered_at;
        }
        waiter.drain()?;
        Ok(log)
    }
}

/// The far end, until the near one has measured.
pub(super) fn serve(
    control: &mut Control,
    hello: &Hello,
    verbs: VerbsSettings,
) -> Result<(), LinkError> {
    let theirs = control.read_address()?;
    let mut end = open(control, hello, verbs)?;
    end.connect(theirs)?;
    control.answer(&Ok(()))?;
    control.write_address(&end.address()?)?;
    loop {
        let phase = control.read_phase(hello)?;
        if phase.kind == PhaseKind::End {
            return Ok(());
        }
        end.clear_last_byte(phase.bytes);
        control.answer(&Ok(()))?;
        match (phase.kind, hello.work) {
            (PhaseKind::Stream, LinkWork::Send) => receive(&mut end, phase.count)?,
            (PhaseKind::Pings, LinkWork::Write | LinkWork::Send) => {
                let mut waiter = Waiter::new(&mut end, phase.bytes);
                for number in 0..phase.count {
                    waiter.wait(hello.work, number)?;
                    waiter.post(hello.work, number)?;
                }
                waiter.drain()?;
            }
            // The device does the rest alone.
            _ => {}
        }
    }
}

/// Takes so many messages, posting a receive for each.
fn receive(end: &mut Endpoint, count: u64) -> Result<(), LinkError> {
    let (mut left, mut patience) = (count, Patience::new());
    while left > 0 {
        let received = end.poll()?.received;
        end.post_recvs(received)?;
        left = left.saturating_sub(received as u64);
        patience.note(received as u64)?;
    }
    Ok(())
}

/// One end's part in pings of one size.
struct Waiter<'a> {
    end: &'a mut Endpoint,
    bytes: usize,
    /// Requests of this side that are not over.
    under_way: u64,
    received: usize,
}

impl<'a> Waiter<'a> {
    fn new(end: &'a mut Endpoint, bytes: usize) -> Waiter<'a> {
        Waiter { end, bytes, under_way: 0, received: 0 }
    }

    fn post(&mut self, work_of: LinkWork, number: u64) -> Result<(), LinkError> {
        if work_of == LinkWork::Write {
            self.end.set_last_byte(self.bytes, mark(number));
        }
        self.end.post(work(work_of), self.bytes, 1)?;
        self.under_way += 1;
        Ok(())
    }

    /// Until the other end's message of this number is there, or this side's read.
    fn wait(&mut self, work_of: LinkWork, number: u64) -> Result<(), LinkError> {
        let mut patience = Patience::new();
        match work_of {
            LinkWork::Write => {
                if self.under_way >= PINGS_A_POLL {
                    self.poll()?;
                }
                while self.end.last_byte_written(self.bytes) != mark(number) {
                    if patience.is_look_due() {
                        self.poll()?; // A request that failed says why nothing comes.
                        patience.look()?;
                    }
                }
            }
            LinkWork::Send => {
                while self.received == 0 {
                    self.poll()?;
                    patience.note(0)?;
                }
                self.received -= 1;
            }
            LinkWork::Read => {
                while self.under_way > 0 {
                    self.poll()?;
                    patience.note(0)?;
                }
            }
        }
        Ok(())
    }

    /// Until all requests of this side are over.
    fn drain(mut self) -> Result<(), LinkError> {
        let mut patience = Patience::new();
        while self.under_way > 0 {
            self.poll()?;
            patience.note(0)?;
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<(), LinkError> {
        let progress = self.end.poll()?;
        self.end.post_recvs(progress.received)?;
        self.under_way -= progress.sent as u64;
        self.received += progress.received;
        Ok(())
    }
}

/// What the last byte of a ping's message is: never 0, and never that of the one before.
fn mark(number: u64) -> u8 {
    (number % 255) as u8 + 1
}

/// How many messages take about `phase`, if `count` took so long.
fn scaled(count: u64, took: Duration, phase: Duration) -> u64 {
    let wanted = count as f64 * phase.as_secs_f64() / took.as_secs_f64().max(1e-9);
    wanted.min(COUNT_MAX) as u64
}

fn open(control: &Control, hello: &Hello, settings: VerbsSettings) -> Result<Endpoint, LinkError> {
    Ok(Endpoint::open(&Spec {
        settings,
        local: control.local()?,
        message_bytes_max: usize::try_from(hello.message_bytes_max).expect("bounded"),
        sends_max: hello.in_flight.max(2 * PINGS_A_POLL as u32),
        recvs_max: RECVS_PER_REQUEST * hello.in_flight,
    })?)
}

fn work(work: LinkWork) -> Work {
    match work {
        LinkWork::Write => Work::Write,
        LinkWork::Send => Work::Send,
        LinkWork::Read => Work::Read,
    }
}

/// How long nothing has happened, without asking the clock on each turn.
struct Patience {
    turns: u32,
    since: Option<Instant>,
}

impl Patience {
    fn new() -> Patience {
        Patience { turns: 0, since: None }
    }

    /// One turn, in which so much happened.
    fn note(&mut self, count: u64) -> Result<(), LinkError> {
        if count > 0 {
            *self = Patience::new();
            return Ok(());
        }
        if self.is_look_due() { self.look() } else { Ok(()) }
    }

    /// Counts a turn without anything.
    fn is_look_due(&mut self) -> bool {
        self.turns = (self.turns + 1) % TURNS_A_LOOK;
        self.turns == 0
    }

    fn look(&mut self) -> Result<(), LinkError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < SILENCE_MAX {
            return Ok(());
        }
        Err(LinkError::Silent { seconds: SILENCE_MAX.as_secs() })
    }
}
