//! One connection on the ring: at most one receive and one send under way.
//!
//! Owns the socket, both halves of the stream, and all memory that the kernel was given for them.
//!
//! Invariant: while [`Flight::Kernel`] stands for a direction, nobody touches the memory that its
//! operation names: a window is asked for and a slot taken off the outbox only by the functions
//! here, which check the flight first. `uring::Uring` drops a peer only when both are over, or
//! leaks it.

use std::net::TcpStream;
use std::ptr;

use io_uring::{opcode, squeue, types};
use libc::{iovec, msghdr};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use super::ring::{Op, Ring, Socket, Tag};
use crate::api::PeerId;
use crate::desk::{Connection, Flushing};
use crate::outbox::Outbox;
use crate::stream::{Assembly, Reach};

/// Slots that one send gathers.
const PARTS_MAX: usize = 32;
/// A send gathers no more slots once it has this many bytes: what is sent is told in steps of one
/// send, and the sender's credit with it.
const GATHER_BYTES: usize = 256 << 10;
/// A lone message of at most so many bytes is sent by a plain call.
const SEND_NOW_BYTES_MAX: usize = 4 << 10;
/// `IORING_RECVSEND_POLL_FIRST`: do not try to receive before there is something.
const POLL_FIRST: u16 = 1;

/// A connection.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) socket: TcpStream,
    /// Of the socket, in the ring's table.
    pub(super) place: u32,
    pub(super) inbox: Assembly,
    pub(super) life: Life,
    outbox: Outbox,
    flushing: Flushing,
    /// As the last receive left it.
    socket_state: Socket,
    recv: Flight,
    send: Flight,
    parts: Box<Parts>,
}

/// Whether the connection is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    /// Its `Closed` event is on its way; operations may still be in the kernel.
    Closed,
}

/// Where one direction's operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    /// There is none.
    Landed,
    /// The kernel has its memory.
    Kernel,
    /// There will be none: the direction is over.
    Over,
}

/// What a gathering send names. It is boxed, so that it stays where it is.
struct Parts {
    vectors: [iovec; PARTS_MAX],
    header: msghdr,
}

impl Connection for Peer {
    fn is_open(&self) -> bool {
        self.life == Life::Open
    }

    fn inbox(&self) -> &Assembly {
        &self.inbox
    }

    fn inbox_mut(&mut self) -> &mut Assembly {
        &mut self.inbox
    }

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn sending(&mut self) -> (&mut Outbox, &mut Flushing) {
        (&mut self.outbox, &mut self.flushing)
    }
}

impl Peer {
    pub(super) fn new(id: PeerId, socket: TcpStream, place: u32, inbox: Assembly) -> Peer {
        Peer {
            id,
            socket,
            place,
            inbox,
            life: Life::Open,
            outbox: Outbox::default(),
            flushing: Flushing::Unlisted,
            socket_state: Socket::HasBytes,
            recv: Flight::Landed,
            send: Flight::Landed,
            parts: Box::new(Parts::new()),
        }
    }

    /// Receives into the inbox's window, unless that is under way.
    pub(super) fn start_recv(&mut self, ring: &mut Ring) -> Result<(), Errno> {
        if self.recv != Flight::Landed {
            return Ok(());
        }
        let window = self.inbox.window();
        let flags = match window.reach {
            Reach::Some => 0,
            Reach::All => libc::MSG_WAITALL,
        };
        // A window is within one message or the staging slot, so it fits 32 bits.
        let (first, bytes) = (window.bytes.as_mut_ptr(), window.bytes.len() as u32);
        let entry = opcode::Recv::new(types::Fixed(self.place), first, bytes);
        // A try that must fail costs as much as a third of a system call. If bytes have come since,
        // the kernel sees them as it begins to poll.
        let priority = if self.socket_state == Socket::LooksEmpty { POLL_FIRST } else { 0 };
        let entry = entry.flags(flags).ioprio(priority).build();
        let tag = self.tag(Op::Recv);
        // SAFETY:
        // - Allocated: the window lies in a slot of `self.inbox`, in its pool's mapping, which the
        //   slot keeps; `Uring::retire` and its `drop` free `self` only after `in_kernel` is over,
        //   and leak it otherwise.
        // - Nobody else's: the flight set below holds `window`, `filled` and `next` off until
        //   `recv_landed`, since the parent calls the last two from there only, or when stalled,
        //   which is when nothing is under way; `try_recv` asserts that nothing is.
        unsafe { ring.push(entry, tag) }?;
        self.recv = Flight::Kernel;
        Ok(())
    }

