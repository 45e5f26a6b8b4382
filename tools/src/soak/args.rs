//! The flags of `gradwire soak`.
//!
//! Owns their help and how a duration is written.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::FaultFlag;
use crate::cluster::CLUSTER;

#[derive(Clone, Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long, such as 60s, 10m or 24h.
    #[arg(long = "for", value_name = "DURATION", default_value = "60s")]
    pub(crate) duration: DurationFlag,
    /// The coordinator of a running cluster: nothing is started, and faults are somebody else's
    /// [default: a cluster of processes is started here, and harmed].
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["faults", "every", "replicas", "servers", "shards"])]
    pub(crate) coordinator: Vec<String>,
    /// The name of that cluster.
    #[arg(long, value_name = "NAME", default_value = CLUSTER, requires = "coordinator")]
    pub(crate) cluster: String,
    /// What befalls the cluster, drawn by the seed.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kill")]
    pub(crate) faults: Vec<FaultFlag>,
    /// Time between two faults, in the mean. Nobody is harmed before every shard has all of its
    /// replicas again.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) every: DurationFlag,
    /// Replicas of each shard.
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) replicas: u8,
    /// Servers, each a process [default: one more than replicas].
    #[arg(long, value_name = "N")]
    pub(crate) servers: Option<u16>,
    /// Shards of the job.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) shards: u16,
    /// Workers that push at full speed; one more measures.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) workers: u32,
    /// Keys of each worker.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) keys: u64,
    /// Draws faults, victims and keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A duration: a number with `ms`, `s`, `m` or `h` behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DurationFlag(pub(crate) Duration);

impl FromStr for DurationFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<DurationFlag, String> {
        const SECONDS_MAX: f64 = 1e9;
        let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let with_unit = |&(unit, by)| text.strip_suffix(unit).map(|digits| (digits, by));
        let read = units.iter().find_map(with_unit).and_then(|(digits, by)| {
            let seconds = digits.parse::<f64>().ok()? * by;
            (seconds > 0.0 && seconds <= SECONDS_MAX).then(|| Duration::from_secs_f64(seconds))
        });
        read.map(DurationFlag).ok_or_else(|| format!("expected a time such as 60s, found '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_its_unit_and_nothing_else() {
        let read = |text: &str| text.parse::<DurationFlag>().map(|flag| flag.0.as_millis());
        assert_eq!(read("60s"), Ok(60_000));
        assert_eq!(read("1.5m"), Ok(90_000));
        assert_eq!(read("250ms"), Ok(250));
        assert_eq!(read("24h"), Ok(86_400_000));
        for text in ["", "60", "s", "-1s", "0s", "1d", "NaNs", "infs"] {
            assert_eq!(read(text), Err(format!("expected a time such as 60s, found '{text}'")));
        }
    }
}
