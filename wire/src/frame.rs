//! Framing: how many bytes the message has that begins with these 64.
//!
//! Owns the bound of a message and the words for bytes that are none. A stream transport calls
//! [`framed_bytes`] on each header; whether the checksum holds is checked where the message is
//! opened.

use std::fmt;

use crate::header::{Header, MAGIC, VERSION};

/// Size of the fixed header that begins every message, in bytes.
pub const HEADER_BYTES: usize = 64;

/// The longest message, header included, in bytes. Every length is refused beyond it before
/// anything is allocated or indexed by it.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Why bytes are not a message. The link they came over is closed: what follows cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than a header has.
    TooShort {
        /// Bytes there are.
        bytes: usize,
    },
    /// The first four bytes are not gradwire's: the peer speaks something else.
    Magic {
        /// What stands there.
        found: u32,
    },
    /// The peer speaks another version of the wire.
    Version {
        /// The peer's version.
        found: u16,
        /// Ours.
        ours: u16,
    },
    /// The header's kind is none that this version knows.
    Kind {
        /// What stands there.
        found: u8,
    },
    /// The header promises more than [`FRAME_BYTES_MAX`].
    TooLong {
        /// Body bytes promised.
        body_bytes: u32,
    },
    /// The message has another length than its header says.
    Length {
        /// By the header.
        promised: usize,
        /// In fact.
        bytes: usize,
    },
    /// The header's or body's checksum does not hold: bytes changed on the way.
    Checksum {
        /// By the message.
        promised: u32,
        /// Computed.
        computed: u32,
    },
    /// The body's length is not what its key count and width make.
    Shape {
        /// Keys by the header.
        keys: u32,
        /// Values a key by the header.
        width: u16,
        /// Body bytes by the header.
        body_bytes: u32,
    },
    /// Keys are not strictly ascending, or the reserved key is among them.
    Order {
        /// Index of the first key that is out of order.
        index: usize,
    },
    /// A field of the body is out of its range.
    Field {
        /// Its name, as `docs/wire.md` has it.
        name: &'static str,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Malformed::TooShort { bytes } => {
                write!(f, "{bytes} bytes are fewer than a header's {HEADER_BYTES}")
            }
            Malformed::Magic { found } => {
                write!(f, "magic {found:#010x}, expected {MAGIC:#010x}: not a gradwire peer")
            }
            Malformed::Version { found, ours } => write!(
                f,
                "peer's wire version {found}, ours {ours}: run the same gradwire on both sides"
            ),
            Malformed::Kind { found } => write!(f, "unknown message kind {found}"),
            Malformed::TooLong { body_bytes } => write!(
                f,
                "a body of {body_bytes} bytes, the limit for a message is {FRAME_BYTES_MAX}"
            ),
            Malformed::Length { promised, bytes } => {
                write!(f, "header promises {promised} bytes, message has {bytes}")
            }
            Malformed::Checksum { promised, computed } => {
                write!(f, "checksum {promised:#010x} in the message, {computed:#010x} computed")
            }
            Malformed::Shape { keys, width, body_bytes } => {
                write!(f, "{keys} keys of width {width} do not make a body of {body_bytes} bytes")
            }
            Malformed::Order { index } => {
                write!(f, "key number {index} is not above the one before it")
            }
            Malformed::Field { name } => write!(f, "field `{name}` is out of its range"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Length in bytes of the whole message, header included, that begins with `head`.
///
/// - Errors: magic, version or kind is not ours, or the length is beyond [`FRAME_BYTES_MAX`].
///   The checksum is not looked at.
pub fn framed_bytes(head: &[u8; HEADER_BYTES]) -> Result<usize, Malformed> {
    framed_since(head, VERSION)
}

/// The same, of a message of this version or a later one up to ours.
pub(crate) fn framed_since(head: &[u8; HEADER_BYTES], oldest: u16) -> Result<usize, Malformed> {
    let header = Header::peek_since(head, oldest)?;
    let body_bytes = header.body_bytes;
    if body_bytes as usize > FRAME_BYTES_MAX - HEADER_BYTES {
        return Err(Malformed::TooLong { body_bytes });
    }
    Ok(HEADER_BYTES + body_bytes as usize)
}

/// Refuses a header of another magic, or of a version that is older than `oldest` or later than
/// ours.
pub(crate) fn check_ours(magic: u32, version: u16, oldest: u16) -> Result<(), Malformed> {
    if magic != MAGIC {
        return Err(Malformed::Magic { found: magic });
    }
    if !(oldest..=VERSION).contains(&version) {
        return Err(Malformed::Version { found: version, ours: VERSION });
    }
    Ok(())
}
