//! RDMA by the verbs library, loaded at run time where there is one.
//!
//! Owns devices, registered memory, queues and queue pairs. What goes over them, and when, is left
//! to whoever holds them.

#![allow(dead_code, reason = "what a lane uses is being written")]

mod completion;
mod device;
mod error;
mod gid;
mod memory;
mod queue_pair;

pub use device::{
    DeviceInfo, GidInfo, LinkLayer, Mtu, PortInfo, PortState, TransportKind, devices,
};
pub use error::{LoadError, VerbsError};
pub use gid::{Gid, GidKind};
