//! Brings a cluster up on this host: servers as threads of this process, or as child processes.
//!
//! Owns starting, naming and ending them. What a worker does with its session is left to `learn`,
//! what a server does with a connection to `server`.
//!
//! Invariant: whatever was started here ends with the value that started it, or with this process.
#![forbid(unsafe_code)]

mod children;
mod local;

pub use children::{Child, ChildError, ChildEvent, Children, Signal};
pub use local::{Local, LocalError, LocalSpec};
