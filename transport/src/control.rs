//! Lane messages as they stand in slots: how a transport writes one, and tells one from others.
//!
//! Owns no state. What they mean is left to `verbs`; a back end without lanes only declines them.
//!
//! Invariant: what is written here is read here, on any host.

use wire::{HEADER_BYTES, Header, Kind, LANE_BODY_BYTES, LaneMessage, Malformed, Message, Seal};

/// Length of a lane message, in bytes.
pub(crate) const MESSAGE_BYTES: usize = HEADER_BYTES + LANE_BODY_BYTES;

/// The reflected polynomial of CRC32C.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Whether the message is one of lanes, by its header alone, which the back end has looked at.
pub(crate) fn is_lane_message(message: &[u8]) -> bool {
    message.get(std::mem::offset_of!(Header, kind)) == Some(&(Kind::Lane as u8))
}

/// Whether it is a whole first word of a lane: the rails of one who wants one.
pub(crate) fn is_call(message: &[u8]) -> bool {
    matches!(read(message), Ok(LaneMessage::Rails(_)))
}

/// Writes a lane message.
///
/// Panics: if `bytes` is not [`MESSAGE_BYTES`] long.
pub(crate) fn write(bytes: &mut [u8], message: &LaneMessage) {
    bytes[HEADER_BYTES..].copy_from_slice(&message.to_bytes());
    wire::seal(bytes, Header::new(Kind::Lane), Seal::Body, crc32c);
}

/// Reads what [`write`] wrote.
///
/// Errors: it is no lane message.
pub(crate) fn read(bytes: &[u8]) -> Result<LaneMessage, Malformed> {
    match wire::open(bytes, crc32c)? {
        (_, Message::Lane(message)) => Ok(message),
        (header, _) => Err(Malformed::Kind { found: header.kind }),
    }
}

/// CRC32C, bit by bit: lane messages are few and short, and the fast one is none of this crate's.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: RFC 3720, B.4, and the CRC catalogue's check value.
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_lane_message_is_told_from_others_and_reads_as_it_was_written() {
        let mut aligned = Aligned([0; MESSAGE_BYTES]);
        let bytes = &mut aligned.0;
        write(bytes, &LaneMessage::Ready { generation: 4, rkey: 9 });
        assert!(is_lane_message(bytes) && !is_call(bytes));
        assert_eq!(read(bytes), Ok(LaneMessage::Ready { generation: 4, rkey: 9 }));
        bytes[70] ^= 1;
        assert!(matches!(read(bytes), Err(Malformed::Checksum { .. })));
    }

    /// As a slot is.
    #[repr(align(64))]
    struct Aligned([u8; MESSAGE_BYTES]);
}
