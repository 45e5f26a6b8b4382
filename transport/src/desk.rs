//! What both TCP back ends keep of all their peers: credit, slots, and what waits for what.
//!
//! Owns the peers, the pools that slots come from, and the lists of peers that wait: for the next
//! flush, for slots to come back, for credit. Moving bytes is left to `uring` and `epoll`.
//!
//! Invariant: a peer is on the list for the flush exactly while it says so itself; one that was
//! refused a slot is told of once.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use wire::{LaneMessage, Time};

use crate::api::{AdoptError, Event, Limits, PeerId, SendRefusal, Transport};
use crate::control;
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::slot::{SendMemory, SendSlot};
use crate::starved::Starved;
use crate::stream::{self, Assembly};
use crate::tcp::{LINK_SILENCE_MAX, OpenError, PROBE_INTERVAL, PROBES_MAX};
use crate::wake::Woken;

/// How often it is looked whether messages that were begun are under way still. One is late after
/// some of that: it has a minute, however long it is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Polls between two looks at the clock, for the sake of [`LOOK_EVERY`].
const POLLS_PER_CLOCK: u32 = 16;

/// What a back end's peer has besides its way of moving bytes.
pub(crate) trait Connection {
    /// Whether it may still be used.
    fn is_open(&self) -> bool;
    /// The receiving half.
    fn inbox(&self) -> &Assembly;
    /// The same, to look at: what the kernel may be filling is not touched.
    fn inbox_mut(&mut self) -> &mut Assembly;
    /// The sending half.
    fn outbox(&self) -> &Outbox;
    /// The sending half, and whether it is on the list for the flush.
    fn sending(&mut self) -> (&mut Outbox, &mut Flushing);
}

/// Whether the peer is on the list of those whose outbox the next flush lets go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushing {
    Listed,
    Unlisted,
}

/// A TCP back end under another transport: it can also sleep on what is not its own.
pub(crate) trait Beneath: Transport {
    /// Gives the lane messages of peers out, as any message. A back end that is alone answers them
    /// by itself: it has no lanes.
    fn give_out_lane_messages(&mut self);
    /// Ends sleeps while `fd` is readable.
    fn watch(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno>;
    /// Whether `fd` was readable since the last call.
    fn take_rung(&mut self) -> Rung;
    /// Whether the next poll has something to do, or a refused `acquire` may succeed. The latter
    /// is said once.
    fn has_news(&mut self) -> bool;
    /// Sleeps until there is news, what is watched is readable, or `deadline` has come.
    fn sleep(&mut self, deadline: Time);
    /// Ends a park: a waker that woke it woke no other.
    fn forget_wakers(&mut self);
}

/// Whether what is watched was readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Yes,
    No,
}

/// Who gets the lane messages that peers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// The transport above this one.
    GivenOut,
    /// Nobody: peers are told that there are none.
    Declined,
}

/// The peers of one transport.
pub(crate) struct Desk<P> {
    pub(crate) peers: Vec<Option<Box<P>>>,
    pub(crate) recvs: Pool,
    pub(crate) limits: Limits,
    /// Peers that wait for slots to be released.
    pub(crate) stalled: VecDeque<u32>,
    /// `Closed` events for the next poll.
    pub(crate) closed: Vec<Event>,
    /// Whether somebody woke since the last park.
    pub(crate) woken: Woken,
    /// Who gets lane messages.
    pub(crate) lanes: Lanes,
    /// Whether what is watched was readable.
    pub(crate) rung: Rung,
    sends: Pool,
    /// Peers with posted slots that are not flushed.
    unflushed: Vec<u32>,
    /// Peers that were refused a slot.
    starved: Starved,
    start: Instant,
    bytes_sent: u64,
    polls: u32,
    look_at: Time,
}

