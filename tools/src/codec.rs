//! `gradwire bench codec`: codecs measured alone, and what each comes to through the whole path.
//!
//! Owns the training runs, one a codec and stream, whose bits and losses stand beside the rates.
//! Measuring rates is left to the crate `bench`, training to `train`.

use std::collections::HashMap;

use bench::{CodecSpec, CodecStream, Trained};

use crate::cli::{CodecArgs, TrainArgs};
use crate::failure::Failure;
use crate::flags::{CodecFlag, TransportFlag};
use crate::output::{complain, json, result};
use crate::signals::Stop;
use crate::train::{Plan, carry_out};

/// The codecs that are trained with; the first one is what the others are compared with.
const CODECS: [&str; 9] =
    ["raw", "exact", "bf16", "f16", "int8", "int4", "one-bit", "float8", "float4"];

/// Rows of 64-bit hashed features, made up.
const MADE_UP: &str = "gen:criteo?rows=200000&seed=7";

/// Batches that a stream leaves out: the first gradients are larger than all later ones.
const BATCHES_SKIPPED: usize = 20;

/// Batches of a stream.
const BATCHES_KEPT: usize = 100;

/// Runs the command.
pub(crate) fn run(arguments: &CodecArgs) -> Result<(), Failure> {
    let spec = CodecSpec { seconds: arguments.taking.seconds, repeats: arguments.taking.repeats };
    spec.check().map_err(Failure::usage)?;
    let stop = Stop::on_signals()?;
    let named = TrainArgs {
        train: arguments.train.clone(),
        test: arguments.test.clone(),
        ..TrainArgs::default()
    };
    let made_up = TrainArgs { train: vec![MADE_UP.to_owned()], ..TrainArgs::default() };
    let name = if arguments.train.is_empty() { "flights" } else { "named" };
    let mut streams = Vec::new();
    let mut trained = HashMap::new();
    for (name, train) in [(name, named), ("gen:criteo", made_up)] {
        let plan = Plan::new(train.clone())?;
        let stream = CodecStream::of_training(name, &plan.train, BATCHES_SKIPPED, BATCHES_KEPT);
        streams.push(stream.map_err(Failure::failed)?);
        train_with_each(name, &train, &stop, &mut trained)?;
    }
    let of =
        |stream: &str, codec: &str| trained.get(&(stream.to_owned(), codec.to_owned())).copied();
    let rows = bench::run_codecs(&spec, &streams, &of, &mut |step| complain(step));
    let rows = rows.map_err(Failure::failed)?;
    if arguments.taking.json { json(&rows) } else { result(&bench::render_codecs(&rows)) }
}

/// Trains once with each codec, over TCP, and notes bits and losses.
fn train_with_each(
    stream: &str,
    train: &TrainArgs,
    stop: &Stop,
    trained: &mut HashMap<(String, String), Trained>,
) -> Result<(), Failure> {
    let mut raw = None;
    for name in CODECS {
        let codec: CodecFlag = name.parse().map_err(Failure::failed)?;
        let transport = Some(TransportFlag::Epoll);
        let plan = Plan::new(TrainArgs { codec: Some(codec), transport, ..train.clone() })?;
        let (result, _) = carry_out(&plan, stop)?;
        if stop.asked() {
            return Err(Failure::failed("interrupted"));
        }
        let Some(loss) = result.test_logloss else { continue };
        let raw = *raw.get_or_insert(loss);
        complain(&format!(
            "{stream}, {name}: {:.2} bits a pair pushed, test logloss {loss:.5}",
            result.push_bits_per_pair
        ));
        let figures = Trained {
            bits_per_pair: result.push_bits_per_pair,
            logloss_delta_pct: 100.0 * (loss / raw - 1.0),
        };
        trained.insert((stream.to_owned(), name.to_owned()), figures);
    }
    Ok(())
}
