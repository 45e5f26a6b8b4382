//! Frames of control messages: a length of four bytes, little-endian, and JSON.
//!
//! Owns both directions on byte slices. Reading and writing sockets is left to the callers.
//!
//! Invariant: a buffer never grows beyond one frame of the bound that it was made with and one
//! piece that was read.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message of the coordinator, in bytes: a placement or a status, whole.
pub const CONTROL_BYTES_MAX: usize = 4 << 20;

/// Longest message to the coordinator, in bytes: a beat with something about each shard.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 1 << 20;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = size_of::<u32>();

/// What is wrong with a frame. The stream cannot be read on; the link is to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// Longer than any message that may be.
    TooLong {
        /// Its length.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// No message in JSON.
    Malformed {
        /// What the reader says, with the place.
        what: String,
    },
}

/// What was read from a peer and is not yet taken as messages.
#[derive(Debug)]
pub struct ControlBuffer {
    bytes: Vec<u8>,
    taken: usize,
    frame_bytes_max: usize,
}

/// The frame of a message.
///
/// # Errors
///
/// [`ControlError::TooLong`] if it is longer than `bytes_max`.
pub fn control_frame<T: Serialize>(message: &T, bytes_max: usize) -> Result<Vec<u8>, ControlError> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(malformed)?;
    let bytes = frame.len() - LENGTH_BYTES;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
    let length = length.ok_or(ControlError::TooLong { bytes, bytes_max })?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

impl ControlBuffer {
    /// A buffer for messages of at most `frame_bytes_max` bytes.
    pub const fn new(frame_bytes_max: usize) -> ControlBuffer {
        ControlBuffer { bytes: Vec::new(), taken: 0, frame_bytes_max }
    }

    /// Adds what was read. To be called between calls of [`ControlBuffer::take`] that end with
    /// none, with pieces of bounded length.
    pub fn add(&mut self, piece: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Takes the next message; none: it has not arrived whole.
    ///
    /// # Errors
    ///
    /// The frame is too long or no message; the link is of no more use.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ControlError> {
        let left = &self.bytes[self.taken..];
        let Some((length, rest)) = left.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes > self.frame_bytes_max {
            return Err(ControlError::TooLong { bytes, bytes_max: self.frame_bytes_max });
        }
        let Some(body) = rest.get(..bytes) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(malformed)?;
        self.taken += LENGTH_BYTES + bytes;
        Ok(Some(message))
    }
}

fn malformed(error: impl fmt::Display) -> ControlError {
    ControlError::Malformed { what: error.to_string() }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::TooLong { bytes, bytes_max } => {
                write!(f, "a control message of {bytes} bytes; it may have {bytes_max}")
            }
            ControlError::Malformed { what } => write!(f, "no control message: {what}"),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::ToCoordinator;
    use crate::ids::{Epoch, ServerId};

    fn suspect(number: u32) -> ToCoordinator {
        ToCoordinator::Suspect { server: ServerId::new(number), epoch: Epoch::new(7) }
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_the_stream_is_cut(
            numbers in proptest::collection::vec(any::<u32>(), 0..20),
            pieces in proptest::collection::vec(1_usize..40, 1..40),
        ) {
            let frame = |&number| control_frame(&suspect(number), 1000).expect("short");
            let stream: Vec<u8> = numbers.iter().flat_map(frame).collect();
            let mut buffer = ControlBuffer::new(1000);
            let mut found = Vec::new();
            let mut left = stream.as_slice();
            for piece in pieces.iter().cycle() {
                if left.is_empty() {
                    break;
                }
                let (now, later) = left.split_at((*piece).min(left.len()));
                buffer.add(now);
                left = later;
                while let Some(message) = buffer.take::<ToCoordinator>().expect("whole") {
                    found.push(message);
                }
            }
            prop_assert_eq!(found, numbers.into_iter().map(suspect).collect::<Vec<_>>());
        }

        #[test]
        fn bytes_that_are_no_message_are_an_error_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut buffer = ControlBuffer::new(100);
            buffer.add(&bytes);
            while let Ok(Some(_)) = buffer.take::<ToCoordinator>() {}
        }
    }

    #[test]
    fn a_frame_beyond_the_bound_is_refused_on_both_sides() {
        let message = suspect(1);
        let frame = control_frame(&message, 1000).expect("short");
        let bytes = frame.len() - LENGTH_BYTES;
        let too_long = ControlError::TooLong { bytes, bytes_max: bytes - 1 };
        assert_eq!(control_frame(&message, bytes - 1), Err(too_long.clone()));
        let mut buffer = ControlBuffer::new(bytes - 1);
        buffer.add(&frame[..LENGTH_BYTES]);
        assert_eq!(buffer.take::<ToCoordinator>(), Err(too_long));
    }
}
