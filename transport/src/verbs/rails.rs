//! Which pair of ports a lane takes: one of this core's rails and one of the peer's.
//!
//! Owns the ranking, which is pure, and what a peer's lanes failed over. Which rails there are is
//! left to [`super::shown`], saying so to the peer to [`super::call`].
//!
//! The order: a pair that has not failed of late before one that has; a pair that is sure to reach
//! before one that may; the one nearest to both cores; of equally near ones the port that has the
//! fewest lanes of this core, then the one whose turn it is; and at last, ports that stand at the
//! same place in both lists, as those of hosts that are wired alike do.
//!
//! Invariant: the same rails give the same order.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use wire::{LANE_RAILS_MAX, LaneFabric, LaneRail, Time};

use super::gid::{Choice, Gid, GidKind};

/// How far what lies at the same memory node is, as the kernel counts. What nobody knows the
/// distance of counts as near.
pub(super) const DISTANCE_NEAR: u8 = 10;
/// A pair that failed is put behind others for so long.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);
/// Pairs that may have failed.
const PAIRS_MAX: usize = LANE_RAILS_MAX * LANE_RAILS_MAX;

/// A port of this host that a core may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rail {
    pub(super) choice: Choice,
    /// Leading bits of its address that are its subnet's; 0 if not known.
    pub(super) subnet_bits: u8,
    /// From the core's memory node to the device's.
    pub(super) distance: u8,
    /// Lanes of this core over it.
    pub(super) lanes: u32,
}

/// The two addresses of a TCP link, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) local: IpAddr,
    pub(super) peer: Option<IpAddr>,
}

/// Whether a pair may be tried of which nothing says that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guess {
    /// A person named the rails.
    Allowed,
    /// It may hold the core up: the kernel looks for the address for up to a second.
    Forbidden,
}

/// Two addresses that a lane goes between: this side's and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairOfGids {
    pub(super) own: Gid,
    pub(super) theirs: Gid,
}

/// Pairs that lanes to one peer failed over.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures(Vec<Failure>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    pair: PairOfGids,
    count: u32,
    last: Time,
}

/// Whether packets get from one port to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Sure,
    /// If a router passes them on, or both are on one wire.
    Perhaps,
}

/// What a choice goes by, besides the rails.
#[derive(Clone, Copy, Debug)]
pub(super) struct By<'a> {
    pub(super) ends: Ends,
    pub(super) guess: Guess,
    pub(super) failures: &'a Failures,
    /// Shifts whose turn it is: others for each peer and each core.
    pub(super) turn: usize,
    pub(super) now: Time,
}

impl Ends {
    /// Of a link within this host.
    pub(super) const LOOP_BACK: Ends = Ends { local: IpAddr::V4(Ipv4Addr::LOCALHOST), peer: None };
}

impl Rail {
    /// As the peer is told of it.
    pub(super) fn word(&self) -> LaneRail {
        LaneRail {
            gid: self.choice.gid.0,
            distance: self.distance,
            subnet_bits: self.subnet_bits,
            fabric: match self.choice.kind {
                GidKind::Ib => LaneFabric::InfiniBand,
                GidKind::RoceV1 => LaneFabric::RoceV1,
                GidKind::RoceV2 => LaneFabric::RoceV2,
            },
        }
    }
}

/// The rails that a peer is told of: the nearest, if there are too many, in the order of `rails`.
pub(super) fn nearest(mut rails: Vec<Rail>) -> Vec<Rail> {
    while rails.len() > LANE_RAILS_MAX {
        let farthest = (0..rails.len()).max_by_key(|&index| (rails[index].distance, index));
        rails.remove(farthest.expect("there are some"));
    }
    rails
}

/// The pair to take: indexes of this side's rail and of the peer's. None if no pair reaches.
pub(super) fn choose(own: &[Rail], theirs: &[LaneRail], by: By<'_>) -> Option<(usize, usize)> {
    let each = |own_at: usize| (0..theirs.len()).map(move |their_at| (own_at, their_at));
    let rank = |&(own_at, their_at): &(usize, usize)| {
        let (rail, word, their) = (&own[own_at], own[own_at].word(), &theirs[their_at]);
        let reach = reach(&word, their, by)?;
        let pair = PairOfGids { own: rail.choice.gid, theirs: Gid(their.gid) };
        let failures = by.failures.count(pair, by.now);
        let distance = u16::from(rail.distance) + u16::from(their.distance);
        let turn = (own_at + own.len() - by.turn % own.len()) % own.len();
        let askew = (their_at + theirs.len() - own_at % theirs.len()) % theirs.len();
        Some((failures, reach, distance, rail.lanes, turn, askew))
    };
    let pairs = (0..own.len()).flat_map(each);
    let ranked = pairs.filter_map(|pair| Some((rank(&pair)?, pair)));
    ranked.min().map(|(_, pair)| pair)
}

