//! The agent: a server's thread that speaks to the coordinator.
//!
//! Owns the link and the beats. What is to be said is left to `notes`, what a placement means for a
//! core to whoever starts the agent.
//!
//! Invariant: while there is no coordinator the agent goes on trying, and nothing else waits for
//! it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use transport::{ControlBell, ControlFault, ControlLink, ControlWriter, Coordinators, Waker};
use wire::{
    Applicant, Apply, Beat, Candidate, Clock, Denial, Epoch, Life, Observation, Placement,
    RecordOrder, ServerId, ServerWork, StoreReport, ToCoordinator, ToMember, Welcome,
};

use crate::coordinator::BEAT_EVERY;
use crate::notes::{Notes, Said};

/// How long a coordinator may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// How long a coordinator may answer no beat before its link is made anew.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// How long one of several may say nothing at all on a new link: one that sleeps still accepts it.
const FIRST_WORD_MAX: Duration = Duration::from_millis(300);

/// How soon the agent notices that it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What an agent says for a server.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Where the coordinator may be, `host:port`; tried in turn.
    pub coordinators: Vec<String>,
    /// The cluster.
    pub cluster: String,
    /// The server as it describes itself; its `life` is none for a process that begins.
    pub server: Candidate,
}

/// What a server is told, on the agent's thread. The callback returns at once: beats wait for it.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEvent {
    /// The server is a member; also after its link was made anew.
    Welcome {
        /// Its membership.
        life: Life,
        /// The cluster's numbers.
        welcome: Welcome,
    },
    /// A placement that is newer than all before.
    Placement(Arc<Placement>),
    /// The server is no member any more: it drops all it holds. The agent applies as new.
    Removed,
    /// The server wanted to leave and may end: it holds nothing that others do not. The agent's
    /// thread ends.
    Released,
    /// A shard is to be recorded.
    Record(RecordOrder),
    /// Recordings of a checkpoint end at this clock, or where they are.
    Cut {
        /// Its number.
        number: u64,
        /// The clock.
        clock: Option<Clock>,
    },
    /// Recordings of a checkpoint are of no use any more.
    EndRecordings {
        /// Its number.
        number: u64,
    },
    /// The coordinator says no. The agent goes on trying; a server that has just begun may end.
    Denied(Denial),
}

/// An agent; dropped, it ends, and the server with it as far as the coordinator can see.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// An agent at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentView {
    /// Whether the coordinator is there.
    pub is_linked: bool,
    /// The newest placement that it has told.
    pub epoch: Epoch,
    /// From the last beat that was answered to its answer; none before.
    pub round_trip: Option<Duration>,
    /// How often it was found, the first time included.
    pub links_made: u64,
}

/// The way for cores to the agent. Never waits for the network.
#[derive(Clone, Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stopping: AtomicBool,
    leaving: AtomicBool,
    is_linked: AtomicBool,
    epoch: AtomicU64,
    /// Of the last beat that was answered; 0 before.
    round_trip_ns: AtomicU64,
    links_made: AtomicU64,
    notes: Mutex<Notes>,
    /// Rung when something was noted that does not wait for the next beat.
    bell: Waker,
}

/// The thread's own state.
struct Attendant<F> {
    spec: AgentSpec,
    shared: Arc<Shared>,
    bell: ControlBell,
    on_event: F,
    epoch: Epoch,
    beat_every: Duration,
    began: Instant,
}

/// Why a link is over.
enum Over {
    Fault(ControlFault),
    Silent,
    Denied,
    /// Another coordinator leads, or none does.
    StandsBy {
        leader: Option<String>,
    },
    Ended,
}

impl Agent {
    /// Starts an agent, which applies at once.
    ///
    /// # Errors
    ///
    /// There is no thread left, or no file.
    pub fn start(
        spec: AgentSpec,
        on_event: impl FnMut(AgentEvent) + Send + 'static,
    ) -> io::Result<Agent> {
        let bell = ControlBell::new()?;
        let shared = Arc::new(Shared::new(bell.waker()));
        let (epoch, beat_every) = (Epoch::new(0), BEAT_EVERY);
        let seen = Arc::clone(&shared);
        let began = Instant::now();
        let mut attendant =
            Attendant { spec, shared: seen, bell, on_event, epoch, beat_every, began };
        let thread = std::thread::Builder::new().name("agent".to_owned());
        let thread = Some(thread.spawn(move || attendant.run())?);
        Ok(Agent { shared, thread })
    }

