//! The targets: what is fed, and what it must keep to.
//!
//! Owns their names. Each target says what its good inputs are, how a bad one is mended so far
//! that it gets past the outer checks, and what must hold of the answer.

mod codec;
mod framing;
mod messages;
mod shard;
mod text;

use learn::data::Format;
use wire::Kind;

use crate::random::Random;

/// The names of all targets.
pub const NAMES: [&str; 12] = [
    "header", "open", "keys", "values", "push", "pull", "coded", "call", "libsvm", "vw", "csv",
    "criteo",
];

/// Code under test, with whatever state it has.
pub(crate) trait Target {
    /// Good inputs.
    fn inputs(&self) -> Vec<Vec<u8>>;

    /// Words of the format.
    fn tokens(&self) -> &'static [&'static [u8]];

    /// Makes an input good again in some ways, so that it reaches further in.
    fn mend(&self, input: &mut Vec<u8>, random: &mut Random);

    /// Feeds an input. Returns a number that tells one way to answer from others; panics if a
    /// promise is broken.
    fn feed(&mut self, input: &[u8]) -> u64;
}

/// The target of this name, in its first state.
pub(crate) fn target(name: &str) -> Option<Box<dyn Target>> {
    Some(match name {
        "header" => Box::new(framing::Framing::Head),
        "open" => Box::new(framing::Framing::Whole),
        "keys" => Box::new(codec::Codec::Keys),
        "values" => Box::new(codec::Codec::Values),
        "push" => Box::new(shard::ShardTarget::new(&[Kind::Push])),
        "pull" => Box::new(shard::ShardTarget::new(&[Kind::Pull])),
        "coded" => Box::new(shard::ShardTarget::new(&[Kind::Pull, Kind::Push])),
        "call" => Box::new(shard::ShardTarget::new(&[
            Kind::Join,
            Kind::Define,
            Kind::Scan,
            Kind::Load,
            Kind::Remove,
            Kind::Measure,
            Kind::Leave,
        ])),
        "libsvm" => Box::new(text::Text::new(Format::LibSvm)),
        "vw" => Box::new(text::Text::new(Format::Vw)),
        "csv" => Box::new(text::Text::new(Format::Csv)),
        "criteo" => Box::new(text::Text::new(Format::Criteo)),
        _ => return None,
    })
}

/// A number for an answer: equal where only the numbers in its text differ.
fn answer_number(answer: &str) -> u64 {
    let words = answer.bytes().filter(u8::is_ascii_alphabetic);
    words.fold(0, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
