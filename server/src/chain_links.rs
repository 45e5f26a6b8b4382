//! Links to successors: one for each shard that has one, made again when it is lost.
//!
//! Owns the thread that knows which links are wanted, and their handshakes, each in a short-lived
//! thread of its own, so that a host that does not answer holds up no other link. The server's side
//! of the handshake is `handshake`; what goes over a link, `chains`.
//!
//! Invariant: a link is made for the last placement's epoch of its chain only; attempts under way
//! are bounded, and each ends by a deadline.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::Isa;
use kernels::crc32c::crc32c;
use transport::dial::{self, Address, DialError};
use transport::{Limits, Link};
use wire::{Epoch, Header, Kind, Refusal, ServerId, ShardId, Time, WorkerId};

use crate::core_thread::{Command, CoreHandle, NoRoom, Placed};
use crate::redial::{RETRY_MAX, Redial, Tried};
use crate::report::Report;
use crate::spec::ServerSpec;

/// How long connecting to a successor, with its handshake, may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Attempts under way at once; further ones wait.
const ATTEMPTS_MAX: usize = 64;
/// News that wait; a core keeps one too many and says it later.
const NEWS_MAX: usize = 4096;
/// How often the thread looks around at least.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the thread hears of.
#[derive(Clone, Debug)]
pub(crate) enum LinkNews {
    /// Other links are wanted.
    Placed(Arc<Placed>),
    /// The link of this shard, of this epoch, is over.
    Lost(ShardId, Epoch),
    /// The successor of this shard, in this epoch, has spoken over its link.
    Heard(ShardId, Epoch),
    /// An attempt has ended.
    Tried(ShardId, Epoch, Tried),
    /// No link is wanted any more.
    Stop,
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
    redial: Redial,
}

struct Links {
    wanted: BTreeMap<ShardId, Wanted>,
    under_way: usize,
    cores: Arc<[CoreHandle]>,
    limits: Limits,
    report: SyncSender<Report>,
    /// Reports that found no room, the last of each shard: said later.
    unsaid: BTreeMap<ShardId, Report>,
    news: SyncSender<LinkNews>,
    began: Instant,
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
        let (wanted, unsaid) = (BTreeMap::new(), BTreeMap::new());
        let (limits, news, ours) = (spec.limits, news.clone(), news);
        let (under_way, began) = (0, Instant::now());
        let mut links =
            Links { wanted, under_way, cores, limits, report, unsaid, news: ours, began };
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
                Ok(LinkNews::Lost(shard, epoch)) => self.ended(shard, epoch),
                Ok(LinkNews::Heard(shard, epoch)) => self.heard(shard, epoch),
                Ok(LinkNews::Tried(shard, epoch, tried)) => {
                    self.under_way -= 1;
                    self.tried(shard, epoch, tried);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.say_unsaid();
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
            let fresh = || Wanted { epoch, server, place, due, redial: Redial::default() };
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

    /// A link is over.
    fn ended(&mut self, shard: ShardId, epoch: Epoch) {
        let wanted = self.wanted.get_mut(&shard).filter(|wanted| wanted.epoch == epoch);
        let Some(wanted) = wanted else { return };
        let (again, server) = (wanted.redial.ended(), wanted.server);
        if again.is_lost {
            let place = &wanted.place;
            tracing::warn!(%shard, %epoch, place, "the successor takes links and says nothing");
            self.say(shard, Report::SuccessorLost { shard, epoch, server });
        }
        if let Some(after) = again.after {
            self.try_again(shard, epoch, after);
        }
    }

    fn tried(&mut self, shard: ShardId, epoch: Epoch, tried: Tried) {
        let now = Time::default() + self.began.elapsed();
        let wanted = self.wanted.get_mut(&shard).filter(|wanted| wanted.epoch == epoch);
        let Some(wanted) = wanted else { return };
        let (again, server) = (wanted.redial.tried(now, tried), wanted.server);
        if let Tried::OtherEpoch(other) = tried
            && other > epoch
        {
            // One that the core has no room for is found out by the next try.
            let core = &self.cores[shard.index() % self.cores.len()];
            let _ = core.tell(Command::Fence(shard, other));
        }
        if again.is_lost {
            self.say(shard, Report::SuccessorLost { shard, epoch, server });
        }
        if let Some(after) = again.after {
            self.try_again(shard, epoch, after);
        }
    }

    /// A successor has spoken.
    fn heard(&mut self, shard: ShardId, epoch: Epoch) {
        let wanted = self.wanted.get_mut(&shard).filter(|wanted| wanted.epoch == epoch);
        if wanted.is_some_and(|wanted| wanted.redial.heard()) {
            self.say(shard, Report::SuccessorBack { shard, epoch });
        }
    }

    /// Tells the coordinator something of a shard; later, if there is no room now.
    fn say(&mut self, shard: ShardId, report: Report) {
        self.unsaid.insert(shard, report); // A later one overtakes one that found no room.
        self.say_unsaid();
    }

    fn say_unsaid(&mut self) {
        for (shard, report) in std::mem::take(&mut self.unsaid) {
            if let Err(TrySendError::Full(report)) = self.report.try_send(report) {
                self.unsaid.insert(shard, report);
            }
        }
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
                let tried = match connect(&place, shard, epoch, &limits) {
                    Ok(link) => hand_over(&cores[shard.index() % cores.len()], shard, epoch, link),
                    Err(error) => fate(&error, epoch).unwrap_or_else(|| {
                        tracing::warn!(%error, %shard, %epoch, place, "no link to the successor");
                        Tried::Failed
                    }),
                };
                let _ = news.send(LinkNews::Tried(shard, epoch, tried));
            };
            let started = std::thread::Builder::new().name("chain-link".to_owned()).spawn(attempt);
            match started {
                Ok(_) => self.under_way += 1,
                Err(_) => wanted.due = Some(now + RETRY_MAX),
            }
        }
    }
}

