//! Handing the rings to another process, over a Unix socket.
//!
//! Owns the offer: 24 bytes and three descriptors. Who may connect to the socket, and who is on
//! its other side, is left to the caller, who opened it.
//!
//! ```text
//! offset  0        8         12        16
//!         | magic  | version | zero    | ring_bytes |   + memory, A's bell, B's bell
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::End;
use super::bell::{Doors, new_bell};
use super::error::ShmError;
use super::shared::{Shared, Side};

/// The first eight bytes of an offer.
const MAGIC: u64 = u64::from_le_bytes(*b"GRDWRING");

/// Of the layout of memory, rings and records.
const VERSION: u32 = 1;

/// Length of an offer in bytes.
const OFFER_BYTES: usize = 24;

/// Memory and two bells.
const DESCRIPTORS: usize = 3;

/// How long the peer has for its part, in milliseconds.
const TIMEOUT_MS: u64 = 5000;

/// Makes a pair of rings of `ring_bytes` each and gives the other end to the process behind
/// `stream`, which calls [`accept`]. From then on the stream only shows that the process lives.
///
/// - Blocks for at most 5 s, if the socket's buffer is full.
/// - Errors: [`ShmError`]; the stream is closed. That the peer refused shows as a closed link.
pub fn offer(stream: UnixStream, ring_bytes: usize) -> Result<End, ShmError> {
    let memory = Shared::create(ring_bytes)?;
    let shared = Arc::new(Shared::map(&memory, ring_bytes as u64)?);
    let (bell, peer_bell) = (new_bell()?, new_bell()?);
    set_blocking(&stream)?;
    send(&stream, ring_bytes, [memory.as_fd(), bell.as_fd(), peer_bell.as_fd()])?;
    end(Doors { shared, side: Side::A, bell, peer_bell }, stream)
}

/// Takes the end that the process behind `stream` offers.
///
/// - Blocks for at most 5 s for each of the offer's parts.
/// - Errors: [`ShmError`]: no offer came, or not one that is safe to map. The stream is closed.
pub fn accept(stream: UnixStream) -> Result<End, ShmError> {
    set_blocking(&stream)?;
    let (offer, [memory, peer_bell, bell]) = receive(&stream)?;
    let ring_bytes = parse(&offer)?;
    let shared = Arc::new(Shared::map(&memory, ring_bytes)?);
    for bell in [&bell, &peer_bell] {
        let flags = rustix::fs::fcntl_getfl(bell).map_err(ShmError::os("F_GETFL"))?;
        if !flags.contains(OFlags::NONBLOCK) {
            return Err(ShmError::BellBlocks);
        }
    }
    end(Doors { shared, side: Side::B, bell, peer_bell }, stream)
}

fn end(doors: Doors, stream: UnixStream) -> Result<End, ShmError> {
    stream.set_nonblocking(true).map_err(os("O_NONBLOCK"))?;
    Ok(End { doors, process: Some(stream) })
}

fn set_blocking(stream: &UnixStream) -> Result<(), ShmError> {
    let timeout = Some(Duration::from_millis(TIMEOUT_MS));
    stream.set_nonblocking(false).map_err(os("O_NONBLOCK"))?;
    stream.set_write_timeout(timeout).map_err(os("SO_SNDTIMEO"))?;
    stream.set_read_timeout(timeout).map_err(os("SO_RCVTIMEO"))
}

fn send(
    stream: &UnixStream,
    ring_bytes: usize,
    descriptors: [std::os::fd::BorrowedFd<'_>; DESCRIPTORS],
) -> Result<(), ShmError> {
    let mut offer = [0; OFFER_BYTES];
    offer[..8].copy_from_slice(&MAGIC.to_le_bytes());
    offer[8..12].copy_from_slice(&VERSION.to_le_bytes());
    offer[16..].copy_from_slice(&(ring_bytes as u64).to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fitted = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    assert!(fitted, "the space is made for {DESCRIPTORS} descriptors");
    // A stream socket takes so few bytes whole or not at all.
    rustix::net::sendmsg(stream, &[IoSlice::new(&offer)], &mut control, SendFlags::NOSIGNAL)
        .map_err(timed("sendmsg"))?;
    Ok(())
}

fn receive(stream: &UnixStream) -> Result<([u8; OFFER_BYTES], [OwnedFd; DESCRIPTORS]), ShmError> {
    let mut offer = [0; OFFER_BYTES];
    // Room for one more than is wanted, so that too many are seen.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut offer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let bytes = rustix::net::recvmsg(stream, &mut parts, &mut control, flags)
        .map_err(timed("recvmsg"))?
        .bytes;
    let mut descriptors = Vec::with_capacity(DESCRIPTORS + 1);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let mut stream = stream;
    stream.read_exact(&mut offer[bytes..]).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ShmError::OfferCut { bytes, bytes_wanted: OFFER_BYTES },
        io::ErrorKind::WouldBlock => ShmError::TimedOut { timeout_ms: TIMEOUT_MS },
        _ => os("read")(error),
    })?;
    let count = descriptors.len();
    let descriptors = descriptors
        .try_into()
        .map_err(|_| ShmError::Descriptors { count, count_wanted: DESCRIPTORS })?;
    Ok((offer, descriptors))
}

