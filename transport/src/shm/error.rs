//! Why a pair of rings was not made.
//!
//! Owns the words. What ends a pair that was made is left to [`crate::Fault`].

use std::fmt;
use std::io;

use rustix::io::Errno;

/// Why there is no ring pair, or no transport for one. Nothing is left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShmError {
    /// The ring's size is no power of two within the bounds. The caller chooses another.
    RingBytes {
        /// What was asked, in bytes.
        ring_bytes: u64,
        /// The least, in bytes.
        ring_bytes_min: usize,
        /// The most, in bytes.
        ring_bytes_max: usize,
    },
    /// The limit for a message is above what the wire allows.
    MessageBytes {
        /// What was asked, in bytes.
        message_bytes: usize,
        /// The most, in bytes.
        message_bytes_max: usize,
    },
    /// The operating system said no.
    Os {
        /// What was tried.
        call: &'static str,
        /// `errno`.
        errno: i32,
    },
    /// The peer did not speak, or did not listen, in time.
    TimedOut {
        /// How long it had, in milliseconds.
        timeout_ms: u64,
    },
    /// The peer went away in the middle of its offer.
    OfferCut {
        /// Bytes that came.
        bytes: usize,
        /// Bytes that an offer has.
        bytes_wanted: usize,
    },
    /// What came over the socket is no offer of rings.
    NotAnOffer {
        /// Its first eight bytes.
        magic: u64,
        /// What an offer begins with.
        magic_wanted: u64,
    },
    /// The peer lays its rings out in another way: run the same gradwire on both sides.
    Version {
        /// The peer's version.
        found: u32,
        /// Ours.
        ours: u32,
    },
    /// The offer carries another number of descriptors.
    Descriptors {
        /// How many came.
        count: usize,
        /// How many an offer has.
        count_wanted: usize,
    },
    /// The memory could change its size under a reader.
    Unsealed {
        /// `F_SEAL_*` bits that are set.
        seals: u32,
        /// Those that must be.
        seals_wanted: u32,
    },
    /// The memory has another size than the offer's rings need.
    MemoryBytes {
        /// Its size, in bytes.
        bytes: u64,
        /// The size of two such rings and their control pages, in bytes.
        bytes_wanted: u64,
    },
    /// A write to an offered bell could block.
    BellBlocks,
}

impl ShmError {
    /// For `map_err`: the call that failed, with what it said.
    pub(super) fn os(call: &'static str) -> impl FnOnce(Errno) -> ShmError {
        move |errno| ShmError::Os { call, errno: errno.raw_os_error() }
    }
}

impl fmt::Display for ShmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ShmError::RingBytes { ring_bytes, ring_bytes_min, ring_bytes_max } => write!(
                f,
                "a ring of {ring_bytes} bytes, where a power of two from {ring_bytes_min} to \
                 {ring_bytes_max} is possible"
            ),
            ShmError::MessageBytes { message_bytes, message_bytes_max } => write!(
                f,
                "messages of up to {message_bytes} bytes, where the wire allows {message_bytes_max}"
            ),
            ShmError::Os { call, errno } => {
                write!(f, "{call}: {}", io::Error::from_raw_os_error(errno))
            }
            ShmError::TimedOut { timeout_ms } => {
                write!(f, "the peer did nothing for {timeout_ms} ms")
            }
            ShmError::OfferCut { bytes, bytes_wanted } => {
                write!(f, "the peer left after {bytes} of the {bytes_wanted} bytes of its offer")
            }
            ShmError::NotAnOffer { magic, magic_wanted } => {
                write!(f, "the offer begins with {magic:#018x}, expected {magic_wanted:#018x}")
            }
            ShmError::Version { found, ours } => {
                write!(f, "peer's ring version {found}, ours {ours}")
            }
            ShmError::Descriptors { count, count_wanted } => {
                write!(f, "the offer carries {count} descriptors, expected {count_wanted}")
            }
            ShmError::Unsealed { seals, seals_wanted } => {
                write!(f, "the memory's seals are {seals:#x}, needed are {seals_wanted:#x}")
            }
            ShmError::MemoryBytes { bytes, bytes_wanted } => {
                write!(f, "the memory has {bytes} bytes, its rings need {bytes_wanted}")
            }
            ShmError::BellBlocks => f.write_str("an offered bell is not in non-blocking mode"),
        }
    }
}

impl std::error::Error for ShmError {}