/// Whether packets get from one port to the other; none if they cannot.
fn reach(own: &LaneRail, their: &LaneRail, by: By<'_>) -> Option<Reach> {
    if own.fabric != their.fabric {
        return None;
    }
    if own.fabric == LaneFabric::InfiniBand {
        // The upper half of a GID is its subnet's prefix; routers between subnets are left out.
        return (own.gid[..8] == their.gid[..8]).then_some(Reach::Sure);
    }
    let (one, other) = (Gid(own.gid), Gid(their.gid));
    let of_link = by.ends.peer.map(|peer| (by.ends.local.to_canonical(), peer.to_canonical()));
    let is_of_link = of_link == Some((one.address(), other.address()));
    let are_alike = one.address().is_ipv4() == other.address().is_ipv4()
        && one.is_link_local() == other.is_link_local();
    // Link-local addresses look alike on every wire.
    let share_subnet = !one.is_link_local() && share_subnet(own, their);
    if one == other || is_of_link || are_alike && share_subnet {
        return Some(Reach::Sure);
    }
    let may_reach = are_alike && (one.is_link_local() || own.fabric == LaneFabric::RoceV2);
    (may_reach && by.guess == Guess::Allowed).then_some(Reach::Perhaps)
}

/// Whether each address lies in the other's subnet, both of one family.
fn share_subnet(own: &LaneRail, their: &LaneRail) -> bool {
    let bits = own.subnet_bits.min(their.subnet_bits);
    if bits == 0 {
        return false;
    }
    // An IPv4 address is the last 32 bits of its GID.
    let ahead = if Gid(own.gid).address().is_ipv4() { 96 } else { 0 };
    let differ = u128::from_be_bytes(own.gid) ^ u128::from_be_bytes(their.gid);
    differ.leading_zeros() >= u32::from(bits) + ahead
}

impl Failures {
    /// A lane over this pair failed.
    pub(super) fn note(&mut self, pair: PairOfGids, now: Time) {
        self.0.retain(|failure| failure.is_known(now));
        if let Some(failure) = self.0.iter_mut().find(|failure| failure.pair == pair) {
            (failure.count, failure.last) = (failure.count + 1, now);
        } else if self.0.len() < PAIRS_MAX {
            self.0.push(Failure { pair, count: 1, last: now });
        } // Else addresses change faster than failures are forgotten: it is tried again.
    }

    fn count(&self, pair: PairOfGids, now: Time) -> u32 {
        let known = self.0.iter().find(|failure| failure.pair == pair && failure.is_known(now));
        known.map_or(0, |failure| failure.count)
    }
}