/// The size of the offered rings, in bytes; not checked yet.
fn parse(offer: &[u8; OFFER_BYTES]) -> Result<u64, ShmError> {
    let eight = |from: usize| {
        u64::from_le_bytes(offer[from..from + 8].try_into().expect("eight bytes of the offer"))
    };
    if eight(0) != MAGIC {
        return Err(ShmError::NotAnOffer { magic: eight(0), magic_wanted: MAGIC });
    }
    let found = eight(8) as u32;
    if found != VERSION {
        return Err(ShmError::Version { found, ours: VERSION });
    }
    Ok(eight(16))
}

fn timed(call: &'static str) -> impl FnOnce(Errno) -> ShmError {
    move |errno| match errno {
        Errno::AGAIN => ShmError::TimedOut { timeout_ms: TIMEOUT_MS },
        errno => ShmError::os(call)(errno),
    }
}

fn os(call: &'static str) -> impl FnOnce(io::Error) -> ShmError {
    move |error| ShmError::Os { call, errno: error.raw_os_error().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::shm::RING_BYTES_MIN;

    fn refusal(act: impl FnOnce(&UnixStream)) -> ShmError {
        let (here, there) = UnixStream::pair().unwrap();
        act(&here);
        drop(here);
        accept(there).unwrap_err()
    }

    #[test]
    fn an_offer_that_is_accepted_makes_two_ends_of_one_memory() {
        let (here, there) = UnixStream::pair().unwrap();
        let one = offer(here, RING_BYTES_MIN).unwrap();
        let other = accept(there).unwrap();
        assert_eq!((one.doors.side, other.doors.side), (Side::A, Side::B));
        assert!(!one.doors.is_closed_by_peer());
        drop(other);
        assert!(one.doors.is_closed_by_peer());
    }

    #[test]
    fn bytes_that_are_no_offer_are_refused() {
        let error = refusal(|stream| {
            let mut stream = stream;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        });
        assert_eq!(error, ShmError::Descriptors { count: 0, count_wanted: 3 });
    }

    #[test]
    fn a_peer_that_leaves_before_its_offer_is_whole_is_told_from_one_that_sent_none() {
        let error = refusal(|stream| {
            let mut stream = stream;
            stream.write_all(&MAGIC.to_le_bytes()).unwrap();
        });
        assert_eq!(error, ShmError::OfferCut { bytes: 8, bytes_wanted: OFFER_BYTES });
        let error = refusal(|_| {});
        assert_eq!(error, ShmError::OfferCut { bytes: 0, bytes_wanted: OFFER_BYTES });
    }

    #[test]
    fn memory_of_another_size_than_offered_is_refused() {
        let error = refusal(|stream| {
            let memory = Shared::create(RING_BYTES_MIN).unwrap();
            let bells = [new_bell().unwrap(), new_bell().unwrap()];
            let descriptors = [memory.as_fd(), bells[0].as_fd(), bells[1].as_fd()];
            send(stream, 2 * RING_BYTES_MIN, descriptors).unwrap();
        });
        assert!(matches!(error, ShmError::MemoryBytes { bytes: 16_384, .. }), "{error}");
    }

    #[test]
    fn a_descriptor_that_is_no_memory_is_refused() {
        let error = refusal(|stream| {
            let bells = [new_bell().unwrap(), new_bell().unwrap(), new_bell().unwrap()];
            let descriptors = [bells[0].as_fd(), bells[1].as_fd(), bells[2].as_fd()];
            send(stream, RING_BYTES_MIN, descriptors).unwrap();
        });
        assert!(matches!(error, ShmError::Os { call: "F_GET_SEALS", .. }), "{error}");
    }

    #[test]
    fn a_bell_that_could_block_its_ringer_is_refused() {
        let error = refusal(|stream| {
            let memory = Shared::create(RING_BYTES_MIN).unwrap();
            let blocking = rustix::event::EventfdFlags::CLOEXEC;
            let bell = rustix::event::eventfd(0, blocking).unwrap();
            send(stream, RING_BYTES_MIN, [memory.as_fd(), bell.as_fd(), bell.as_fd()]).unwrap();
        });
        assert_eq!(error, ShmError::BellBlocks);
    }

    #[test]
    fn another_version_is_named_with_ours() {
        let mut offer = [0; OFFER_BYTES];
        offer[..8].copy_from_slice(&MAGIC.to_le_bytes());
        offer[8] = 9;
        assert_eq!(parse(&offer), Err(ShmError::Version { found: 9, ours: VERSION }));
        offer[0] = 0;
        assert!(matches!(parse(&offer), Err(ShmError::NotAnOffer { .. })));
    }
}
