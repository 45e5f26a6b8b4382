//! The coordinator's service: the loop that joins sockets, the clock, the store and the machine.
//!
//! Owns the listener, all connections and the loop's thread. What a message does is left to
//! `machine`; what takes time, to `helpers`.
//!
//! Invariant: the loop never waits for a peer, the store or a place, so that it looks at all
//! servers each [`TICK_EVERY`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use wire::{
    CONTROL_BYTES_MAX, CheckpointStatus, Epoch, RestoredFrom, Time, ToMember, control_frame,
};

use super::checkpointer::{CheckpointSpec, Checkpointer};
use super::connection::{Connection, Ended};
use super::event::{Action, ConnectionId, Event};
use super::helpers::{Bell, Prober, Recorder, Told};
use super::machine::{HISTORY_SHOWN_MAX, Machine};
use super::spec::{ClusterSpec, SpecError};
use super::store::{Store, StoreError};
use crate::door::{Exposure, ListenError};

/// How often the machine looks at all servers.
pub const TICK_EVERY: Duration = Duration::from_millis(10);

/// Connections at once; more are closed as they come.
pub const CONNECTIONS_MAX: usize = 4096;

/// How often connections are looked at for peers that say or read nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Events that are taken at once.
const EVENTS_MAX: usize = 256;

/// Connections that are accepted at once.
const ACCEPTS_MAX: usize = 64;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
/// Numbers of connections begin here.
const CONNECTION_FIRST: u64 = 2;

/// A running coordinator; dropped, it ends.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

/// What a coordinator has to do with checkpoints.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// How they are taken; none: they are not.
    pub checkpoints: Option<CheckpointSpec>,
    /// What the cluster begins from, if nothing was placed before; none: from nothing.
    pub restore: Option<RestoredFrom>,
}

/// What the loop shares with whoever started it.
#[derive(Debug, Default)]
struct Shared {
    is_checkpoint_wanted: AtomicBool,
    checkpoints: Mutex<Option<CheckpointStatus>>,
}

/// Why a coordinator does not start.
#[derive(Debug)]
pub enum CoordinateError {
    /// The cluster cannot be as it was asked for.
    Spec(SpecError),
    /// The store cannot be used.
    Store(StoreError),
    /// Nobody can be listened to.
    Listen(ListenError),
    /// The cluster is to be restored, and its servers hold something already.
    NotEmpty {
        /// The newest epoch.
        epoch: Epoch,
        /// From where it was to be restored.
        place: String,
    },
    /// The operating system has no threads, sockets or files left.
    System(io::Error),
}

/// The loop's own state.
struct Loop {
    poll: rustix::fd::OwnedFd,
    listener: TcpListener,
    wake: UnixStream,
    told: Receiver<Told>,
    machine: Machine,
    recorder: Recorder,
    checkpointer: Option<Checkpointer>,
    shared: Arc<Shared>,
    prober: Prober,
    connections: BTreeMap<u64, Connection>,
    connections_made: u64,
    began: Instant,
    piece: Vec<u8>,
}

impl Coordinator {
    /// Starts a coordinator that listens on `listen`, `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// See [`CoordinateError`]; nothing is left running.
    pub fn start(
        spec: ClusterSpec,
        store: Box<dyn Store>,
        listen: &str,
        exposure: Exposure,
    ) -> Result<Coordinator, CoordinateError> {
        Coordinator::start_stored(spec, store, listen, exposure, Stored::default())
    }

