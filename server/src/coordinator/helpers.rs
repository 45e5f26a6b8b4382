//! Helpers: what takes time beside the coordinator's loop, on threads of its own.
//!
//! Owns the thread that appends to the store, and those that ask whether somebody listens at a
//! place. Both answer by an event and a byte on the loop's wake-up socket.
//!
//! Invariant: at most [`PROBES_MAX`] places are asked at once, and at most one entry and one
//! job's record are written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use transport::dial::Address;
use wire::{Epoch, ServerId};

use super::census::Probe;
use super::event::Event;
use super::jobs::JobWrite;
use super::store::{Entry, Store, StoreError};

/// Places that are asked at once.
const PROBES_MAX: usize = 32;

/// How long a place may take to answer.
pub const PROBE_MAX: Duration = Duration::from_millis(100);

/// How soon an append that failed is tried again.
pub const APPEND_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What a helper tells the loop.
#[derive(Debug)]
pub(super) enum Told {
    Happened(Event),
    /// Another coordinator has appended.
    Fenced(StoreError),
}

/// What wakes the loop.
#[derive(Debug)]
pub(super) struct Wake(UnixStream);

impl Wake {
    pub(super) fn new(socket: UnixStream) -> Wake {
        Wake(socket)
    }

    pub(super) fn another(&self) -> io::Result<Wake> {
        Ok(Wake(self.0.try_clone()?))
    }

    pub(super) fn ring(&self) {
        // A full socket wakes it anyway.
        let _ = (&self.0).write(&[1]);
    }
}

/// The way from helpers to the loop.
#[derive(Debug)]
pub(super) struct Bell {
    told: Sender<Told>,
    wake: Wake,
}

impl Bell {
    pub(super) fn new(told: Sender<Told>, wake: Wake) -> Bell {
        Bell { told, wake }
    }

    pub(super) fn another(&self) -> io::Result<Bell> {
        Ok(Bell { told: self.told.clone(), wake: self.wake.another()? })
    }

    /// Has the loop handle an event after the one that it is at.
    pub(super) fn happened(&self, event: Event) {
        self.ring(Told::Happened(event));
    }

    fn ring(&self, told: Told) {
        // A loop that has ended needs no news.
        if self.told.send(told).is_ok() {
            self.wake.ring();
        }
    }
}

