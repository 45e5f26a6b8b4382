//! Threads: one a core, each turning its own shard until it is told to stop.
//!
//! Owns starting and ending them, and the channel by which a connection reaches its core. The
//! loop's content is left to `turn`.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shard::chain::{Notice, Restored};
use shard::{Mutation, Shard, ShardSpec};
use transport::shm::Shm;
use transport::tcp;
use transport::{Link, Transport, Waker};
use wire::{
    Clock, Epoch, Flags, Header, Holds, Placement, Refusal, ServerId, ServerWork, ShardId, WorkerId,
};

use crate::budget::Budget;
use crate::chain_links::{ChainLinks, LinkNews};
use crate::chains::{News, Share};
use crate::guest::Who;
use crate::pinning::{Pinning, pin};
use crate::recordings::Tap;
use crate::report::{REPORTS_MAX, Report};
use crate::spec::{Hosting, ServerSpec, StartError, Way};
use crate::storing::{Storing, shards_of};
use crate::told::Told;
use crate::turn::Core;
use crate::view::{self, CoreView, Stand, seen};

/// How long a core sleeps at most before it looks around.
const PARK_MAX: Duration = Duration::from_millis(100);

/// Connections on their way to a core. Beyond it they are turned away.
const COMMANDS_MAX: usize = 1024;

/// How long a core may take to build its transport.
const START_MAX: Duration = Duration::from_secs(10);

/// Requests that a worker may have in flight on one shard.
const CREDIT: u16 = 64;

/// Running cores.
#[derive(Debug)]
pub struct Server {
    pub(crate) cores: Arc<[CoreHandle]>,
    budget: Arc<Budget>,
    threads: Vec<JoinHandle<()>>,
    pub(crate) storing: Storing,
    /// Makes links to successors; none where there are no chains.
    links: Option<ChainLinks>,
    message_bytes_max: usize,
    hosting: Hosting,
    placed: Mutex<Option<Arc<Placed>>>,
    reports: Mutex<Option<Receiver<Report>>>,
}

/// What this server was last told.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) ours: ServerId,
    pub(crate) placement: Placement,
    /// Shards that no core is to have yet: they are being restored.
    pub(crate) loading: BTreeSet<ShardId>,
}

/// The way to a core.
#[derive(Debug)]
pub(crate) struct CoreHandle {
    commands: SyncSender<Command>,
    waker: Waker,
    shown: Arc<Mutex<CoreView>>,
}

#[derive(Debug)]
pub(crate) enum Command {
    /// A connection has come in.
    Adopt(Link, Who),
    /// Shards have other places.
    Place(Arc<Placed>),
    /// There is a link to a shard's successor.
    Successor(ShardId, Epoch, Link),
    /// A successor is at a later epoch of a shard's chain.
    Fence(ShardId, Epoch),
    /// A shard is to be recorded.
    Record(ShardId, Tap),
    /// A recording of this checkpoint is to say again what its shard has come to.
    TellReached(ShardId, u64),
    /// The recording of this checkpoint is cut at this clock; none: where the shard is.
    CutRecording(ShardId, u64, Option<Clock>),
    /// The recording of this checkpoint is over.
    EndRecording(ShardId, u64),
    /// A shard was restored.
    Restored(ShardId, Box<Restored>),
    Stop,
}

/// A core has no room for a command, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the core has no room for another connection now")
    }
}

impl std::error::Error for NoRoom {}

impl CoreHandle {
    /// Tells the core something, if it has room for it; else that is dropped.
    pub(crate) fn tell(&self, command: Command) -> Result<(), NoRoom> {
        let told = self.commands.try_send(command);
        self.waker.wake();
        told.map_err(|_| NoRoom)
    }

    /// Tells the core what must not be dropped; waits for room.
    pub(crate) fn send(&self, command: Command) -> Result<(), SendError<Command>> {
        self.commands.send(command)?;
        self.waker.wake();
        Ok(())
    }

