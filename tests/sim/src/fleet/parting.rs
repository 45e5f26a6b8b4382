//! Partitions: a head loses everybody but some who ask it.
//!
//! Owns who is on which side, and until when. That the others are well enough to go on without the
//! head is left to `strikes`.
//!
//! The ways do not all open at once. Mostly those between servers come first: then a head that was
//! put out meets the one after it before any coordinator tells it.

use std::collections::BTreeSet;

use transport::simulated::EndpointId;
use wire::{Chain, ShardId, Time};

use super::control::Node;
use super::strikes::{AWAY_NS_MAX, CUT_NS_MAX, Struck};
use super::{Fleet, Happening, SEATS};

/// Which ways a partition shuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    Both,
    /// Those to the head.
    To,
    /// Those from the head.
    From,
}

impl Fleet {
    /// Notes where the session is that a watch belongs to.
    pub(crate) fn seat_guest(&mut self, watch: usize, endpoint: EndpointId) {
        self.guests[watch] = Some(endpoint);
    }

    /// Whether a watch's session does not reach a host, or is not reached by it.
    pub(super) fn is_parted(&self, now: Time, host: usize, watch: usize) -> bool {
        let is_it = |&(one, other, until): &(usize, usize, Time)| {
            until > now && (one, other) == (host, watch)
        };
        self.parted.iter().any(is_it)
    }

    /// A head is parted from all other servers, from the coordinators, and from some who ask.
    pub(super) fn part(&mut self, now: Time) {
        let shard = ShardId::new(self.random.below(self.shards as u64) as u16);
        let chain = self.store.placement().and_then(|placement| placement.chain(shard));
        let head = chain.and_then(|chain| chain.replicas.first().copied());
        let Some(head) = head.and_then(|head| self.host_with(head)) else { return };
        // Of two that miss each other it is not always the head that is put out.
        let involved = self.companions(head);
        if !involved.iter().all(|&host| self.may_strike(now, host, Struck::MayBePutOut)) {
            return;
        }
        let Some(here) = self.hosts[head].as_ref().map(|it| it.endpoint) else { return };
        self.counts.partings += 1;
        let ways = match self.random.below(4) {
            0 => Ways::To,
            1 => Ways::From,
            _ => Ways::Both,
        };
        let apart = self.within(now, CUT_NS_MAX);
        let told = self.within(apart, AWAY_NS_MAX);
        for host in (0..self.hosts.len()).filter(|&host| host != head) {
            self.shut.push((head, host, apart));
            if let Some(there) = self.hosts[host].as_ref().map(|it| it.endpoint) {
                self.shut_ways(ways, (here, there), apart);
            }
        }
        self.shut.retain(|&(.., until)| until > now);
        self.parted.retain(|&(.., until)| until > now);
        self.shut_control(ways, Node::Host(head), told);
        for watch in 0..self.watches.len() {
            if self.random.below(3) == 0 {
                // On the head's side: it reaches no other server, and no coordinator.
                self.shut_control(ways, Node::Worker(watch), told);
                for host in (0..self.hosts.len()).filter(|&host| host != head) {
                    self.part_guest(ways, host, watch, apart);
                }
            } else {
                self.part_guest(ways, head, watch, apart);
            }
        }
        involved.into_iter().for_each(|host| self.trouble(host, told));
    }

    /// A host, and those whose servers have a chain in common with its own.
    fn companions(&self, host: usize) -> BTreeSet<usize> {
        let ours = self.hosts[host].as_ref().and_then(|it| it.ours);
        let chains = self.store.placement().into_iter().flat_map(|placement| &placement.chains);
        let has_ours = |chain: &&Chain| ours.is_some_and(|ours| chain.station(ours).is_some());
        let servers = chains.filter(has_ours).flat_map(|chain| &chain.replicas);
        servers.filter_map(|&server| self.host_with(server)).chain([host]).collect()
    }

    fn part_guest(&mut self, ways: Ways, host: usize, watch: usize, until: Time) {
        let Some(here) = self.hosts[host].as_ref().map(|it| it.endpoint) else { return };
        let Some(there) = self.guests[watch] else { return };
        self.parted.push((host, watch, until));
        self.shut_ways(ways, (here, there), until);
    }

    fn shut_ways(&mut self, ways: Ways, (here, there): (EndpointId, EndpointId), until: Time) {
        let (to, from) = ((there, here), (here, there));
        let shut = match ways {
            Ways::Both => vec![to, from],
            Ways::To => vec![to],
            Ways::From => vec![from],
        };
        for (from, to) in shut {
            self.world.block(from, to);
            self.agenda.at(until, Happening::Reunite(from, to));
        }
    }

    fn shut_control(&mut self, ways: Ways, node: Node, until: Time) {
        for seat in (0..SEATS).map(Node::Seat) {
            if ways != Ways::To {
                self.control.shut(node, seat, until);
            }
            if ways != Ways::From {
                self.control.shut(seat, node, until);
            }
            if let Node::Host(_) = node {
                self.cut_off.push((seat, node, until));
            }
        }
    }
}
