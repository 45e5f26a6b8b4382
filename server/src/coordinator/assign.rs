//! Assignment: which servers shall hold which shard, from who holds it and who is there.
//!
//! Owns the rules: who leaves a chain, who becomes its tail, who is filled next, and which replicas
//! move so that servers are loaded by their memory. Noticing who is there is left to `machine`,
//! filling to the servers.
//!
//! Invariants: a server enters `replicas` only in the first placement or once it was filled; the
//! order of those who stay never changes, so that a new head held everything before; the last that
//! holds a shard is taken out only if it is lost.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::{Chain, Epoch, ServerId, ShardId};

use super::first::Draft;

/// Fills that a server may take part in at once, as the one filled or the one who fills.
pub const FILLS_MAX_PER_SERVER: usize = 2;

/// What replicas of a shard may not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// No host: a machine that fails takes one replica with it.
    DistinctHosts,
    /// No server; for one machine, and for tests.
    DistinctServers,
}

/// How a server is, as far as assignment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Holds what it holds and may take more.
    Fit,
    /// Holds what it holds; was not heard since the coordinator began.
    Expected,
    /// Holds what it holds and is to give it away.
    Leaving,
    /// Not there; holds what nobody else does, should it come back.
    Away,
    /// Gone with all it held.
    Lost,
}

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) server: ServerId,
    pub(super) host: String,
    pub(super) weight: u64,
    pub(super) standing: Standing,
}

/// A replica that is to go from one server to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Which shard's.
    pub shard: ShardId,
    /// Whose replica goes.
    pub from: ServerId,
    /// Who gets one.
    pub to: ServerId,
}

/// What servers and people have said since the placement that is built upon.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// Shards whose joining one holds everything, and in which epoch of the chain.
    pub(super) filled: BTreeMap<ShardId, Epoch>,
    /// Who is to leave a chain, if another is there.
    pub(super) out: BTreeSet<(ShardId, ServerId)>,
    /// Who is not to be filled with a shard.
    pub(super) unfit: BTreeSet<(ShardId, ServerId)>,
    /// Pairs that do not reach each other, the one that sends first.
    pub(super) apart: BTreeSet<(ServerId, ServerId)>,
    /// What a person wants moved.
    pub(super) moves: Vec<Move>,
}

/// By shard, whose replica goes once the joining one is filled.
pub(super) type Leavers = BTreeMap<ShardId, ServerId>;

/// All servers, and how many shall hold each shard.
#[derive(Clone, Debug)]
pub(super) struct Crew {
    seats: BTreeMap<ServerId, Seat>,
    replicas: usize,
    /// Replicas that a shard can have as things are.
    wanted: usize,
    spread: Spread,
}

/// One round of assignment.
struct Round<'a> {
    crew: &'a Crew,
    news: &'a News,
    leavers: &'a mut Leavers,
    chains: Vec<Chain>,
    /// By server: replicas that it will hold when all fills are through.
    loads: BTreeMap<ServerId, usize>,
    /// By server: shards that it will be the head of then.
    heads: BTreeMap<ServerId, usize>,
    /// By server: fills that it takes part in.
    fills: BTreeMap<ServerId, usize>,
}

impl Crew {
    pub(super) fn new(seats: Vec<Seat>, replicas: usize, spread: Spread) -> Crew {
        let stays = |seat: &&Seat| matches!(seat.standing, Standing::Fit | Standing::Expected);
        let stay = seats.iter().filter(stays);
        let places = match spread {
            Spread::DistinctServers => stay.count(),
            Spread::DistinctHosts => {
                stay.map(|seat| seat.host.as_str()).collect::<BTreeSet<_>>().len()
            }
        };
        let wanted = replicas.min(places).max(1);
        let seats = seats.into_iter().map(|seat| (seat.server, seat)).collect();
        Crew { seats, replicas, wanted, spread }
    }

    /// The first placement's chains: all replicas are empty, and none has to be filled.
    pub(super) fn first(&self, shards: u16) -> Vec<Chain> {
        let fit = self.seats.values().filter(|seat| seat.standing == Standing::Fit);
        let may_meet = |a: &Seat, b: &Seat| self.may_join(&[a.server], b);
        Draft::new(fit.collect(), self.replicas, may_meet).chains(shards)
    }

