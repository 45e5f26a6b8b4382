//! The porter: who comes in by the door.
//!
//! Owns accepting connections and their handshakes, all in one thread that never waits for any of
//! them, and the bound on how many are under way: who comes then makes room for itself at the
//! expense of who has been silent for longest. A connection that is through belongs to its core.
//!
//! Invariant: a guest holds a file and some hundred bytes, for [`HANDSHAKE_MAX`] at most.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use transport::{Link, shm};
use wire::{HEADER_BYTES, Header, Refusal, Time};

use crate::core_thread::Server;
use crate::guest::Who;
use crate::handshake::{Guest, House, TurnedAway, read_hello};
use crate::quiet::Quiet;
use crate::view::DoorView;

/// How long a guest may take to introduce itself.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Guests at the door at once.
const GUESTS_MAX: usize = 1024;

/// Guests that share memory and are handing it over, each in a thread of its own for a moment.
const RINGS_MAX: usize = 64;

/// Connections that are accepted at once.
const ACCEPTS_MAX: usize = 64;

/// Events that are taken at once.
const EVENTS_MAX: usize = 256;

/// How often the porter looks whether the door is to close and who is late.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const LISTENER: u64 = 0;
/// Numbers of guests begin here.
const GUEST_FIRST: u64 = 1;

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that has not introduced itself yet.
struct Arrival {
    stream: Stream,
    hello: [u8; HEADER_BYTES],
    filled_bytes: usize,
    due: Instant,
}

/// The door's thread.
pub(crate) struct Porter {
    server: Arc<Server>,
    listener: Listener,
    poll: OwnedFd,
    /// By number, so that the first has waited for longest.
    arrivals: BTreeMap<u64, Arrival>,
    guests_seen: u64,
    /// Whether the listener is watched; not for a moment when there are no files left.
    listens: bool,
    rings: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    view: DoorView,
    shown: Arc<Mutex<DoorView>>,
    quiet: Quiet,
    began: Instant,
}

