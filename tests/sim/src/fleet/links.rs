//! Links of the world's network: from servers to their successors, and from workers to heads.
//!
//! Owns handshakes: who is let in, when, and what a server does that is turned away. What goes over
//! a link is the network's and the core's.

use std::time::Duration;

use server::{News, Tried, Who};
use shard::Mutation;
use shard::chain::Notice;
use transport::Link;
use wire::{ChainReport, Epoch, Incarnation, Observation, Placement, ShardId, Time, WorkerId};

use super::host::{Power, host_of};
use super::{Fleet, Happening, Stirred};
use crate::cluster::Guest;
use crate::failure::Failure;

/// How long connecting to a successor, with its handshake, may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a handshake takes at most where nothing is wrong, in nanoseconds.
const HANDSHAKE_NS_MAX: u64 = 1_000_000;
/// How long after a link the same one is made again at the earliest.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// How long a worker waits for a head that does not answer before it looks again.
const UNANSWERED: Duration = Duration::from_millis(20);

impl Fleet {
    /// A server acts on a placement.
    pub(super) fn place(&mut self, now: Time, host: usize, placement: Placement) {
        let Some(process) = &mut self.hosts[host] else { return };
        let life = process.life;
        for (shard, tries) in process.place(placement, &self.shard) {
            self.dial_soon(now, (host, life), shard, tries);
        }
    }

    fn dial_soon(&mut self, now: Time, who: (usize, u64), shard: ShardId, tries: u64) {
        let at = now + Duration::from_nanos(self.random.below(HANDSHAKE_NS_MAX));
        self.agenda.at(at, Happening::Dial(who.0, who.1, shard, tries, at));
    }

    /// A server tries to make a link to a successor.
    ///
    /// - `since`: when the try began.
    pub(super) fn dial(
        &mut self,
        now: Time,
        (host, life): (usize, u64),
        shard: ShardId,
        tries: u64,
        since: Time,
    ) {
        let alive = self.hosts[host].as_ref().filter(|it| it.life == life && it.power == Power::On);
        let Some(process) = alive else { return };
        let wanted = process.wanted.get(&shard).filter(|wanted| wanted.tries == tries);
        let Some(&wanted) = wanted else { return };
        let again = |fleet: &mut Fleet, at| {
            fleet.agenda.at(at, Happening::Dial(host, life, shard, tries, since));
        };
        if process.stopped_until > now {
            return again(self, process.stopped_until);
        }
        let over = since + CONNECT_MAX;
        let pair = [(host, wanted.host), (wanted.host, host)];
        let is_shut = self.shut.iter().any(|&(a, b, until)| until > now && pair.contains(&(a, b)));
        let ended = match &self.hosts[wanted.host] {
            None => Err(Tried::Failed),
            Some(it) if is_shut || it.power == Power::Off => {
                if now < over {
                    return again(self, over);
                }
                Err(Tried::Failed)
            }
            Some(it) if it.stopped_until > now => {
                if now < over {
                    return again(self, it.stopped_until.min(over));
                }
                Err(Tried::Failed)
            }
            Some(_) if self.shard.mutation == Mutation::StaleEpochsTaken => Ok(()),
            Some(it) => it.admits_predecessor(shard, wanted.epoch),
        };
        match ended {
            Ok(()) => self.join(now, (host, wanted.host), shard, wanted.epoch),
            Err(tried) => self.dial_later(now, host, shard, tried),
        }
    }

    /// A handshake is through: both ends have their link.
    fn join(&mut self, now: Time, (host, next): (usize, usize), shard: ShardId, epoch: Epoch) {
        let (ours, theirs) = self.world.link();
        let who = Who {
            shard,
            worker: WorkerId::PREDECESSOR,
            incarnation: Incarnation::default(),
            epoch,
            message_bytes_max: self.limits.message_bytes_max,
        };
        let next = self.hosts[next].as_mut().expect("it was just looked at");
        next.core.adopt(Link::Simulated(theirs), who).expect("an end of its own world");
        let process = self.hosts[host].as_mut().expect("it was just looked at");
        let linked = process.core.adopt_successor(shard, epoch, Link::Simulated(ours));
        linked.expect("an end of its own world");
        if process.wanted.contains_key(&shard) {
            process.tried(now, shard, Tried::Linked);
        }
        self.stirred = Stirred::Yes;
    }

