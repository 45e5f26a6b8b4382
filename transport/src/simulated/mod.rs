//! The simulated back end: a network in one thread, whose every move follows from one seed.
//!
//! Owns the world's clock, the connections and the faults that befall them. What a message means
//! is left to those who post and poll, as with every back end.
//!
//! Invariant: the same seed, faults and calls give the same deliveries at the same moments, bit
//! for bit; [`World::trace_hash`] tells.

mod frame;
mod link;

pub(crate) use frame::{RecvFrame, SendFrame};
pub use link::End;
