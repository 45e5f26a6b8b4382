//! RDMA by the verbs library, loaded at run time where there is one.
//!
//! Owns devices, registered memory, queues and queue pairs. What goes over them, and when, is left
//! to whoever holds them.
//!
//! Invariant: nothing here waits for a peer, and an object outlives what was made of it.

mod bell;
mod call;
mod completion;
mod credit;
mod device;
mod early;
mod error;
mod ffi;
mod gid;
mod lane;
mod library;
mod memory;
mod park;
mod parts;
mod peer;
pub mod perf;
mod port;
mod queue_pair;
mod rails;
mod receive;
mod request;
mod reroute;
mod ring;
mod roll;
mod settings;
mod shown;
mod station;
mod steps;
#[cfg(test)]
mod tests;
mod transport;
mod watch;
mod window;

pub use device::{
    DeviceInfo, GidInfo, LinkLayer, Mtu, PortInfo, PortState, TransportKind, Windows, devices,
};
pub use error::{LoadError, VerbsError};
pub use gid::{Gid, GidKind};
pub(crate) use parts::{Arena, Part};
pub(crate) use ring::RecvRecord;
pub use settings::{
    Breakage, RAIL_NAMES_BYTES_MAX, RAIL_NAMES_MAX, RailName, RailNames, RailNamesError,
    VerbsSettings,
};
pub use transport::{LaneCounts, RailCount, Verbs};
