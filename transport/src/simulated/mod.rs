//! The simulated back end: a network in one thread, whose every move follows from one seed.
//!
//! Owns the world's clock, the connections and the faults that befall them. What a message means
//! is left to those who post and poll, as with every back end. The real back ends are reliable and
//! ordered; this one need not be, so that the layers above are proved under more than TCP does.
//!
//! Invariant: the same seed, faults and calls give the same deliveries at the same moments, bit
//! for bit; [`World::trace_hash`] tells.

mod dice;
mod endpoint;
mod faults;
mod frame;
mod link;
mod network;
mod passes_on;
mod trace;
mod world;

pub use endpoint::{EndpointId, Simulated};
pub use faults::Faults;
pub(crate) use frame::{RecvFrame, SendFrame};
pub use link::End;
pub use network::{Counts, Parking};
pub use world::World;

#[cfg(test)]
mod tests;
