//! A core's shards in their chains: which are here, and the links to the servers around them.
//!
//! Owns placing them, and what goes over links between servers. What a place in a chain means is
//! left to `shard::chain`, making links to `chain_links`.
//!
//! Invariant: a shard has one link to each neighbour at most, of its chain's epoch.

use shard::chain::{Notice, Replica, Restored, Role, Taken};
use shard::{Shard, ShardSpec};
use transport::{AdoptError, Link, PeerId, RecvSlot, SendSlot};
use wire::{Epoch, Incarnation, JobId, Placement, ServerId, ShardId, Time, WorkerId};

use crate::guest::{Party, Who};
use crate::recordings::Tap;
use crate::reply::{Kept, Reply, seal_of};
use crate::turn::Core;

/// Sets the seeds of shards apart: 2^64 by the golden ratio, odd.
const SHARD_SEEDS: u64 = 0x9E37_79B9_7F4A_7C15;

/// A shard that is here, or was.
pub(crate) struct Hosted {
    pub(crate) number: ShardId,
    pub(crate) replica: Replica<SendSlot>,
    predecessor: Option<PeerId>,
    successor: Option<PeerId>,
    /// The job of the last worker that joined here.
    pub(crate) job: Option<JobId>,
    /// When the last worker of its job went, if one did.
    pub(crate) absent_since: Option<Time>,
    /// Where what it records goes, while it does.
    pub(crate) tap: Option<Tap>,
}

/// Which shards are a core's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The core's number on its server.
    pub core: usize,
    /// How many cores the server has.
    pub cores: usize,
}

/// What has happened in a shard's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Which shard.
    pub shard: ShardId,
    /// In which epoch of its chain.
    pub epoch: Epoch,
    /// What.
    pub notice: Notice,
}

impl Hosted {
    pub(crate) fn alone(number: ShardId, shard: Shard, message_bytes_max: usize) -> Hosted {
        let replica = Replica::alone(shard, message_bytes_max);
        Hosted::of(number, replica)
    }

    fn of(number: ShardId, replica: Replica<SendSlot>) -> Hosted {
        let (predecessor, successor, job) = (None, None, None);
        Hosted { number, replica, predecessor, successor, job, absent_since: None, tap: None }
    }

    /// Whether it is in a chain, so that time matters to it.
    pub(crate) fn is_chained(&self) -> bool {
        self.replica.role() != Role::Alone
    }
}

/// What a shard is made of: as all are, with its own order of keys.
pub(crate) fn seeded(spec: &ShardSpec, number: ShardId) -> ShardSpec {
    let seed = spec.seed ^ u64::from(number.get()).wrapping_mul(SHARD_SEEDS);
    ShardSpec { seed, ..spec.clone() }
}

impl Core {
    /// Gives this core's shards their places, as a placement has them: new shards begin empty,
    /// those that are another server's now are dropped, and links of epochs that are over are
    /// closed.
    ///
    /// - `ours`: this server.
    /// - `spec`: what new shards are made of; the order of keys is each one's own.
    pub fn place(&mut self, ours: ServerId, placement: &Placement, share: Share, spec: &ShardSpec) {
        let message_bytes_max = self.transport.limits().message_bytes_max;
        let is_ours = |shard: ShardId| shard.index() % share.cores == share.core;
        for (number, chain) in placement.shards().filter(|&(number, _)| is_ours(number)) {
            let station = chain.station(ours);
            let hosted = self.hosted.iter_mut().position(|hosted| hosted.number == number);
            match (hosted, station) {
                (Some(at), station) => {
                    if self.hosted[at].replica.place(chain.epoch, station) {
                        let role = self.hosted[at].replica.role();
                        tracing::debug!(%number, epoch = %chain.epoch, ?role, "placed anew");
                        self.close_chain_links(at);
                    }
                }
                (None, Some(station)) if !self.loading.contains(&number) => {
                    let spec = seeded(spec, number);
                    let replica = Replica::placed(spec, message_bytes_max, chain.epoch, station);
                    self.hosted.push(Hosted::of(number, replica));
                }
                (None, _) => {}
            }
        }
    }