    /// The chains that shall follow. Epochs are left as they are; who differs has changed.
    /// `leavers` is kept from one call to the next; without it, whoever is loaded most goes.
    pub(super) fn next(&self, chains: &[Chain], news: &News, leavers: &mut Leavers) -> Vec<Chain> {
        let settled: Vec<Chain> = (0..)
            .zip(chains)
            .map(|(shard, chain)| {
                let shard = ShardId::new(shard);
                self.settle(shard, chain, news, leavers.get(&shard).copied())
            })
            .collect();
        leavers.retain(|shard, server| {
            let chain = &settled[shard.index()];
            chain.joining.is_some() && chain.replicas.contains(server)
        });
        let mut round = Round::new(self, news, leavers, settled);
        let pending = round.repair();
        round.carry_out_moves();
        if pending == Pending::Nothing {
            round.balance();
        }
        round.chains
    }

    /// What a server is; whoever is not listed is lost.
    fn standing(&self, server: ServerId) -> Standing {
        self.seats.get(&server).map_or(Standing::Lost, |seat| seat.standing)
    }

    /// Whether a server may be with these in a chain.
    fn may_join(&self, others: &[ServerId], seat: &Seat) -> bool {
        others.iter().all(|other| {
            let shares_host = self.seats.get(other).is_some_and(|other| other.host == seat.host);
            *other != seat.server && !(shares_host && self.spread == Spread::DistinctHosts)
        })
    }

    /// Those of a chain who shall stay in it; of two that may not be together, the first.
    fn staying(&self, chain: &Chain) -> Vec<ServerId> {
        let mut staying = Vec::with_capacity(chain.replicas.len());
        for seat in chain.replicas.iter().filter_map(|server| self.seats.get(server)) {
            let stays = matches!(seat.standing, Standing::Fit | Standing::Expected);
            if stays && self.may_join(&staying, seat) {
                staying.push(seat.server);
            }
        }
        staying
    }

    /// A chain without those who are gone, and with the one that was filled.
    fn settle(
        &self,
        shard: ShardId,
        before: &Chain,
        news: &News,
        leaver: Option<ServerId>,
    ) -> Chain {
        let mut chain = before.clone();
        if news.filled.get(&shard) == Some(&before.epoch) {
            // First of all: what was filled holds a shard whose other holders may be lost below.
            chain.replicas.extend(chain.joining.take());
        }
        chain.replicas.retain(|&server| self.standing(server) != Standing::Lost);
        let is_there = |server: ServerId| self.standing(server) != Standing::Away;
        // Nobody goes in favour of such as were not heard since the coordinator began: they may be
        // dead, and whoever goes has the last copy.
        let is_heard =
            |server: ServerId| matches!(self.standing(server), Standing::Fit | Standing::Leaving);
        let is_out = |server: ServerId| news.out.contains(&(shard, server));
        let all = chain.replicas.clone();
        let rest_is_there = all.iter().any(|&server| is_heard(server) && !is_out(server));
        if rest_is_there {
            chain.replicas.retain(|&server| is_there(server) && !is_out(server));
        } else if all.iter().any(|&server| is_heard(server)) {
            chain.replicas.retain(|&server| is_there(server));
        }
        self.trim(&mut chain, leaver);
        let joining = chain.joining.filter(|&server| !is_out(server) && !chain.replicas.is_empty());
        chain.joining = joining.filter(|&server| self.may_go_on(&chain, server, leaver));
        chain
    }

    /// Whether a fill still makes sense, after others may have left the chain.
    fn may_go_on(&self, chain: &Chain, joining: ServerId, leaver: Option<ServerId>) -> bool {
        let will_leave = |server: &ServerId| {
            // A chain that has become short keeps the one that was to leave.
            let is_leaver = Some(*server) == leaver && chain.replicas.len() >= self.replicas;
            is_leaver || self.standing(*server) == Standing::Leaving
        };
        let others: Vec<ServerId> =
            chain.replicas.iter().copied().filter(|server| !will_leave(server)).collect();
        let seat = self.seats.get(&joining).filter(|seat| seat.standing == Standing::Fit);
        seat.is_some_and(|seat| self.may_join(&others, seat))
    }

