//! Watch: a worker's view of who holds which shard.
//!
//! Owns a thread with the link to the coordinator, and the newest placement. Connecting to the
//! servers that it names is left to the caller.
//!
//! Invariant: epochs never go back; while there is no coordinator the newest placement stays, and
//! the thread goes on trying.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use transport::{ControlFault, ControlLink, ControlWriter, Coordinators};
use wire::{Applicant, Apply, Beat, Denial, Epoch, Placement, ServerId, ToCoordinator, ToMember};

/// How long a coordinator may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// How often a watcher shows that it is there.
const BEAT_EVERY: Duration = Duration::from_millis(400);

/// How long a coordinator may say nothing before its link is made anew.
const SILENT_MAX: Duration = Duration::from_millis(1500);

/// How long one of several may say nothing at all on a new link: one that sleeps still accepts it.
const FIRST_WORD_MAX: Duration = Duration::from_millis(300);

/// How soon the thread notices that it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The newest placement, kept so by a thread; dropped, it ends.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no newer placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchError {
    /// None came until the deadline. The one before stands; the caller may wait again.
    NoneNewer {
        /// The epoch that a newer one was wanted than.
        than: Epoch,
        /// What ails the link to the coordinator, if something does.
        ailment: Option<String>,
    },
    /// The coordinator denies this worker: it would wait for ever.
    Denied(Denial),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_stopping: bool,
    newest: Option<Arc<Placement>>,
    /// While there is a link.
    writer: Option<ControlWriter>,
    denied: Option<Denial>,
    ailment: Option<String>,
}

/// Why a link is over.
enum Over {
    /// The coordinator is silent, or the watch ends.
    Silent,
    /// The coordinator stands by.
    StandsBy {
        /// Who leads instead.
        leader: Option<String>,
    },
}

impl Watch {
    /// Begins to watch a cluster whose coordinator is at one of these addresses, `host:port`.
    ///
    /// # Errors
    ///
    /// There is no thread left.
    pub fn start(coordinators: &[String], cluster: &str) -> io::Result<Watch> {
        let shared = Arc::new(Shared::default());
        let (seen, coordinators) = (Arc::clone(&shared), coordinators.to_vec());
        let cluster = cluster.to_owned();
        let thread = std::thread::Builder::new().name("watch".to_owned());
        let thread = thread.spawn(move || run(&seen, &coordinators, &cluster))?;
        Ok(Watch { shared, thread: Some(thread) })
    }

    /// The newest placement; none before the first has come.
    pub fn newest(&self) -> Option<Arc<Placement>> {
        self.shared.state().newest.clone()
    }

