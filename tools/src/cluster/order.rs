//! `gradwire cluster`: what a person tells a coordinator to do.
//!
//! Owns the asking. An order that is accepted is carried out in the coordinator's own time, which
//! `gradwire status` shows.

use wire::{Ask, ToCoordinator, ToMember};

use super::{Caller, OrderCommand, unexpected};
use crate::failure::Failure;
use crate::output::complain;

/// Runs the command.
pub(crate) fn run(command: &OrderCommand) -> Result<(), Failure> {
    let (at, ask) = command.parts();
    tell(&at.coordinator, &at.cluster, ask)?;
    complain("gradwire: begun; `gradwire status` shows how far it is");
    Ok(())
}

/// Gives a coordinator an order.
pub(crate) fn tell(coordinators: &[String], cluster: &str, order: Ask) -> Result<(), Failure> {
    match Caller::connect(coordinators, cluster)?.say(&ToCoordinator::Ask(order))? {
        ToMember::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}
