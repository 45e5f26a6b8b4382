//! Links to successors: one for each shard that has one, made again when it is lost.
//!
//! Owns the thread that knows which links are wanted, and their handshakes, each in a short-lived
//! thread of its own, so that a host that does not answer holds up no other link. The server's side
//! of the handshake is `handshake`; what goes over a link, `chains`.
//!
//! Invariant: a link is made for the last placement's epoch of its chain only; attempts under way
//! are bounded, and each ends by a deadline.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::Isa;
use kernels::crc32c::crc32c;
use transport::{Limits, Link, shm, tcp};
use wire::{
    Epoch, HEADER_BYTES, Header, Kind, Refusal, Seal, ServerId, ShardId, Status, WorkerId,
    read_header, seal,
};

use crate::core_thread::{Command, CoreHandle, Placed};
use crate::report::Report;
use crate::spec::ServerSpec;

/// How long connecting to a successor, with its handshake, may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long after a first failure it is tried again; twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(5);
/// The longest time between two tries.
const RETRY_MAX: Duration = Duration::from_millis(200);
/// Failures after which the coordinator hears of it, and of each so many more.
const TRIES_A_REPORT: u32 = 3;

/// Attempts under way at once; further ones wait.
const ATTEMPTS_MAX: usize = 64;
/// News that wait; one too many of a lost link is found out by its silence.
const NEWS_MAX: usize = 4096;
/// How often the thread looks around at least.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Begins the name of a place in the file system.
const UNIX_PREFIX: &str = "unix:";

/// What the thread hears of.
#[derive(Clone, Debug)]
pub(crate) enum LinkNews {
    /// Other links are wanted.
    Placed(Arc<Placed>),
    /// The link of this shard, of this epoch, is over.
    Lost(ShardId, Epoch),
    /// An attempt has ended.
    Tried(ShardId, Epoch, Ended),
    /// No link is wanted any more.
    Stop,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The core has the link.
    Linked,
    /// The successor is at this epoch of the chain.
    OtherEpoch(Epoch),
    /// There is no way.
    Failed,
}

/// The thread; dropped, it ends.
#[derive(Debug)]
pub(crate) struct ChainLinks {
    news: SyncSender<LinkNews>,
    thread: Option<JoinHandle<()>>,
}

/// A channel to the thread.
pub(crate) type Channel = (SyncSender<LinkNews>, Receiver<LinkNews>);

/// A link that shall be.
#[derive(Debug)]
struct Wanted {
    epoch: Epoch,
    server: ServerId,
    place: String,
    /// When it is tried next; none while it is there or tried.
    due: Option<Instant>,
    failures: u32,
}

struct Links {
    wanted: BTreeMap<ShardId, Wanted>,
    under_way: usize,
    cores: Arc<[CoreHandle]>,
    limits: Limits,
    report: SyncSender<Report>,
    news: SyncSender<LinkNews>,
}

impl ChainLinks {
    /// A channel to a thread that is yet to start.
    pub(crate) fn channel() -> Channel {
        sync_channel(NEWS_MAX)
    }

    /// Starts the thread.
    pub(crate) fn start(
        (news, inbox): Channel,
        cores: Arc<[CoreHandle]>,
        spec: &ServerSpec,
        report: SyncSender<Report>,
    ) -> io::Result<ChainLinks> {
        let (wanted, limits, ours) = (BTreeMap::new(), spec.limits, news.clone());
        let mut links = Links { wanted, under_way: 0, cores, limits, report, news: ours };
        let run = move || links.run(&inbox);
        let thread = std::thread::Builder::new().name("chain-links".to_owned()).spawn(run)?;
        Ok(ChainLinks { news, thread: Some(thread) })
    }

    /// Tells the thread something.
    pub(crate) fn tell(&self, news: LinkNews) {
        let _ = self.news.send(news);
    }
}

