//! The bare transport: a stream of messages one way, and round trips of small ones.
//!
//! Owns two threads with one end of a connection each, by the same back end as the run. A message
//! is copied into its slot once, past the cache where another core reads the slot itself, and
//! read once a cache line at the other end; nothing is looked up, nothing is checked.
//!
//! Invariant: the far end answers each pull, by as many bytes, and no other message, and ends when
//! the connection does.

use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::wire::{HEADER_BYTES, Header, Kind, Seal, Time, seal};
use kernels::Isa;
use kernels::copy::for_other_core;
use transport::shm::{self, Shm};
use transport::tcp::{self, TcpBackend};
use transport::verbs::VerbsSettings;
use transport::{Event, Fault, Integrity, Limits, Link, PeerId, RecvSlot, SendRefusal, Transport};

use super::RoofError;
use crate::machine::Places;
use crate::spec::Carrier;
use crate::stats::LatencyLog;

/// How long either side waits for the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// From one cache line to the next, in bytes.
const LINE_BYTES: usize = 64;

/// A connection between two threads, of this process or of two.
pub struct Wire {
    near: Side,
    /// Copied into each message's body.
    source: Vec<u8>,
    far: Option<JoinHandle<()>>,
}

/// Round trips of 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pings {
    /// Half of them took no longer, in microseconds.
    pub us_p50: f64,
    /// All but one of a hundred took no longer, in microseconds.
    pub us_p99: f64,
}

/// One thread's transport and its only peer.
struct Side {
    isa: Isa,
    integrity: Integrity,
    transport: Box<dyn Transport>,
    peer: PeerId,
    events: Vec<Event>,
}

impl Wire {
    /// Connects the calling thread with a new one, which stays on the server's processor.
    ///
    /// - `verbs`: how RDMA is used, where the carrier is it.
    /// - `limits`: of both ends.
    /// - Errors: no transport, or no connection.
    pub fn new(carrier: Carrier, verbs: VerbsSettings, limits: Limits) -> Result<Wire, RoofError> {
        Wire::between(carrier.backend(verbs), limits, Places::find())
    }

    pub(crate) fn between(
        backend: Option<TcpBackend>,
        limits: Limits,
        places: Places,
    ) -> Result<Wire, RoofError> {
        let (ours, theirs) = pair(backend, &limits)?;
        let far = std::thread::Builder::new().name("roof-far-end".to_owned()).spawn(move || {
            let _pinned = places.pin_server();
            // The near end sees the connection closed and says so.
            if let Ok(mut side) = Side::new(backend, limits, theirs) {
                let _ = side.serve();
            }
        });
        let far = far.map_err(|error| RoofError::Os { call: "spawn", error })?;
        let near = Side::new(backend, limits, ours)?;
        Ok(Wire { near, source: vec![1; limits.message_bytes_max], far: Some(far) })
    }

    /// Over a connection whose far end is [`serve_far`].
    ///
    /// - Errors: as [`Wire::new`].
    pub(crate) fn over(
        backend: Option<TcpBackend>,
        limits: Limits,
        stream: TcpStream,
    ) -> Result<Wire, RoofError> {
        let near = Side::new(backend, limits, Link::Tcp(stream))?;
        Ok(Wire { near, source: vec![1; limits.message_bytes_max], far: None })
    }

    /// Sends messages of `message_bytes` one way for `duration`, until the last was read. In GB/s.
    ///
    /// - Errors: the link ended, or nothing came for 10 s.
    /// - Panics: if a message is shorter than a header or longer than the limits allow.
    pub fn stream_gb_per_s(
        &mut self,
        message_bytes: usize,
        duration: Duration,
    ) -> Result<f64, RoofError> {
        assert!(message_bytes >= HEADER_BYTES, "{message_bytes} bytes are no message");
        let (start, mut bytes) = (Instant::now(), 0_usize);
        while start.elapsed() < duration {
            self.near.send(Kind::Push, &self.source[..message_bytes])?;
            bytes += message_bytes;
        }
        self.near.send(Kind::Pull, &self.source[..HEADER_BYTES])?;
        self.near.wait_for_answer()?;
        Ok(bytes as f64 / start.elapsed().as_secs_f64() / 1e9)
    }