    /// Has the core look around.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}

impl Server {
    /// Starts all cores and waits until each is ready.
    pub fn start(spec: &ServerSpec) -> Result<Server, StartError> {
        if spec.cores == 0 || spec.cores == u16::MAX {
            return Err(StartError::Cores { cores: spec.cores });
        }
        memory::start_filling(); // Before a core's thread is pinned: it is to run on any other.
        let (report, reports) = sync_channel(REPORTS_MAX);
        let pending = match spec.hosting {
            Hosting::OneACore => None,
            Hosting::ByPlacement => Some(ChainLinks::channel()),
        };
        let links = pending.as_ref().map(|(sender, _)| sender.clone());
        let told = Told::new(report.clone(), links);
        let budget = Arc::new(Budget::new(spec.memory_bytes_max, spec.cores.into()));
        let started =
            (0..spec.cores).map(|core| start_core(spec, core, (told.clone(), Arc::clone(&budget))));
        let (cores, threads) = started.collect::<Result<(Vec<_>, Vec<_>), _>>()?;
        let cores: Arc<[CoreHandle]> = cores.into();
        let storing = Storing::new(shard_spec(spec), spec.pinning, report.clone());
        let start_links = |channel| {
            ChainLinks::start(channel, Arc::clone(&cores), spec, report)
                .map_err(|error| StartError::Links { reason: error.to_string() })
        };
        let links = pending.map(start_links).transpose()?;
        Ok(Server {
            cores,
            budget,
            threads,
            storing,
            links,
            message_bytes_max: spec.limits.message_bytes_max,
            hosting: spec.hosting,
            placed: Mutex::default(),
            reports: Mutex::new(Some(reports)),
        })
    }

    /// How many shards there are: in a cluster all of the job's, none before the first placement.
    pub fn shards(&self) -> u16 {
        match self.hosting {
            Hosting::OneACore => self.cores.len() as u16,
            // `Placement::check` bounds them.
            Hosting::ByPlacement => self.placed().map_or(0, |it| it.placement.chains.len() as u16),
        }
    }

    /// Tells all cores a placement: what this server is in each chain. Shards that it holds no
    /// longer are dropped, new ones begin empty. One that is older than the last is passed over.
    ///
    /// - `ours`: this server's number.
    /// - `placement`: has passed [`Placement::check`].
    pub fn place(&self, ours: ServerId, placement: &Placement) {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if placed.as_ref().is_some_and(|known| known.placement.epoch >= placement.epoch) {
            return;
        }
        let is_first = placed.as_ref().is_none_or(|known| known.ours != ours);
        let mut loads = self.storing.loads();
        let wanted = self.storing.note(&mut loads, (ours, placement), is_first);
        let loading = shards_of(&loads);
        let news = Arc::new(Placed { ours, placement: placement.clone(), loading });
        *placed = Some(Arc::clone(&news));
        for core in self.cores.iter() {
            // The channel has room for far more than there are placements under way.
            let _ = core.send(Command::Place(Arc::clone(&news)));
        }
        drop(loads);
        if let Some(from) = placement.restored_from.as_ref().filter(|_| !wanted.is_empty()) {
            self.storing.load(from, placement.chains.len() as u16, &wanted, &self.cores);
        }
        if let Some(links) = &self.links {
            links.tell(LinkNews::Placed(news));
        }
    }

    /// What the coordinator must hear, as it comes; `None` if it was taken before.
    pub fn reports(&self) -> Option<Receiver<Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether whoever says this hello may speak to the shard that it wants.
    ///
    /// - Errors: what the welcome says instead.
    pub(crate) fn admits(&self, hello: &Header) -> Result<(), Refusal> {
        let (shards, wanted) = (self.shards(), ShardId::new(hello.table));
        let follows = hello.worker() == WorkerId::PREDECESSOR;
        if !follows {
            self.budget.admits()?;
        }
        if self.hosting == Hosting::OneACore {
            let epoch_there = Refusal::NotHead { shard: Epoch::default() };
            let known = hello.table < shards;
            return match (known, follows) {
                (false, _) => Err(Refusal::NoSuchShard { shards }),
                (true, true) => Err(epoch_there),
                (true, false) => Ok(()),
            };
        }
        let none = Refusal::NotHead { shard: Epoch::default() };
        let placed = self.placed().ok_or(none)?;
        let chain = placed.placement.chain(wanted).ok_or(Refusal::NoSuchShard { shards })?;
        let station = chain.station(placed.ours);
        let is_head = station.is_some_and(|it| it.place == 0 && it.holds == Holds::Everything);
        let has_upstream = station.is_some_and(|station| station.upstream.is_some());
        if station.is_some() && self.is_loading(wanted) {
            // As if it had not heard of the chain's epoch yet: who asks comes back.
            let before = Epoch::new(chain.epoch.get().saturating_sub(1));
            return Err(match follows {
                true => Refusal::EpochMismatch { shard: before },
                false => Refusal::NotHead { shard: before },
            });
        }
        match follows {
            true if hello.epoch() == chain.epoch && has_upstream => Ok(()),
            true => Err(Refusal::EpochMismatch { shard: chain.epoch }),
            false if hello.flags().has(Flags::ANY_REPLICA) => {
                let holds = station.is_some_and(|station| station.holds == Holds::Everything);
                let reads = holds && hello.epoch() == chain.epoch;
                if reads { Ok(()) } else { Err(Refusal::NotHead { shard: chain.epoch }) }
            }
            false if is_head => Ok(()),
            false => Err(Refusal::NotHead { shard: chain.epoch }),
        }
    }

