//! Gossip: what servers say about chains, until the chain changes or it is acted upon.
//!
//! Owns which reports count, for how long, and who is to blame for a link that is gone. Acting on
//! them is left to `assign`.
//!
//! Invariant: a report on another epoch of a chain than the newest changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::{ChainReport, Epoch, Holds, Observation, Placement, ServerId, ShardId, Time};

use super::assign::News;
use super::census::Changed;

/// How long a link between two servers may be gone, both beating, before one leaves the chain.
pub const LINK_PATIENCE: Duration = Duration::from_millis(500);

/// For how long two servers that did not reach each other are not made neighbours again.
const APART_FOR: Duration = Duration::from_secs(10);

/// For how long a server that refused a shard is not given it again.
const UNFIT_FOR: Duration = Duration::from_secs(60);

/// A link that its sending end says is gone.
#[derive(Clone, Copy, Debug)]
struct Broken {
    chain: Epoch,
    successor: ServerId,
    since: Time,
}

/// A server that could not apply what it was sent.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// None once it has left the chain: then it is only not to come back for a while.
    chain: Option<Epoch>,
    until: Time,
}

/// How far a fill is.
#[derive(Clone, Copy, Debug)]
struct Filling {
    chain: Epoch,
    rows: (u64, u64),
}

/// All that was said and still counts.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    filled: BTreeMap<ShardId, Epoch>,
    filling: BTreeMap<ShardId, Filling>,
    refused: BTreeMap<(ShardId, ServerId), Refused>,
    broken: BTreeMap<(ShardId, ServerId), Broken>,
    apart: BTreeMap<(ServerId, ServerId), Time>,
}

impl Gossip {
    /// Takes what a server sees in one of its chains.
    pub(super) fn note(
        &mut self,
        from: ServerId,
        seen: &Observation,
        placement: &Placement,
        now: Time,
    ) -> Changed {
        let Observation { shard, chain: epoch, ref report } = *seen;
        let Some(chain) = placement.chain(shard).filter(|chain| chain.epoch == epoch) else {
            return Changed::No;
        };
        let Some(station) = chain.station(from) else { return Changed::No };
        let fills = matches!(station.downstream, Some((_, Holds::Part)));
        match report {
            ChainReport::Filling { sent_rows, all_rows } if fills => {
                let rows = (*sent_rows, *all_rows);
                self.filling.insert(shard, Filling { chain: epoch, rows });
                Changed::No
            }
            ChainReport::Filled if fills => {
                self.filled.insert(shard, epoch);
                Changed::Yes
            }
            ChainReport::Filling { .. } | ChainReport::Filled => Changed::No,
            ChainReport::Refused { .. } => {
                let refused = Refused { chain: Some(epoch), until: now + UNFIT_FOR };
                self.refused.insert((shard, from), refused);
                Changed::Yes
            }
            ChainReport::SuccessorLost => {
                if let Some((successor, _)) = station.downstream {
                    let broken = Broken { chain: epoch, successor, since: now };
                    self.broken.entry((shard, from)).or_insert(broken);
                }
                Changed::No // Until it was so for a while; `machine` looks again by itself.
            }
            ChainReport::SuccessorBack => {
                self.broken.remove(&(shard, from));
                Changed::No
            }
        }
    }

    /// What of it assignment has to know now. Remembers whom it separates.
    ///
    /// - `is_heard`: whether a server beats.
    pub(super) fn news(&mut self, now: Time, is_heard: impl Fn(ServerId) -> bool) -> News {
        self.apart.retain(|_, until| *until > now);
        self.refused.retain(|_, refused| refused.until > now);
        let mut news = News { filled: self.filled.clone(), ..News::default() };
        news.unfit.extend(self.refused.keys());
        let in_chain = self.refused.iter().filter(|(_, refused)| refused.chain.is_some());
        news.out.extend(in_chain.map(|(who, _)| who));
        let partners = self.partners();
        let count = |server| partners.get(&server).map_or(0, BTreeSet::len);
        for (&(shard, reporter), broken) in &self.broken {
            if now - broken.since < LINK_PATIENCE {
                continue;
            }
            // Of two that beat, whoever misses more neighbours is the one that is cut off.
            let is_cut_off = match (is_heard(reporter), is_heard(broken.successor)) {
                (true, false) => false,
                (false, true) => true,
                _ => count(reporter) > count(broken.successor),
            };
            news.out.insert((shard, if is_cut_off { reporter } else { broken.successor }));
            self.apart.insert((reporter, broken.successor), now + APART_FOR);
        }
        news.apart.extend(self.apart.keys());
        news
    }

    /// Forgets what a new placement has overtaken.
    pub(super) fn prune(&mut self, placement: &Placement) {
        let is_newest = |shard: ShardId, epoch: Epoch| {
            placement.chain(shard).is_some_and(|chain| chain.epoch == epoch)
        };
        self.filled.retain(|&shard, epoch| is_newest(shard, *epoch));
        self.filling.retain(|&shard, filling| is_newest(shard, filling.chain));
        self.broken.retain(|&(shard, _), broken| is_newest(shard, broken.chain));
        self.refused.retain(|&(shard, server), refused| {
            refused.chain = refused.chain.filter(|&epoch| is_newest(shard, epoch));
            placement.member(server).is_some()
        });
    }

    /// How far the fill of a shard is, in rows: sent, and all, about.
    pub(super) fn filling(&self, shard: ShardId) -> Option<(u64, u64)> {
        self.filling.get(&shard).map(|filling| filling.rows)
    }

    /// By server: with whom it has a link that is gone.
    fn partners(&self) -> BTreeMap<ServerId, BTreeSet<ServerId>> {
        let mut partners: BTreeMap<ServerId, BTreeSet<ServerId>> = BTreeMap::new();
        for (&(_, reporter), broken) in &self.broken {
            partners.entry(reporter).or_default().insert(broken.successor);
            partners.entry(broken.successor).or_default().insert(reporter);
        }
        partners
    }
}