    /// Takes those out of a chain that it can do without.
    fn trim(&self, chain: &mut Chain, leaver: Option<ServerId>) {
        if chain.replicas.len() > self.replicas {
            // First, since the one that was filled may be of its host.
            chain.replicas.retain(|server| Some(*server) != leaver);
        }
        let staying = self.staying(chain);
        if staying.len() >= self.wanted {
            chain.replicas.retain(|server| staying.contains(server));
        }
        while chain.replicas.len() > self.replicas {
            // Who wants to leave, then who is not to be together with another, then the one before
            // the newest, which is the head of few.
            let staying = self.staying(chain);
            let leaves = |server: &ServerId| !staying.contains(server);
            let before_newest = chain.replicas.len() - 2;
            let goes = chain.replicas.iter().position(leaves).unwrap_or(before_newest);
            chain.replicas.remove(goes);
        }
    }
}

/// Whether chains wait for a replica that they can have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    Repairs,
}

impl<'a> Round<'a> {
    fn new(
        crew: &'a Crew,
        news: &'a News,
        leavers: &'a mut Leavers,
        chains: Vec<Chain>,
    ) -> Round<'a> {
        let (loads, heads, fills) = Default::default();
        let mut round = Round { crew, news, leavers, chains, loads, heads, fills };
        for index in 0..round.chains.len() {
            let chain = &round.chains[index];
            let leaver = round.leavers.get(&ShardId::new(index as u16));
            let stays = chain.replicas.iter().filter(|server| Some(*server) != leaver);
            for &server in stays.clone().chain(&chain.joining) {
                *round.loads.entry(server).or_default() += 1;
            }
            if let Some(&head) = stays.clone().next() {
                *round.heads.entry(head).or_default() += 1;
            }
            if let (Some(&tail), Some(joining)) = (chain.replicas.last(), chain.joining) {
                *round.fills.entry(tail).or_default() += 1;
                *round.fills.entry(joining).or_default() += 1;
            }
        }
        round
    }

    /// Begins to fill chains that are short, those with the fewest replicas first.
    fn repair(&mut self) -> Pending {
        let wanted = self.crew.wanted;
        let mut short: Vec<(usize, usize)> = Vec::new();
        let mut pending = Pending::Nothing;
        for (index, chain) in self.chains.iter().enumerate() {
            let staying = self.crew.staying(chain).len();
            if chain.replicas.is_empty() || staying >= wanted {
                continue;
            }
            pending = Pending::Repairs;
            if chain.joining.is_none() {
                short.push((staying, index));
            }
        }
        short.sort_unstable();
        for (_, index) in short {
            let staying = self.crew.staying(&self.chains[index]);
            let fit = self.crew.seats.values().filter(|seat| self.may_fill(index, seat, &staying));
            if let Some(least) = fit.min_by(|a, b| self.by_load(a, b)) {
                let joining = least.server;
                self.begin(index, joining);
            }
        }
        pending
    }

    /// Whether a server may be filled with a shard now, `others` being those who stay with it.
    fn may_fill(&self, index: usize, seat: &Seat, others: &[ServerId]) -> bool {
        let chain = &self.chains[index];
        let Some(&tail) = chain.replicas.last() else { return false };
        let shard = ShardId::new(index as u16);
        seat.standing == Standing::Fit
            && chain.joining.is_none()
            && !chain.replicas.contains(&seat.server)
            && matches!(self.crew.standing(tail), Standing::Fit | Standing::Leaving)
            && self.crew.may_join(others, seat)
            && !self.news.unfit.contains(&(shard, seat.server))
            && !self.news.apart.contains(&(tail, seat.server))
            && self.is_free(tail)
            && self.is_free(seat.server)
    }

    fn is_free(&self, server: ServerId) -> bool {
        self.fills.get(&server).copied().unwrap_or(0) < FILLS_MAX_PER_SERVER
    }

    fn begin(&mut self, index: usize, joining: ServerId) {
        let chain = &mut self.chains[index];
        chain.joining = Some(joining);
        *self.loads.entry(joining).or_default() += 1;
        for server in chain.replicas.last().copied().into_iter().chain([joining]) {
            *self.fills.entry(server).or_default() += 1;
        }
    }

    /// Begins a move: its shard will leave `from` when `to` is filled.
    fn begin_move(&mut self, Move { shard, from, to }: Move) {
        let chain = &self.chains[shard.index()];
        if let [head, next, ..] = chain.replicas[..]
            && head == from
        {
            *self.heads.entry(from).or_insert(1) -= 1;
            *self.heads.entry(next).or_default() += 1;
        }
        *self.loads.entry(from).or_insert(1) -= 1;
        self.leavers.insert(shard, from);
        self.begin(shard.index(), to);
    }

    /// Whether a move can begin now. A chain that is short is left to repair.
    fn may_move(&self, Move { shard, from, to }: Move) -> bool {
        let Some(chain) = self.chains.get(shard.index()) else { return false };
        let Some(seat) = self.crew.seats.get(&to) else { return false };
        let others: Vec<ServerId> =
            chain.replicas.iter().copied().filter(|&server| server != from).collect();
        chain.replicas.contains(&from)
            && self.crew.staying(chain).len() == chain.replicas.len()
            && chain.replicas.len() == self.crew.replicas
            && self.may_fill(shard.index(), seat, &others)
    }

    fn carry_out_moves(&mut self) {
        for &wish in &self.news.moves {
            if self.may_move(wish) {
                self.begin_move(wish);
            }
        }
    }

    /// Begins moves from servers with much load to such with little, as long as one makes the
    /// greater of two loads smaller. A load is replicas by memory.
    fn balance(&mut self) {
        let fit = self.crew.seats.values().filter(|seat| seat.standing == Standing::Fit);
        let mut seats: Vec<&Seat> = fit.collect();
        let mut held: BTreeMap<ServerId, Vec<ShardId>> = BTreeMap::new();
        for (shard, chain) in (0..=u16::MAX).map(ShardId::new).zip(&self.chains) {
            for &server in &chain.replicas {
                held.entry(server).or_default().push(shard);
            }
        }
        // Each move takes one of a server's few fills, which bounds the rounds.
        while let Some(next) = {
            seats.sort_by(|a, b| self.by_load(a, b));
            self.best_move(&seats, &held)
        } {
            self.begin_move(next);
        }
    }

    /// The best move among servers in the order of their loads.
    fn best_move(&self, seats: &[&Seat], held: &BTreeMap<ServerId, Vec<ShardId>>) -> Option<Move> {
        for &from in seats.iter().rev() {
            for &to in seats {
                if !self.is_better(from, to) {
                    break;
                }
                if !self.is_free(to.server) {
                    continue;
                }
                let shards = held.get(&from.server).into_iter().flatten();
                let moves = shards.map(|&shard| Move { shard, from: from.server, to: to.server });
                let can = moves.filter(|&one| self.may_move(one));
                if let Some(best) = can.max_by_key(|one| self.head_gain(*one)) {
                    return Some(best);
                }
            }
        }
        None
    }

    fn by_load(&self, a: &Seat, b: &Seat) -> Ordering {
        let load = |seat: &Seat| self.loads.get(&seat.server).copied().unwrap_or(0);
        by_load((a, load(a)), (b, load(b)))
    }

    /// Whether one replica more makes `to` less loaded than `from` is.
    fn is_better(&self, from: &Seat, to: &Seat) -> bool {
        let of = |seat: &Seat| self.loads.get(&seat.server).copied().unwrap_or(0) as u128;
        let (from_load, to_load) = (of(from), of(to) + 1);
        to_load * u128::from(from.weight.max(1)) < from_load * u128::from(to.weight.max(1))
    }

    /// How much better heads are spread after a move: by how many shards more the one that gives
    /// the head away is the head of.
    fn head_gain(&self, Move { shard, from, .. }: Move) -> isize {
        let of = |server| self.heads.get(&server).copied().unwrap_or(0) as isize;
        match self.chains[shard.index()].replicas[..] {
            [head, next, ..] if head == from => of(from) - of(next) - 1,
            _ => 0,
        }
    }
}

/// Orders servers, each with what it holds, by what one more would make of their load.
pub(super) fn by_load(a: (&Seat, usize), b: (&Seat, usize)) -> Ordering {
    let share =
        |one: (&Seat, usize), other: &Seat| (one.1 as u128 + 1) * u128::from(other.weight.max(1));
    share(a, b.0).cmp(&share(b, a.0))
}
