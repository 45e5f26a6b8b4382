//! A session with a cluster whose shards move: it goes by placements.
//!
//! Owns the thread that makes a session's new links, and the first ones. Placements are left to
//! [`Watch`], what a session does with a link to `routes`.
//!
//! Invariant: the thread ends with its session, and never holds it up: what it does may wait, and
//! what it has made is handed over by a channel with room for a link to each shard.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use kernels::Isa;
use transport::Waker;
use wire::{Chain, Epoch, Flags, Member, Placement, Routing, RoutingError, ServerId, ShardId};

use crate::connect::{ConnectError, Dial, Hello, Place, ask, greet, open};
use crate::replicas::{Reading, RouteTo};
use crate::routes::{Route, Routes};
use crate::session::{Session, SessionSpec};
use crate::watch::{Watch, WatchError};

/// How often the thread looks for a newer placement while nothing else wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How soon a connection that failed is tried again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(200);

/// How long connecting to one server may take once there is a session: a head that is gone may
/// not answer at all, and another is named soon.
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// What a session with a cluster is made of.
#[derive(Clone)]
pub struct ClusterSpec {
    /// Where its shards are.
    pub placements: Arc<Watch>,
    /// Who connects, and how. All servers are reached by TCP, or all in the file system.
    pub dial: Dial,
    /// How long there may be no placement, or a shard without a server that answers.
    pub patience: Duration,
    /// Whether pulls go to replicas that are not the head.
    pub reading: Reading,
}

/// Why there is no session with a cluster.
#[derive(Debug)]
pub enum ClusterError {
    /// No placement has come, or the coordinator denies this worker.
    NoPlacement(WatchError),
    /// A shard has no server.
    ShardLost {
        /// Which.
        shard: ShardId,
        /// In which placement.
        epoch: Epoch,
        /// Why that one came to be.
        cause: String,
    },
    /// The placement names a place that is none.
    Place {
        /// Whose.
        server: ServerId,
        /// What it says.
        place: String,
    },
    /// A server cannot be reached, or says no, for as long as there was patience.
    Connect(ConnectError),
    /// The shards make no routing table.
    Routing(RoutingError),
    /// The thread for later links does not start.
    Thread(std::io::Error),
}

