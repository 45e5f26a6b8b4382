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
use wire::{Epoch, Placement, Routing, RoutingError, ServerId, ShardId};

use crate::connect::{ConnectError, Dial, Hello, Place, ask, greet, open};
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
        servers: heads.iter().map(Head::name).collect(),
        routing,
        worker: dial.worker,
        incarnation: dial.incarnation,
        isa,
        timeouts: dial.timeouts,
    });
    let epochs: Vec<Epoch> = heads.iter().map(|head| head.epoch).collect();
    session.set_epochs(&epochs);
    dial.connect_max = dial.connect_max.min(RECONNECT_MAX);
    let routes = Guide::start(Arc::clone(&spec.placements), dial, epochs, waker);
    session.follow(Box::new(routes.map_err(ClusterError::Thread)?), spec.patience);
    Ok(session)
}

/// Who answers for a shard.
#[derive(Clone, Debug)]
struct Head {
    shard: ShardId,
    epoch: Epoch,
    server: ServerId,
    server_name: String,
    place: Place,
}

impl Head {
    /// What errors call it.
    fn name(&self) -> String {
        format!("{} ({}) at {}, {}", self.server_name, self.server, self.place, self.shard)
    }

    fn greet(&self, isa: Isa, dial: &Dial) -> Result<transport::Link, ConnectError> {
        let message_bytes_max = dial.limits.message_bytes_max;
        let hello = Hello { shard: self.shard.get(), epoch: self.epoch, message_bytes_max };
        greet(isa, &self.place, hello, dial)
    }
}

/// Who answers for a shard in a placement.
fn head(placement: &Placement, shard: usize) -> Result<Head, ClusterError> {
    let shard = ShardId::new(u16::try_from(shard).expect("`Placement::check` has bounded them"));
    let (Some(chain), Some(member)) = (placement.chain(shard), placement.head(shard)) else {
        let (epoch, cause) = (placement.epoch, placement.cause.clone());
        return Err(ClusterError::ShardLost { shard, epoch, cause });
    };
    let server = member.server;
    let wrong = |_| ClusterError::Place { server, place: member.place.clone() };
    let place = Place::from_str(&member.place).map_err(wrong)?;
    Ok(Head { shard, epoch: chain.epoch, server, server_name: member.name.clone(), place })
}

/// A session's side of the thread that makes its links.
struct Guide {
    wants: Sender<(ShardId, Epoch)>,
    found: Receiver<Route>,
}

impl Guide {
    /// Starts the thread; it ends when the guide is dropped.
    fn start(
        placements: Arc<Watch>,
        dial: Dial,
        epochs: Vec<Epoch>,
        waker: Waker,
    ) -> Result<Guide, std::io::Error> {
        // A session wants each shard once until it gets a link, so both are bounded by shards.
        let (wants, wanted) = channel();
        let (sender, found) = sync_channel(epochs.len());
        let shards = epochs.into_iter().map(|epoch| Shard { epoch, wish: None }).collect();
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
        let _ = self.wants.send((shard, epoch));
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
}

/// A link that is to be made.
struct Wish {
    /// Not before.
    at: Instant,
    retry: Duration,
}

impl Scout {
    fn run(mut self, wanted: &Receiver<(ShardId, Epoch)>) {
        let mut placement_seen = Epoch::default();
        loop {
            match wanted.recv_timeout(self.until_next()) {
                Ok((shard, epoch)) => self.note_want(shard, epoch),
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
        let due = self.shards.iter().filter_map(|shard| shard.wish.as_ref());
        let next = due.map(|wish| wish.at.saturating_duration_since(now)).min();
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
            shard.wish.get_or_insert(Wish { at: Instant::now(), retry: RETRY_FIRST });
        }
    }

    /// Shards that have other servers by now are asked there, though their links may still work.
    fn note_moved(&mut self, placement: &Placement) {
        for (shard, chain) in self.shards.iter_mut().zip(&placement.chains) {
            if chain.epoch > shard.epoch {
                shard.wish = Some(Wish { at: Instant::now(), retry: RETRY_FIRST });
            }
        }
    }

    /// Connects where it is time to, server by server, all servers at once: one that does not
    /// answer holds up no other.
    fn connect_due(&mut self, placement: &Placement) {
        let now = Instant::now();
        let mut heads: Vec<Head> = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let Some(wish) = &mut shard.wish else { continue };
            if wish.at > now {
                continue;
            }
            (wish.at, wish.retry) = (now + wish.retry, (2 * wish.retry).min(RETRY_MAX));
            match head(placement, number) {
                Ok(head) if head.epoch >= shard.epoch => heads.push(head),
                _ => {} // Nobody answers for it yet.
            }
        }
        if heads.is_empty() {
            return;
        }
        heads.sort_by_key(|head| head.server);
        let (isa, dial) = (self.isa, &self.dial);
        let made = thread::scope(|scope| {
            let one = |heads: &[Head]| -> Vec<Route> {
                heads.iter().map_while(|head| connect_one(isa, dial, head)).collect()
            };
            let servers = heads.chunk_by(|left, right| left.server == right.server);
            let running: Vec<_> = servers.map(|heads| scope.spawn(move || one(heads))).collect();
            let joined = running.into_iter().filter_map(|thread| thread.join().ok());
            joined.flatten().collect::<Vec<Route>>()
        });
        for route in made {
            let shard = &mut self.shards[route.shard.index()];
            (shard.epoch, shard.wish) = (route.epoch, None);
            if self.sender.send(route).is_err() {
                return; // The session is gone; so is this thread, soon.
            }
        }
        self.waker.wake();
    }
}

/// A link to the head of a shard, unless it cannot be had now.
fn connect_one(isa: Isa, dial: &Dial, head: &Head) -> Option<Route> {
    match head.greet(isa, dial) {
        Ok(link) => {
            let (shard, epoch, server) = (head.shard, head.epoch, head.name());
            Some(Route { shard, epoch, server, link })
        }
        Err(_) => None,
    }
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