    /// A way for cores to report.
    pub fn reporter(&self) -> Reporter {
        Reporter { shared: Arc::clone(&self.shared) }
    }

    /// Whether the coordinator is there, as far as the agent knows.
    pub fn is_linked(&self) -> bool {
        self.shared.is_linked.load(Ordering::Relaxed)
    }

    /// How it is.
    pub fn view(&self) -> AgentView {
        let number = |one: &AtomicU64| one.load(Ordering::Relaxed);
        let round_trip_ns = number(&self.shared.round_trip_ns);
        AgentView {
            is_linked: self.is_linked(),
            epoch: Epoch::new(number(&self.shared.epoch)),
            round_trip: (round_trip_ns > 0).then(|| Duration::from_nanos(round_trip_ns)),
            links_made: number(&self.shared.links_made),
        }
    }

    /// Asks to give all shards to others; [`AgentEvent::Released`] follows when that is done.
    pub fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Relaxed);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Reporter {
    /// Reports what is seen in a chain. It is said with the next beat, and again after each new
    /// link until the chain changes.
    pub fn report(&self, observation: Observation) {
        self.shared.notes().report(observation);
    }

    /// Reports how far a recording or a load is: at once, and after each new link.
    pub fn stored(&self, report: StoreReport) {
        self.shared.notes().store(report);
        self.shared.bell.wake();
    }

    /// Tells what the server holds and has done: with the next beat.
    pub fn work(&self, work: ServerWork) {
        self.shared.notes().work(work);
    }

    /// Tells that a link to a server is gone.
    pub fn suspect(&self, server: ServerId) {
        self.shared.notes().suspect(server);
    }
}