impl<P: Connection> Desk<P> {
    /// No peers yet.
    pub(crate) fn new(limits: Limits) -> Result<Desk<P>, OpenError> {
        Ok(Desk {
            peers: Vec::new(),
            recvs: stream::recv_pool(&limits).map_err(OpenError::Memory)?,
            limits,
            stalled: VecDeque::new(),
            closed: Vec::new(),
            woken: Woken::No,
            lanes: Lanes::Declined,
            rung: Rung::No,
            sends: Pool::new(&limits).map_err(OpenError::Memory)?,
            unflushed: Vec::new(),
            starved: Starved::default(),
            start: Instant::now(),
            bytes_sent: 0,
            polls: 0,
            look_at: Time::from_nanos(0) + LOOK_EVERY,
        })
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(0) + self.start.elapsed()
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        (self.recvs.made_bytes() + self.sends.made_bytes()) as u64
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    pub(crate) fn open_peer(&mut self, peer: PeerId) -> Option<&mut P> {
        let peer = self.peers.get_mut(peer.index())?.as_deref_mut()?;
        peer.is_open().then_some(peer)
    }

    /// The peers that began a message and have not ended it in time; asked once a poll.
    pub(crate) fn late_peers(&mut self) -> Vec<u32> {
        self.polls = self.polls.wrapping_add(1);
        if !self.polls.is_multiple_of(POLLS_PER_CLOCK) || self.now() < self.look_at {
            return Vec::new();
        }
        self.look_at = self.now() + LOOK_EVERY;
        let peers = self.peers.iter_mut().enumerate();
        let late = peers.filter_map(|(number, peer)| {
            let peer = peer.as_deref_mut().filter(|peer| peer.is_open())?;
            peer.inbox_mut().look().then_some(number as u32)
        });
        late.collect()
    }

    /// Whether this message is one of lanes that goes to nobody. Its peer is told so.
    pub(crate) fn declines(&mut self, peer: PeerId, message: &[u8]) -> bool {
        let declined = self.lanes == Lanes::Declined && control::is_lane_message(message);
        if declined && control::is_call(message) {
            // A peer that cannot be told for want of credit goes on waiting, which costs nothing.
            if let Ok(mut slot) = self.acquire(peer, control::MESSAGE_BYTES) {
                let none = LaneMessage::None { reason: 0 };
                control::write(slot.bytes_mut(), &none);
                self.post(slot);
                self.bytes_sent -= control::MESSAGE_BYTES as u64; // Nobody above posted it.
            }
        }
        declined
    }

    /// See [`crate::Transport::acquire`].
    pub(crate) fn acquire(&mut self, peer: PeerId, bytes: usize) -> Result<SendSlot, SendRefusal> {
        let entry = self.peers.get_mut(peer.index()).and_then(Option::as_deref_mut);
        let entry = entry.filter(|entry| entry.is_open()).ok_or(SendRefusal::NoSuchPeer)?;
        let slot = entry.sending().0.acquire(bytes, &self.sends, &self.limits);
        if matches!(slot, Err(SendRefusal::NoCredit)) {
            self.starved.note(peer.index() as u32, bytes);
        }
        Ok(SendSlot { peer, bytes, memory: SendMemory::Pool(slot?) })
    }

    /// See [`crate::Transport::post`].
    ///
    /// Panics: if the slot is another back end's.
    pub(crate) fn post(&mut self, slot: SendSlot) {
        let SendSlot { peer, bytes, memory: SendMemory::Pool(memory) } = slot else {
            panic!("a slot of another transport was posted");
        };
        self.bytes_sent += bytes as u64;
        let Some(entry) = self.open_peer(peer) else { return };
        let (outbox, flushing) = entry.sending();
        outbox.post(memory, bytes);
        if std::mem::replace(flushing, Flushing::Listed) == Flushing::Unlisted {
            self.unflushed.push(peer.index() as u32);
        }
    }

    /// How many peers the next flush lets go, those included whose posted slots may have waited
    /// behind dropped ones.
    pub(crate) fn count_unflushed(&mut self) -> usize {
        if self.sends.take_unused() > 0 {
            for (number, peer) in self.peers.iter_mut().enumerate() {
                let Some(peer) = peer else { continue };
                let (outbox, flushing) = peer.sending();
                if *flushing == Flushing::Unlisted && outbox.has_unused() {
                    *flushing = Flushing::Listed;
                    self.unflushed.push(number as u32);
                }
            }
        }
        self.unflushed.len()
    }

    /// Lets the outbox of a listed peer go, which is to be sent now.
    pub(crate) fn next_flushed(&mut self) -> Option<u32> {
        while let Some(number) = self.unflushed.pop() {
            let Some(peer) = self.peers[number as usize].as_deref_mut() else { continue };
            let (outbox, flushing) = peer.sending();
            *flushing = Flushing::Unlisted;
            outbox.flush();
            if peer.is_open() {
                return Some(number);
            }
        }
        None
    }

    /// Whether a peer that was refused a slot would get it now; each is told of once.
    pub(crate) fn has_fed(&mut self) -> bool {
        let (peers, sends, limits) = (&self.peers, &self.sends, &self.limits);
        let has_credit = |number: u32, bytes| match &peers[number as usize] {
            Some(peer) => peer.outbox().has_credit(bytes, limits) && sends.take(bytes).is_some(),
            None => true,
        };
        self.starved.take_fed(has_credit) > 0
    }

    /// Whether the next poll has something to do, whatever the kernel says.
    pub(crate) fn has_work(&self) -> bool {
        let resumable = |&number: &u32| match &self.peers[number as usize] {
            Some(peer) => peer.inbox().could_resume(&self.recvs, &self.limits),
            None => true,
        };
        !self.closed.is_empty() || self.stalled.iter().any(resumable)
    }
}

/// How bytes within this host are held back for the network's sake: the least that every Linux has,
/// since there is nothing to be congested. BBR paces its packets, and a stream over loop-back took
/// 1.5 to 2.5 times as long.
const WITHIN_HOST: &str = "reno";

/// Whether both ends have one address.
fn is_within_host(socket: &TcpStream) -> bool {
    let (near, far) = (socket.local_addr(), socket.peer_addr());
    near.is_ok_and(|near| far.is_ok_and(|far| near.ip() == far.ip()))
}

/// Has a socket send at once and notice a link that is silent though something is due.
pub(crate) fn prepare(socket: &TcpStream) -> Result<(), AdoptError> {
    let os = |error| AdoptError::Os { call: "setsockopt", error };
    socket.set_nodelay(true).map_err(os)?;
    if is_within_host(socket) {
        // A kernel that has nothing of the name goes on with its own.
        let _ = sockopt::set_tcp_congestion(socket, WITHIN_HOST);
    }
    let millis = u32::try_from(LINK_SILENCE_MAX.as_millis()).expect("seconds");
    let set = sockopt::set_tcp_user_timeout(socket, millis)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, PROBE_INTERVAL))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, PROBE_INTERVAL))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, PROBES_MAX))
        .and_then(|()| sockopt::set_socket_keepalive(socket, true));
    set.map_err(|errno| os(errno.into()))
}

