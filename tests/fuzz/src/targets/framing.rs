//! The wire's doors: the header alone, and whole messages of every kind.
//!
//! Promise: whatever is opened has the length that its header says, and its keys are in order.

use wire::{HEADER_BYTES, Message, framed_bytes, read_header};

use super::messages::{Aligned, crc, mend, of_every_kind};
use super::{Target, answer_number};
use crate::random::Random;

/// How far a message is read.
pub(super) enum Framing {
    /// The header.
    Head,
    /// All of it.
    Whole,
}

impl Target for Framing {
    fn inputs(&self) -> Vec<Vec<u8>> {
        of_every_kind()
    }

    fn tokens(&self) -> &'static [&'static [u8]] {
        &[b"GRDW", &[0; 8], &[0xFF; 8]]
    }

    fn mend(&self, input: &mut Vec<u8>, random: &mut Random) {
        mend(input, random);
    }

    fn feed(&mut self, input: &[u8]) -> u64 {
        match self {
            Framing::Head => feed_head(input),
            Framing::Whole => feed_whole(input),
        }
    }
}

fn feed_head(input: &[u8]) -> u64 {
    let framed = input.first_chunk::<HEADER_BYTES>().map(framed_bytes);
    let read = read_header(input, crc);
    if let Ok(header) = &read {
        assert_eq!(framed, Some(Ok(input.len())), "what is read was framed");
        assert_eq!(header.body_bytes as usize + HEADER_BYTES, input.len());
    }
    let read = read.map(|header| (header.kind(), header.status()));
    answer_number(&format!("{read:?} {framed:?}"))
}

fn feed_whole(input: &[u8]) -> u64 {
    let input = Aligned::copied(input);
    let opened = wire::open(input.bytes(), crc);
    let (header, message) = match opened {
        Ok(opened) => opened,
        Err(malformed) => return answer_number(&format!("{malformed:?}")),
    };
    let keys = match &message {
        Message::Push(keyed) => {
            let values = header.keys as usize * usize::from(header.width);
            assert_eq!(keyed.values.len(), values, "each key has its values");
            keyed.keys.as_slice()
        }
        Message::Pull(keys) => keys.as_slice(),
        _ => &[],
    };
    assert!(keys.is_sorted_by(|one, two| one < two), "opened keys ascend: {keys:?}");
    assert_ne!(keys.last(), Some(&u64::MAX), "the reserved key is none");
    answer_number(&format!("{:?}", header.kind()))
}
