//! Framing: from a stream of bytes to whole messages, each in one slot.
//!
//! Owns what has been received from one peer and is no whole message yet. Receiving is left to
//! `uring` and `epoll`, which ask where the next bytes go and say how many came; a length is read
//! by `wire`.
//!
//! Small messages come several at a time through a staging slot and are copied out. Of a longer
//! one, only what came with its header is copied: the rest is received where it stays.
//!
//! Invariant: `staging[start..end]` are the bytes received and not yet in a slot; while there is a
//! `bulk`, there are none. A slot is taken only when the peer's account admits the message.

use std::rc::Rc;

use memory::MapError;
use wire::{HEADER_BYTES, Malformed};

use crate::api::Limits;
use crate::pool::{Account, Pool, PoolSlot};

/// Bytes asked for at once while messages are small.
const STAGING_BYTES: usize = 16 << 10;
/// Bytes asked for at once after a message that went past the staging slot: most likely another
/// long one comes, of which only these are copied.
const AFTER_BULK_BYTES: usize = 1 << 10;

/// Looks at a stream that may find one and the same message begun and not whole; see
/// [`Assembly::look`].
const LOOKS_MAX: u32 = 6;

/// The receiving half of one peer's stream.
#[derive(Debug)]
pub(crate) struct Assembly {
    staging: PoolSlot,
    start: usize,
    end: usize,
    /// How much of the staging slot the next receive may fill.
    staging_bytes: usize,
    bulk: Option<Bulk>,
    account: Rc<Account>,
    /// Looks that have found the message that is under way.
    looks: u32,
}

/// A message whose rest is received straight into its slot.
#[derive(Debug)]
struct Bulk {
    slot: PoolSlot,
    bytes: usize,
    filled_bytes: usize,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    /// A whole message: the first `bytes` bytes of the slot.
    Message {
        /// Where it lies.
        slot: PoolSlot,
        /// How long it is.
        bytes: usize,
    },
    /// More bytes are needed: receive into [`Assembly::window`].
    Starved,
    /// The peer has more received and unreleased than it may, or the pool is used up: receive
    /// nothing, and ask again when slots have come back.
    Stalled,
}

/// Where the next bytes go.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) reach: Reach,
}

/// How much of a window is worth waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Whatever there is.
    Some,
    /// All of it: it is the rest of one message.
    All,
}

/// A pool that [`Assembly`] can work with, within these limits.
pub(crate) fn recv_pool(limits: &Limits) -> Result<Pool, MapError> {
    let message_bytes_max = limits.message_bytes_max.max(STAGING_BYTES);
    Pool::new(&Limits { message_bytes_max, ..*limits })
}

impl Assembly {
    /// Nothing received yet. None if the pool has no staging slot left.
    pub(crate) fn new(pool: &Pool) -> Option<Assembly> {
        let (staging, account) = (pool.take(STAGING_BYTES)?, Rc::default());
        let staging_bytes = STAGING_BYTES;
        Some(Assembly { staging, start: 0, end: 0, staging_bytes, bulk: None, account, looks: 0 })
    }

    /// Goes on with what has been received.
    ///
    /// Errors: the peer sent what is no message, or one longer than the limit. The stream is of
    /// no use any more.
    pub(crate) fn next(&mut self, pool: &Pool, limits: &Limits) -> Result<Step, Malformed> {
        if let Some(bulk) = self.bulk.take_if(|bulk| bulk.filled_bytes == bulk.bytes) {
            (self.staging_bytes, self.looks) = (AFTER_BULK_BYTES, 0);
            return Ok(Step::Message { slot: bulk.slot, bytes: bulk.bytes });
        }
        if self.bulk.is_some() {
            return Ok(Step::Starved);
        }
        let staged = &self.staging.bytes()[self.start..self.end];
        let Some(head) = staged.first_chunk::<HEADER_BYTES>() else {
            self.compact();
            return Ok(Step::Starved);
        };
        let bytes = wire::framed_bytes(head)?;
        if bytes > limits.message_bytes_max {
            let body_bytes = u32::try_from(bytes - HEADER_BYTES).unwrap_or(u32::MAX);
            return Err(Malformed::TooLong { body_bytes });
        }
        let Some(mut slot) = self.admit(bytes, pool, limits) else {
            return Ok(Step::Stalled);
        };
        let staged_bytes = staged.len().min(bytes);
        slot.bytes_mut()[..staged_bytes].copy_from_slice(&staged[..staged_bytes]);
        self.start += staged_bytes;
        if staged_bytes == bytes {
            (self.staging_bytes, self.looks) = (STAGING_BYTES, 0);
            return Ok(Step::Message { slot, bytes });
        }
        self.bulk = Some(Bulk { slot, bytes, filled_bytes: staged_bytes });
        Ok(Step::Starved)
    }

