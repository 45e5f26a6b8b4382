//! Values that flags and the configuration file have in common.
//!
//! Owns how they are written: `ssp:3`, `skip:10`, `uring`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use learn::data::{BadRows, Format};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tracing_subscriber::filter::LevelFilter;
use worker::{Acknowledge, CodecChoice, Expiry, KeyAdmission, Reading, Staleness};

/// How what is logged is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    Text,
    /// A line of JSON, its fields apart.
    Json,
}

/// How far workers may be apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockBound {
    Bsp,
    Ssp(u64),
    Asp,
}

impl ClockBound {
    /// The bound that the shards enforce.
    pub(crate) fn staleness(self) -> Staleness {
        match self {
            ClockBound::Bsp => Staleness::BSP,
            ClockBound::Ssp(clocks) => Staleness::ssp(clocks),
            ClockBound::Asp => Staleness::ASP,
        }
    }
}

impl FromStr for ClockBound {
    type Err = String;

    fn from_str(text: &str) -> Result<ClockBound, String> {
        let wrong = || format!("expected bsp, ssp:N or asp, found '{text}'");
        match text {
            "bsp" => Ok(ClockBound::Bsp),
            "asp" => Ok(ClockBound::Asp),
            _ => {
                let clocks = text.strip_prefix("ssp:").ok_or_else(wrong)?;
                clocks.parse().map(ClockBound::Ssp).map_err(|_| wrong())
            }
        }
    }
}

impl fmt::Display for ClockBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClockBound::Bsp => f.write_str("bsp"),
            ClockBound::Ssp(clocks) => write!(f, "ssp:{clocks}"),
            ClockBound::Asp => f.write_str("asp"),
        }
    }
}

/// What an unreadable row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRowsFlag(pub(crate) BadRows);

impl FromStr for BadRowsFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<BadRowsFlag, String> {
        let wrong = || format!("expected fail or skip:N, found '{text}'");
        if text == "fail" {
            return Ok(BadRowsFlag(BadRows::Fail));
        }
        let rows = text.strip_prefix("skip:").ok_or_else(wrong)?;
        rows.parse().map(|rows| BadRowsFlag(BadRows::Skip(rows))).map_err(|_| wrong())
    }
}

impl fmt::Display for BadRowsFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BadRows::Fail => f.write_str("fail"),
            BadRows::Skip(rows) => write!(f, "skip:{rows}"),
        }
    }
}

/// Flags that are another crate's own words.
macro_rules! worded {
    ($($(#[$doc:meta])* $flag:ident($words:ty);)*) => {$(
        $(#[$doc])*
        pub(crate) struct $flag(pub(crate) $words);

        impl FromStr for $flag {
            type Err = String;

            fn from_str(text: &str) -> Result<$flag, String> {
                text.parse::<$words>().map($flag).map_err(|error| error.to_string())
            }
        }

        impl fmt::Display for $flag {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

worded! {
    /// How messages are written.
    #[derive(Clone, Copy, Debug, PartialEq)]
    CodecFlag(CodecChoice);

    /// Which new keys get a row.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    AdmissionFlag(KeyAdmission);

    /// When rows go away.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    ExpiryFlag(Expiry);

    /// Where pushes are acknowledged.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    AcknowledgeFlag(Acknowledge);
}

/// A count, which `k`, `M` or `G` behind it multiplies by a thousand, a million or a billion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) usize);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        let units = [("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
        let with_unit = |&(unit, by)| text.strip_suffix(unit).map(|digits| (digits, by));
        let (digits, by) = units.iter().find_map(with_unit).unwrap_or((text, 1));
        let count = digits.parse().ok().and_then(|count: usize| count.checked_mul(by));
        count.map(Count).ok_or_else(|| format!("expected a count such as 2M, found '{text}'"))
    }
}

/// A length in bytes, which `KiB`, `MiB` or `GiB` behind it multiplies by a power of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteCount(pub(crate) usize);

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteCount, String> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        let with_unit = |&(unit, by)| text.strip_suffix(unit).map(|digits| (digits, by));
        let (digits, by) = units.iter().find_map(with_unit).unwrap_or((text, 1));
        let bytes = digits.parse().ok().and_then(|count: usize| count.checked_mul(by));
        bytes.map(ByteCount).ok_or_else(|| format!("expected bytes such as 64KiB, found '{text}'"))
    }
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

impl fmt::Display for DurationFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A format of files, by its name.
pub(crate) fn format_parser(text: &str) -> Result<Format, String> {
    const ALL: [Format; 6] =
        [Format::Vw, Format::LibSvm, Format::Csv, Format::Tsv, Format::Criteo, Format::Parquet];
    let names = || ALL.map(Format::name).join(", ");
    let named = ALL.into_iter().find(|format| format.name() == text);
    named.ok_or_else(|| format!("expected one of {}", names()))
}

/// What verbs do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WorkFlag {
    /// Write it into the other end's memory.
    Write,
    /// Send it into the other end's next receive.
    Send,
    /// Read it from the other end's memory.
    Read,
}

/// How bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TransportFlag {
    /// Shared memory inside this host; to others RDMA where both ends have it, else TCP.
    Auto,
    /// Shared memory.
    Shm,
    /// TCP by io_uring.
    Uring,
    /// TCP by epoll.
    Epoll,
    /// RDMA beside TCP.
    Verbs,
}

impl fmt::Display for TransportFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TransportFlag::Auto => "auto",
            TransportFlag::Shm => "shm",
            TransportFlag::Uring => "uring",
            TransportFlag::Epoll => "epoll",
            TransportFlag::Verbs => "verbs",
        })
    }
}

