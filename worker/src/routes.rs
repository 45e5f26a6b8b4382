//! Routes: how a session goes on where a shard has moved, or its server is gone.
//!
//! Owns when a shard needs another link, how long one may be missing, and taking one over. Finding
//! the shard and connecting to it is left to whoever implements [`Routes`].
//!
//! Invariant: a link is only replaced by one of the same epoch or a later one.

use std::time::Duration;

use transport::Link;
use wire::{Epoch, ServerId, ShardId, Time};

use crate::error::WorkerError;
use crate::replicas::RouteTo;
use crate::session::Session;

/// How long a server of a chain may be silent at least: twice as long as it takes a server to
/// notice that one behind it is out of reach. Whoever gave it up sooner would ask another time each
/// time an answer was about to come.
pub const CHAIN_GIVE_UP_MIN: Duration = Duration::from_millis(500);

/// A new link to a shard; its handshake is over.
#[derive(Debug)]
pub struct Route {
    /// Which shard.
    pub shard: ShardId,
    /// The epoch that it is served at there.
    pub epoch: Epoch,
    /// Whether that is its head.
    pub to: RouteTo,
    /// The server.
    pub host: ServerId,
    /// What errors call the server.
    pub server: String,
    /// The link.
    pub link: Link,
}

/// Finds the servers of shards that move. None of its functions waits.
pub trait Routes {
    /// A link for the session: to a shard that it wanted, or that has moved.
    fn poll(&mut self) -> Option<Route>;

    /// The session has no link to this shard any more, whose epoch it knew as this one. A route
    /// comes by [`Routes::poll`], and if that one is lost too, the session asks again.
    fn want(&mut self, shard: ShardId, epoch: Epoch);

    /// The session wants links to the replicas behind this shard's head, from now on also to those
    /// that it will have later; or it has lost the link to one of them.
    fn want_replicas(&mut self, shard: ShardId, lost: Option<ServerId>);
}

/// A session's routes, and what it waits for.
pub(crate) struct Following {
    routes: Box<dyn Routes>,
    /// How long a shard may be without an answer before it is an error.
    patience: Duration,
    /// By shard.
    lost: Vec<Missing>,
}

/// What a session knows of a link that it lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Missing {
    /// Nothing is lost.
    #[default]
    Nothing,
    /// Another link is wanted, the first time at this moment.
    Wanted { since: Time },
    /// There is another link, over which nothing has come yet.
    Untried { since: Time, at: Time },
}

impl Following {
    pub(crate) fn want_replicas(&mut self, shard: ShardId, lost: Option<ServerId>) {
        self.routes.want_replicas(shard, lost);
    }

    /// Whether a shard that is lost may come back yet.
    pub(crate) fn is_patient(&self, shard: usize, now: Time) -> bool {
        match self.lost[shard] {
            Missing::Nothing => true,
            Missing::Wanted { since } | Missing::Untried { since, .. } => {
                now - since <= self.patience
            }
        }
    }
}

impl Session {
    /// From here on a shard whose link is lost, or that has moved, is looked for: its requests
    /// wait, and go again under their old numbers. What is still without an answer after
    /// `patience` is an error as without routes. A silent server is given up after
    /// [`CHAIN_GIVE_UP_MIN`] at the earliest.
    pub fn follow(&mut self, routes: Box<dyn Routes>, patience: Duration) {
        self.timeouts.give_up = self.timeouts.give_up.max(CHAIN_GIVE_UP_MIN);
        let lost = vec![Missing::Nothing; self.shards()];
        self.following = Some(Following { routes, patience, lost });
    }

    /// The epochs that shards are served at, by shard, before anything was asked.
    pub(crate) fn set_epochs(&mut self, epochs: &[Epoch]) {
        for (link, &epoch) in self.links.iter_mut().zip(epochs) {
            link.epoch = epoch;
        }
    }

    /// Asks for links that are missing and takes over those that were found.
    pub(crate) fn follow_routes(&mut self, now: Time) {
        let Some(mut following) = self.following.take() else { return };
        for (shard, link) in self.links.iter().enumerate() {
            let missing = &mut following.lost[shard];
            *missing = match (*missing, &link.lost) {
                (Missing::Nothing | Missing::Untried { .. }, Some(_)) => {
                    let id = ShardId::new(u16::try_from(shard).expect("a session has fewer"));
                    following.routes.want(id, link.epoch);
                    let since = missing.since().unwrap_or(now);
                    Missing::Wanted { since }
                }
                (Missing::Untried { at, .. }, None) if link.heard_at > at => Missing::Nothing,
                (as_it_was, _) => as_it_was,
            };
        }
        self.want_replicas(&mut following);
        // At most one a shard in a turn: who floods us with links is heard again in the next one.
        for _ in 0..self.links.len() {
            let Some(route) = following.routes.poll() else { break };
            self.take_route(&mut following, route, now);
        }
        self.following = Some(following);
    }

    /// Fails if a server is gone that something is wanted from, and nobody looks for another.
    pub(crate) fn check_links(&self) -> Result<(), WorkerError> {
        let now = self.polled_at;
        for (shard, link) in self.links.iter().enumerate() {
            let followed =
                self.following.as_ref().is_some_and(|following| following.is_patient(shard, now));
            if let Some(lost) = &link.lost
                && link.open() > 0
                && !followed
            {
                return Err(link.error_of(lost));
            }
        }
        Ok(())
    }

    fn take_route(&mut self, following: &mut Following, route: Route, now: Time) {
        if route.to == RouteTo::Replica {
            return self.take_replica(route, now);
        }
        let Route { shard, epoch, host, server, link, .. } = route;
        let known = &self.links[shard.index()];
        let newer = epoch > known.epoch || epoch == known.epoch && known.lost.is_some();
        if !newer {
            return;
        }
        match self.port.transport.adopt(link) {
            Ok(peer) => {
                self.reconnect(shard, peer, epoch);
                self.links[shard.index()].server = server;
                self.note_head(shard.index(), host);
                let missing = &mut following.lost[shard.index()];
                let since = missing.since().unwrap_or(now);
                *missing = Missing::Untried { since, at: now };
                self.counts.reconnects += 1;
                self.send_unsent(shard.index(), now);
            }
            Err(_) => following.routes.want(shard, known.epoch),
        }
    }
}

impl Missing {
    /// Since when something is missing.
    fn since(self) -> Option<Time> {
        match self {
            Missing::Nothing => None,
            Missing::Wanted { since } | Missing::Untried { since, .. } => Some(since),
        }
    }
}
