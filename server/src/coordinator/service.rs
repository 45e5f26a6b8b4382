//! The coordinator's service: starting one, and what its owner can see of it.
//!
//! Owns the thread of its loop and the checks before it starts. The loop itself is `rounds`.
//!
//! Invariant: nothing is left running of a coordinator that does not start.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use wire::{CheckpointStatus, Epoch, RestoredFrom};

use super::checkpointer::CheckpointSpec;
use super::claims::Claims;
use super::helpers::Wake;
use super::lead::Start;
use super::machine::HISTORY_SHOWN_MAX;
use super::rounds::Loop;
use super::spec::{ClusterSpec, SpecError};
use super::store::{Entry, Store, StoreError};
use crate::door::{Exposure, ListenError};

/// A running coordinator; dropped, it ends.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    shared: Arc<Shared>,
    waker: Wake,
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

/// What a coordinator does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It leads.
    Leads {
        /// In which term; 0: there is no other coordinator.
        term: u64,
    },
    /// It waits for its turn.
    StandsBy {
        /// Where the leader is; none: nobody is known to lead.
        leader: Option<String>,
        /// What keeps this one from leading, if something does.
        why: Option<String>,
    },
}

/// What the loop shares with whoever started it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) is_checkpoint_wanted: AtomicBool,
    pub(super) checkpoints: Mutex<Option<CheckpointStatus>>,
    pub(super) duty: Mutex<Duty>,
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
        may_begin(&spec, newest.as_ref(), &stored)?;
        let past = store.history(HISTORY_SHOWN_MAX).map_err(CoordinateError::Store)?;
        let cluster_id = store.cluster_id();
        let jobs = store.jobs().map_err(CoordinateError::Store)?;
        let (term, address) = (0, None);
        let of_lead = spec.clone();
        let start = Start { spec: of_lead, term, address, cluster_id, newest, past, jobs, store };
        Coordinator::run(spec, listen, exposure, stored, |rounds, _| rounds.lead(start))
    }

    /// Starts a coordinator that may not be the only one of its cluster: it stands by until it is
    /// its turn to lead, and again whenever another one has taken over.
    ///
    /// - `address`: where others reach it; none: where it listens.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::start_stored`].
    pub fn start_among(
        spec: ClusterSpec,
        claims: Box<dyn Claims>,
        (listen, address): (&str, Option<String>),
        exposure: Exposure,
        stored: Stored,
    ) -> Result<Coordinator, CoordinateError> {
        let newest = claims.log(0).newest().map_err(CoordinateError::Store)?;
        may_begin(&spec, newest.as_ref(), &stored)?;
        Coordinator::run(spec, listen, exposure, stored, |rounds, listens| {
            // Others have no use for an address that is each host's own.
            let at = Some(listens).filter(|at| !at.ip().is_unspecified());
            rounds.contend(claims, address.or_else(|| at.map(|at| at.to_string())))
        })
    }

    fn run(
        spec: ClusterSpec,
        listen: &str,
        exposure: Exposure,
        stored: Stored,
        begin: impl FnOnce(&mut Loop, SocketAddr) -> io::Result<()>,
    ) -> Result<Coordinator, CoordinateError> {
        let listener = listen_on(listen, exposure).map_err(CoordinateError::Listen)?;
        let address = listener.local_addr().map_err(CoordinateError::System)?;
        let shared = Arc::new(Shared {
            is_checkpoint_wanted: AtomicBool::new(false),
            checkpoints: Mutex::default(),
            duty: Mutex::new(Duty::StandsBy { leader: None, why: None }),
        });
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let made = Loop::new(listener, spec, stored, Arc::clone(&shared));
        let started = made.and_then(|mut rounds| {
            begin(&mut rounds, address)?;
            let waker = rounds.waker()?;
            let run = move || rounds.run(&stop);
            let thread = std::thread::Builder::new().name("coordinator".to_owned()).spawn(run)?;
            Ok((waker, Some(thread)))
        });
        let (waker, thread) = started.map_err(CoordinateError::System)?;
        Ok(Coordinator { address, stopping, shared, waker, thread })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has a checkpoint taken as soon as that can be; [`Coordinator::checkpoints`] says how it
    /// goes.
    pub fn take_checkpoint(&self) {
        self.shared.is_checkpoint_wanted.store(true, Ordering::Relaxed);
        self.waker.ring();
    }

    /// Whether a checkpoint is wanted that is not begun yet.
    pub fn is_checkpoint_wanted(&self) -> bool {
        self.shared.is_checkpoint_wanted.load(Ordering::Relaxed)
    }

    /// What is known of checkpoints; none: they have no place, or the loop has just begun.
    pub fn checkpoints(&self) -> Option<CheckpointStatus> {
        self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it does now.
    pub fn duty(&self) -> Duty {
        self.shared.duty.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has ended by itself: another coordinator is active where there should be one, or
    /// this one can never lead. To be asked for the reason by [`Coordinator::stop`].
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

/// Whether a coordinator can be what it was started for, given the newest entry.
fn may_begin(
    spec: &ClusterSpec,
    newest: Option<&Entry>,
    stored: &Stored,
) -> Result<(), CoordinateError> {
    spec.check(newest).map_err(CoordinateError::Spec)?;
    let placed = newest.map(|entry| entry.placement.epoch);
    if let Some((epoch, from)) = placed.zip(stored.restore.as_ref()) {
        let place = from.place.clone();
        return Err(CoordinateError::NotEmpty { epoch, place });
    }
    Ok(())
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