    /// Takes over a shard that was restored, unless the placement has no place for it any more.
    pub(crate) fn adopt_restored(
        &mut self,
        ours: ServerId,
        placement: &Placement,
        number: ShardId,
        restored: Restored,
    ) {
        self.loading.remove(&number);
        let message_bytes_max = self.transport.limits().message_bytes_max;
        let chain = placement.chain(number);
        let placed = chain.and_then(|chain| Some((chain.epoch, chain.station(ours)?)));
        let is_here = self.hosted.iter().any(|hosted| hosted.number == number);
        if let Some((epoch, station)) = placed.filter(|_| !is_here) {
            let replica = Replica::restored(restored, message_bytes_max, epoch, station);
            self.hosted.push(Hosted::of(number, replica));
            if station.downstream.is_some() {
                // A link that was made before this shard was here is gone: it is made again.
                self.news.push(News { shard: number, epoch, notice: Notice::SuccessorSilent });
            }
        }
    }

    /// Another server is at a later epoch of a shard's chain: this one answers no worker any more.
    pub fn fence(&mut self, shard: ShardId, epoch: Epoch) {
        if let Some(replica) = self.replica_mut(shard) {
            replica.fence(epoch);
        }
    }

    /// Takes over the link to a shard's successor, whose handshake is over.
    ///
    /// - `epoch`: of the chain, as the hello had it.
    /// - Result: `None`, and the link is closed, if the chain is of another epoch now.
    pub fn adopt_successor(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        link: Link,
    ) -> Result<Option<PeerId>, AdoptError> {
        let found = self.hosted.iter().position(|hosted| hosted.number == shard);
        let Some(at) = found.filter(|&at| self.hosted[at].replica.epoch() == epoch) else {
            return Ok(None);
        };
        let peer = self.take_in(link, Party::Successor, at, self.neighbour(shard, epoch))?;
        let now = self.transport.now();
        let hosted = &mut self.hosted[at];
        let before = hosted.successor.replace(peer);
        hosted.replica.successor_linked(now);
        before.into_iter().for_each(|before| self.transport.close(before));
        Ok(Some(peer))
    }

    /// Takes over the link from a shard's predecessor.
    pub(crate) fn adopt_predecessor(
        &mut self,
        at: usize,
        link: Link,
        who: Who,
    ) -> Result<Option<PeerId>, AdoptError> {
        if !self.hosted[at].replica.predecessor_linked(who.epoch) {
            return Ok(None);
        }
        let peer = self.take_in(link, Party::Predecessor, at, who)?;
        let before = self.hosted[at].predecessor.replace(peer);
        before.into_iter().for_each(|before| self.transport.close(before));
        Ok(Some(peer))
    }

    /// What has happened in chains, to be taken.
    pub fn news(&mut self) -> &mut Vec<News> {
        &mut self.news
    }

    fn neighbour(&self, shard: ShardId, epoch: Epoch) -> Who {
        let message_bytes_max = self.transport.limits().message_bytes_max;
        let (worker, incarnation) = (WorkerId::PREDECESSOR, Incarnation::default());
        Who { shard, worker, incarnation, epoch, message_bytes_max }
    }

