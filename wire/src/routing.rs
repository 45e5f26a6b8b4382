//! The routing table: which shard owns a key.
//!
//! Owns a consistent-hash ring with virtual nodes, read off into a fixed number of partitions, so
//! that finding a key's shard is one multiplication and one look-up. How the table reaches a
//! worker is left to `server` and `worker`.
//!
//! Invariant: every partition names a shard below `shards()`. The key's hash here differs from
//! the one inside a shard's table, or a shard's keys would crowd into few places of its index.

use std::fmt;

use crate::ids::{Epoch, Key, ShardId};

/// How many partitions the ring is read off into.
pub const PARTITIONS: usize = 4096;

/// Places a shard has on the ring. More places even out the load: with 128, the largest of 8
/// shards has about a tenth more keys than the mean.
pub const VIRTUAL_NODES: u16 = 128;

/// Most shards of a job, and so of a cluster: with more, some would own no partition.
pub const SHARDS_MAX: usize = PARTITIONS / 8;

/// Which shard owns which keys, in one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Routing {
    epoch: Epoch,
    shards: u16,
    owners: Box<[u16; PARTITIONS]>,
}

/// Why there is no such routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingError {
    /// No shard, or more than partitions allow.
    Shards {
        /// Asked for.
        shards: usize,
    },
}

impl fmt::Display for RoutingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoutingError::Shards { shards } = self;
        write!(f, "{shards} shards; a job has 1 to {SHARDS_MAX}")
    }
}

impl std::error::Error for RoutingError {}

impl Routing {
    /// The table for `shards` shards of equal weight. The same arguments give the same table.
    pub fn new(epoch: Epoch, shards: usize) -> Result<Routing, RoutingError> {
        if shards == 0 || shards > SHARDS_MAX {
            return Err(RoutingError::Shards { shards });
        }
        let count = u16::try_from(shards).expect("SHARDS_MAX fits 16 bits");
        let mut ring: Vec<(u64, u16)> = (0..count)
            .flat_map(|shard| (0..VIRTUAL_NODES).map(move |node| (place(shard, node), shard)))
            .collect();
        ring.sort_unstable();
        let mut owners = Box::new([0; PARTITIONS]);
        for (partition, owner) in owners.iter_mut().enumerate() {
            let start = (partition as u64) << (64 - PARTITIONS.ilog2());
            let next = ring.partition_point(|&(at, _)| at < start);
            *owner = ring[next % ring.len()].1;
        }
        Ok(Routing { epoch, shards: count, owners })
    }

    /// The table's epoch.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many shards there are.
    pub const fn shards(&self) -> usize {
        self.shards as usize
    }

    /// The shard that owns this key.
    #[inline]
    pub fn shard_of(&self, key: Key) -> ShardId {
        let partition = ring_number(key) >> (64 - PARTITIONS.ilog2());
        ShardId::new(self.owners[partition as usize])
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Routing({}, {} shards)", self.epoch, self.shards)
    }
}

/// A key's place on the ring, in parts of 2^64. What a shard counts by the first
/// `PARTITIONS.ilog2()` bits of it, or more, never mixes keys that another shard could own.
#[inline]
pub const fn ring_number(key: Key) -> u64 {
    mix(key.get())
}

/// A virtual node's place on the ring.
fn place(shard: u16, node: u16) -> u64 {
    mix(mix(u64::from(shard) + 1) ^ u64::from(node))
}

/// Steele, Lea, Flood, OOPSLA 2014 (SplitMix64's finaliser), after a constant of our own.
#[inline]
const fn mix(key: u64) -> u64 {
    let x = (key ^ 0x6772_6164_7769_7265).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(shards: usize) -> Vec<usize> {
        let routing = Routing::new(Epoch::new(1), shards).expect("shards are in range");
        let mut owned = vec![0; shards];
        for key in 0..100_000 {
            owned[routing.shard_of(Key::new(key)).index()] += 1;
        }
        owned
    }

    #[test]
    fn sequential_keys_spread_over_the_shards_within_a_third_of_the_mean() {
        for shards in [1, 2, 3, 8, 16] {
            let mean = 100_000 / shards;
            for (shard, &keys) in owned(shards).iter().enumerate() {
                assert!(keys.abs_diff(mean) < mean / 3, "shard {shard} of {shards} owns {keys}");
            }
        }
    }

    #[test]
    fn one_more_shard_moves_keys_only_to_the_new_one_and_few() {
        let before = Routing::new(Epoch::new(1), 8).expect("8 shards");
        let after = Routing::new(Epoch::new(2), 9).expect("9 shards");
        let mut moved = 0;
        for key in (0..100_000).map(Key::new) {
            let (old, new) = (before.shard_of(key), after.shard_of(key));
            if old != new {
                assert_eq!(new, ShardId::new(8), "{key} moved between old shards");
                moved += 1;
            }
        }
        assert!((5_000..17_000).contains(&moved), "{moved} of 100000 keys moved");
    }

    #[test]
    fn no_shard_and_too_many_shards_are_refused() {
        for shards in [0, SHARDS_MAX + 1] {
            let error = Routing::new(Epoch::new(1), shards).expect_err("out of range");
            assert_eq!(error, RoutingError::Shards { shards });
        }
    }
}