/// Which servers of a chain answer pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadFlag {
    /// Heads answer all.
    Heads,
    /// Replicas behind them answer, too, where a few keys are asked for much more than others.
    #[default]
    Auto,
    /// Replicas answer, too, on all shards.
    Replicas,
}

impl ReadFlag {
    /// As sessions have it.
    pub(crate) fn reading(self) -> Reading {
        match self {
            ReadFlag::Heads => Reading::Heads,
            ReadFlag::Auto => Reading::Auto,
            ReadFlag::Replicas => Reading::Replicas,
        }
    }
}

/// The most a log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        }
    }
}

/// Reads and writes a flag's text in the configuration file.
macro_rules! as_text {
    ($($flag:ty),*) => {$(
        impl<'de> Deserialize<'de> for $flag {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$flag, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $flag {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )*};
}

as_text!(
    ClockBound,
    BadRowsFlag,
    CodecFlag,
    AdmissionFlag,
    ExpiryFlag,
    AcknowledgeFlag,
    DurationFlag
);

/// What a server may write of checkpoints, as [`wire::RecordOrder::rate_mib_s`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateFlag(pub(crate) Option<u32>);

impl RateFlag {
    /// More than any store takes.
    pub(crate) const MAX: RateFlag = RateFlag(Some(u32::MAX));
}

impl fmt::Display for RateFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RateFlag(None) => f.write_str("auto"),
            RateFlag::MAX => f.write_str("max"),
            RateFlag(Some(rate)) => rate.fmt(f),
        }
    }
}

impl FromStr for RateFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<RateFlag, String> {
        let wrong = || format!("expected auto, max or MiB/s from 1 on, found '{text}'");
        match text {
            "auto" => Ok(RateFlag(None)),
            "max" => Ok(RateFlag::MAX),
            _ => {
                let rate = text.parse().ok().filter(|&rate| rate > 0);
                rate.map(|rate| RateFlag(Some(rate))).ok_or_else(wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_reads_what_it_writes() {
        for text in ["bsp", "ssp:3", "asp"] {
            assert_eq!(text.parse::<ClockBound>().map(|bound| bound.to_string()), Ok(text.into()));
        }
        for text in ["fail", "skip:10"] {
            assert_eq!(text.parse::<BadRowsFlag>().map(|flag| flag.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn a_rate_is_named_or_found_by_itself() {
        for (text, rate) in [("auto", None), ("max", Some(u32::MAX)), ("200", Some(200))] {
            assert_eq!(text.parse(), Ok(RateFlag(rate)));
            assert_eq!(RateFlag(rate).to_string(), text);
        }
        for text in ["", "0", "-1", "none", "1.5"] {
            let wrong = format!("expected auto, max or MiB/s from 1 on, found '{text}'");
            assert_eq!(text.parse::<RateFlag>(), Err(wrong));
        }
    }

    #[test]
    fn a_count_reads_its_unit_and_nothing_else() {
        let read = |text: &str| text.parse::<Count>().map(|count| count.0);
        assert_eq!(read("10k"), Ok(10_000));
        assert_eq!(read("20M"), Ok(20_000_000));
        assert_eq!(read("7"), Ok(7));
        for text in ["", "M", "-1", "2m", "99999999999G", "1.5M"] {
            assert_eq!(read(text), Err(format!("expected a count such as 2M, found '{text}'")));
        }
    }

    #[test]
    fn a_length_reads_its_unit_and_nothing_else() {
        let read = |text: &str| text.parse::<ByteCount>().map(|bytes| bytes.0);
        assert_eq!(read("64"), Ok(64));
        assert_eq!(read("64KiB"), Ok(65_536));
        assert_eq!(read("1MiB"), Ok(1 << 20));
        for text in ["", "KiB", "64kB", "-1", "1.5KiB", "99999999999999GiB"] {
            assert_eq!(read(text), Err(format!("expected bytes such as 64KiB, found '{text}'")));
        }
    }

    #[test]
    fn a_wrong_flag_says_what_was_expected() {
        assert_eq!(
            "ssp".parse::<ClockBound>(),
            Err("expected bsp, ssp:N or asp, found 'ssp'".into())
        );
        assert!("skip:-1".parse::<BadRowsFlag>().is_err());
    }

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