    /// Applies a predecessor's message; gives it back where there is no room to pass it on.
    pub(crate) fn follow(&mut self, at: usize, slot: RecvSlot) -> Result<(), RecvSlot> {
        let (peer, hosted) = (slot.peer(), &mut self.hosted[at]);
        if hosted.predecessor == Some(peer) {
            let (taken, slot) = hosted.replica.follow_received(Kept(slot));
            match (taken, slot) {
                (Taken::NoRoom, Some(Kept(slot))) => return Err(slot),
                (Taken::Broken, _) => {
                    hosted.replica.predecessor_gone();
                    hosted.predecessor = None;
                    self.transport.close(peer);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes in a successor's word.
    pub(crate) fn hear(&mut self, at: usize, slot: RecvSlot) {
        let (peer, hosted) = (slot.peer(), &mut self.hosted[at]);
        if hosted.successor == Some(peer) {
            let heard_before = hosted.replica.hears_successor();
            let goes_on = hosted.replica.hear_successor(self.now, slot.bytes());
            if goes_on && !heard_before && hosted.replica.hears_successor() {
                let (shard, epoch) = (hosted.number, hosted.replica.epoch());
                self.news.push(News { shard, epoch, notice: Notice::SuccessorHeard });
            }
            if !goes_on {
                self.transport.close(peer);
                self.chain_link_over(at, peer);
            }
        }
        self.transport.release(slot);
    }

    /// Has pushes applied that have waited for others for long enough. Whether there were any.
    ///
    /// - `is_idle`: this turn has found nothing else to do.
    pub(crate) fn end_waits(&mut self, is_idle: bool) -> bool {
        let (now, seal) = (self.now, seal_of(&*self.transport));
        let ended = |hosted: &mut Hosted| hosted.replica.end_waits::<Reply<'_>>(now, is_idle, seal);
        self.hosted
            .iter_mut()
            .filter(|hosted| hosted.is_chained())
            .map(ended)
            .fold(false, |a, b| a | b)
    }

    /// Sends on what was done, says what was received, and gives out answers that waited. Whether
    /// there is more of it to do at once.
    pub(crate) fn keep_chains(&mut self) -> bool {
        let (now, mut more) = (self.now, false);
        for at in 0..self.hosted.len() {
            if !self.hosted[at].is_chained() {
                continue;
            }
            let bytes_max = self.transport.limits().message_bytes_max;
            let Hosted { replica, predecessor, successor, .. } = &mut self.hosted[at];
            let transport = &mut *self.transport;
            if let Some(peer) = *successor {
                let mut way = Reply { transport, peer, bytes_max, lacking_bytes: 0 };
                more |= replica.forward(now, &mut way);
            }
            if let Some(peer) = *predecessor {
                let mut way = Reply { transport, peer, bytes_max, lacking_bytes: 0 };
                replica.word(now, &mut way);
            }
            replica.release(now, |slot| transport.post(slot));
            if let Some(peer) = successor.filter(|_| replica.is_successor_silent(now)) {
                transport.close(peer);
                self.chain_link_over(at, peer);
            }
            self.take_notices(at);
        }
        more
    }

    /// A link to a neighbour is over.
    pub(crate) fn chain_link_over(&mut self, at: usize, peer: PeerId) {
        let hosted = &mut self.hosted[at];
        if hosted.predecessor == Some(peer) {
            hosted.predecessor = None;
            hosted.replica.predecessor_gone();
        }
        if hosted.successor == Some(peer) {
            hosted.successor = None;
            hosted.replica.successor_gone();
            let (shard, epoch) = (hosted.number, hosted.replica.epoch());
            self.news.push(News { shard, epoch, notice: Notice::SuccessorSilent });
        }
    }

    fn close_chain_links(&mut self, at: usize) {
        let hosted = &mut self.hosted[at];
        let links = [hosted.predecessor.take(), hosted.successor.take()];
        hosted.replica.predecessor_gone();
        hosted.replica.successor_gone();
        links.into_iter().flatten().for_each(|peer| self.transport.close(peer));
    }

    fn take_notices(&mut self, at: usize) {
        let hosted = &mut self.hosted[at];
        let (shard, epoch) = (hosted.number, hosted.replica.epoch());
        let notices = std::mem::take(hosted.replica.notices());
        for notice in notices {
            if notice == Notice::SuccessorSilent {
                let successor = self.hosted[at].successor;
                successor.into_iter().for_each(|peer| {
                    self.transport.close(peer);
                    self.chain_link_over(at, peer);
                });
            } else {
                self.news.push(News { shard, epoch, notice });
            }
        }
    }
}
