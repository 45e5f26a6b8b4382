//! RDMA by the verbs library, loaded at run time where there is one.
//!
//! Owns devices, registered memory, queues and queue pairs. What goes over them, and when, is left
//! to whoever holds them.
//!
//! Invariant: nothing here waits for a peer, and an object outlives what was made of it.

#![allow(dead_code, reason = "what a lane uses is being written")]

mod completion;
mod device;
mod error;
mod ffi;
mod gid;
mod library;
mod memory;
pub mod perf;
mod port;
mod queue_pair;
mod request;
#[cfg(test)]
mod tests;

pub use device::{
    DeviceInfo, GidInfo, LinkLayer, Mtu, PortInfo, PortState, TransportKind, devices,
};
pub use error::{LoadError, VerbsError};
pub use gid::{Gid, GidKind};