    /// Waits for a placement that is newer than an epoch, 0 being older than all.
    ///
    /// # Errors
    ///
    /// See [`WatchError`].
    pub fn wait_newer(&self, than: Epoch, deadline: Instant) -> Result<Arc<Placement>, WatchError> {
        let mut state = self.shared.state();
        loop {
            if let Some(newest) = state.newest.as_ref().filter(|newest| newest.epoch > than) {
                return Ok(Arc::clone(newest));
            }
            if let Some(denial) = &state.denied {
                return Err(WatchError::Denied(denial.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WatchError::NoneNewer { than, ailment: state.ailment.clone() });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells the coordinator, if there is one, that a link to a server is gone.
    pub fn suspect(&self, server: ServerId) {
        let mut state = self.shared.state();
        let epoch = state.newest.as_ref().map_or(Epoch::new(0), |newest| newest.epoch);
        if let Some(writer) = &mut state.writer {
            // The thread notices a link that is gone.
            let _ = writer.send(&ToCoordinator::Suspect { server, epoch });
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().is_stopping = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after each statement, so that a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.state().is_stopping
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.is_stopping() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    fn take(&self, message: ToMember) {
        let mut state = self.state();
        match message {
            ToMember::Placement(placement) => {
                let newest = state.newest.as_ref().map_or(Epoch::new(0), |newest| newest.epoch);
                match placement.check() {
                    Ok(()) if placement.epoch > newest => {
                        state.newest = Some(Arc::new(placement));
                    }
                    Ok(()) => {}
                    Err(error) => state.ailment = Some(error.to_string()),
                }
            }
            ToMember::Welcome(_) => (state.ailment, state.denied) = (None, None),
            ToMember::Denied(denial @ (Denial::Version { .. } | Denial::Cluster { .. })) => {
                state.denied = Some(denial);
            }
            ToMember::Denied(denial) => state.ailment = Some(denial.to_string()),
            ToMember::BeatSeen { .. }
            | ToMember::Done
            | ToMember::Released
            | ToMember::Status(_)
            | ToMember::Record(_)
            | ToMember::Cut { .. }
            | ToMember::EndRecordings { .. }
            | ToMember::Job(_) => return,
        }
        self.changed.notify_all();
    }
}

fn run(shared: &Shared, coordinators: &[String], cluster: &str) {
    let first_word_max = if coordinators.len() == 1 { SILENT_MAX } else { FIRST_WORD_MAX };
    let mut coordinators = Coordinators::new(coordinators.to_vec());
    while let Some(address) = coordinators.take() {
        if shared.is_stopping() {
            return;
        }
        let mut has_led = false;
        let over = watch(shared, &address, cluster, first_word_max, &mut has_led);
        shared.state().writer = None;
        if has_led {
            coordinators.served(); // Whoever takes its place is to be found soon.
        }
        let pause = match over {
            Ok(Over::StandsBy { leader }) => coordinators.stands_by(leader),
            Ok(Over::Silent) => coordinators.failed(),
            Err(fault) => {
                shared.state().ailment.get_or_insert_with(|| fault.to_string());
                coordinators.failed()
            }
        };
        shared.sleep(pause);
    }
}

/// One link, until it fails or is silent, or the watch ends.
///
/// - `first_word_max`: how long the coordinator may take to say anything.
/// - `has_led`: becomes true once it has said something that was no denial.
fn watch(
    shared: &Shared,
    address: &str,
    cluster: &str,
    first_word_max: Duration,
    has_led: &mut bool,
) -> Result<Over, ControlFault> {
    let mut link = ControlLink::connect(address, CONNECT_MAX)?;
    let began = Instant::now();
    let epoch = shared.state().newest.as_ref().map_or(Epoch::new(0), |newest| newest.epoch);
    let mut writer = link.writer();
    writer.send(&ToCoordinator::Apply(Apply::new(cluster, epoch, Applicant::Watcher)))?;
    shared.state().writer = Some(writer);
    let (mut heard_at, mut beat_at) = (began, began + BEAT_EVERY);
    let mut patience = first_word_max;
    while !shared.is_stopping() {
        if let Some(message) = link.receive::<ToMember>(Instant::now() + LOOK_EVERY)? {
            (heard_at, patience) = (Instant::now(), SILENT_MAX);
            *has_led |= !matches!(message, ToMember::Denied(_));
            let leader = match &message {
                ToMember::Denied(Denial::NotLeading { leader, .. }) => Some(leader.clone()),
                _ => None,
            };
            shared.take(message);
            if let Some(leader) = leader {
                return Ok(Over::StandsBy { leader });
            }
        }
        let now = Instant::now();
        if now.duration_since(heard_at) > patience {
            return Ok(Over::Silent);
        }
        if now >= beat_at {
            beat_at = now + BEAT_EVERY;
            let sent_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let beat = Beat { sent_ns, epoch, ..Beat::default() };
            // Under the lock: a suspicion of another thread must not be cut in two.
            if let Some(writer) = &mut shared.state().writer {
                writer.send(&ToCoordinator::Beat(beat))?;
            }
        }
    }
    Ok(Over::Silent)
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchError::NoneNewer { than, ailment } => {
                write!(f, "no placement after {than} came in time")?;
                ailment.iter().try_for_each(|ailment| write!(f, ": {ailment}"))
            }
            WatchError::Denied(denial) => write!(f, "the coordinator denies: {denial}"),
        }
    }
}

impl std::error::Error for WatchError {}