    /// Whether the next bytes begin a message: short ones are likely.
    pub(super) fn is_between_messages(&self) -> bool {
        self.recv == Flight::Landed && !self.inbox.has_bulk()
    }

    /// Receives what is there, by a plain call; how many bytes that was, none at the stream's end.
    pub(super) fn try_recv(&mut self) -> Result<usize, Errno> {
        assert_eq!(self.recv, Flight::Landed, "the kernel has the window");
        let window = self.inbox.window();
        let room_bytes = window.bytes.len();
        let (_, bytes) = net::recv(&self.socket, window.bytes, RecvFlags::DONTWAIT)?;
        self.inbox.filled(bytes);
        self.socket_state = if bytes == room_bytes { Socket::HasBytes } else { Socket::LooksEmpty };
        Ok(bytes)
    }

    /// Sends a lone short message by a plain call; what does not leave is left to `start_send`.
    pub(super) fn try_send(&mut self) -> Result<(), Errno> {
        if self.send != Flight::Landed {
            return Ok(());
        }
        let mut ready = self.outbox.ready();
        let (Some(bytes), None) = (ready.next(), ready.next()) else { return Ok(()) };
        if bytes.len() > SEND_NOW_BYTES_MAX {
            return Ok(());
        }
        let sent = net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        drop(ready);
        self.outbox.sent(sent?);
        Ok(())
    }

    /// Sends what the outbox has ready, unless a send is under way.
    pub(super) fn start_send(&mut self, ring: &mut Ring) -> Result<(), Errno> {
        if self.send != Flight::Landed {
            return Ok(());
        }
        let count = self.parts.gather(self.outbox.ready());
        if count == 0 {
            return Ok(());
        }
        let entry = self.parts.entry(types::Fixed(self.place), count);
        let tag = self.tag(Op::Send);
        // SAFETY:
        // - Allocated: the bytes lie in slots that `self.outbox` keeps until `sent`, called by
        //   `send_landed` only; header and vectors lie in `self.parts`, a box. `Uring::retire` and
        //   its `drop` free `self` only after `in_kernel` is over, and leak it otherwise.
        // - Nobody else's: the kernel only reads; a posted slot is out of its writer's hands, and
        //   the flight set below keeps `gather` off the vectors.
        unsafe { ring.push(entry, tag) }?;
        self.send = Flight::Kernel;
        Ok(())
    }

    /// The receive is over: the window is ours again.
    pub(super) fn recv_landed(&mut self, socket: Socket) {
        assert_eq!(self.recv, Flight::Kernel, "a receive landed that was not under way");
        self.recv = Flight::Landed;
        self.socket_state = socket;
    }

    /// The send is over and took `bytes` bytes off the outbox.
    pub(super) fn send_landed(&mut self, bytes: usize) {
        assert_eq!(self.send, Flight::Kernel, "a send landed that was not under way");
        self.send = Flight::Landed;
        self.outbox.sent(bytes);
    }

    /// Nothing more can be sent; what the peer has sent may still be received.
    pub(super) fn end_sends(&mut self) {
        self.send = Flight::Over;
    }

    /// Whether the kernel has some of this peer's memory.
    pub(super) fn in_kernel(&self) -> bool {
        self.recv == Flight::Kernel || self.send == Flight::Kernel
    }

    fn tag(&self, op: Op) -> Tag {
        Tag { op, peer: self.id.index() as u32 }
    }
}

impl Parts {
    fn new() -> Parts {
        // SAFETY: `msghdr` is made of integers and raw pointers, for which zero bytes are values.
        let header = unsafe { std::mem::zeroed() };
        let vectors = [iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS_MAX];
        Parts { vectors, header }
    }

    /// Notes where the first of `slices` lie; gives how many that are.
    fn gather<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> usize {
        let (mut count, mut bytes) = (0, 0);
        for (vector, slice) in self.vectors.iter_mut().zip(slices) {
            *vector = iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
            count += 1;
            bytes += slice.len();
            if bytes >= GATHER_BYTES {
                break;
            }
        }
        count
    }

    /// An operation that sends the first `count` vectors whole.
    fn entry(&mut self, socket: types::Fixed, count: usize) -> squeue::Entry {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if let [vector] = &self.vectors[..count] {
            let (first, bytes) = (vector.iov_base.cast_const().cast(), vector.iov_len as u32);
            return opcode::Send::new(socket, first, bytes).flags(flags).build();
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = count as _;
        opcode::SendMsg::new(socket, &raw const self.header).flags(flags as u32).build()
    }
}
