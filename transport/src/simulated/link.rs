//! Ends of simulated connections that no endpoint has adopted yet.
//!
//! Owns the type, which is plain data: the connection itself lives in the world.

use std::sync::Arc;

/// One end of a simulated connection. One that is dropped without being adopted is as good as
/// closed: its other end gets `PeerClosed`.
#[derive(Debug)]
pub struct End {
    /// The address of the world that made it.
    pub(super) world: usize,
    /// Index of the connection in its world.
    pub(super) wire: usize,
    /// Which end of it.
    pub(super) side: Side,
    /// The world holds a weak one.
    pub(super) _alive: Arc<()>,
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    /// The other one.
    pub(super) fn across(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// 0 or 1.
    pub(super) fn index(self) -> usize {
        match self {
            Side::Left => 0,
            Side::Right => 1,
        }
    }
}