impl Shared {
    fn new(bell: Waker) -> Shared {
        Shared {
            stopping: AtomicBool::default(),
            leaving: AtomicBool::default(),
            is_linked: AtomicBool::default(),
            epoch: AtomicU64::default(),
            round_trip_ns: AtomicU64::default(),
            links_made: AtomicU64::default(),
            notes: Mutex::default(),
            bell,
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Notes are whole after each statement, so that a panic elsewhere leaves them usable.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl<F: FnMut(AgentEvent)> Attendant<F> {
    fn run(&mut self) {
        let mut coordinators = Coordinators::new(self.spec.coordinators.clone());
        while let Some(address) = coordinators.take() {
            let over = self.attend(&address);
            if self.shared.is_linked.swap(false, Ordering::Relaxed) {
                tracing::warn!(address, "the coordinator is gone; looking for it");
                coordinators.served(); // One that had just taken it would soon miss its beats.
            }
            let pause = match over {
                Over::Ended => return,
                Over::StandsBy { leader } => coordinators.stands_by(leader),
                Over::Denied => coordinators.failed(),
                Over::Fault(fault) => {
                    tracing::debug!(%fault, "the coordinator is away");
                    coordinators.failed()
                }
                Over::Silent => {
                    tracing::warn!(address, "the coordinator is silent");
                    coordinators.failed()
                }
            };
            self.sleep(pause);
        }
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.shared.is_stopping() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// One link, from the application to its end.
    fn attend(&mut self, address: &str) -> Over {
        if self.shared.is_stopping() {
            return Over::Ended;
        }
        self.attend_link(address).unwrap_or_else(Over::Fault)
    }

    fn attend_link(&mut self, address: &str) -> Result<Over, ControlFault> {
        let mut link = ControlLink::connect(address, CONNECT_MAX)?;
        let mut writer = link.writer();
        let applicant = Applicant::Server(self.spec.server.clone());
        let apply = Apply::new(&self.spec.cluster, self.epoch, applicant);
        writer.send(&ToCoordinator::Apply(apply))?;
        self.shared.notes().begin_link();
        let (mut beat_at, mut heard_at) = (Instant::now(), Instant::now());
        let mut patience = match self.spec.coordinators.len() {
            1 => SILENT_MAX,
            _ => FIRST_WORD_MAX,
        };
        let mut leave = Said::NotYet;
        while !self.shared.is_stopping() {
            if let Some(message) = link.receive_or_rung::<ToMember>(beat_at, &self.bell)? {
                (heard_at, patience) = (Instant::now(), SILENT_MAX);
                if let Some(over) = self.take(message) {
                    return Ok(over);
                }
            }
            let now = Instant::now();
            if now.duration_since(heard_at) > patience {
                return Ok(Over::Silent);
            }
            if now >= beat_at {
                self.beat(&mut writer, &mut leave)?;
                // One that is late is not made up for: beats in a bunch say nothing.
                let due_at = beat_at + self.beat_every;
                beat_at = if due_at > now { due_at } else { now + self.beat_every };
            } else {
                self.say_stored(&mut writer)?;
            }
        }
        Ok(Over::Ended)
    }

    fn beat(&self, writer: &mut ControlWriter, leave: &mut Said) -> Result<(), ControlFault> {
        let (seen, work, suspects) = {
            let mut notes = self.shared.notes();
            (notes.unsaid(), notes.take_work(), notes.take_suspects())
        };
        let sent_ns = self.now_ns();
        writer.send(&ToCoordinator::Beat(Beat { sent_ns, epoch: self.epoch, seen, work }))?;
        self.say_stored(writer)?;
        for server in suspects {
            writer.send(&ToCoordinator::Suspect { server, epoch: self.epoch })?;
        }
        let is_member = self.spec.server.life.is_some();
        if is_member && *leave == Said::NotYet && self.shared.leaving.load(Ordering::Relaxed) {
            *leave = Said::Yes;
            writer.send(&ToCoordinator::Leave)?;
        }
        Ok(())
    }

    /// Says what was noted of recordings and loads.
    fn say_stored(&self, writer: &mut ControlWriter) -> Result<(), ControlFault> {
        let stored = self.shared.notes().unsaid_of_stores();
        stored.into_iter().try_for_each(|report| writer.send(&ToCoordinator::Stored(report)))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes a message; says whether the link is over.
    fn take(&mut self, message: ToMember) -> Option<Over> {
        match message {
            ToMember::Welcome(welcome) => {
                self.shared.is_linked.store(true, Ordering::Relaxed);
                self.shared.links_made.fetch_add(1, Ordering::Relaxed);
                let every = Duration::from_millis(u64::from(welcome.beat_every_ms));
                self.beat_every = every.clamp(Duration::from_millis(1), SILENT_MAX / 4);
                self.spec.server.life = welcome.life;
                if let Some(life) = welcome.life {
                    (self.on_event)(AgentEvent::Welcome { life, welcome });
                }
            }
            ToMember::Placement(placement) => self.take_placement(placement),
            ToMember::Denied(Denial::NotLeading { leader, .. }) => {
                return Some(Over::StandsBy { leader });
            }
            ToMember::Denied(denial) => {
                if let Denial::Removed { .. } = denial {
                    self.spec.server.life = None;
                    self.shared.notes().clear();
                    (self.on_event)(AgentEvent::Removed);
                } else {
                    (self.on_event)(AgentEvent::Denied(denial));
                }
                return Some(Over::Denied);
            }
            ToMember::Released => {
                (self.on_event)(AgentEvent::Released);
                return Some(Over::Ended);
            }
            ToMember::Record(order) => (self.on_event)(AgentEvent::Record(order)),
            ToMember::Cut { number, clock } => {
                (self.on_event)(AgentEvent::Cut { number, clock });
            }
            ToMember::EndRecordings { number } => {
                (self.on_event)(AgentEvent::EndRecordings { number });
            }
            ToMember::BeatSeen { sent_ns } => {
                let round_trip_ns = self.now_ns().saturating_sub(sent_ns);
                self.shared.round_trip_ns.store(round_trip_ns, Ordering::Relaxed);
            }
            ToMember::Done | ToMember::Status(_) | ToMember::Job(_) => {}
        }
        None
    }

    fn take_placement(&mut self, placement: Placement) {
        if let Err(error) = placement.check() {
            tracing::error!(%error, "the coordinator sent a placement that cannot be");
            return;
        }
        if placement.epoch <= self.epoch {
            return; // Said again on a new link.
        }
        self.epoch = placement.epoch;
        self.shared.epoch.store(placement.epoch.get(), Ordering::Relaxed);
        self.shared.notes().prune(&placement);
        (self.on_event)(AgentEvent::Placement(Arc::new(placement)));
    }
}
