//! Census: every server that the coordinator knows, its link, its beats and its health.
//!
//! Owns the passage from beats, closed links and probes to a standing. What follows from one is
//! left to `assign`, and when to look to `machine`.
//!
//! Invariant: who is away may be back, who is lost never is; only a place that refuses for
//! [`LOST_AFTER`], a successor at it, or a person makes a server lost.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use wire::{Candidate, Epoch, Member, Placement, ServerId, Time};

use super::assign::{Seat, Standing};
use super::detector::{Detector, PATIENCE_MIN};
use super::event::ConnectionId;
use super::work::Work;

/// How long a place must refuse before its server is lost: long enough for a firewall's mistake,
/// since a shard that nobody else holds is lost with it.
pub const LOST_AFTER: Duration = Duration::from_secs(5);

/// For how long a coordinator that has just begun waits for the servers of its placement.
pub const GRACE: Duration = Duration::from_secs(3);

/// How soon a place is asked again whose server has no link: a process that dies closes its links
/// a moment before its listener.
const PROBE_EVERY: Duration = Duration::from_millis(25);

/// The same once the server is known to be away.
const PROBE_EVERY_AWAY: Duration = Duration::from_millis(500);

/// What a place answers to an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nobody listens there.
    Refused,
    /// Somebody does.
    Open,
    /// No answer in time, or none that tells.
    Unknown,
}

/// Why a server is away or lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has not beaten for so long.
    Silent { silence: Duration, patience: Duration },
    /// Its link is gone and nobody listens at its place.
    Refused,
    /// The coordinator began anew, and it did not come back.
    NotBack,
    /// A new process listens at its place.
    Replaced,
    /// A person said so.
    Forgotten,
    /// The placement no longer names it.
    Removed,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It was not heard since the coordinator began.
    Expected,
    Fit,
    Away(Why),
    Lost(Why),
}

/// Whether a server wants to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Stay,
    Leave,
}

/// Whether a server was sent its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Yes,
    No,
}

/// What is known of one server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) member: Member,
    pub(super) cores: u16,
    pub(super) connection: Option<ConnectionId>,
    pub(super) health: Health,
    pub(super) wish: Wish,
    pub(super) told: Told,
    pub(super) detector: Detector,
    /// The epoch that it acts on.
    pub(super) epoch: Epoch,
    pub(super) work: Work,
    refused_since: Option<Time>,
    probe_at: Time,
    probe_is_out: bool,
}

/// All servers.
#[derive(Debug, Default)]
pub(super) struct Census {
    servers: BTreeMap<ServerId, Server>,
    grace_until: Time,
}

impl Census {
    /// The servers of a placement that was read from the store: they are given time to come back.
    pub(super) fn recover(placement: &Placement, now: Time) -> Census {
        let expected = |member: &Member| {
            let server = Server::new(member.clone(), 0, Health::Expected, now);
            (member.server, server)
        };
        let servers = placement.servers.iter().map(expected).collect();
        Census { servers, grace_until: now + GRACE }
    }

    pub(super) fn len(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    pub(super) fn get(&self, server: ServerId) -> Option<&Server> {
        self.servers.get(&server)
    }

    pub(super) fn get_mut(&mut self, server: ServerId) -> Option<&mut Server> {
        self.servers.get_mut(&server)
    }

    pub(super) fn remove(&mut self, server: ServerId) -> Option<Server> {
        self.servers.remove(&server)
    }

    /// Adds a server that has never been a member.
    pub(super) fn add(
        &mut self,
        server: ServerId,
        candidate: Candidate,
        connection: ConnectionId,
        now: Time,
    ) {
        let Candidate { name, place, host, memory_mib, cores, life: _ } = candidate;
        let member = Member { server, name, place, host, memory_mib };
        let mut one = Server::new(member, cores, Health::Fit, now);
        one.connection = Some(connection);
        one.told = Told::No;
        self.servers.insert(server, one);
    }

    /// Makes room for a process that begins at a place. Returns the server there that was never
    /// told that it is one: the process is that server, whose link broke too early.
    ///
    /// # Errors
    ///
    /// Names the server that listens there and is alive.
    pub(super) fn vacate(&mut self, place: &str, now: Time) -> Result<Option<ServerId>, ServerId> {
        let mut untold = None;
        let here = |server: &&mut Server| server.member.place == place;
        for server in self.servers.values_mut().filter(here) {
            let was_heard = server.detector.silence(now) < PATIENCE_MIN;
            let number = server.member.server;
            match (&server.health, server.told) {
                (Health::Lost(_), _) => {}
                (Health::Fit, _) if server.connection.is_some() && was_heard => {
                    return Err(number);
                }
                (_, Told::No) => untold = Some(number),
                (_, Told::Yes) => server.health = Health::Lost(Why::Replaced),
            }
        }
        Ok(untold)
    }

    /// The coordinator stood still.
    pub(super) fn forgive(&mut self, stood_still: Duration) {
        for server in self.servers.values_mut() {
            server.detector.forgive(stood_still);
        }
    }

    /// Looks at every server. Returns those whose places are to be asked, and whether a standing
    /// changed.
    pub(super) fn look(&mut self, now: Time) -> (Vec<ServerId>, Changed) {
        let mut probes = Vec::new();
        let mut changed = Changed::No;
        for (&number, server) in &mut self.servers {
            if let Some(health) = server.judged(now, self.grace_until) {
                server.health = health;
                changed = Changed::Yes;
            }
            let is_lost = matches!(server.health, Health::Lost(_));
            if server.connection.is_none() && !is_lost && now >= server.probe_at {
                probes.extend(server.begin_probe().then_some(number));
            }
        }
        (probes, changed)
    }

    /// Takes a place's answer.
    pub(super) fn probed(&mut self, number: ServerId, answer: Probe, now: Time) -> Changed {
        let Some(server) = self.servers.get_mut(&number) else { return Changed::No };
        server.probe_is_out = false;
        let is_away = matches!(server.health, Health::Away(_));
        server.probe_at = now + if is_away { PROBE_EVERY_AWAY } else { PROBE_EVERY };
        if answer != Probe::Refused || server.connection.is_some() {
            server.refused_since = None;
            return Changed::No;
        }
        server.refused_since.get_or_insert(now);
        if !matches!(server.health, Health::Fit | Health::Expected) {
            return Changed::No;
        }
        server.health = Health::Away(Why::Refused);
        Changed::Yes
    }
}

/// Whether something did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Yes,
    No,
}

