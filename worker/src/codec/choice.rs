//! Which codec a session uses for a table: one by name, or whichever proves faster on this link.
//!
//! Owns the names, and the trials by which `auto` decides. Time is told by the caller.
//!
//! Invariant: what `auto` chooses among differs in bytes only, never in what is learned, unless a
//! lossy codec was asked for.

use std::fmt;
use std::str::FromStr;

use kernels::codec::ValueCodec;
use wire::Time;

use super::{Selection, TableCodec};

/// Pairs pushed in one trial, at least, and before it: what was under way when the way changed is
/// no part of it, nor are the keys that get their first numbers.
const TRIAL_PAIRS_MIN: u64 = 20_000;

/// How long one trial takes, at least, and the time before it, in nanoseconds.
const TRIAL_NS_MIN: u64 = 50_000_000;

/// For how many trials' time the first round's faster way is kept. Twice as long each time that a
/// round comes to the same end again.
const TRIALS_KEPT_FIRST: u64 = 4;

/// For how many trials' time the faster way is kept, at most.
const TRIALS_KEPT_MAX: u64 = 64;

/// How much faster, as a factor, the coded way has to be: where both are as fast, bytes stay as
/// they are and the processors do less.
const FASTER_MIN: f64 = 1.1;

/// How a table's messages are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CodecChoice {
    /// In this codec.
    Fixed(TableCodec),
    /// In the faster one of plain bytes and this codec, as measured now and then. Within one
    /// host's memory always plain.
    Auto(TableCodec),
}

/// A text that names no codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError {
    text: String,
}

impl CodecChoice {
    /// Plain bytes.
    pub const RAW: CodecChoice = CodecChoice::Fixed(TableCodec::RAW);

    /// Plain bytes, or the same values behind packed keys.
    pub const AUTO: CodecChoice = CodecChoice::Auto(TableCodec::EXACT);

    /// The codec that a table's definition announces.
    pub(crate) fn announced(&self) -> TableCodec {
        match *self {
            CodecChoice::Fixed(codec) | CodecChoice::Auto(codec) => codec,
        }
    }
}

/// Codecs of values by name.
const BY_NAME: [(&str, ValueCodec); 7] = [
    ("bf16", ValueCodec::Bf16),
    ("f16", ValueCodec::F16),
    ("float8", ValueCodec::Float8),
    ("int8", ValueCodec::Int8),
    ("int4", ValueCodec::Int4),
    ("float4", ValueCodec::Float4),
    ("one-bit", ValueCodec::OneBit),
];

impl FromStr for CodecChoice {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<CodecChoice, CodecError> {
        Ok(match text {
            "raw" => CodecChoice::RAW,
            "auto" => CodecChoice::AUTO,
            "auto:lossy" => CodecChoice::Auto(TableCodec::lossy(ValueCodec::Int8)),
            _ => {
                let codec = match text.split_once('+') {
                    Some((rows, values)) => selection(rows)
                        .zip(by_name(values))
                        .map(|(selection, values)| TableCodec { selection, ..values }),
                    None => by_name(text).or_else(|| {
                        let selection = selection(text)?;
                        Some(TableCodec { selection, ..TableCodec::EXACT })
                    }),
                };
                CodecChoice::Fixed(codec.ok_or_else(|| CodecError { text: text.to_owned() })?)
            }
        })
    }
}

/// A codec of values, of all rows.
fn by_name(text: &str) -> Option<TableCodec> {
    let found = BY_NAME.iter().find(|(name, _)| *name == text);
    match text {
        "exact" => Some(TableCodec::EXACT),
        _ => found.map(|&(_, values)| TableCodec::lossy(values)),
    }
}

/// Which rows are carried.
fn selection(text: &str) -> Option<Selection> {
    if text == "nonzero" {
        return Some(Selection::Nonzero);
    }
    let (name, number) = text.split_once(':')?;
    let number: f32 = number.parse().ok()?;
    let is_bound = number >= 0.0 && number.is_finite();
    match name {
        "top-k" if number > 0.0 && number <= 1.0 => Some(Selection::Top(number)),
        "threshold" if is_bound => Some(Selection::Above(number)),
        "kkt" if is_bound => Some(Selection::AtZeroAbove(number)),
        _ => None,
    }
}

impl fmt::Display for CodecChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (auto, codec) = match *self {
            CodecChoice::Fixed(codec) => (false, codec),
            CodecChoice::Auto(codec) => (true, codec),
        };
        match (auto, codec.selection) {
            (true, _) if codec.pushes_plain_values() => f.write_str("auto"),
            (true, _) => f.write_str("auto:lossy"),
            (false, _) if codec == TableCodec::RAW => f.write_str("raw"),
            (false, _) => {
                let found = BY_NAME.iter().find(|(_, one)| *one == codec.push_first);
                let values = found.map(|(name, _)| *name);
                match codec.selection {
                    Selection::All => return f.write_str(values.unwrap_or("exact")),
                    Selection::Nonzero => f.write_str("nonzero"),
                    Selection::Above(least) => write!(f, "threshold:{least}"),
                    Selection::AtZeroAbove(bound) => write!(f, "kkt:{bound}"),
                    Selection::Top(share) => write!(f, "top-k:{share}"),
                }?;
                values.map_or(Ok(()), |values| write!(f, "+{values}"))
            }
        }
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected raw, exact, bf16, f16, float8, int8, int4, float4, one-bit, nonzero, \
             top-k:SHARE, threshold:X, kkt:X, one of the last four with +VALUES behind it, auto or \
             auto:lossy, found '{}'",
            self.text
        )
    }
}