#[cfg(test)]
impl<P> Desk<P> {
    /// Has the next polls look for late messages.
    pub(crate) fn let_look(&mut self) {
        self.look_at = Time::default();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use wire::{Header, Kind};

    use super::*;
    use crate::api::{Fault, Link};
    use crate::epoll::Epoll;
    use crate::uring::Uring;

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loop-back is always there");
        let address = listener.local_addr().expect("it is bound");
        let near = TcpStream::connect(address).expect("it listens");
        (near, listener.accept().expect("it was just made").0)
    }

    /// Has a back end look `looks` times. How its peer was ended, if it was.
    fn look<T: Transport>(
        transport: &mut T,
        let_look: impl Fn(&mut T),
        looks: u32,
    ) -> Option<Fault> {
        let mut events = Vec::new();
        for _ in 0..looks {
            let_look(transport);
            for _ in 0..POLLS_PER_CLOCK {
                transport.poll(&mut events);
            }
        }
        events.into_iter().find_map(|event| match event {
            Event::Closed { fault, .. } => Some(fault),
            Event::Received { .. } => None,
        })
    }

    /// What becomes of a peer that sends a message's first bytes, and then too few.
    fn trickle<T: Transport>(mut transport: T, let_look: impl Fn(&mut T), first_bytes: usize) {
        let (near, mut far) = sockets();
        transport.adopt(Link::Tcp(near)).expect("room for one");
        let mut message = vec![0; 100_000];
        wire::seal(&mut message, Header::new(Kind::Part), wire::Seal::HeaderOnly, |_| 0);
        far.write_all(&message[..first_bytes]).expect("room in the socket");
        // What was sent over loop-back is there; a park is for the ring to hear of it.
        transport.park(transport.now() + Duration::from_millis(100));
        assert_eq!(look(&mut transport, &let_look, 6), None, "{first_bytes} bytes, in time");
        far.write_all(&message[first_bytes..][..1]).expect("room in the socket");
        let late = look(&mut transport, &let_look, 1);
        assert_eq!(late, Some(Fault::MessageLate), "{first_bytes} bytes");
    }

    #[test]
    fn a_peer_that_does_not_end_what_it_began_is_ended() {
        for first_bytes in [1, 70, 50_000] {
            trickle(Epoll::new(Limits::default()).expect("epoll"), Epoll::let_look, first_bytes);
            match Uring::new(Limits::default()) {
                Ok(uring) => trickle(uring, Uring::let_look, first_bytes),
                Err(error) => assert!(matches!(error, OpenError::Os { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn a_link_within_a_host_is_not_paced() {
        let (socket, _far) = sockets();
        prepare(&socket).expect("each option is Linux's own");
        assert_eq!(sockopt::tcp_congestion(&socket).expect("it is a socket's"), WITHIN_HOST);
    }
}
