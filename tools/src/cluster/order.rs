//! `gradwire cluster`: what a person tells a coordinator to do.
//!
//! Owns the asking. An order that is accepted is carried out in the coordinator's own time, which
//! `gradwire status` shows.

use wire::{ToCoordinator, ToMember};

use super::{Caller, OrderCommand, unexpected};
use crate::failure::Failure;
use crate::output::complain;

/// Runs the command.
pub(crate) fn run(command: &OrderCommand) -> Result<(), Failure> {
    let (at, ask) = command.parts();
    match Caller::connect(at)?.say(&ToCoordinator::Ask(ask))? {
        ToMember::Done => {
            complain("gradwire: begun; `gradwire status` shows how far it is");
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}