    fn placed(&self) -> Option<Arc<Placed>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What peers make this server hold, and what they may, in bytes.
    pub fn memory_bytes(&self) -> (u64, u64) {
        (self.budget.held_bytes(), self.budget.bound_bytes())
    }

    /// What it holds and has done.
    pub fn work(&self) -> ServerWork {
        view::work(&self.cores(), self.budget.held_bytes())
    }

    /// How each core is, some tens of milliseconds ago at most, and what it has done.
    pub fn cores(&self) -> Vec<CoreView> {
        self.cores.iter().map(|core| seen(&core.shown)).collect()
    }

    /// The longest message, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Gives a connection to a shard. One that the shard cannot take is closed.
    ///
    /// - Errors: the core has no room; the connection is closed, and its other end comes back.
    pub fn attach(&self, link: Link, who: Who) -> Result<(), NoRoom> {
        self.cores[who.shard.index() % self.cores.len()].tell(Command::Adopt(link, who))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.links.take());
        for core in self.cores.iter() {
            let _ = core.send(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a shard's thread ended by a panic");
            }
        }
    }
}

fn start_core(
    spec: &ServerSpec,
    number: u16,
    (told, budget): (Told, Arc<Budget>),
) -> Result<(CoreHandle, JoinHandle<()>), StartError> {
    let failed = |reason: String| StartError::Core { core: number, reason };
    let (commands, inbox) = sync_channel(COMMANDS_MAX);
    let (ready, started) = sync_channel(1);
    let spec = spec.clone();
    let shown = Arc::<Mutex<CoreView>>::default();
    let stand = Stand::new(Arc::clone(&shown));
    let thread = std::thread::Builder::new()
        .name(format!("shard-{number}"))
        .spawn(move || {
            if let Pinning::Pinned { first } = spec.pinning {
                pin(first + usize::from(number));
            }
            match open(&spec) {
                Ok(transport) => {
                    let made_of = shard_spec(&spec);
                    let shard = |_| (ShardId::new(number), Shard::new(made_of.clone()));
                    let own = Some(()).filter(|()| spec.hosting == Hosting::OneACore).map(shard);
                    let core = Core::with_on_closed(transport, spec.on_closed, own);
                    let _ = ready.send(Ok(core.waker()));
                    let share = Share { core: number.into(), cores: spec.cores.into() };
                    Running { core, share, spec: made_of, told, placed: None, stand, budget }
                        .run(&inbox);
                }
                Err(reason) => {
                    let _ = ready.send(Err(reason));
                }
            }
        })
        .map_err(|error| failed(format!("no thread: {error}")))?;
    let waker = started
        .recv_timeout(START_MAX)
        .map_err(|_| failed(format!("not ready after {} s", START_MAX.as_secs())))?
        .map_err(failed)?;
    Ok((CoreHandle { commands, waker, shown }, thread))
}

fn open(spec: &ServerSpec) -> Result<Box<dyn Transport>, String> {
    match spec.way {
        Way::Shm => match Shm::new(spec.limits) {
            Ok(shm) => Ok(Box::new(shm)),
            Err(error) => Err(error.to_string()),
        },
        Way::Tcp(backend) => tcp::open(backend, spec.limits).map_err(|error| error.to_string()),
    }
}

