//! `gradwire checkpoint take`: has a running cluster take a checkpoint, and waits for it.
//!
//! Owns the asking and the progress line. Taking it is the coordinator's; what is known of it here,
//! its status says.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wire::{Ask, CheckpointStatus, CheckpointTaken, CheckpointUnderWay, ToCoordinator, ToMember};

use super::args::TakeArgs;
use crate::cluster::{Caller, unexpected};
use crate::failure::Failure;
use crate::output::{count, json, result};

/// How often the coordinator is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(100);

pub(super) fn run(arguments: &TakeArgs) -> Result<(), Failure> {
    let mut caller = Caller::connect(&arguments.at.coordinator, &arguments.at.cluster)?;
    let ended_before = status(&mut caller)?.map_or(0, |status| status.ended);
    match caller.say(&ToCoordinator::Ask(Ask::Checkpoint))? {
        ToMember::Done => {}
        other => return Err(unexpected(&other)),
    }
    let style = ProgressStyle::with_template("{spinner} {msg}").map_err(Failure::failed)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style);
    let ended = loop {
        let gone = || Failure::failed("the coordinator does not take checkpoints any more");
        let status = status(&mut caller)?.ok_or_else(gone)?;
        if status.ended > ended_before {
            break status;
        }
        status.under_way.iter().for_each(|it| bar.set_message(line(it)));
        bar.tick();
        std::thread::sleep(ASK_EVERY);
    };
    bar.finish_and_clear();
    match (ended.failure, ended.last) {
        (Some(why), _) => Err(Failure::failed(format!("no checkpoint was taken: {why}"))),
        (None, None) => Err(Failure::failed("the coordinator knows no checkpoint")),
        (None, Some(taken)) if arguments.json => json(&taken),
        (None, Some(taken)) => result(&told(&taken)),
    }
}

fn status(caller: &mut Caller) -> Result<Option<CheckpointStatus>, Failure> {
    match caller.say(&ToCoordinator::Ask(Ask::Status))? {
        ToMember::Status(status) => Ok(status.checkpoints),
        other => Err(unexpected(&other)),
    }
}

fn line(under_way: &CheckpointUnderWay) -> String {
    let CheckpointUnderWay { number, parts_marked, parts_done, parts, bytes, since_ms } = under_way;
    let number = number.map_or("no number yet".to_owned(), |number| format!("checkpoint {number}"));
    format!(
        "{number}: of {parts} parts {parts_marked} have all rows, {parts_done} are written; {} \
         bytes in {:.1} s",
        count(*bytes),
        *since_ms as f64 / 1e3
    )
}

fn told(taken: &CheckpointTaken) -> String {
    let clock = match taken.clock {
        Some(clock) => format!("cut at {clock}"),
        None => "each shard cut where it stood".to_owned(),
    };
    let seconds = taken.took_ms.unwrap_or(0) as f64 / 1e3;
    format!(
        "checkpoint {}: {} bytes, {} rows, {clock}, in {seconds:.1} s",
        taken.number,
        count(taken.bytes),
        count(taken.rows)
    )
}
