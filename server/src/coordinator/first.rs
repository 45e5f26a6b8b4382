//! The first placement: who holds which shard when all are empty.
//!
//! Owns the one choice that costs nothing to make well, since nothing has to be filled: servers are
//! loaded and are heads by their memory, and what one server's end leaves behind falls to all
//! others. Every later change is left to `assign`.
//!
//! Invariant: the same servers and numbers give the same chains.

use std::cmp::Ordering;

use wire::{Chain, Epoch};

use super::assign::{Seat, by_load};

/// Chains under construction, over fit servers by index.
pub(super) struct Draft<'a> {
    seats: Vec<&'a Seat>,
    /// By pair of servers: whether they may hold one shard together.
    may_meet: Vec<bool>,
    replicas: usize,
    loads: Vec<usize>,
    heads: Vec<usize>,
    /// By pair: how many shards they hold together.
    together: Vec<u32>,
    /// By pair: how many shards the second would inherit of the first.
    inherits: Vec<u32>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        seats: Vec<&'a Seat>,
        replicas: usize,
        may_meet: impl Fn(&Seat, &Seat) -> bool,
    ) -> Draft<'a> {
        let count = seats.len();
        let pairs = seats.iter().flat_map(|a| seats.iter().map(|b| may_meet(a, b)));
        Draft {
            may_meet: pairs.collect(),
            replicas,
            loads: vec![0; count],
            heads: vec![0; count],
            together: vec![0; count * count],
            inherits: vec![0; count * count],
            seats,
        }
    }

    /// The chains of so many shards.
    pub(super) fn chains(mut self, shards: u16) -> Vec<Chain> {
        let mut drawn: Vec<Vec<usize>> = (0..shards).map(|_| self.draw()).collect();
        drawn.iter_mut().for_each(|chain| self.put_in_order(chain));
        self.even_heads(&mut drawn);
        let chain = |servers: Vec<usize>| {
            let replicas = servers.into_iter().map(|at| self.seats[at].server).collect();
            Chain { epoch: Epoch::new(0), replicas, joining: None }
        };
        drawn.into_iter().map(chain).collect()
    }

    fn pair(&self, one: usize, other: usize) -> usize {
        one * self.seats.len() + other
    }

    fn by(&self, counts: &[usize], a: usize, b: usize) -> Ordering {
        by_load((self.seats[a], counts[a]), (self.seats[b], counts[b]))
    }

    /// The servers of one shard: the least loaded, and among equals those who are together least.
    fn draw(&mut self) -> Vec<usize> {
        let mut chain: Vec<usize> = Vec::with_capacity(self.replicas);
        while chain.len() < self.replicas {
            let meets = |at: &usize| chain.iter().all(|&one| self.may_meet[self.pair(one, *at)]);
            let met = |at: usize| -> u32 {
                chain.iter().map(|&one| self.together[self.pair(one, at)]).sum()
            };
            let free = (0..self.seats.len()).filter(meets);
            let least =
                free.min_by(|&a, &b| self.by(&self.loads, a, b).then_with(|| met(a).cmp(&met(b))));
            let Some(least) = least else { break };
            chain.push(least);
        }
        for &one in &chain {
            self.loads[one] += 1;
            for &other in chain.iter().filter(|other| **other != one) {
                let pair = self.pair(one, other);
                self.together[pair] += 1;
            }
        }
        chain
    }

    /// Puts one at the head who is the head of few, and one behind it who seldom is.
    fn put_in_order(&mut self, chain: &mut [usize]) {
        let least_inherited = |head: usize| {
            let heirs = chain.iter().filter(|&&one| one != head);
            heirs.map(|&one| self.inherits[self.pair(head, one)]).min()
        };
        let best = chain.iter().copied().min_by(|&a, &b| {
            let order = self.by(&self.heads, a, b);
            order.then_with(|| least_inherited(a).cmp(&least_inherited(b)))
        });
        if let Some(head) = best {
            self.heads[head] += 1;
            self.lead(chain, head);
        }
    }

    /// Makes a server the head of its chain, and finds the heir.
    fn lead(&mut self, chain: &mut [usize], head: usize) {
        let heirs = chain.iter().copied().filter(|&one| one != head);
        let heir = heirs.min_by_key(|&one| self.inherits[self.pair(head, one)]);
        chain.sort_by_key(|&one| (one != head, Some(one) != heir));
        if let Some(heir) = heir {
            let pair = self.pair(head, heir);
            self.inherits[pair] += 1;
        }
    }

    /// Gives the head's place to another of the chain wherever that evens the heads.
    fn even_heads(&mut self, chains: &mut [Vec<usize>]) {
        // Each change makes a larger number smaller, and a pass without one is the last.
        loop {
            let mut changed = false;
            for chain in &mut *chains {
                let Some(&head) = chain.first() else { continue };
                let least = chain.iter().copied().min_by(|&a, &b| self.by(&self.heads, a, b));
                let Some(least) = least else { continue };
                let with_one = (self.seats[least], self.heads[least]);
                let without = (self.seats[head], self.heads[head] - 1);
                if by_load(with_one, without) == Ordering::Less {
                    let heir = chain.get(1).map(|&heir| self.pair(head, heir));
                    if let Some(pair) = heir {
                        self.inherits[pair] -= 1;
                    }
                    self.heads[head] -= 1;
                    self.heads[least] += 1;
                    self.lead(chain, least);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }
}