impl Drop for ChainLinks {
    fn drop(&mut self) {
        self.tell(LinkNews::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Links {
    fn run(&mut self, inbox: &Receiver<LinkNews>) {
        loop {
            let due = self.wanted.values().filter_map(|wanted| wanted.due).min();
            let wait = due.map_or(LOOK_EVERY, |due| due.saturating_duration_since(Instant::now()));
            match inbox.recv_timeout(wait.min(LOOK_EVERY)) {
                Ok(LinkNews::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(LinkNews::Placed(placed)) => self.want(&placed),
                Ok(LinkNews::Lost(shard, epoch)) => self.try_again(shard, epoch, Duration::ZERO),
                Ok(LinkNews::Tried(shard, epoch, ended)) => {
                    self.under_way -= 1;
                    self.tried(shard, epoch, ended);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.try_due();
        }
    }

    /// Notes the links of a placement. Those whose chain has not changed stay as they are.
    fn want(&mut self, placed: &Placed) {
        let mut before = std::mem::take(&mut self.wanted);
        for (shard, chain) in placed.placement.shards() {
            let station = chain.station(placed.ours);
            let Some((server, _)) = station.and_then(|station| station.downstream) else {
                continue;
            };
            let known = before.remove(&shard).filter(|known| known.epoch == chain.epoch);
            let member = placed.placement.member(server);
            let place = member.map(|member| member.place.clone()).unwrap_or_default();
            let (epoch, due) = (chain.epoch, Some(Instant::now()));
            let fresh = || Wanted { epoch, server, place, due, failures: 0 };
            self.wanted.insert(shard, known.unwrap_or_else(fresh));
        }
    }

    /// A link of a chain's epoch is to be made again, if it is still wanted.
    fn try_again(&mut self, shard: ShardId, epoch: Epoch, after: Duration) {
        let wanted = self.wanted.get_mut(&shard).filter(|wanted| wanted.epoch == epoch);
        if let Some(wanted) = wanted {
            wanted.due = Some(Instant::now() + after);
        }
    }

    fn tried(&mut self, shard: ShardId, epoch: Epoch, ended: Ended) {
        let wanted = self.wanted.get_mut(&shard).filter(|wanted| wanted.epoch == epoch);
        let Some(wanted) = wanted else { return };
        match ended {
            Ended::Linked => return wanted.failures = 0,
            Ended::OtherEpoch(other) if other > epoch => {
                let core = &self.cores[shard.index() % self.cores.len()];
                core.tell(Command::Fence(shard, other));
            }
            Ended::OtherEpoch(_) | Ended::Failed => {}
        }
        wanted.failures += 1;
        if ended == Ended::Failed && wanted.failures.is_multiple_of(TRIES_A_REPORT) {
            let server = wanted.server;
            let _ = self.report.try_send(Report::SuccessorLost { shard, epoch, server });
        }
        let doubled = RETRY_FIRST * 2_u32.saturating_pow(wanted.failures - 1);
        self.try_again(shard, epoch, doubled.min(RETRY_MAX));
    }

    /// Tries what is due, as far as there is room.
    fn try_due(&mut self) {
        let now = Instant::now();
        for (&shard, wanted) in &mut self.wanted {
            if self.under_way >= ATTEMPTS_MAX || wanted.due.is_none_or(|due| due > now) {
                continue;
            }
            wanted.due = None;
            let (epoch, place, limits) = (wanted.epoch, wanted.place.clone(), self.limits);
            let (cores, news) = (Arc::clone(&self.cores), self.news.clone());
            let attempt = move || {
                let ended = match connect(&place, shard, epoch, &limits) {
                    Ok(link) => {
                        let core = &cores[shard.index() % cores.len()];
                        core.tell(Command::Successor(shard, epoch, link));
                        Ended::Linked
                    }
                    Err(Unlinked::Refused(Refusal::EpochMismatch { shard: other })) => {
                        Ended::OtherEpoch(other)
                    }
                    Err(error) => {
                        tracing::warn!(%error, %shard, %epoch, place, "no link to the successor");
                        Ended::Failed
                    }
                };
                let _ = news.send(LinkNews::Tried(shard, epoch, ended));
            };
            let started = std::thread::Builder::new().name("chain-link".to_owned()).spawn(attempt);
            match started {
                Ok(_) => self.under_way += 1,
                Err(_) => wanted.due = Some(now + RETRY_MAX),
            }
        }
    }
}

/// Why there is no link.
#[derive(Debug)]
enum Unlinked {
    Io(io::Error),
    /// What answers there speaks another language.
    Malformed,
    /// The successor takes shorter messages than this server.
    TooShort {
        theirs: u64,
        ours: usize,
    },
    Refused(Refusal),
}

fn connect(place: &str, shard: ShardId, epoch: Epoch, limits: &Limits) -> Result<Link, Unlinked> {
    let hello = Header {
        epoch: epoch.get(),
        worker: WorkerId::PREDECESSOR.get(),
        table: shard.get(),
        sequence: limits.message_bytes_max as u64,
        ..Header::new(Kind::Hello)
    };
    if let Some(path) = place.strip_prefix(UNIX_PREFIX) {
        let mut stream = UnixStream::connect(Path::new(path)).map_err(Unlinked::Io)?;
        stream.set_read_timeout(Some(CONNECT_MAX)).map_err(Unlinked::Io)?;
        stream.set_write_timeout(Some(CONNECT_MAX)).map_err(Unlinked::Io)?;
        introduce(&mut stream, hello, limits)?;
        let end = shm::offer(stream, shm::ring_bytes(limits));
        let end = end.map_err(|error| Unlinked::Io(io::Error::other(error.to_string())))?;
        return Ok(Link::Shm(end));
    }
    let mut stream = tcp::connect(place, CONNECT_MAX)
        .map_err(|error| Unlinked::Io(io::Error::other(error.to_string())))?;
    stream.set_nodelay(true).map_err(Unlinked::Io)?;
    stream.set_read_timeout(Some(CONNECT_MAX)).map_err(Unlinked::Io)?;
    stream.set_write_timeout(Some(CONNECT_MAX)).map_err(Unlinked::Io)?;
    introduce(&mut stream, hello, limits)?;
    stream.set_read_timeout(None).map_err(Unlinked::Io)?;
    stream.set_write_timeout(None).map_err(Unlinked::Io)?;
    Ok(Link::Tcp(stream))
}

/// Says hello and reads the welcome.
fn introduce(
    stream: &mut (impl Read + Write),
    hello: Header,
    limits: &Limits,
) -> Result<(), Unlinked> {
    let isa = Isa::detect();
    let crc = |bytes: &[u8]| crc32c(isa, 0, bytes);
    let mut bytes = [0; HEADER_BYTES];
    seal(&mut bytes, hello, Seal::HeaderOnly, crc);
    stream.write_all(&bytes).map_err(Unlinked::Io)?;
    stream.read_exact(&mut bytes).map_err(Unlinked::Io)?;
    let welcome = read_header(&bytes, crc).map_err(|_| Unlinked::Malformed)?;
    match (welcome.kind(), welcome.status()) {
        (Kind::Welcome, Ok(Status::Refused(refusal))) => Err(Unlinked::Refused(refusal)),
        (Kind::Welcome, Ok(_)) if welcome.sequence >= limits.message_bytes_max as u64 => Ok(()),
        (Kind::Welcome, Ok(_)) => {
            let ours = limits.message_bytes_max;
            Err(Unlinked::TooShort { theirs: welcome.sequence, ours })
        }
        _ => Err(Unlinked::Malformed),
    }
}

impl std::fmt::Display for Unlinked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unlinked::Io(error) => error.fmt(f),
            Unlinked::Malformed => f.write_str("what answers there is no gradwire of this version"),
            Unlinked::TooShort { theirs, ours } => {
                write!(f, "its messages have {theirs} bytes at most, ours {ours}")
            }
            Unlinked::Refused(refusal) => refusal.fmt(f),
        }
    }
}