impl Porter {
    /// A porter at a listener that does not block.
    ///
    /// - Errors: there are no files left.
    pub(crate) fn new(
        server: Arc<Server>,
        listener: Listener,
        closing: Arc<AtomicBool>,
        shown: Arc<Mutex<DoorView>>,
    ) -> io::Result<Porter> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&poll, listener.as_fd(), data, epoll::EventFlags::IN)?;
        Ok(Porter {
            server,
            listener,
            poll,
            arrivals: BTreeMap::new(),
            guests_seen: GUEST_FIRST,
            listens: true,
            rings: Arc::default(),
            closing,
            view: DoorView::default(),
            shown,
            quiet: Quiet::default(),
            began: Instant::now(),
        })
    }

    /// Lets guests in until the door closes.
    pub(crate) fn run(&mut self) {
        let timeout = Timespec::try_from(LOOK_EVERY).expect("100 ms");
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let mut look_at = Instant::now();
        while !self.closing.load(Ordering::Relaxed) {
            ready.clear();
            // Interrupted or not: what is ready stays so.
            let _ = epoll::wait(&self.poll, spare_capacity(&mut ready), Some(&timeout));
            for event in &ready {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    number => self.serve(number),
                }
            }
            let now = Instant::now();
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                self.look(now);
            }
        }
    }

    fn now(&self) -> Time {
        Time::default() + self.began.elapsed()
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let accepted = match self.listener.accept() {
                Ok(stream) => self.take_in(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => Err(error),
            };
            if let Err(error) = accepted {
                self.view.turned_away.no_resources += 1;
                if self.quiet.speaks(self.now()) {
                    let unsaid = self.quiet.take_unsaid();
                    tracing::error!(
                        %error, unsaid,
                        "a connection is not accepted; those that are there go on"
                    );
                }
                // One that has said nothing for longest gives its file; else there is nothing to
                // do before one is closed.
                if !self.crowd_out() {
                    return self.listen(false);
                }
            }
        }
    }

    fn take_in(&mut self, stream: Stream) -> io::Result<()> {
        if self.arrivals.len() >= GUESTS_MAX {
            self.crowd_out();
        }
        stream.set_nonblocking(true)?;
        let number = self.guests_seen;
        let data = epoll::EventData::new_u64(number);
        epoll::add(&self.poll, stream.as_fd(), data, epoll::EventFlags::IN)?;
        self.guests_seen += 1;
        let due = Instant::now() + HANDSHAKE_MAX;
        let arrival = Arrival { stream, hello: [0; HEADER_BYTES], filled_bytes: 0, due };
        self.arrivals.insert(number, arrival);
        Ok(())
    }

    /// Sends the guest away that has been here for longest. Whether there was one.
    fn crowd_out(&mut self) -> bool {
        let longest = self.arrivals.pop_first();
        self.view.turned_away.crowded += u64::from(longest.is_some());
        longest.is_some()
    }

    /// Reads what a guest has sent, and lets it in if that is a hello.
    fn serve(&mut self, number: u64) {
        let Some(arrival) = self.arrivals.get_mut(&number) else { return };
        let error = loop {
            match arrival.stream.read(&mut arrival.hello[arrival.filled_bytes..]) {
                Ok(0) => break io::ErrorKind::UnexpectedEof.into(),
                Ok(bytes) => arrival.filled_bytes += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => break error,
            }
            if arrival.filled_bytes == HEADER_BYTES {
                let arrival = self.arrivals.remove(&number).expect("it was just there");
                return self.greet(arrival);
            }
        };
        self.arrivals.remove(&number);
        self.turn_away(&TurnedAway::Io(error));
    }

    /// Answers a hello, and brings the guest to its core.
    fn greet(&mut self, arrival: Arrival) {
        let Arrival { mut stream, hello, .. } = arrival;
        let server = &self.server;
        let (shards, message_bytes_max) = (server.shards(), server.message_bytes_max());
        let admits = |hello: &Header| server.admits(hello);
        let (answer, guest) = read_hello(&hello, House { shards, message_bytes_max }, admits);
        // A new connection has room for an answer; if not, it is of no use.
        let sent = answer.map_or(Ok(()), |answer| stream.write_all(&answer));
        match guest.and_then(|guest| sent.map(|()| guest).map_err(TurnedAway::Io)) {
            Ok(Guest::Asked) => self.view.asked += 1,
            Ok(Guest::Wants(who)) => match self.let_in(stream, who) {
                Ok(()) => self.view.admitted += 1,
                Err(error) => self.turn_away(&TurnedAway::Io(error)),
            },
            Err(turned_away) => self.turn_away(&turned_away),
        }
    }

    fn let_in(&mut self, stream: Stream, who: Who) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        match stream {
            Stream::Tcp(stream) => {
                epoll::delete(&self.poll, &stream)?;
                let attached = self.server.attach(Link::Tcp(stream), who);
                attached.map_err(io::Error::other)?;
            }
            Stream::Unix(stream) => {
                epoll::delete(&self.poll, &stream)?;
                self.take_rings(stream, who)?;
            }
        }
        Ok(())
    }

    /// Takes over the rings that a guest offers; beside this thread, since it may take its time.
    fn take_rings(&mut self, stream: UnixStream, who: Who) -> io::Result<()> {
        stream.set_read_timeout(Some(HANDSHAKE_MAX))?;
        stream.set_write_timeout(Some(HANDSHAKE_MAX))?;
        if self.rings.load(Ordering::Relaxed) >= RINGS_MAX {
            return Err(io::Error::other(format!("{RINGS_MAX} guests are handing rings over")));
        }
        self.rings.fetch_add(1, Ordering::Relaxed);
        let (server, rings) = (Arc::clone(&self.server), Arc::clone(&self.rings));
        let take = move || {
            match shm::accept(stream) {
                Ok(end) => {
                    if let Err(error) = server.attach(Link::Shm(end), who) {
                        tracing::warn!(%error, "a guest's rings are not taken");
                    }
                }
                Err(error) => tracing::warn!(%error, "a guest's rings are not taken"),
            }
            rings.fetch_sub(1, Ordering::Relaxed);
        };
        let started = std::thread::Builder::new().name("handshake".to_owned()).spawn(take);
        if let Err(error) = started {
            self.rings.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    fn turn_away(&mut self, why: &TurnedAway) {
        let counts = &mut self.view.turned_away;
        match why {
            TurnedAway::Io(_) => counts.broken_off += 1,
            TurnedAway::Malformed(_) | TurnedAway::NotHello => counts.no_hello += 1,
            TurnedAway::Refused(refusal) => counts.refused[refusal.index()] += 1,
        }
        // Where shards move, some come before their server has heard of it, or after.
        if let TurnedAway::Refused(
            refusal @ (Refusal::EpochMismatch { .. } | Refusal::NotHead { .. }),
        ) = why
        {
            tracing::debug!(%refusal, "a guest is sent on");
        } else if self.quiet.speaks(self.now()) {
            let unsaid = self.quiet.take_unsaid();
            tracing::warn!(error = %why, unsaid, "a guest is turned away");
        }
    }

    /// Sends away who is late, and shows how it is.
    fn look(&mut self, now: Instant) {
        if !self.listens {
            self.listen(true);
        }
        // Numbers are given in the order of time.
        while self.arrivals.first_key_value().is_some_and(|(_, arrival)| arrival.due <= now) {
            self.arrivals.pop_first();
            self.turn_away(&TurnedAway::Io(io::ErrorKind::TimedOut.into()));
        }
        self.view.under_way = self.arrivals.len() + self.rings.load(Ordering::Relaxed);
        if let Ok(mut shown) = self.shown.try_lock() {
            shown.clone_from(&self.view);
        }
    }

    /// Listens, or does not until the next look.
    fn listen(&mut self, listens: bool) {
        self.listens = listens;
        let flags = if listens { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(LISTENER);
        if let Err(error) = epoll::modify(&self.poll, self.listener.as_fd(), data, flags) {
            tracing::error!(%error, "the listener cannot be watched");
        }
    }
}

impl Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Stream {
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(nonblocking)
            }
            Stream::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }
}