    fn dial_later(&mut self, now: Time, host: usize, shard: ShardId, tried: Tried) {
        let process = self.hosts[host].as_mut().expect("it was just looked at");
        let (pause, lost) = process.tried(now, shard, tried);
        let pause = pause.expect("only a link ends the tries");
        let wanted = process.wanted.get_mut(&shard).expect("it was just tried");
        wanted.tries += 1;
        let (at, epoch) = (now + pause, wanted.epoch);
        let again = Happening::Dial(host, process.life, shard, wanted.tries, at);
        if let Some(server) = lost {
            process.caller.notes.suspect(server);
            let report = ChainReport::SuccessorLost;
            process.caller.notes.report(Observation { shard, chain: epoch, report });
        }
        self.agenda.at(at, again);
        self.stirred = Stirred::Yes;
    }

    /// What a core says goes to the coordinator, or to who makes links.
    pub(super) fn take_news(&mut self, now: Time, host: usize, life: u64, news: News) {
        let Some(process) = self.hosts[host].as_mut().filter(|it| it.life == life) else { return };
        let News { shard, epoch, notice } = news;
        match notice {
            Notice::SuccessorSilent => {
                let wanted = process.wanted.get_mut(&shard).filter(|it| it.epoch == epoch);
                let Some(wanted) = wanted else { return };
                wanted.tries += 1;
                let (tries, again, server) = (wanted.tries, wanted.redial.ended(), wanted.server);
                if again.is_lost {
                    process.caller.notes.suspect(server);
                    let report = ChainReport::SuccessorLost;
                    process.caller.notes.report(Observation { shard, chain: epoch, report });
                }
                let from = now + again.after.unwrap_or_default();
                self.dial_soon(from, (host, life), shard, tries);
            }
            Notice::SuccessorHeard => {
                let wanted = process.wanted.get_mut(&shard).filter(|it| it.epoch == epoch);
                if wanted.is_some_and(|it| it.redial.heard()) {
                    let report = ChainReport::SuccessorBack;
                    process.caller.notes.report(Observation { shard, chain: epoch, report });
                }
            }
            Notice::Filled => {
                self.counts.fills += 1;
                let report = ChainReport::Filled;
                process.caller.notes.report(Observation { shard, chain: epoch, report });
            }
            Notice::Refused | Notice::SuccessorUnfit => {
                let server = process.ours.unwrap_or_default();
                self.failed.get_or_insert(Failure::Unfit { server, shard, notice });
            }
        }
    }

    /// A link of a worker, or of a reader, to a shard's head as its watch knows it, with the
    /// chain's epoch. If that server is gone or says no, the link is over soon.
    pub(crate) fn link(&mut self, guest: Guest, shard: ShardId) -> (Link, Epoch) {
        let (now, watch) = (self.world.now(), guest.watch);
        let (ours, theirs) = self.world.link();
        let theirs = Link::Simulated(theirs);
        let known = &self.known[watch];
        let chain = known.chain(shard).expect("a placement names all shards");
        let epoch = chain.epoch;
        let Some(&head) = chain.replicas.first() else { return (Link::Simulated(ours), epoch) };
        let host = host_of(known, head);
        let is_parted = self.is_parted(now, host, watch);
        let there = self.hosts[host].as_mut();
        let there = there.filter(|process| process.power == Power::On && !is_parted);
        // Who was just sent away waits for news before it asks again.
        let last = self.linked.insert((watch, shard), (now, epoch));
        let is_again = last.is_some_and(|(at, known)| known == epoch && now < at + AGAIN_AFTER);
        let there = there.filter(|_| !is_again);
        match there.filter(|process| process.admits_worker(shard).is_ok()) {
            Some(process) => {
                let who = Who {
                    shard,
                    worker: guest.id,
                    incarnation: guest.life,
                    epoch,
                    message_bytes_max: self.limits.message_bytes_max,
                };
                let peer = process.core.adopt(theirs, who).expect("an end of its own world");
                if let Some(peer) = peer {
                    process.seen.borrow_mut().note_worker(peer, shard);
                }
                self.stirred = Stirred::Yes;
            }
            None => {
                self.unanswered.push((now + UNANSWERED, theirs));
                self.agenda.at(now + UNANSWERED, Happening::Wakes);
                let caller = &mut self.watches[watch];
                caller.notes.suspect(head);
                caller.suspect(now, &mut self.control);
            }
        }
        (Link::Simulated(ours), epoch)
    }
}
