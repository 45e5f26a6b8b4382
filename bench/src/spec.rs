//! What to measure: the spec of a run, its names and its bounds.
//!
//! Invariant: a spec that passed [`PushPullSpec::check`] has every request in one message, and no
//! more of them under way than a shard gives credit for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use server::Way;
use shard::rule::{AdaGrad, Adam, AdamW, Ftrl, FtrlCompact, Momentum, RmsProp, Rule, Sgd, Sum};
use transport::tcp::TcpBackend;
use transport::verbs::VerbsSettings;
use wire::{FRAME_BYTES_MAX, HEADER_BYTES, Keyed};
use worker::{CodecChoice, Selection, TableCodec};

use crate::error::SpecError;

/// Least repeats: a median of fewer says little.
pub const REPEATS_MIN: usize = 5;

/// Most repeats.
pub const REPEATS_MAX: usize = 1000;

/// Most requests under way: what a shard gives credit for.
pub const IN_FLIGHT_MAX: usize = 64;

/// Most resident keys.
pub const RESIDENT_KEYS_MAX: usize = 1 << 28;

/// Longest phase of one repeat.
pub(crate) const SECONDS_MAX: f64 = 3600.0;

/// Steepest law of Zipf.
pub(crate) const ZIPF_EXPONENT_MAX: f64 = 4.0;

/// A power of two, so that SGD's sums of whole steps are exact as long as 24 bits count them.
pub(crate) const SGD_RATE: f32 = 1.0 / 1024.0;

/// What is pushed and pulled, how, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushPullSpec {
    /// Keys a request, distinct.
    pub keys_per_request: usize,
    /// Values a key.
    pub dim: usize,
    /// Keys in the table.
    pub resident_keys: usize,
    /// The table's rule.
    pub optimizer: Optimizer,
    /// How bytes move.
    pub transport: Carrier,
    /// How RDMA is used, where bytes move by it.
    #[serde(skip)]
    pub verbs: VerbsSettings,
    /// How the worker writes keys and values; none that holds rows back.
    #[serde(with = "codec_text")]
    pub codec: CodecChoice,
    /// 0 draws all keys alike; 0.99 is the usual skew.
    pub zipf_exponent: f64,
    /// How long each repeat pushes, and how long it pulls, in seconds.
    pub seconds: f64,
    /// Repeats, interleaved with the roofs; at least [`REPEATS_MIN`].
    pub repeats: usize,
    /// Requests under way: the next one is sent when the oldest was answered.
    pub in_flight: usize,
    /// Decides the keys.
    pub seed: u64,
}

/// A table's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd,
    /// Gradient descent with momentum.
    Momentum,
    /// AdaGrad.
    AdaGrad,
    /// RMSProp.
    RmsProp,
    /// Adam.
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
    /// FTRL-Proximal.
    Ftrl,
    /// FTRL-Proximal in half the memory.
    #[serde(rename = "ftrl-compact")]
    FtrlCompact,
    /// Plain accumulation.
    Sum,
}

/// How bytes move between the worker's core and the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// Shared memory.
    Shm,
    /// TCP over loop-back, by io_uring.
    Uring,
    /// TCP over loop-back, by epoll.
    Epoll,
    /// RDMA beside TCP over loop-back.
    Verbs,
}

/// A name that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchName {
    what: &'static str,
    found: String,
    known: Vec<&'static str>,
}

impl Default for PushPullSpec {
    fn default() -> PushPullSpec {
        PushPullSpec {
            keys_per_request: 10_000,
            dim: 8,
            resident_keys: 2_000_000,
            optimizer: Optimizer::Sgd,
            transport: Carrier::Uring,
            verbs: VerbsSettings::default(),
            codec: CodecChoice::RAW,
            zipf_exponent: 0.0,
            seconds: 1.0,
            repeats: 7,
            in_flight: 8,
            seed: 1,
        }
    }
}

