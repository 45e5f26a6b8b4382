//! Random numbers that follow from a seed, and the distributions that loads are drawn from.
//!
//! Owns the generator (splitmix64) and Zipf's law by its cumulative sums. Which keys are drawn is
//! left to `keys`.
//!
//! Invariant: the same seed gives the same numbers on every machine.

/// A generator. Source: Steele, Lea, Flood, OOPSLA 2014, `SplittableRandom`.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// What follows from this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// From 0 to below `bound`, which is at least 1. The bias is below `bound` in 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0.0 to below 1.0.
    pub fn unit(&mut self) -> f64 {
        const MANTISSA_BITS: u32 = 53;
        (self.bits() >> (64 - MANTISSA_BITS)) as f64 / (1_u64 << MANTISSA_BITS) as f64
    }

    /// Puts `items` in random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection of 64 bits under which neighbours have nothing in common.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Ranks from 0, of which rank `r` is drawn in proportion to `1 / (r + 1)^exponent`.
#[derive(Debug)]
pub(crate) struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    /// Over `count` ranks, at least 1.
    pub(crate) fn new(count: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
        let sums = weights.map(|weight| {
            sum += weight;
            sum
        });
        Zipf { sums: sums.collect() }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let whole = self.sums.last().copied().unwrap_or(0.0);
        let at = random.unit() * whole;
        self.sums.partition_point(|&sum| sum <= at).min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_every_item_and_follows_from_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            Random::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(1), shuffled(1));
        assert_ne!(shuffled(1), shuffled(2));
        let mut sorted = shuffled(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn ranks_of_zipf_come_in_proportion_to_their_weights() {
        let (zipf, mut random) = (Zipf::new(1000, 1.0), Random::new(7));
        let mut counts = [0_u32; 1000];
        for _ in 0..200_000 {
            counts[zipf.draw(&mut random)] += 1;
        }
        let harmonic: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [0, 1, 9] {
            let expected = 200_000.0 / harmonic / (rank + 1) as f64;
            let ratio = f64::from(counts[rank]) / expected;
            assert!((0.9..1.1).contains(&ratio), "rank {rank}: {ratio} of what is expected");
        }
    }
}
