//! What may befall a message on its way.
//!
//! Owns the rates. Rolling them is left to `network`.

use std::ops::RangeInclusive;

use super::dice::Dice;

/// Sets the streams of [`Faults::from_seed`] and of a world of the same seed apart.
const MIX_STREAM: u64 = 0x4D49_585F_4641_554C;

/// How much faster or slower a clock may run in a mix: 1 %, a hundred times what quartz does.
const CLOCK_DRIFT_PPM_MAX: u64 = 10_000;

/// Rates of the faults. Rates are per message and in per mille; times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How long a message travels. Messages of one connection keep their order all the same.
    pub delay_ns: RangeInclusive<u64>,
    /// The message never arrives.
    pub loss_per_mille: u32,
    /// The message arrives twice, the second time by up to `reorder_ns` later.
    pub duplicate_per_mille: u32,
    /// The message travels `reorder_ns` longer, and later ones may overtake it.
    pub reorder_per_mille: u32,
    /// How much longer.
    pub reorder_ns: RangeInclusive<u64>,
    /// One bit of the message flips. If that breaks the framing, the connection ends as a byte
    /// stream's would; otherwise the message's checksum has to find it.
    pub corrupt_per_mille: u32,
    /// The connection breaks, and both ends get a fault.
    pub cut_per_mille: u32,
    /// The way from the sender's endpoint to the receiver's is shut for `partition_ns`: all that
    /// is sent that way meanwhile is lost, makes no other partition, and nobody is told.
    pub partition_per_mille: u32,
    /// For how long.
    pub partition_ns: RangeInclusive<u64>,
    /// Each endpoint's clock is ahead of the world's by its own part of this, so that times of two
    /// endpoints do not compare.
    pub clock_ahead_ns_max: u64,
    /// Each endpoint's clock runs faster or slower than the world's by up to so many millionths.
    pub clock_drift_ppm_max: u64,
}

impl Faults {
    /// A quiet network: each message takes 10 us, arrives once and in order; all clocks agree.
    pub const NONE: Faults = Faults {
        delay_ns: 10_000..=10_000,
        loss_per_mille: 0,
        duplicate_per_mille: 0,
        reorder_per_mille: 0,
        reorder_ns: 0..=0,
        corrupt_per_mille: 0,
        cut_per_mille: 0,
        partition_per_mille: 0,
        partition_ns: 0..=0,
        clock_ahead_ns_max: 0,
        clock_drift_ppm_max: 0,
    };

    /// A mix that follows from the seed: each fault is off in half of the mixes, else its rate is
    /// mostly low and sometimes high. Every connection still gets most messages through.
    pub fn from_seed(seed: u64) -> Faults {
        let mut dice = Dice::new(seed ^ MIX_STREAM);
        let delay_ns_min = dice.within(&(1_000..=200_000));
        let delay_ns_max = delay_ns_min + dice.within(&(0..=2_000_000));
        Faults {
            delay_ns: delay_ns_min..=delay_ns_max,
            loss_per_mille: rate(&mut dice, 200),
            duplicate_per_mille: rate(&mut dice, 200),
            reorder_per_mille: rate(&mut dice, 200),
            reorder_ns: 0..=dice.within(&(10_000..=20_000_000)),
            corrupt_per_mille: rate(&mut dice, 50),
            cut_per_mille: rate(&mut dice, 20),
            partition_per_mille: rate(&mut dice, 5),
            partition_ns: 1_000_000..=dice.within(&(1_000_000..=3_000_000_000)),
            clock_ahead_ns_max: dice.within(&(0..=3_600_000_000_000)),
            clock_drift_ppm_max: dice.within(&(0..=CLOCK_DRIFT_PPM_MAX)),
        }
    }
}

/// 0 in half of the cases, else 1 to `per_mille_max`, the low ones more often.
fn rate(dice: &mut Dice, per_mille_max: u64) -> u32 {
    let highest = dice.within(&(1..=per_mille_max));
    let drawn = dice.within(&(1..=highest)) as u32;
    if dice.strikes(500) { drawn } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_follows_from_its_seed_and_the_mixes_cover_every_fault_on_and_off() {
        let mixes: Vec<Faults> = (0..64).map(Faults::from_seed).collect();
        assert_eq!(mixes, (0..64).map(Faults::from_seed).collect::<Vec<_>>());
        let rates: [fn(&Faults) -> u32; 6] = [
            |mix| mix.loss_per_mille,
            |mix| mix.duplicate_per_mille,
            |mix| mix.reorder_per_mille,
            |mix| mix.corrupt_per_mille,
            |mix| mix.cut_per_mille,
            |mix| mix.partition_per_mille,
        ];
        for (index, rate) in rates.iter().enumerate() {
            let on = mixes.iter().filter(|mix| rate(mix) > 0).count();
            assert!((8..56).contains(&on), "fault number {index} is on in {on} of 64 mixes");
        }
    }
}