    /// Sends 64 bytes there and back, one after another, for `duration`.
    ///
    /// - Errors: as [`Wire::stream_gb_per_s`].
    pub fn pings(&mut self, duration: Duration) -> Result<Pings, RoofError> {
        let log = self.pings_of(HEADER_BYTES, duration)?;
        let [us_p50, us_p99] = log.p50_p99_us();
        Ok(Pings { us_p50, us_p99 })
    }

    /// Sends `message_bytes` there and back, one after another, for `duration`: how long each took
    /// until its answer was there.
    ///
    /// - Errors, panics: as [`Wire::stream_gb_per_s`].
    pub(crate) fn pings_of(
        &mut self,
        message_bytes: usize,
        duration: Duration,
    ) -> Result<LatencyLog, RoofError> {
        let (start, mut log) = (Instant::now(), LatencyLog::new());
        let mut sent_at = start;
        while sent_at - start < duration {
            self.ask(message_bytes)?;
            let answered_at = Instant::now();
            log.record(answered_at - sent_at);
            sent_at = answered_at;
        }
        Ok(log)
    }

    /// Sends 64 bytes there and back, once.
    ///
    /// - Errors: as [`Wire::stream_gb_per_s`].
    pub(crate) fn ping(&mut self) -> Result<(), RoofError> {
        self.ask(HEADER_BYTES)
    }

    fn ask(&mut self, message_bytes: usize) -> Result<(), RoofError> {
        self.near.send(Kind::Pull, &self.source[..message_bytes])?;
        self.near.wait_for_answer()
    }
}

/// The far end of a connection, on the calling thread: reads and answers until the near end closes
/// it.
///
/// - Errors: as [`Wire::new`], and if the connection ends in another way.
pub(crate) fn serve_far(
    backend: Option<TcpBackend>,
    limits: Limits,
    stream: TcpStream,
) -> Result<(), RoofError> {
    match Side::new(backend, limits, Link::Tcp(stream))?.serve() {
        Err(RoofError::Closed(Fault::PeerClosed)) => Ok(()),
        ended => ended,
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let peer = self.near.peer;
        self.near.transport.close(peer);
        self.near.transport.poll(&mut self.near.events);
        self.near.transport.flush();
        if let Some(far) = self.far.take() {
            let _ = far.join(); // It ends at the latest when its patience does.
        }
    }
}

/// Two ends of one connection.
fn pair(backend: Option<TcpBackend>, limits: &Limits) -> Result<(Link, Link), RoofError> {
    if backend.is_none() {
        let (one, other) = shm::pair(shm::ring_bytes(limits)).map_err(RoofError::Shm)?;
        return Ok((Link::Shm(one), Link::Shm(other)));
    }
    let (one, other) = tcp_pair()?;
    Ok((Link::Tcp(one), Link::Tcp(other)))
}

/// Two ends of one TCP connection over loop-back.
pub(crate) fn tcp_pair() -> Result<(TcpStream, TcpStream), RoofError> {
    let failed = |call| move |error| RoofError::Os { call, error };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("bind"))?;
    let address = listener.local_addr().map_err(failed("getsockname"))?;
    let one = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed("connect"))?;
    let (other, _) = listener.accept().map_err(failed("accept"))?;
    for stream in [&one, &other] {
        stream.set_nodelay(true).map_err(failed("TCP_NODELAY"))?;
    }
    Ok((one, other))
}

impl Side {
    fn new(backend: Option<TcpBackend>, limits: Limits, link: Link) -> Result<Side, RoofError> {
        let mut transport: Box<dyn Transport> = match backend {
            None => Box::new(Shm::new(limits).map_err(RoofError::Shm)?),
            Some(backend) => tcp::open(backend, limits).map_err(RoofError::Open)?,
        };
        let peer = transport.adopt(link).map_err(RoofError::Adopt)?;
        let integrity = transport.integrity();
        Ok(Side { isa: Isa::detect(), integrity, transport, peer, events: Vec::new() })
    }

