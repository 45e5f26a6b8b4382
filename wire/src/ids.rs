//! Identifiers: one newtype for each thing that a message names.
//!
//! Owns the types and their conversions, all by named functions. What the numbers stand for is
//! said at each type.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($raw:ty), $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($raw);

        impl $name {
            /// Names the thing with this number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number, as it stands on the wire.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, " {}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A parameter's 64-bit name. [`Key::RESERVED`] is no key.
    Key(u64),
    "key"
);
id!(
    /// Generation of the routing table. A message of another epoch is refused.
    Epoch(u64),
    "epoch"
);
id!(
    /// Finished steps of a worker.
    Clock(u64),
    "clock"
);
id!(
    /// A worker's number in its job, from 0.
    WorkerId(u32),
    "worker"
);
id!(
    /// Which life of a worker this is: a restarted worker takes a larger one.
    Incarnation(u32),
    "incarnation"
);
id!(
    /// A worker's request number on one shard: 1, 2, 3, without gaps.
    Sequence(u64),
    "sequence"
);
id!(
    /// A table's number in its job, from 0, in the order of definition.
    TableId(u16),
    "table"
);
id!(
    /// A shard's number in the routing table, from 0.
    ShardId(u16),
    "shard"
);
id!(
    /// A server's number in its cluster, in one life; never given twice.
    ServerId(u32),
    "server"
);
id!(
    /// A job's 64-bit name: servers refuse workers of another job.
    JobId(u64),
    "job"
);

impl Key {
    /// Marks an empty place in a table's index; never a parameter's name.
    pub const RESERVED: Key = Key(u64::MAX);
}

impl WorkerId {
    /// Somebody who reads and takes part in no clock: `gradwire model`, a test pass.
    pub const OBSERVER: WorkerId = WorkerId(u32::MAX);
    /// No worker: a server that sends its successor in a chain what it has applied.
    pub const PREDECESSOR: WorkerId = WorkerId(u32::MAX - 1);
}

impl Clock {
    /// The clock after this one; the last one there is stays, since a peer may claim any.
    pub const fn next(self) -> Clock {
        Clock(self.0.saturating_add(1))
    }
}

impl Sequence {
    /// The sequence after this one.
    pub const fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl ShardId {
    /// The shard's place in an array of all shards.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
