//! The server: one thread a core, each with one transport and one shard.
//!
//! Owns the threads, the loop that joins a transport and a shard, and the door that new
//! connections come in by. What a message does is left to `shard`, how it travels to `transport`.
//!
//! Invariant: a shard is touched by one thread only; a core that has nothing to do sleeps.
#![forbid(unsafe_code)]

mod absence;
mod agent;
mod budget;
mod chain_links;
mod chains;
pub mod coordinator;
mod core_thread;
mod door;
mod guest;
mod handshake;
mod loader;
mod membership;
mod notes;
mod pinning;
mod porter;
mod quiet;
mod recorder;
mod recordings;
mod redial;
mod reply;
mod report;
mod spec;
mod storing;
mod told;
mod turn;
mod view;

pub use agent::{Agent, AgentEvent, AgentSpec, AgentView, Reporter};
pub use chains::{News, Share};
pub use core_thread::{NoRoom, Server};
pub use door::{Door, Exposure, ListenError, listen};
pub use guest::Who;
pub use membership::Membership;
pub use notes::Notes;
pub use pinning::{Pinning, pin, processor_here};
pub use recorder::{part_plan, recorded_part};
pub use recordings::Tap;
pub use redial::{Again, Redial, Tried};
pub use report::Report;
pub use shard::Tally;
pub use shard::chain::{Role, View as ReplicaView};
pub use spec::{Hosting, ServerSpec, StartError, Way};
pub use turn::{Core, OnClosed};
pub use view::{
    CoreView, DoorView, Ending, Peers, TURN_BOUNDS_NS, Traffic, TurnedAwayCounts, Turns,
};