impl Failure {
    fn is_known(&self, now: Time) -> bool {
        now < self.last + FORGIVEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::LinkLayer;
    use super::*;

    const NOW: Time = Time::from_nanos(0);

    fn rail(address: &str, subnet_bits: u8, distance: u8) -> Rail {
        let gid = match address.parse().unwrap() {
            IpAddr::V4(address) => Gid(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => Gid(address.octets()),
        };
        let choice = Choice {
            device: address.to_owned(),
            port: 1,
            gid_index: 1,
            gid,
            kind: GidKind::RoceV2,
            link_layer: LinkLayer::Ethernet,
            netdev: None,
        };
        Rail { choice, subnet_bits, distance, lanes: 0 }
    }

    fn near(address: &str) -> Rail {
        rail(address, 24, DISTANCE_NEAR)
    }

    fn infiniband(address: &str) -> Rail {
        let mut rail = rail(address, 0, DISTANCE_NEAR);
        (rail.choice.kind, rail.choice.link_layer) = (GidKind::Ib, LinkLayer::InfiniBand);
        rail
    }

    fn words(rails: &[Rail]) -> Vec<LaneRail> {
        rails.iter().map(Rail::word).collect()
    }

    fn by(failures: &Failures) -> By<'_> {
        let ends = Ends::LOOP_BACK;
        By { ends, guess: Guess::Forbidden, failures, turn: 0, now: NOW }
    }

    fn chosen(own: &[Rail], theirs: &[Rail]) -> Option<(usize, usize)> {
        choose(own, &words(theirs), by(&Failures::default()))
    }

    #[test]
    fn a_pair_of_one_subnet_is_taken_and_one_of_two_only_if_a_person_named_it() {
        let own = [near("10.0.0.1"), near("10.0.1.1")];
        assert_eq!(chosen(&own, &[near("10.0.1.2")]), Some((1, 0)));
        assert_eq!(chosen(&own, &[near("10.0.7.2")]), None);
        let failures = Failures::default();
        let guess = By { guess: Guess::Allowed, ..by(&failures) };
        assert_eq!(choose(&own, &words(&[near("10.0.7.2")]), guess), Some((0, 0)));
        let theirs = words(&[near("10.0.7.2"), near("10.0.1.2")]);
        assert_eq!(choose(&own, &theirs, guess), Some((1, 1)), "what is sure goes first");
    }

    #[test]
    fn the_way_that_tcp_takes_reaches_and_so_does_a_port_itself() {
        let ends = Ends {
            local: "::ffff:10.0.0.1".parse().unwrap(),
            peer: Some("10.9.9.9".parse().unwrap()),
        };
        let failures = Failures::default();
        let of_link = By { ends, ..by(&failures) };
        let (own, theirs) = ([near("10.0.1.1"), near("10.0.0.1")], words(&[near("10.9.9.9")]));
        assert_eq!(choose(&own, &theirs, of_link), Some((1, 0)));
        let unknown = [rail("10.0.0.1", 0, DISTANCE_NEAR)];
        assert_eq!(chosen(&unknown, &unknown), Some((0, 0)));
        assert_eq!(chosen(&unknown, &[near("10.0.0.2")]), None);
    }

    #[test]
    fn kinds_of_network_and_families_of_addresses_do_not_mix() {
        let six = rail("2001:db8::1", 64, DISTANCE_NEAR);
        let six = [six];
        assert_eq!(chosen(&six, &[rail("2001:db8::2", 64, DISTANCE_NEAR)]), Some((0, 0)));
        assert_eq!(chosen(&six, &[near("10.0.0.1")]), None);
        let mut first = near("10.0.0.2");
        first.choice.kind = GidKind::RoceV1;
        assert_eq!(chosen(&[near("10.0.0.1")], &[first]), None);
        let (one, other) = (infiniband("fe80::1"), infiniband("fe80::2"));
        assert_eq!(chosen(&[near("10.0.0.1"), one.clone()], &[other]), Some((1, 0)));
        assert_eq!(chosen(&[one], &[infiniband("fec0::2")]), None, "another subnet");
    }

    #[test]
    fn a_port_without_an_address_is_taken_only_if_a_person_named_it_or_for_itself() {
        let (one, other) = ([rail("fe80::1", 64, DISTANCE_NEAR)], [rail("fe80::2", 64, 10)]);
        assert_eq!(chosen(&one, &other), None, "it may be another wire");
        assert_eq!(chosen(&one, &one), Some((0, 0)));
        let failures = Failures::default();
        let guess = By { guess: Guess::Allowed, ..by(&failures) };
        assert_eq!(choose(&one, &words(&other), guess), Some((0, 0)));
    }

    #[test]
    fn the_nearest_to_both_ends_is_taken_first() {
        let own = [rail("10.0.0.1", 24, 21), rail("10.0.1.1", 24, 10)];
        let theirs = [rail("10.0.0.2", 24, 10), rail("10.0.1.2", 24, 10)];
        assert_eq!(chosen(&own, &theirs), Some((1, 1)));
        let theirs = [rail("10.0.0.2", 24, 10), rail("10.0.1.2", 24, 32)];
        assert_eq!(chosen(&own, &theirs), Some((0, 0)));
    }

    #[test]
    fn equally_near_rails_get_as_many_lanes_each_whatever_the_turn_begins_with() {
        for first in 0..3 {
            let mut own = [near("10.0.0.1"), near("10.0.1.1"), near("10.0.2.1")];
            let theirs = words(&[near("10.0.0.2"), near("10.0.1.2"), near("10.0.2.2")]);
            for peer in 0..12 {
                let failures = Failures::default();
                let turn = By { turn: first + peer, ..by(&failures) };
                let (own_at, their_at) = choose(&own, &theirs, turn).unwrap();
                assert_eq!(own_at, their_at);
                assert!(peer > 0 || own_at == first, "cores begin with rails of their own");
                own[own_at].lanes += 1;
            }
            assert_eq!(own.map(|rail| rail.lanes), [4; 3]);
        }
    }

    #[test]
    fn on_a_flat_network_ports_at_the_same_place_are_paired() {
        let own = [near("10.0.0.1"), near("10.0.0.2")];
        let theirs = words(&[near("10.0.0.11"), near("10.0.0.12")]);
        let failures = Failures::default();
        let pairs = [0, 1].map(|turn| choose(&own, &theirs, By { turn, ..by(&failures) }));
        assert_eq!(pairs, [Some((0, 0)), Some((1, 1))]);
    }

    #[test]
    fn a_pair_that_failed_is_put_behind_all_others_until_it_is_forgiven() {
        let own = [near("10.0.0.1"), rail("10.0.1.1", 24, 32)];
        let theirs = words(&[near("10.0.0.2"), near("10.0.1.2")]);
        let mut failures = Failures::default();
        let choose_at =
            |failures: &Failures, now| choose(&own, &theirs, By { now, ..by(failures) }).unwrap();
        assert_eq!(choose_at(&failures, NOW), (0, 0));
        let pair = |at: usize| PairOfGids { own: own[at].choice.gid, theirs: Gid(theirs[at].gid) };
        failures.note(pair(0), NOW);
        assert_eq!(choose_at(&failures, NOW), (1, 1));
        failures.note(pair(1), NOW);
        assert_eq!(choose_at(&failures, NOW), (0, 0), "all have failed as often");
        failures.note(pair(0), NOW);
        assert_eq!(choose_at(&failures, NOW), (1, 1));
        assert_eq!(choose_at(&failures, NOW + FORGIVEN_AFTER), (0, 0));
    }

    #[test]
    fn of_too_many_rails_the_farthest_are_not_told() {
        let rails: Vec<Rail> =
            (0..10).map(|at| rail("10.0.0.1", 24, if at < 2 { 32 } else { 10 + at })).collect();
        let told = nearest(rails.clone());
        assert_eq!(told, rails[2..]);
    }
}