/// Connects to the head of each shard, as soon as there is a placement, and follows shards that
/// move.
///
/// Errors: [`ClusterError`], after `patience` at the latest.
pub fn connect_cluster(spec: &ClusterSpec) -> Result<Session, ClusterError> {
    let until = Instant::now() + spec.patience;
    loop {
        match try_connect(spec, until) {
            Ok(session) => return Ok(session),
            Err(error) if Instant::now() >= until || error.is_final() => return Err(error),
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

/// Connects by the newest placement.
fn try_connect(spec: &ClusterSpec, until: Instant) -> Result<Session, ClusterError> {
    let isa = Isa::detect();
    let first = spec.placements.wait_newer(Epoch::default(), until);
    let placement = first.map_err(ClusterError::NoPlacement)?;
    let heads = (0..placement.chains.len()).map(|shard| head(&placement, shard));
    let heads = heads.collect::<Result<Vec<_>, _>>()?;
    let routing = Routing::new(placement.epoch, heads.len()).map_err(ClusterError::Routing)?;
    let mut dial = spec.dial.clone();
    let mut asked: Vec<ServerId> = Vec::new();
    for head in &heads {
        if !asked.contains(&head.server) {
            let told = ask(isa, &head.place, &dial).map_err(ClusterError::Connect)?;
            let limits = &mut dial.limits;
            limits.message_bytes_max = limits.message_bytes_max.min(told.message_bytes_max);
            asked.push(head.server);
        }
    }
    let by_unix = heads.iter().all(|head| matches!(head.place, Place::Unix(_)));
    let opened = open(by_unix, dial.backend, dial.limits);
    let mut transport = opened.map_err(ClusterError::Connect)?;
    let mut peers = Vec::new();
    for head in &heads {
        let link = head.greet(isa, &dial).map_err(ClusterError::Connect)?;
        let adopt = |error| ConnectError::Adopt { place: head.place.clone(), error };
        let peer = transport.adopt(link).map_err(adopt).map_err(ClusterError::Connect)?;
        peers.push(peer);
    }
    let waker = transport.waker();
    let mut session = Session::new(SessionSpec {
        transport,
        peers,
        servers: heads.iter().map(Answerer::name).collect(),
        routing,
        worker: dial.worker,
        incarnation: dial.incarnation,
        isa,
        timeouts: dial.timeouts,
    });
    let epochs: Vec<Epoch> = heads.iter().map(|head| head.epoch).collect();
    session.set_epochs(&epochs);
    session.set_hosts(&heads.iter().map(|head| head.server).collect::<Vec<_>>());
    session.read_from(spec.reading);
    dial.connect_max = dial.connect_max.min(RECONNECT_MAX);
    let routes = Guide::start(Arc::clone(&spec.placements), dial, epochs, waker);
    session.follow(Box::new(routes.map_err(ClusterError::Thread)?), spec.patience);
    Ok(session)
}

/// A server that answers for a shard: its head, or for pulls alone a replica behind it.
#[derive(Clone, Debug)]
struct Answerer {
    shard: ShardId,
    epoch: Epoch,
    to: RouteTo,
    server: ServerId,
    server_name: String,
    place: Place,
}

impl Answerer {
    /// What errors call it.
    fn name(&self) -> String {
        format!("{} ({}) at {}, {}", self.server_name, self.server, self.place, self.shard)
    }

    fn greet(&self, isa: Isa, dial: &Dial) -> Result<transport::Link, ConnectError> {
        let message_bytes_max = dial.limits.message_bytes_max;
        let flags = match self.to {
            RouteTo::Head => Flags::NONE,
            RouteTo::Replica => Flags::ANY_REPLICA,
        };
        let hello = Hello { shard: self.shard.get(), epoch: self.epoch, flags, message_bytes_max };
        greet(isa, &self.place, hello, dial)
    }
}

/// Who answers for a shard in a placement.
fn head(placement: &Placement, shard: usize) -> Result<Answerer, ClusterError> {
    let shard = ShardId::new(u16::try_from(shard).expect("`Placement::check` has bounded them"));
    let (Some(chain), Some(member)) = (placement.chain(shard), placement.head(shard)) else {
        let (epoch, cause) = (placement.epoch, placement.cause.clone());
        return Err(ClusterError::ShardLost { shard, epoch, cause });
    };
    answerer(shard, chain, member, RouteTo::Head)
}

fn answerer(
    shard: ShardId,
    chain: &Chain,
    member: &Member,
    to: RouteTo,
) -> Result<Answerer, ClusterError> {
    let server = member.server;
    let wrong = |_| ClusterError::Place { server, place: member.place.clone() };
    let place = Place::from_str(&member.place).map_err(wrong)?;
    let (epoch, server_name) = (chain.epoch, member.name.clone());
    Ok(Answerer { shard, epoch, to, server, server_name, place })
}

/// The replicas behind the head of a shard that a wish is for.
fn replicas(placement: &Placement, shard: usize, wish: &ReplicaWish) -> Vec<Answerer> {
    let Ok(shard) = u16::try_from(shard).map(ShardId::new) else { return Vec::new() };
    let Some(chain) = placement.chain(shard) else { return Vec::new() };
    let behind = chain.replicas.iter().skip(1).filter(|&&server| wish.is_for(server));
    let members = behind.filter_map(|&server| placement.member(server));
    members.filter_map(|it| answerer(shard, chain, it, RouteTo::Replica).ok()).collect()
}

/// A session's side of the thread that makes its links.
struct Guide {
    wants: Sender<Want>,
    found: Receiver<Route>,
}

/// What a session asks for.
enum Want {
    /// A link to the head of a shard, whose epoch it knows as this one.
    Head(ShardId, Epoch),
    /// Links to replicas of a shard; or to one, which was lost.
    Replicas(ShardId, Option<ServerId>),
}

impl Guide {
    /// Starts the thread; it ends when the guide is dropped.
    fn start(
        placements: Arc<Watch>,
        dial: Dial,
        epochs: Vec<Epoch>,
        waker: Waker,
    ) -> Result<Guide, std::io::Error> {
        // A session wants each link once until it gets one, so both are bounded by its links.
        let (wants, wanted) = channel();
        let (sender, found) = sync_channel(epochs.len());
        let shard = |epoch| Shard { epoch, wish: None, reads_replicas: false, replicas: None };
        let shards = epochs.into_iter().map(shard).collect();
        let isa = Isa::detect();
        let scout = Scout { placements, dial, isa, shards, sender, waker };
        thread::Builder::new().name("routes".to_owned()).spawn(move || scout.run(&wanted))?;
        Ok(Guide { wants, found })
    }
}

impl Routes for Guide {
    fn poll(&mut self) -> Option<Route> {
        self.found.try_recv().ok()
    }

    fn want(&mut self, shard: ShardId, epoch: Epoch) {
        // A thread that ended by a panic hears nothing: the session's patience ends by itself.
        let _ = self.wants.send(Want::Head(shard, epoch));
    }

    fn want_replicas(&mut self, shard: ShardId, lost: Option<ServerId>) {
        let _ = self.wants.send(Want::Replicas(shard, lost));
    }
}

/// The thread: looks for heads and connects to them.
struct Scout {
    placements: Arc<Watch>,
    dial: Dial,
    isa: Isa,
    /// By number.
    shards: Vec<Shard>,
    sender: SyncSender<Route>,
    waker: Waker,
}

/// What is known of a shard, and wanted.
struct Shard {
    /// Of the newest link that was handed over.
    epoch: Epoch,
    wish: Option<Wish>,
    /// Whether the session wants links to its replicas, too.
    reads_replicas: bool,
    /// Those that are to be made.
    replicas: Option<ReplicaWish>,
}

/// Links to replicas that are to be made.
struct ReplicaWish {
    wish: Wish,
    /// To these; none: to all.
    servers: Option<Vec<ServerId>>,
}

/// A link that is to be made.
struct Wish {
    /// Not before.
    at: Instant,
    retry: Duration,
}

impl Wish {
    fn new() -> Wish {
        Wish { at: Instant::now(), retry: RETRY_FIRST }
    }

    /// Whether it is time; if so, it is time again after a longer while.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.at <= now;
        if is_due {
            (self.at, self.retry) = (now + self.retry, (2 * self.retry).min(RETRY_MAX));
        }
        is_due
    }
}

impl ReplicaWish {
    fn is_for(&self, server: ServerId) -> bool {
        self.servers.as_ref().is_none_or(|servers| servers.contains(&server))
    }
}

impl Scout {
    fn run(mut self, wanted: &Receiver<Want>) {
        let mut placement_seen = Epoch::default();
        loop {
            match wanted.recv_timeout(self.until_next()) {
                Ok(Want::Head(shard, epoch)) => self.note_want(shard, epoch),
                Ok(Want::Replicas(shard, lost)) => self.note_replicas_wanted(shard, lost),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(placement) = self.placements.newest() else { continue };
            if placement.epoch > placement_seen {
                placement_seen = placement.epoch;
                self.note_moved(&placement);
            }
            self.connect_due(&placement);
        }
    }

    /// How long there is nothing to do.
    fn until_next(&self) -> Duration {
        let now = Instant::now();
        let replicas = |shard: &Shard| shard.replicas.as_ref().map(|it| it.wish.at);
        let heads = |shard: &Shard| shard.wish.as_ref().map(|wish| wish.at);
        let due = self.shards.iter().flat_map(|shard| [heads(shard), replicas(shard)]).flatten();
        let next = due.map(|at| at.saturating_duration_since(now)).min();
        next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }

    /// The session has lost its link to a shard.
    fn note_want(&mut self, shard: ShardId, epoch: Epoch) {
        let newest = self.placements.newest();
        if let Some(placement) = newest
            && let Some(chain) = placement.chain(shard)
            && chain.epoch == epoch
            && let Some(&head) = chain.replicas.first()
        {
            self.placements.suspect(head);
        }
        let shard = &mut self.shards[shard.index()];
        // A route on its way to the session may have overtaken its word.
        if epoch >= shard.epoch {
            shard.wish.get_or_insert_with(Wish::new);
        }
    }

    /// The session wants links to replicas, or has lost one.
    fn note_replicas_wanted(&mut self, shard: ShardId, lost: Option<ServerId>) {
        let shard = &mut self.shards[shard.index()];
        shard.reads_replicas = true;
        let servers = lost.map(|lost| vec![lost]);
        match (&mut shard.replicas, servers) {
            (Some(ReplicaWish { servers: Some(all), .. }), Some(more)) => all.extend(more),
            (Some(ReplicaWish { servers: None, .. }), Some(_)) => {}
            (_, servers) => {
                shard.replicas = Some(ReplicaWish { wish: Wish::new(), servers });
            }
        }
    }

    /// Shards that have other servers by now are asked there, though their links may still work.
    fn note_moved(&mut self, placement: &Placement) {
        for (shard, chain) in self.shards.iter_mut().zip(&placement.chains) {
            if chain.epoch > shard.epoch {
                shard.wish = Some(Wish::new());
                let all = || ReplicaWish { wish: Wish::new(), servers: None };
                shard.replicas = shard.reads_replicas.then(all);
            }
        }
    }

    /// Connects where it is time to, server by server, all servers at once: one that does not
    /// answer holds up no other.
    fn connect_due(&mut self, placement: &Placement) {
        let now = Instant::now();
        let mut wanted: Vec<Answerer> = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            if shard.wish.as_mut().is_some_and(|wish| wish.is_due(now)) {
                match head(placement, number) {
                    Ok(head) if head.epoch >= shard.epoch => wanted.push(head),
                    _ => {} // Nobody answers for it yet.
                }
            }
            if let Some(wish) = &mut shard.replicas
                && wish.wish.is_due(now)
            {
                let behind = replicas(placement, number, wish);
                // One that has left the chain is waited for no longer.
                wish.servers = Some(behind.iter().map(|one| one.server).collect());
                if behind.is_empty() {
                    shard.replicas = None;
                }
                wanted.extend(behind);
            }
        }
        if wanted.is_empty() {
            return;
        }
        wanted.sort_by_key(|one| one.server);
        let (isa, dial) = (self.isa, &self.dial);
        let made = thread::scope(|scope| {
            let one = |wanted: &[Answerer]| -> Vec<Route> {
                wanted.iter().map_while(|one| connect_one(isa, dial, one)).collect()
            };
            let servers = wanted.chunk_by(|left, right| left.server == right.server);
            let running: Vec<_> = servers.map(|some| scope.spawn(move || one(some))).collect();
            let joined = running.into_iter().filter_map(|thread| thread.join().ok());
            joined.flatten().collect::<Vec<Route>>()
        });
        for route in made {
            self.shards[route.shard.index()].note_made(&route);
            if self.sender.send(route).is_err() {
                return; // The session is gone; so is this thread, soon.
            }
        }
        self.waker.wake();
    }
}

impl Shard {
    /// A link has been made.
    fn note_made(&mut self, route: &Route) {
        match route.to {
            RouteTo::Head => (self.epoch, self.wish) = (route.epoch, None),
            RouteTo::Replica => {
                let missing = self.replicas.as_mut().and_then(|wish| wish.servers.as_mut());
                missing.into_iter().for_each(|servers| servers.retain(|&one| one != route.host));
            }
        }
    }
}

/// A link to who answers for a shard, unless it cannot be had now.
fn connect_one(isa: Isa, dial: &Dial, one: &Answerer) -> Option<Route> {
    let link = one.greet(isa, dial).ok()?;
    let (shard, epoch, to, host) = (one.shard, one.epoch, one.to, one.server);
    Some(Route { shard, epoch, to, host, server: one.name(), link })
}

impl ClusterError {
    /// Whether waiting does not help.
    fn is_final(&self) -> bool {
        matches!(self, ClusterError::Thread(_) | ClusterError::NoPlacement(WatchError::Denied(_)))
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterError::NoPlacement(denied @ WatchError::Denied(_)) => denied.fmt(f),
            ClusterError::NoPlacement(none) => {
                write!(f, "{none}; is the coordinator there, and are enough servers?")
            }
            ClusterError::ShardLost { shard, epoch, cause } => write!(
                f,
                "{shard} has no server left at {epoch} ({cause}): start anew from a checkpoint, \
                 and with more replicas"
            ),
            ClusterError::Place { server, place } => {
                write!(f, "{server} says that it listens at '{place}', which is no place")
            }
            ClusterError::Connect(error) => error.fmt(f),
            ClusterError::Routing(error) => error.fmt(f),
            ClusterError::Thread(error) => write!(f, "no thread for the cluster's links: {error}"),
        }
    }
}

impl std::error::Error for ClusterError {}