    /// As [`Coordinator::start`], with checkpoints.
    ///
    /// # Errors
    ///
    /// Also if the cluster is to be restored and is not empty.
    pub fn start_stored(
        spec: ClusterSpec,
        mut store: Box<dyn Store>,
        listen: &str,
        exposure: Exposure,
        stored: Stored,
    ) -> Result<Coordinator, CoordinateError> {
        let newest = store.newest().map_err(CoordinateError::Store)?;
        spec.check(newest.as_ref()).map_err(CoordinateError::Spec)?;
        let placed = newest.as_ref().map(|entry| entry.placement.epoch);
        if let Some((epoch, from)) = placed.zip(stored.restore.as_ref()) {
            let place = from.place.clone();
            return Err(CoordinateError::NotEmpty { epoch, place });
        }
        let past = store.history(HISTORY_SHOWN_MAX).map_err(CoordinateError::Store)?;
        let listener = listen_on(listen, exposure).map_err(CoordinateError::Listen)?;
        let address = listener.local_addr().map_err(CoordinateError::System)?;
        let (cluster_id, newest) = (store.cluster_id(), newest.unwrap_or_default());
        let mut machine = Machine::new(spec, cluster_id, newest, past, Time::default());
        machine.restoring.from = stored.restore;
        let shared = Arc::new(Shared::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let checkpoints = stored.checkpoints.as_ref();
        let made = Loop::new(listener, machine, store, (checkpoints, Arc::clone(&shared)));
        let thread = made.and_then(|mut one| {
            let run = move || one.run(&stop);
            std::thread::Builder::new().name("coordinator".to_owned()).spawn(run)
        });
        let thread = Some(thread.map_err(CoordinateError::System)?);
        Ok(Coordinator { address, stopping, shared, thread })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has a checkpoint taken as soon as that can be; [`Coordinator::checkpoints`] says how it
    /// goes.
    pub fn take_checkpoint(&self) {
        self.shared.is_checkpoint_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether a checkpoint is wanted that is not begun yet.
    pub fn is_checkpoint_wanted(&self) -> bool {
        self.shared.is_checkpoint_wanted.load(Ordering::Relaxed)
    }

    /// What is known of checkpoints; none: they have no place, or the loop has just begun.
    pub fn checkpoints(&self) -> Option<CheckpointStatus> {
        self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has ended by itself: another coordinator is active, and this one has stepped
    /// down. To be asked for the reason by [`Coordinator::stop`].
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// Why it had ended by itself.
    ///
    /// # Panics
    ///
    /// If its loop has.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.stopping.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("taken here and in drop alone");
        thread.join().expect("the coordinator's loop has panicked")
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen_on(listen: &str, exposure: Exposure) -> Result<TcpListener, ListenError> {
    let unknown = |error| ListenError::Address { address: listen.to_owned(), error };
    let none = || io::Error::new(io::ErrorKind::NotFound, "no such host");
    let found = listen.to_socket_addrs().map_err(unknown)?.next();
    let found = found.ok_or_else(none).map_err(unknown)?;
    if exposure == Exposure::Loopback && !found.ip().is_loopback() {
        return Err(ListenError::NotLoopback { address: found });
    }
    let bind = |error| ListenError::Bind { place: found.to_string(), error };
    let listener = TcpListener::bind(found).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    Ok(listener)
}

impl Loop {
    fn new(
        listener: TcpListener,
        mut machine: Machine,
        store: Box<dyn Store>,
        (checkpoints, shared): (Option<&CheckpointSpec>, Arc<Shared>),
    ) -> io::Result<Loop> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (wake, rings) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        rings.set_nonblocking(true)?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        epoll::add(&poll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let (tells, told) = channel();
        let prober = Prober::new(Bell::new(tells, rings));
        let recorder = Recorder::start(store, prober.bell())?;
        let cluster = (machine.spec.name.as_str(), machine.cluster_id);
        let begin = |spec| Checkpointer::start(spec, cluster, prober.bell());
        let checkpointer = checkpoints.map(begin).transpose()?;
        if let Some(spec) = checkpoints {
            machine = machine.with_checkpoints(spec, Time::default());
        }
        Ok(Loop {
            poll,
            listener,
            wake,
            told,
            machine,
            recorder,
            checkpointer,
            shared,
            prober,
            connections: BTreeMap::new(),
            connections_made: CONNECTION_FIRST,
            began: Instant::now(),
            piece: vec![0; PIECE_BYTES],
        })
    }

    fn now(&self) -> Time {
        Time::default() + self.began.elapsed()
    }

    /// Runs until it is told to stop, or another coordinator is active.
    fn run(&mut self, stopping: &AtomicBool) -> Result<(), StoreError> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let (mut tick_at, mut look_at) = (self.now(), self.now());
        while !stopping.load(Ordering::Relaxed) {
            let wait = (tick_at - self.now()).min(TICK_EVERY);
            let timeout = Timespec::try_from(wait).expect("10 ms at most");
            ready.clear();
            // Interrupted or not: what is ready stays so.
            let _ = epoll::wait(&self.poll, spare_capacity(&mut ready), Some(&timeout));
            for event in &ready {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    WAKE => while matches!((&self.wake).read(&mut self.piece), Ok(1..)) {},
                    number => self.serve(number),
                }
            }
            while let Ok(told) = self.told.try_recv() {
                match told {
                    Told::Fenced(error) => return Err(error),
                    Told::Happened(event) => {
                        if matches!(event, Event::Probed { .. }) {
                            self.prober.answered();
                        }
                        self.handle(event);
                    }
                }
            }
            let now = self.now();
            if now >= tick_at {
                tick_at = now + TICK_EVERY;
                if self.shared.is_checkpoint_wanted.load(Ordering::Relaxed) {
                    self.handle(Event::TakeCheckpoint);
                }
                self.handle(Event::Tick);
                self.show_checkpoints(now);
                self.flush(now);
            }
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                self.look(now);
            }
        }
        Ok(())
    }

    /// Tells whoever started the loop about checkpoints.
    fn show_checkpoints(&self, now: Time) {
        let status = self.machine.conductor.status(now);
        if status.as_ref().is_some_and(|status| status.under_way.is_some()) {
            self.shared.is_checkpoint_wanted.store(false, Ordering::Relaxed);
        }
        *self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection is not accepted");
                    return self.listen(epoll::EventFlags::empty());
                }
            };
            if self.connections.len() >= CONNECTIONS_MAX {
                tracing::warn!(CONNECTIONS_MAX, "too many connections: one is turned away");
                continue;
            }
            let number = self.connections_made;
            self.connections_made += 1;
            let added = Connection::new(stream, self.now()).and_then(|connection| {
                let data = epoll::EventData::new_u64(number);
                epoll::add(&self.poll, connection.stream(), data, epoll::EventFlags::IN)?;
                Ok(connection)
            });
            if let Ok(connection) = added {
                self.connections.insert(number, connection);
            }
        }
    }

    /// Reads what has arrived on a connection.
    fn serve(&mut self, number: u64) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let mut messages = Vec::new();
        let read = connection.read(&mut self.piece, now, |message| messages.push(message));
        for message in messages {
            self.handle(Event::Said { connection: ConnectionId(number), message });
        }
        if let Err(ended) = read {
            self.end(number, &ended);
        }
    }

    /// Hands an event to the machine and does what it wants.
    fn handle(&mut self, event: Event) {
        let now = self.now();
        for action in self.machine.handle(event, now) {
            match action {
                Action::Send { connection, message } => {
                    if let Some(frame) = framed(&message) {
                        self.send(connection, &frame);
                    }
                }
                Action::Publish { connections, placement } => {
                    tracing::info!(
                        epoch = placement.epoch.get(),
                        cause = placement.cause,
                        "placed"
                    );
                    let message = ToMember::Placement((*placement).clone());
                    let Some(frame) = framed(&message) else { continue };
                    connections.into_iter().for_each(|connection| self.send(connection, &frame));
                }
                Action::Close { connection } => {
                    let known = self.connections.get_mut(&connection.0);
                    if let Some(Err(ended)) = known.map(|one| one.close(now)) {
                        self.end(connection.0, &ended);
                    }
                }
                Action::Probe { server, place } => self.prober.ask(server, place),
                Action::Record(entry) => self.recorder.append(entry),
                Action::Look { ours } => self.recorder.look(ours),
                Action::Store(task) => {
                    self.checkpointer.iter().for_each(|one| one.ask(task.clone()));
                }
            }
        }
    }

    fn send(&mut self, connection: ConnectionId, frame: &Arc<[u8]>) {
        let now = self.now();
        let Some(known) = self.connections.get_mut(&connection.0) else { return };
        if let Err(ended) = known.send(Arc::clone(frame), now) {
            self.end(connection.0, &ended);
        }
    }

    /// Forgets a connection; the machine is told, with the next of its events at the latest.
    fn end(&mut self, number: u64, ended: &Ended) {
        if self.connections.remove(&number).is_none() {
            return;
        }
        match ended {
            Ended::Closed | Ended::Done => tracing::debug!(number, "a connection is closed"),
            ended => tracing::warn!(number, ?ended, "a connection is given up"),
        }
        let connection = ConnectionId(number);
        self.prober.bell().happened(Event::Closed { connection });
    }

    /// Sends what had to wait.
    fn flush(&mut self, now: Time) {
        let waiting = self.connections.iter_mut().filter(|(_, one)| one.is_waiting());
        let over: Vec<(u64, Ended)> =
            waiting.filter_map(|(number, one)| Some((*number, one.flush(now).err()?))).collect();
        for (number, ended) in over {
            self.end(number, &ended);
        }
    }

    /// Listens, or does not until the next look.
    fn listen(&self, flags: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(LISTENER);
        if let Err(error) = epoll::modify(&self.poll, &self.listener, data, flags) {
            tracing::error!(%error, "the listener cannot be watched");
        }
    }

    /// Ends connections whose peers say or read nothing.
    fn look(&mut self, now: Time) {
        self.listen(epoll::EventFlags::IN);
        let tired = |(number, one): (&u64, &Connection)| Some((*number, one.look(now).err()?));
        let over: Vec<(u64, Ended)> = self.connections.iter().filter_map(tired).collect();
        for (number, ended) in over {
            self.end(number, &ended);
        }
    }
}

fn framed(message: &ToMember) -> Option<Arc<[u8]>> {
    match control_frame(message, CONTROL_BYTES_MAX) {
        Ok(frame) => Some(frame.into()),
        Err(error) => {
            // The bounds on names, servers and shards keep it below; see `wire::control`.
            tracing::error!(%error, "a message is not sent");
            None
        }
    }
}

impl fmt::Display for CoordinateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordinateError::Spec(error) => error.fmt(f),
            CoordinateError::Store(error) => error.fmt(f),
            CoordinateError::Listen(error) => error.fmt(f),
            CoordinateError::NotEmpty { epoch, place } => write!(
                f,
                "the cluster is at {epoch} and holds something: only a new one is restored from \
                 {place}; use another --data"
            ),
            CoordinateError::System(error) => write!(f, "the coordinator cannot run: {error}"),
        }
    }
}

impl std::error::Error for CoordinateError {}