    /// Posts one message with the body of `source`, as soon as there is room.
    fn send(&mut self, kind: Kind, source: &[u8]) -> Result<(), RoofError> {
        let give_up_at = self.transport.now() + PATIENCE;
        let mut slot = loop {
            match self.transport.acquire(self.peer, source.len()) {
                Ok(slot) => break slot,
                Err(SendRefusal::NoCredit) => self.turn(give_up_at)?,
                Err(refusal) => return Err(RoofError::Send(refusal)),
            }
        };
        let bytes = slot.bytes_mut();
        let (body, source) = (&mut bytes[HEADER_BYTES..], &source[HEADER_BYTES..]);
        match self.integrity {
            Integrity::Memory => for_other_core(self.isa, source, body),
            Integrity::NeedsChecksum => body.copy_from_slice(source),
        }
        seal(bytes, Header::new(kind), Seal::HeaderOnly, |_| 0);
        self.transport.post(slot);
        self.transport.flush();
        Ok(())
    }

    /// Polls; if nothing has come yet, parks.
    fn turn(&mut self, give_up_at: Time) -> Result<(), RoofError> {
        let known = self.events.len();
        self.transport.poll(&mut self.events);
        if self.events.len() > known {
            return Ok(());
        }
        if self.transport.now() >= give_up_at {
            return Err(RoofError::Silent { seconds: PATIENCE.as_secs() });
        }
        self.transport.park(give_up_at);
        Ok(())
    }

    /// Waits for one message.
    fn wait_for_answer(&mut self) -> Result<(), RoofError> {
        let give_up_at = self.transport.now() + PATIENCE;
        while self.events.is_empty() {
            self.turn(give_up_at)?;
        }
        for event in self.events.drain(..) {
            match event {
                Event::Received { slot, .. } => self.transport.release(slot),
                Event::Closed { fault, .. } => return Err(RoofError::Closed(fault)),
            }
        }
        Ok(())
    }

    /// Reads what comes, answers pulls, until the connection ends or nothing comes.
    fn serve(&mut self) -> Result<(), RoofError> {
        let answer = vec![1; self.transport.limits().message_bytes_max];
        let mut give_up_at = self.transport.now() + PATIENCE;
        let mut events = Vec::new();
        loop {
            self.transport.flush(); // Tells what was released.
            self.turn(give_up_at)?;
            std::mem::swap(&mut events, &mut self.events);
            if !events.is_empty() {
                give_up_at = self.transport.now() + PATIENCE;
            }
            for event in events.drain(..) {
                match event {
                    Event::Closed { fault, .. } => return Err(RoofError::Closed(fault)),
                    Event::Received { slot, .. } => {
                        let (kind, bytes) = read_lines(&slot);
                        self.transport.release(slot);
                        if kind == Some(Kind::Pull) {
                            self.send(Kind::Reply, &answer[..bytes])?;
                        }
                    }
                }
            }
        }
    }
}

/// Reads a word of each line. The message's kind, and its length in bytes.
fn read_lines(slot: &RecvSlot) -> (Option<Kind>, usize) {
    let bytes = slot.bytes();
    let words = bytes.chunks_exact(LINE_BYTES).filter_map(|line| line.first_chunk());
    let words = words.map(|word| u64::from_le_bytes(*word));
    std::hint::black_box(words.fold(0, u64::wrapping_add));
    let header = bytes.first_chunk().and_then(|head| Header::peek(head).ok());
    (header.map(|header| header.kind()), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_and_pings_arrive_over_every_carrier() {
        for carrier in Carrier::ALL {
            let limits = Limits::default();
            let mut wire = match Wire::new(carrier, VerbsSettings::default(), limits) {
                Ok(wire) => wire,
                // A kernel without io_uring has no such roof, and no such run.
                Err(RoofError::Open(error)) => {
                    println!("SKIPPED {carrier}: {error}");
                    continue;
                }
                Err(error) => panic!("{carrier}: {error}"),
            };
            let duration = Duration::from_millis(20);
            for bytes in [HEADER_BYTES, 100_000] {
                let rate = wire.stream_gb_per_s(bytes, duration).expect("a stream");
                assert!(rate > 0.0, "{carrier}");
                let log = wire.pings_of(bytes, duration).expect("pings");
                assert!(log.quantile_us(0.5) > 0.0, "{carrier}");
            }
            let pings = wire.pings(duration).expect("pings");
            assert!(pings.us_p50 > 0.0 && pings.us_p99 >= pings.us_p50, "{carrier}: {pings:?}");
        }
    }
}