impl PushPullSpec {
    /// Whether this can be measured.
    ///
    /// - Errors: the first field that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        check("keys_per_request", self.keys_per_request, 1, self.resident_keys)?;
        check("resident_keys", self.resident_keys, 1, RESIDENT_KEYS_MAX)?;
        check("dim", self.dim, 1, usize::from(u16::MAX) / 4)?;
        check("repeats", self.repeats, REPEATS_MIN, REPEATS_MAX)?;
        check("in_flight", self.in_flight, 1, IN_FLIGHT_MAX)?;
        check_real("seconds", self.seconds, f64::MIN_POSITIVE, SECONDS_MAX)?;
        check_real("zipf_exponent", self.zipf_exponent, 0.0, ZIPF_EXPONENT_MAX)?;
        // Shared memory holds messages of half a ring at most; four messages fit a ring.
        let bytes_max = FRAME_BYTES_MAX;
        let bytes = self.push_bytes().max(self.values_bytes(self.keys_per_request));
        if bytes > bytes_max {
            return Err(SpecError::MessageBytes { bytes, bytes_max });
        }
        match self.table_codec().selection {
            Selection::All | Selection::Nonzero => Ok(()),
            // How many pushes such a row has seen is not known, so nothing says what it must hold.
            _ => Err(SpecError::HoldsBack { codec: self.codec.to_string() }),
        }
    }

    /// The codec that is used at all, or tried.
    pub(crate) fn table_codec(&self) -> TableCodec {
        let (CodecChoice::Fixed(codec) | CodecChoice::Auto(codec)) = self.codec;
        codec
    }

    /// The table's rule.
    pub(crate) fn rule(&self) -> Arc<dyn Rule> {
        self.optimizer.rule()
    }

    /// Length of a push, in bytes.
    pub(crate) fn push_bytes(&self) -> usize {
        Keyed::message_bytes(self.keys_per_request, self.rule().widths(self.dim).delta)
    }

    /// Length of a pull of `keys` keys, in bytes.
    pub(crate) fn pull_bytes(&self, keys: usize) -> usize {
        Keyed::message_bytes(keys, 0)
    }

    /// Length of the answer to a pull of `keys` keys, in bytes.
    pub(crate) fn values_bytes(&self, keys: usize) -> usize {
        let values = keys * self.rule().widths(self.dim).value;
        HEADER_BYTES + values * size_of::<f32>()
    }

    /// How long each repeat pushes, and how long it pulls.
    pub(crate) fn phase(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

pub(crate) fn check(
    name: &'static str,
    found: usize,
    min: usize,
    max: usize,
) -> Result<(), SpecError> {
    check_real(name, found as f64, min as f64, max as f64)
}

pub(crate) fn check_real(
    name: &'static str,
    found: f64,
    min: f64,
    max: f64,
) -> Result<(), SpecError> {
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(SpecError::OutOfRange { name, found, min, max })
    }
}

impl Optimizer {
    /// All of them.
    pub const ALL: [Optimizer; 9] = [
        Optimizer::Sgd,
        Optimizer::Momentum,
        Optimizer::AdaGrad,
        Optimizer::RmsProp,
        Optimizer::Adam,
        Optimizer::AdamW,
        Optimizer::Ftrl,
        Optimizer::FtrlCompact,
        Optimizer::Sum,
    ];

    /// The rule that is measured, with its parameters.
    pub fn rule(self) -> Arc<dyn Rule> {
        let ftrl = Ftrl { alpha: 0.1, beta: 1.0, l1: 1.0, l2: 1.0 };
        let adam = Adam { rate: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        match self {
            Optimizer::Sgd => Arc::new(Sgd { rate: SGD_RATE }),
            Optimizer::Momentum => Arc::new(Momentum { rate: 0.001, momentum: 0.9 }),
            Optimizer::AdaGrad => Arc::new(AdaGrad { rate: 0.05, epsilon: 1e-8 }),
            Optimizer::RmsProp => Arc::new(RmsProp { rate: 0.001, decay: 0.99, epsilon: 1e-8 }),
            Optimizer::Adam => Arc::new(adam),
            Optimizer::AdamW => Arc::new(AdamW { adam, weight_decay: 0.01 }),
            Optimizer::Ftrl => Arc::new(ftrl),
            Optimizer::FtrlCompact => Arc::new(FtrlCompact(ftrl)),
            Optimizer::Sum => Arc::new(Sum),
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Optimizer::Sgd => "sgd",
            Optimizer::Momentum => "momentum",
            Optimizer::AdaGrad => "adagrad",
            Optimizer::RmsProp => "rmsprop",
            Optimizer::Adam => "adam",
            Optimizer::AdamW => "adamw",
            Optimizer::Ftrl => "ftrl",
            Optimizer::FtrlCompact => "ftrl-compact",
            Optimizer::Sum => "sum",
        }
    }
}

impl Carrier {
    /// All of them.
    pub const ALL: [Carrier; 4] = [Carrier::Shm, Carrier::Uring, Carrier::Epoll, Carrier::Verbs];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Carrier::Shm => "shm",
            Carrier::Uring => "uring",
            Carrier::Epoll => "epoll",
            Carrier::Verbs => "verbs",
        }
    }

    /// How a server does it.
    pub(crate) fn way(self, verbs: VerbsSettings) -> Way {
        self.backend(verbs).map_or(Way::Shm, Way::Tcp)
    }

    /// How TCP does it, if it is by TCP.
    pub(crate) fn backend(self, verbs: VerbsSettings) -> Option<TcpBackend> {
        match self {
            Carrier::Shm => None,
            Carrier::Uring => Some(TcpBackend::Uring),
            Carrier::Epoll => Some(TcpBackend::Epoll),
            Carrier::Verbs => Some(TcpBackend::Verbs(verbs)),
        }
    }
}