    /// Where to receive to, after [`Step::Starved`]; never empty.
    pub(crate) fn window(&mut self) -> Window<'_> {
        match &mut self.bulk {
            Some(bulk) => {
                let bytes = &mut bulk.slot.bytes_mut()[bulk.filled_bytes..bulk.bytes];
                Window { bytes, reach: Reach::All }
            }
            None => {
                let bytes = &mut self.staging.bytes_mut()[self.end..self.staging_bytes];
                Window { bytes, reach: Reach::Some }
            }
        }
    }

    /// Looks whether a message is under way, as is done from time to time. Whether one has been for
    /// more than [`LOOKS_MAX`] looks: looks are counted and no time, since a process that was
    /// stopped meanwhile has read nothing. What waits for room here is not its sender's fault.
    pub(crate) fn look(&mut self) -> bool {
        let is_under_way = match self.bulk {
            Some(Bulk { bytes, filled_bytes, .. }) => filled_bytes < bytes,
            None => (1..HEADER_BYTES).contains(&(self.end - self.start)),
        };
        self.looks = if is_under_way { self.looks + 1 } else { 0 };
        self.looks > LOOKS_MAX
    }

    /// Whether the rest of a long message is awaited.
    pub(crate) fn has_bulk(&self) -> bool {
        self.bulk.is_some()
    }

    /// Counts `bytes` bytes that were received at the start of the window.
    ///
    /// Panics: if the window is shorter.
    pub(crate) fn filled(&mut self, bytes: usize) {
        let room_bytes = self.window().bytes.len();
        assert!(bytes <= room_bytes, "{bytes} bytes came into a window of {room_bytes}");
        match &mut self.bulk {
            Some(bulk) => bulk.filled_bytes += bytes,
            None => self.end += bytes,
        }
    }

    /// Whether a stalled stream would go on now.
    pub(crate) fn could_resume(&self, pool: &Pool, limits: &Limits) -> bool {
        let staged = &self.staging.bytes()[self.start..self.end];
        let Some(head) = staged.first_chunk::<HEADER_BYTES>() else { return true };
        // Anything but "no" is for `next` to look at.
        wire::framed_bytes(head).map_or(true, |bytes| self.admit(bytes, pool, limits).is_some())
    }

    fn admit(&self, bytes: usize, pool: &Pool, limits: &Limits) -> Option<PoolSlot> {
        if !self.account.admits(bytes, limits.recv_bytes_max) {
            return None;
        }
        pool.take_for(bytes, &self.account)
    }

    /// Moves a header's first bytes to the front, so that the window holds the rest of it.
    fn compact(&mut self) {
        self.staging.bytes_mut().copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::{Header, Kind};

    use super::*;

    /// A message of `bytes` bytes whose body repeats `mark`.
    fn message(bytes: usize, mark: u8) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&wire::MAGIC.to_le_bytes());
        header[4..6].copy_from_slice(&wire::VERSION.to_le_bytes());
        header[6] = Kind::Push as u8;
        let at = std::mem::offset_of!(Header, body_bytes);
        header[at..at + 4].copy_from_slice(&((bytes - HEADER_BYTES) as u32).to_le_bytes());
        let mut message = vec![mark; bytes];
        message[..HEADER_BYTES].copy_from_slice(&header);
        message
    }

    /// Feeds `stream` in pieces of at most `cuts`, in turn; gives what came out.
    fn reassemble(
        stream: &[u8],
        cuts: &[usize],
        limits: &Limits,
    ) -> Result<Vec<Vec<u8>>, Malformed> {
        let pool = recv_pool(limits).unwrap();
        let mut assembly = Assembly::new(&pool).unwrap();
        let (mut rest, mut cuts, mut messages) = (stream, cuts.iter().cycle(), Vec::new());
        loop {
            match assembly.next(&pool, limits)? {
                Step::Message { slot, bytes } => {
                    assert!(slot.bytes().as_ptr().addr().is_multiple_of(64));
                    messages.push(slot.bytes()[..bytes].to_vec());
                }
                Step::Stalled => unreachable!("each slot is dropped at once"),
                Step::Starved if rest.is_empty() => return Ok(messages),
                Step::Starved => {
                    let window = assembly.window();
                    assert!(!window.bytes.is_empty());
                    let bytes = rest.len().min(*cuts.next().unwrap()).min(window.bytes.len());
                    window.bytes[..bytes].copy_from_slice(&rest[..bytes]);
                    rest = &rest[bytes..];
                    assembly.filled(bytes);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_messages(
            sizes in prop::collection::vec(prop_oneof![64_usize..200, 64_usize..60_000], 1..40),
            cuts in prop::collection::vec(prop_oneof![1_usize..100, 1_usize..100_000], 1..20),
        ) {
            let sent: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(mark, &bytes)| message(bytes, mark as u8)).collect();
            prop_assert_eq!(reassemble(&sent.concat(), &cuts, &Limits::default()), Ok(sent));
        }

        #[test]
        fn any_bytes_give_messages_or_a_typed_fault(
            stream in prop::collection::vec(any::<u8>(), 0..500),
            flip in (0_usize..64, any::<u8>()),
            cut in 1_usize..100,
        ) {
            let _ = reassemble(&stream, &[cut], &Limits::default());
            let mut near = message(100, 7);
            near[flip.0] = flip.1;
            let _ = reassemble(&near, &[cut], &Limits::default());
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header_alone() {
        let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
        assert_eq!(reassemble(&message(1000, 1), &[64], &limits).map(|all| all.len()), Ok(1));
        let longer = message(1001, 1);
        assert_eq!(
            reassemble(&longer[..64], &[64], &limits),
            Err(Malformed::TooLong { body_bytes: 1001 - 64 })
        );
    }

    /// Looks until the stream is late; none if it never is.
    fn looks_until_late(assembly: &mut Assembly) -> Option<u32> {
        (1..=3 * LOOKS_MAX).find(|_| assembly.look())
    }

    #[test]
    fn a_message_that_was_begun_is_late_after_some_looks_and_none_that_waits_for_room() {
        let limits = Limits { recv_bytes_max: 250, ..Limits::default() };
        let pool = recv_pool(&limits).unwrap();
        let mut assembly = Assembly::new(&pool).unwrap();
        assert_eq!(looks_until_late(&mut assembly), None, "nothing was begun");
        assembly.window().bytes[0] = message(200, 1)[0];
        assembly.filled(1);
        assert_eq!(looks_until_late(&mut assembly), Some(LOOKS_MAX + 1), "a byte of a header");
        assembly.window().bytes[..100].copy_from_slice(&message(200, 1)[1..101]);
        assembly.filled(100);
        assert!(matches!(assembly.next(&pool, &limits), Ok(Step::Starved)));
        assert!(assembly.look(), "more bytes of one message are no new one");
        assembly.window().bytes.copy_from_slice(&message(200, 1)[101..]);
        assembly.filled(99);
        let Ok(Step::Message { slot, .. }) = assembly.next(&pool, &limits) else { panic!() };
        assert_eq!(looks_until_late(&mut assembly), None, "it is whole");
        assembly.window().bytes[..100].copy_from_slice(&message(100, 2));
        assembly.filled(100);
        assert!(matches!(assembly.next(&pool, &limits), Ok(Step::Stalled)));
        assert_eq!(looks_until_late(&mut assembly), None, "there is no room for it here");
        drop(slot);
    }

    #[test]
    fn a_peer_over_its_limit_stalls_until_a_slot_is_given_back() {
        let limits = Limits { recv_bytes_max: 250, ..Limits::default() };
        let pool = recv_pool(&limits).unwrap();
        let mut assembly = Assembly::new(&pool).unwrap();
        let stream = [message(100, 1), message(100, 2), message(100, 3)].concat();
        assembly.window().bytes[..300].copy_from_slice(&stream);
        assembly.filled(300);
        let mut slots = Vec::new();
        while let Step::Message { slot, .. } = assembly.next(&pool, &limits).unwrap() {
            slots.push(slot);
        }
        assert_eq!(slots.len(), 2);
        assert!(!assembly.could_resume(&pool, &limits));
        slots.pop();
        assert!(assembly.could_resume(&pool, &limits));
        assert!(matches!(assembly.next(&pool, &limits), Ok(Step::Message { bytes: 100, .. })));
    }
}
