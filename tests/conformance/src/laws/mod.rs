//! The laws, by what they are about.

pub mod close;
pub mod credit;
pub mod garbage;
pub mod order;
pub mod park;
pub mod processes;
pub mod stream;
pub mod threads;
