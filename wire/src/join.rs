//! The bodies of a join and of its answer: the job, how many workers it has, its clock bound; where
//! the worker stands on this shard.
//!
//! Owns the layouts and [`Staleness`]. All workers of a job say the same; a shard refuses one that
//! does not.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::JobId;

/// How far a worker may be ahead of the slowest one, in clocks. BSP is 0; ASP has no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness(u64);

impl Staleness {
    /// Bulk-synchronous: a step begins when every worker has finished the one before.
    pub const BSP: Staleness = Staleness(0);
    /// Asynchronous: nobody waits.
    pub const ASP: Staleness = Staleness(u64::MAX);

    /// Stale-synchronous: at most `clocks` ahead of the slowest worker.
    pub const fn ssp(clocks: u64) -> Staleness {
        Staleness(clocks)
    }

    /// The bound in clocks; `u64::MAX` where there is none.
    pub const fn clocks_max(self) -> u64 {
        self.0
    }
}

/// Size of a [`Joined`] in bytes.
pub const JOINED_BODY_BYTES: usize = 16;

/// Where a worker stands on a shard that it has joined: what its lives before have done there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Joined {
    /// Its clock: how many steps of it are finished here.
    pub clock: u64,
    /// The sequence of the push that finished the last of them; 0 before the first.
    pub tick_sequence: u64,
}

const _: () = assert!(size_of::<Joined>() == JOINED_BODY_BYTES);

/// Size of a join's body in bytes.
pub const JOIN_BODY_BYTES: usize = 24;

/// A worker takes part in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The job.
    pub job: JobId,
    /// How many workers take part. A clock is finished when each of them has ticked it.
    pub workers: u32,
    /// The bound.
    pub staleness: Staleness,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    job: u64,
    workers: u32,
    reserved: u32,
    staleness: u64,
}

const _: () = assert!(size_of::<Layout>() == JOIN_BODY_BYTES);

impl Join {
    /// The body's bytes.
    pub fn to_bytes(self) -> [u8; JOIN_BODY_BYTES] {
        zerocopy::transmute!(Layout {
            job: self.job.get(),
            workers: self.workers,
            reserved: 0,
            staleness: self.staleness.0,
        })
    }

    /// Reads what [`Join::to_bytes`] wrote; `None` if the length or a field is out of range.
    pub fn from_bytes(bytes: &[u8]) -> Option<Join> {
        let layout = Layout::read_from_bytes(bytes).ok()?;
        (layout.workers > 0).then_some(Join {
            job: JobId::new(layout.job),
            workers: layout.workers,
            staleness: Staleness(layout.staleness),
        })
    }
}