/// The thread that appends entries.
#[derive(Debug)]
pub(super) struct Recorder {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

/// What the store is asked for.
#[derive(Debug)]
enum Task {
    Append(Arc<Entry>),
    KeepJob(Arc<JobWrite>),
    /// Whether it has a later entry than this.
    Look(Epoch),
}

impl Recorder {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// There are no threads or files left.
    pub(super) fn start(store: Box<dyn Store>, bell: &Bell) -> io::Result<Recorder> {
        let (tasks, received) = channel();
        let bell = bell.another()?;
        let thread = Builder::new()
            .name("recorder".to_owned())
            .spawn(move || record(store, &received, &bell))?;
        Ok(Recorder { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Has an entry appended; the answer comes by the bell.
    pub(super) fn append(&self, entry: Arc<Entry>) {
        self.ask(Task::Append(entry));
    }

    /// Has a job's record written; the answer comes by the bell.
    pub(super) fn keep_job(&self, write: Arc<JobWrite>) {
        self.ask(Task::KeepJob(write));
    }

    /// Has the store looked at: if it has a later entry, the bell says that this coordinator is
    /// over.
    pub(super) fn look(&self, ours: Epoch) {
        self.ask(Task::Look(ours));
    }

    fn ask(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes one thing after the other until the loop has ended.
fn record(mut store: Box<dyn Store>, tasks: &Receiver<Task>, bell: &Bell) {
    // An entry and a job's record at most: of each, one is under way at a time.
    let mut waiting = VecDeque::new();
    loop {
        let mut next = match waiting.is_empty() {
            true => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => tasks.recv_timeout(APPEND_AGAIN_AFTER),
        };
        loop {
            match next {
                Ok(task) => waiting.push_back(task),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            next = tasks.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
        for _ in 0..waiting.len() {
            let Some(task) = waiting.pop_front() else { break };
            match task.attempt(&mut *store, bell) {
                Attempt::Done => {}
                Attempt::Again => waiting.push_back(task),
                Attempt::Over => return,
            }
        }
    }
}

/// What became of a task.
enum Attempt {
    Done,
    /// The store does not answer.
    Again,
    /// Another coordinator is active.
    Over,
}

impl Task {
    /// Asks the store once, and tells what came of it.
    fn attempt(&self, store: &mut dyn Store, bell: &Bell) -> Attempt {
        let began = Instant::now();
        let asked = match self {
            Task::Look(ours) => look(store, *ours),
            Task::Append(entry) => store.append(entry),
            Task::KeepJob(write) => store.keep_job(write),
        };
        let took = began.elapsed();
        let error = match (asked, self) {
            (Ok(()), Task::Look(_)) => return Attempt::Done,
            (Ok(()), Task::Append(_)) => {
                bell.happened(Event::Recorded { took });
                return Attempt::Done;
            }
            (Ok(()), Task::KeepJob(_)) => {
                bell.happened(Event::JobKept);
                return Attempt::Done;
            }
            (Err(error), _) => error,
        };
        let is_over = matches!(
            error,
            StoreError::Conflict { .. }
                | StoreError::JobConflict { .. }
                | StoreError::Fenced { .. }
        );
        if is_over {
            bell.ring(Told::Fenced(error));
            return Attempt::Over;
        }
        if let Task::KeepJob(write) = self {
            tracing::warn!(%error, job = write.record.name, "a job is not recorded yet");
        } else {
            tracing::warn!(%error, "an epoch is not recorded yet");
            bell.happened(Event::NotRecorded { why: error.to_string(), took });
        }
        Attempt::Again
    }
}

/// Whether no other coordinator has appended. A store that does not say is asked again later.
fn look(store: &mut dyn Store, ours: Epoch) -> Result<(), StoreError> {
    match store.newest() {
        Ok(Some(entry)) if entry.placement.epoch > ours => {
            Err(StoreError::Conflict { ours, theirs: entry.placement.epoch })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(%error, "an applicant knows a later epoch, and the store does not say");
            Ok(())
        }
    }
}

/// The places that are being asked.
#[derive(Debug)]
pub(super) struct Prober {
    bell: Bell,
    waiting: VecDeque<(ServerId, String)>,
    under_way: usize,
}

impl Prober {
    pub(super) fn new(bell: Bell) -> Prober {
        Prober { bell, waiting: VecDeque::new(), under_way: 0 }
    }

    /// The bell, for others who answer.
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Has a place asked. A server is asked for once at a time, which bounds who waits.
    pub(super) fn ask(&mut self, server: ServerId, place: String) {
        self.waiting.push_back((server, place));
        self.begin();
    }

    /// An answer has come.
    pub(super) fn answered(&mut self) {
        self.under_way -= 1;
        self.begin();
    }

    fn begin(&mut self) {
        while self.under_way < PROBES_MAX
            && let Some((server, place)) = self.waiting.pop_front()
        {
            self.under_way += 1;
            let started = self.bell.another().and_then(|bell| {
                let ask = move || {
                    let answer = probe(&place);
                    bell.ring(Told::Happened(Event::Probed { server, answer }));
                };
                Builder::new().name("probe".to_owned()).spawn(ask)
            });
            if let Err(error) = started {
                tracing::warn!(%error, %server, "its place cannot be asked");
                self.bell.ring(Told::Happened(Event::Probed { server, answer: Probe::Unknown }));
            }
        }
    }
}

/// Whether somebody listens at a place.
pub(super) fn probe(place: &str) -> Probe {
    let connected = match Address::of(place) {
        Address::Unix(path) => connect_unix(path),
        Address::Tcp(place) => connect_tcp(place),
    };
    match connected {
        Ok(()) => Probe::Open,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Probe::Refused,
            // A socket in the file system whose listener has no room is somebody's.
            io::ErrorKind::WouldBlock => Probe::Open,
            _ => Probe::Unknown,
        },
    }
}

fn connect_tcp(place: &str) -> io::Result<()> {
    // A name that nobody knows is no refusal: the name service may be what is gone.
    let unknown = || io::Error::other("no such host");
    let address = place.to_socket_addrs().map_err(|_| unknown())?.next().ok_or_else(unknown)?;
    TcpStream::connect_timeout(&address, PROBE_MAX).map(drop)
}

/// Connects without ever waiting: a frozen process may have a full queue.
fn connect_unix(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    Ok(rustix::net::connect(&socket, &address)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_place_is_open_while_somebody_listens_and_refuses_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let place = listener.local_addr().expect("an address").to_string();
        assert_eq!(probe(&place), Probe::Open);
        drop(listener);
        assert_eq!(probe(&place), Probe::Refused);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let place = format!("unix:{}", path.display());
        assert_eq!(probe(&place), Probe::Refused);
        let listener = UnixListener::bind(&path).expect("a socket");
        assert_eq!(probe(&place), Probe::Open);
        drop(listener);
        assert_eq!(probe(&place), Probe::Refused);
    }

    #[test]
    fn a_place_that_no_name_leads_to_is_no_refusal() {
        assert_eq!(probe("no-such-host.invalid:7077"), Probe::Unknown);
        assert_eq!(probe("nonsense"), Probe::Unknown);
    }
}