impl FromStr for Optimizer {
    type Err = NoSuchName;

    fn from_str(text: &str) -> Result<Optimizer, NoSuchName> {
        find("optimizer", text, &Optimizer::ALL, |one| one.name())
    }
}

impl FromStr for Carrier {
    type Err = NoSuchName;

    fn from_str(text: &str) -> Result<Carrier, NoSuchName> {
        find("transport", text, &Carrier::ALL, |one| one.name())
    }
}

/// A codec as the text that names it.
mod codec_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use worker::CodecChoice;

    pub(super) fn serialize<S: Serializer>(codec: &CodecChoice, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(codec)
    }

    pub(super) fn deserialize<'de, D>(from: D) -> Result<CodecChoice, D::Error>
    where
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

fn find<T: Copy>(
    what: &'static str,
    text: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, NoSuchName> {
    let found = all.iter().copied().find(|&one| name(one) == text);
    found.ok_or_else(|| NoSuchName {
        what,
        found: text.to_owned(),
        known: all.iter().map(|&one| name(one)).collect(),
    })
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for NoSuchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoSuchName { what, found, known } = self;
        write!(f, "'{found}' is no {what}: expected one of {}", known.join(", "))
    }
}

impl std::error::Error for NoSuchName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_out_of_range_is_refused_by_the_name_of_its_field() {
        let refused = |spec: PushPullSpec| match spec.check() {
            Err(SpecError::OutOfRange { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        let good = PushPullSpec::default();
        assert_eq!(good.check(), Ok(()));
        assert_eq!(refused(PushPullSpec { repeats: 4, ..good.clone() }), "repeats");
        assert_eq!(refused(PushPullSpec { in_flight: 65, ..good.clone() }), "in_flight");
        assert_eq!(refused(PushPullSpec { seconds: f64::NAN, ..good.clone() }), "seconds");
        assert_eq!(refused(PushPullSpec { resident_keys: 9, ..good }), "keys_per_request");
    }

    #[test]
    fn a_request_that_is_longer_than_a_message_is_refused() {
        let spec = PushPullSpec { keys_per_request: 1_000_000, ..PushPullSpec::default() };
        let bytes = 64 + 1_000_000 * 40;
        assert_eq!(spec.check(), Err(SpecError::MessageBytes { bytes, bytes_max: 16 << 20 }));
    }

    #[test]
    fn a_codec_that_holds_rows_back_is_refused_by_its_name() {
        for codec in ["top-k:0.5", "threshold:1"] {
            let choice = codec.parse().expect("it is one's name");
            let spec = PushPullSpec { codec: choice, ..PushPullSpec::default() };
            assert_eq!(spec.check(), Err(SpecError::HoldsBack { codec: codec.to_owned() }));
        }
    }

    #[test]
    fn every_name_is_read_back() {
        for one in Optimizer::ALL {
            assert_eq!(one.name().parse(), Ok(one));
        }
        for one in Carrier::ALL {
            assert_eq!(one.name().parse(), Ok(one));
        }
        let error = "rdma".parse::<Carrier>().expect_err("no such carrier");
        let said = "'rdma' is no transport: expected one of shm, uring, epoll, verbs";
        assert_eq!(error.to_string(), said);
    }
}