impl std::error::Error for CodecError {}

/// The two ways that `auto` tries in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    Coded,
}

/// Finds the faster way by trying both, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Trials {
    now_on: Way,
    stage: Stage,
    /// The faster way of the round before, and for how many trials' time it was kept.
    last: Option<(Way, u64)>,
    /// Since when this stage lasts, and the pairs that had been pushed then.
    began: Option<(Time, u64)>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Before the trial of the plain way.
    WarmingPlain,
    TryingPlain,
    /// Before the trial of the coded way; pairs a nanosecond of the plain one.
    WarmingCoded(f64),
    TryingCoded(f64),
    /// The faster one is kept for so many nanoseconds.
    Kept(u64),
}

impl Trials {
    pub(crate) fn new() -> Trials {
        Trials { now_on: Way::Plain, stage: Stage::WarmingPlain, last: None, began: None }
    }

    /// The way for the next messages.
    ///
    /// - `pairs`: pairs of key and delta pushed so far.
    pub(crate) fn way(&mut self, now: Time, pairs: u64) -> Way {
        let (began, pairs_then) = *self.began.get_or_insert((now, pairs));
        let took_ns = now.nanos().saturating_sub(began.nanos());
        let is_over = match self.stage {
            Stage::Kept(ns) => took_ns >= ns,
            _ => took_ns >= TRIAL_NS_MIN && pairs - pairs_then >= TRIAL_PAIRS_MIN,
        };
        if !is_over {
            return self.now_on;
        }
        let rate = (pairs - pairs_then) as f64 / took_ns as f64;
        (self.stage, self.now_on) = match self.stage {
            Stage::WarmingPlain => (Stage::TryingPlain, Way::Plain),
            Stage::TryingPlain => (Stage::WarmingCoded(rate), Way::Coded),
            Stage::WarmingCoded(plain) => (Stage::TryingCoded(plain), Way::Coded),
            Stage::TryingCoded(plain) => self.settle(plain, rate, took_ns),
            Stage::Kept(_) => (Stage::WarmingPlain, Way::Plain),
        };
        self.began = Some((now, pairs));
        self.now_on
    }

    /// Keeps the faster way for a while.
    fn settle(&mut self, plain: f64, coded: f64, trial_ns: u64) -> (Stage, Way) {
        let faster = if coded > plain * FASTER_MIN { Way::Coded } else { Way::Plain };
        let kept = match self.last {
            Some((last, kept)) if last == faster => (2 * kept).min(TRIALS_KEPT_MAX),
            _ => TRIALS_KEPT_FIRST,
        };
        self.last = Some((faster, kept));
        (Stage::Kept(kept * trial_ns), faster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_reads_what_it_writes() {
        let texts = [
            "raw",
            "exact",
            "bf16",
            "f16",
            "float8",
            "int8",
            "int4",
            "float4",
            "one-bit",
            "nonzero",
            "top-k:0.25",
            "threshold:0.5",
            "kkt:0.5",
            "kkt:0.5+int8",
            "nonzero+f16",
            "auto",
            "auto:lossy",
        ];
        for text in texts {
            let choice: CodecChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
        }
        for text in [
            "",
            "int9",
            "top-k",
            "top-k:0",
            "top-k:1.5",
            "threshold:nan",
            "kkt",
            "kkt:-1",
            "kkt:1+",
        ] {
            assert!(text.parse::<CodecChoice>().is_err(), "{text}");
        }
    }

    /// The way after many trials in which plain pushes run at one rate and coded ones at another,
    /// both in pairs a millisecond.
    fn settled(plain: u64, coded: u64) -> Way {
        let mut trials = Trials::new();
        let (mut pairs, mut way) = (0, Way::Plain);
        for ms in 0..250 {
            way = trials.way(Time::from_nanos(ms * 1_000_000), pairs);
            pairs += if way == Way::Plain { plain } else { coded };
        }
        way
    }

    #[test]
    fn the_faster_way_is_kept_and_plain_where_both_are_as_fast() {
        assert_eq!(settled(1000, 4000), Way::Coded);
        assert_eq!(settled(1000, 900), Way::Plain);
        assert_eq!(settled(1000, 1050), Way::Plain);
    }

    #[test]
    fn both_ways_are_tried_again_after_a_while() {
        let mut trials = Trials::new();
        let mut ways = Vec::new();
        let mut pairs = 0;
        for ms in 0..20_000 {
            let way = trials.way(Time::from_nanos(ms * 1_000_000), pairs);
            // Plain is faster at first, and coded later.
            let plain_rate = if ms < 1000 { 1000 } else { 500 };
            pairs += if way == Way::Plain { plain_rate } else { 800 };
            ways.push(way);
        }
        assert_eq!((ways[380], ways[19_900]), (Way::Plain, Way::Coded));
    }
}