impl Server {
    fn new(member: Member, cores: u16, health: Health, now: Time) -> Server {
        Server {
            member,
            cores,
            connection: None,
            health,
            wish: Wish::Stay,
            told: Told::Yes,
            detector: Detector::new(now),
            epoch: Epoch::new(0),
            work: Work::default(),
            refused_since: None,
            probe_at: now,
            probe_is_out: false,
        }
    }

    /// Its place in the plan.
    pub(super) fn seat(&self) -> Seat {
        let standing = match (&self.health, self.wish) {
            (Health::Lost(_), _) => Standing::Lost,
            (Health::Away(_), _) => Standing::Away,
            (Health::Fit | Health::Expected, Wish::Leave) => Standing::Leaving,
            (Health::Fit, Wish::Stay) => Standing::Fit,
            (Health::Expected, Wish::Stay) => Standing::Expected,
        };
        let Member { server, host, memory_mib, .. } = &self.member;
        Seat { server: *server, host: host.clone(), weight: *memory_mib, standing }
    }

    /// It has a new link.
    pub(super) fn attach(&mut self, connection: ConnectionId, now: Time) {
        self.connection = Some(connection);
        self.health = Health::Fit;
        self.refused_since = None;
        self.detector.link_made(now);
    }

    /// Its link is gone: its place is to be asked at once.
    pub(super) fn detach(&mut self, now: Time) {
        self.connection = None;
        self.probe_at = now;
    }

    /// It beats. A server that was away is back, unless it is lost.
    pub(super) fn heard(&mut self, now: Time) -> Changed {
        self.detector.heard(now);
        if !matches!(self.health, Health::Away(_)) {
            return Changed::No;
        }
        self.health = Health::Fit;
        Changed::Yes
    }

    /// Marks that its place is asked; false: it is being asked already.
    pub(super) fn begin_probe(&mut self) -> bool {
        !std::mem::replace(&mut self.probe_is_out, true)
    }

    /// What time has made of its health, if that is something else.
    fn judged(&self, now: Time, grace_until: Time) -> Option<Health> {
        let refused_for = self.refused_since.map(|since| now - since);
        match &self.health {
            Health::Lost(_) => None,
            Health::Away(_) => (refused_for? >= LOST_AFTER).then_some(Health::Lost(Why::Refused)),
            Health::Expected => (now >= grace_until).then_some(Health::Away(Why::NotBack)),
            Health::Fit => self.detector.is_suspicious(now).then(|| {
                let (silence, patience) = (self.detector.silence(now), self.detector.patience());
                Health::Away(Why::Silent { silence, patience })
            }),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Silent { silence, patience } => write!(
                f,
                "silent for {} ms, more than {} ms",
                silence.as_millis(),
                patience.as_millis()
            ),
            Why::Refused => f.write_str("its link is gone and its place refuses"),
            Why::NotBack => {
                write!(f, "not back {} s after the coordinator's start", GRACE.as_secs())
            }
            Why::Replaced => f.write_str("a new process listens at its place"),
            Why::Removed => f.write_str("it was taken out"),
            Why::Forgotten => f.write_str("a person said that it will not come back"),
        }
    }
}
