//! Moves messages between cores and hosts; knows no key and no row.
//!
//! Owns the poll-driven [`Transport`] and its back ends: shared memory, TCP by io_uring or by
//! epoll, and the simulated one. Leaves the meaning of a message to `wire` and everything above.
//!
//! Invariant: a slot's bytes have one owner at a time, and the types say who it is.

mod api;
mod control;
mod control_bell;
mod control_link;
mod coordinators;
mod desk;
pub mod dial;
mod epoll;
mod outbox;
mod pool;
pub mod shm;
pub mod simulated;
mod slot;
mod starved;
mod stream;
pub mod tcp;
mod uring;
pub mod verbs;
mod wake;

pub use api::{
    AdoptError, Event, Fault, Integrity, Limits, Link, PeerId, SendRefusal, Standing, Transport,
    Waker,
};
pub use control_bell::ControlBell;
pub use control_link::{ControlFault, ControlLink, ControlWriter};
pub use coordinators::Coordinators;
pub use slot::{RecvSlot, SendSlot};
pub use wire::Time;