fn shard_spec(spec: &ServerSpec) -> ShardSpec {
    ShardSpec {
        isa: spec.isa,
        epoch: spec.epoch,
        rules: spec.rules.clone(),
        table_bytes_max: spec.table_bytes_max,
        seed: RandomState::new().build_hasher().finish(),
        credit: CREDIT,
        mutation: Mutation::None,
    }
}

/// A core and its thread's part.
struct Running {
    core: Core,
    share: Share,
    /// What shards that are placed here are made of.
    spec: ShardSpec,
    told: Told,
    placed: Option<Arc<Placed>>,
    stand: Stand,
    budget: Arc<Budget>,
}

impl Running {
    /// Turns the core until it is told to stop.
    fn run(mut self, inbox: &Receiver<Command>) {
        let mut began = self.core.now();
        loop {
            while let Ok(command) = inbox.try_recv() {
                if matches!(command, Command::Stop) {
                    return;
                }
                self.obey(command);
            }
            self.told.say_unsaid();
            let busy = self.core.turn();
            for news in std::mem::take(self.core.news()) {
                self.tell(news);
            }
            let now = self.core.now();
            let (core, number, budget) = (&mut self.core, self.share.core, &self.budget);
            let show = |view: &mut CoreView| {
                core.show(view);
                core.set_room(budget.note(number, view.held_bytes));
            };
            if busy {
                self.stand.turned(began, now, show);
                began = now;
            } else {
                self.stand.show(now, show);
                self.core.park(now + PARK_MAX);
                began = self.core.now();
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let adopted = match command {
            Command::Adopt(link, who) => self.core.adopt(link, who),
            Command::Successor(shard, epoch, link) => self.core.adopt_successor(shard, epoch, link),
            Command::Place(placed) => {
                self.core.loading.clone_from(&placed.loading);
                self.core.place(placed.ours, &placed.placement, self.share, &self.spec);
                self.placed = Some(placed);
                return;
            }
            Command::Fence(shard, epoch) => return self.core.fence(shard, epoch),
            Command::Record(shard, tap) => return self.core.begin_recording(shard, tap),
            Command::TellReached(shard, number) => return self.core.tell_reached(shard, number),
            Command::CutRecording(shard, number, cut) => {
                return self.core.cut_recording(shard, number, cut);
            }
            Command::EndRecording(shard, number) => {
                return self.core.end_recording(shard, number);
            }
            Command::Restored(shard, restored) => {
                if let Some(placed) = &self.placed {
                    let Placed { ours, placement, .. } = &**placed;
                    self.core.adopt_restored(*ours, placement, shard, *restored);
                }
                return;
            }
            Command::Stop => return,
        };
        match adopted {
            Ok(Some(_)) => {}
            Ok(None) => tracing::debug!("a connection came for what is not here any more"),
            Err(error) => tracing::warn!(%error, "a connection is turned away"),
        }
    }

    /// Tells the coordinator, or whoever makes links, what has happened in a chain.
    fn tell(&mut self, News { shard, epoch, notice }: News) {
        let placement = self.placed.as_ref().map(|placed| (placed.ours, &placed.placement));
        let chain = placement.and_then(|(ours, all)| Some((ours, all.chain(shard)?)));
        let successor = chain.and_then(|(ours, chain)| chain.station(ours)?.downstream);
        let report = match (notice, successor) {
            (Notice::Filled, _) => Report::Filled { shard, epoch },
            (Notice::Refused, _) => Report::Refused { shard, epoch },
            (Notice::SuccessorUnfit, Some((server, _))) => {
                Report::SuccessorLost { shard, epoch, server }
            }
            (Notice::SuccessorUnfit, None) => return,
            (Notice::SuccessorSilent, _) => {
                return self.told.tell_links(LinkNews::Lost(shard, epoch));
            }
            (Notice::SuccessorHeard, _) => {
                return self.told.tell_links(LinkNews::Heard(shard, epoch));
            }
        };
        tracing::info!(%report, "a chain has changed");
        self.told.report(report);
    }
}

#[cfg(test)]
impl CoreHandle {
    /// A way to no core, with room for so many commands, and its other end.
    pub(crate) fn for_tests(commands: usize) -> (CoreHandle, Receiver<Command>) {
        let (commands, inbox) = sync_channel(commands);
        (CoreHandle { commands, waker: Waker::new(|| ()), shown: Arc::default() }, inbox)
    }
}
