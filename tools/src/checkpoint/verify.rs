//! `gradwire checkpoint verify`: reads all there is.
//!
//! Owns the walk over checkpoints and parts, and its progress bar. Each part is looked at, also
//! behind one that is broken, so that all damage is told at once.

use std::time::Instant;

use checkpoint::{Broken, Checkpoint, CheckpointNumber, Manifest, Store};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::NumberArgs;
use super::{broken, open};
use crate::failure::Failure;
use crate::output::{count, json, result};

/// What was found of one checkpoint.
#[derive(Serialize)]
struct Verdict {
    number: CheckpointNumber,
    verdict: &'static str,
    /// Bytes of its parts that were read.
    bytes: u64,
    seconds: f64,
    broken: Vec<String>,
}

pub(super) fn run(arguments: &NumberArgs) -> Result<(), Failure> {
    let store = open(&arguments.store)?;
    let numbers = match arguments.number {
        Some(number) => line(&store, CheckpointNumber::new(number)),
        None => {
            let listed = store.list().map_err(Failure::failed)?;
            listed.into_iter().map(|one| one.number).collect()
        }
    };
    if numbers.is_empty() {
        return Err(Failure::failed(format!("{}: there are no checkpoints", store.place())));
    }
    let mut verdicts = Vec::new();
    for number in numbers {
        let verdict = verify(&store, number, &verdicts)?;
        if !arguments.json {
            print(&verdict)?;
        }
        verdicts.push(verdict);
    }
    if arguments.json {
        json(&verdicts)?;
    }
    // One that is asked for by its number is to be there, whole.
    let bad = |verdict: &&Verdict| {
        verdict.verdict == "broken" || (arguments.number.is_some() && verdict.verdict != "good")
    };
    broken(verdicts.iter().filter(bad).count(), verdicts.len())
}

/// A checkpoint, behind those that it has the changes since: these are needed, too.
fn line(store: &Store, number: CheckpointNumber) -> Vec<CheckpointNumber> {
    let opened = store.checkpoint(number, None);
    let bases = opened.map_or(Vec::new(), |opened| opened.bases().to_vec());
    bases.iter().map(|base| base.number).chain([number]).collect()
}

fn print(verdict: &Verdict) -> Result<(), Failure> {
    let Verdict { number, verdict, bytes, seconds, broken } = verdict;
    result(&format!("{number}: {verdict}, {} bytes read in {seconds:.1} s", count(*bytes)))?;
    broken.iter().try_for_each(|why| result(&format!("  {why}")))
}

/// Reads one checkpoint.
///
/// - `before`: what was found of those before it.
fn verify(store: &Store, number: CheckpointNumber, before: &[Verdict]) -> Result<Verdict, Failure> {
    let begin = Instant::now();
    let (verdict, bytes, broken) = match store.checkpoint(number, None) {
        Ok(checkpoint) => {
            let (bytes, mut broken) = read(&checkpoint)?;
            let is_broken = |base: &&Manifest| {
                before.iter().any(|it| it.number == base.number && it.verdict == "broken")
            };
            let bases = checkpoint.bases().iter().filter(is_broken);
            broken.extend(bases.map(|base| format!("{} is broken, which it needs", base.number)));
            (if broken.is_empty() { "good" } else { "broken" }, bytes, broken)
        }
        Err(why @ (Broken::Unfinished { .. } | Broken::Abandoned { .. })) => {
            ("unfinished", 0, vec![why.to_string()])
        }
        Err(why) => ("broken", 0, vec![why.to_string()]),
    };
    Ok(Verdict { number, verdict, bytes, seconds: begin.elapsed().as_secs_f64(), broken })
}

/// Reads all parts. Returns how many bytes were good, and what is broken.
fn read(checkpoint: &Checkpoint) -> Result<(u64, Vec<String>), Failure> {
    let manifest = checkpoint.manifest();
    let template = "{msg} {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  eta {eta}";
    let style = ProgressStyle::with_template(template).map_err(Failure::failed)?;
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(Some(manifest.part_bytes()), target);
    bar.set_style(style);
    bar.set_message(manifest.number.to_string());
    let (mut bytes, mut broken) = (0, Vec::new());
    for part in &manifest.parts {
        let mut parts = checkpoint.part(part.shard).map_err(Failure::failed)?;
        loop {
            match parts.next() {
                Ok(Some(block)) => {
                    bytes += block.payload_bytes() as u64;
                    bar.set_position(bytes);
                }
                Ok(None) => break,
                Err(why) => {
                    broken.push(why.to_string());
                    break;
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok((bytes, broken))
}
