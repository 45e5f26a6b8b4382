//! `gradwire cluster`: what a person tells a coordinator to do.
//!
//! Owns the asking. An order that is accepted is carried out in the coordinator's own time, which
//! `gradwire status` shows.

use wire::{JobAnswer, ToCoordinator, ToMember};

use super::{Caller, OrderCommand, unexpected};
use crate::failure::Failure;
use crate::output::complain;

/// Runs the command.
pub(crate) fn run(command: &OrderCommand) -> Result<(), Failure> {
    let (at, order) = command.parts();
    let said = tell(&at.coordinator, &at.cluster, &order)?;
    complain(&format!("gradwire: {said}"));
    Ok(())
}

/// Gives a coordinator an order. What people are told of it.
pub(crate) fn tell(
    coordinators: &[String],
    cluster: &str,
    order: &ToCoordinator,
) -> Result<String, Failure> {
    match Caller::connect(coordinators, cluster)?.say(order)? {
        ToMember::Done => Ok("begun; `gradwire status` shows how far it is".to_owned()),
        ToMember::Job(answer) => match *answer {
            JobAnswer::Replaced { gone, by } => Ok(format!("{by} has the places of {gone}")),
            JobAnswer::Refused(refusal) => Err(Failure::failed(refusal)),
            _ => Err(Failure::failed("the coordinator answers out of turn")),
        },
        other => Err(unexpected(&other)),
    }
}