/// Gives a core its link.
fn hand_over(core: &CoreHandle, shard: ShardId, epoch: Epoch, link: Link) -> Tried {
    match core.tell(Command::Successor(shard, epoch, link)) {
        Ok(()) => Tried::Linked,
        Err(NoRoom) => {
            tracing::warn!(%shard, %epoch, "the core has no room for a link; it is made again");
            Tried::NoRoom
        }
    }
}

/// How a try ended whose successor only is not where this server is; none if it failed.
fn fate(error: &Unlinked, epoch: Epoch) -> Option<Tried> {
    match *error {
        Unlinked::Dial(DialError::Refused(Refusal::EpochMismatch { shard })) => {
            Some(Tried::OtherEpoch(shard))
        }
        Unlinked::Dial(DialError::Refused(Refusal::NotHead { shard })) if shard < epoch => {
            Some(Tried::Unheard)
        }
        _ => None,
    }
}

/// Why there is no link.
#[derive(Debug)]
enum Unlinked {
    Dial(DialError),
    /// The successor takes shorter messages than this server.
    TooShort {
        theirs: u64,
        ours: usize,
    },
}

fn connect(place: &str, shard: ShardId, epoch: Epoch, limits: &Limits) -> Result<Link, Unlinked> {
    let ours = limits.message_bytes_max;
    let hello = Header {
        epoch: epoch.get(),
        worker: WorkerId::PREDECESSOR.get(),
        table: shard.get(),
        sequence: ours as u64,
        ..Header::new(Kind::Hello)
    };
    let isa = Isa::detect();
    let crc = |bytes: &[u8]| crc32c(isa, 0, bytes);
    let linked = dial::link(Address::of(place), hello, (limits, CONNECT_MAX), crc);
    let (link, welcome) = linked.map_err(Unlinked::Dial)?;
    match welcome.sequence {
        theirs if theirs >= ours as u64 => Ok(link),
        theirs => Err(Unlinked::TooShort { theirs, ours }),
    }
}

impl std::fmt::Display for Unlinked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unlinked::Dial(error) => error.fmt(f),
            Unlinked::TooShort { theirs, ours } => {
                write!(f, "its messages have {theirs} bytes at most, ours {ours}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use transport::shm;

    use super::*;

    fn a_link() -> Link {
        Link::Shm(shm::pair(shm::RING_BYTES_MIN).expect("memory").0)
    }

    #[test]
    fn a_link_that_a_core_has_no_room_for_is_made_again() {
        let (core, inbox) = CoreHandle::for_tests(1);
        let (shard, epoch) = (ShardId::new(0), Epoch::new(3));
        assert_eq!(hand_over(&core, shard, epoch, a_link()), Tried::Linked);
        assert_eq!(hand_over(&core, shard, epoch, a_link()), Tried::NoRoom);
        assert!(matches!(inbox.recv(), Ok(Command::Successor(..))));
        assert_eq!(hand_over(&core, shard, epoch, a_link()), Tried::Linked);
    }

    #[test]
    fn who_has_not_heard_of_the_chain_is_told_from_who_says_no() {
        let epoch = Epoch::new(3);
        let refused = |refusal| fate(&Unlinked::Dial(DialError::Refused(refusal)), epoch);
        let not_head = |shard| refused(Refusal::NotHead { shard: Epoch::new(shard) });
        let other = |shard| refused(Refusal::EpochMismatch { shard: Epoch::new(shard) });
        assert_eq!(not_head(0), Some(Tried::Unheard));
        assert_eq!(not_head(3), None);
        assert_eq!(other(2), Some(Tried::OtherEpoch(Epoch::new(2))));
        assert_eq!(refused(Refusal::NoSuchShard { shards: 1 }), None);
    }

    #[test]
    fn a_report_without_room_is_said_when_there_is_some() {
        let (report, reports) = sync_channel(1);
        let (news, inbox) = ChainLinks::channel();
        let (shard, epoch, server) = (ShardId::new(0), Epoch::new(3), ServerId::new(2));
        let wanted = Wanted {
            epoch,
            server,
            place: "unix:/nowhere/at/all".to_owned(),
            due: None,
            redial: Redial::default(),
        };
        let mut links = Links {
            wanted: [(shard, wanted)].into(),
            under_way: 0,
            cores: Vec::new().into(),
            limits: Limits::default(),
            report: report.clone(),
            unsaid: BTreeMap::new(),
            news: news.clone(),
            began: Instant::now(),
        };
        report.try_send(Report::Refused { shard, epoch }).expect("room for one");
        for _ in 0..3 {
            links.tried(shard, epoch, Tried::Failed);
        }
        links.wanted.get_mut(&shard).expect("it is wanted").due = None;
        assert!(matches!(reports.try_recv(), Ok(Report::Refused { .. })));
        assert!(reports.try_recv().is_err(), "it found no room");
        news.send(LinkNews::Heard(shard, epoch)).expect("room");
        news.send(LinkNews::Stop).expect("room");
        links.run(&inbox);
        assert_eq!(reports.try_recv(), Ok(Report::SuccessorBack { shard, epoch }));
    }
}
