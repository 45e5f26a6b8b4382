//! Control links: the blocking connection of a server, a worker or a person to the coordinator.
//!
//! Owns one TCP socket and its deadlines. What the messages mean is left to `wire` and the callers;
//! none of them is on the data path.
//!
//! Invariant: no call takes longer than the time it was given.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use wire::{
    CONTROL_BYTES_MAX, CONTROL_REQUEST_BYTES_MAX, ControlBuffer, ControlError, ToCoordinator,
    control_frame,
};

use crate::control_bell::ControlBell;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;

/// How long a message to the coordinator may take to leave.
const SEND_MAX: Duration = Duration::from_secs(1);

/// Why a control link does not do what it should. The link is of no more use.
#[derive(Debug)]
pub enum ControlFault {
    /// Nobody answers at the address.
    Connect {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The coordinator has closed it.
    Closed,
    /// The network has.
    Io(io::Error),
    /// What came is no message.
    Malformed(ControlError),
}

/// The reading end, and the whole link: its end closes it.
#[derive(Debug)]
pub struct ControlLink {
    stream: Arc<TcpStream>,
    incoming: ControlBuffer,
    piece: Vec<u8>,
}

/// The writing end.
#[derive(Clone, Debug)]
pub struct ControlWriter {
    stream: Arc<TcpStream>,
}

impl ControlLink {
    /// Connects to a coordinator at `host:port`, trying each of the name's addresses for
    /// `connect_max` at most.
    ///
    /// # Errors
    ///
    /// [`ControlFault::Connect`] with what the last address said.
    pub fn connect(address: &str, connect_max: Duration) -> Result<ControlLink, ControlFault> {
        let fault = |error| ControlFault::Connect { address: address.to_owned(), error };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for found in address.to_socket_addrs().map_err(fault)? {
            match TcpStream::connect_timeout(&found, connect_max) {
                Ok(stream) => return ControlLink::new(stream).map_err(fault),
                Err(error) => last = error,
            }
        }
        Err(fault(last))
    }

    fn new(stream: TcpStream) -> io::Result<ControlLink> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(SEND_MAX))?;
        let incoming = ControlBuffer::new(CONTROL_BYTES_MAX);
        Ok(ControlLink { stream: Arc::new(stream), incoming, piece: vec![0; PIECE_BYTES] })
    }

    /// The writing end, for another thread too.
    pub fn writer(&self) -> ControlWriter {
        ControlWriter { stream: Arc::clone(&self.stream) }
    }

    /// As [`ControlLink::receive`]; also none, at once, if the bell is rung and nothing has come.
    ///
    /// # Errors
    ///
    /// The link is gone, or what came is no message.
    pub fn receive_or_rung<T: DeserializeOwned>(
        &mut self,
        deadline: Instant,
        bell: &ControlBell,
    ) -> Result<Option<T>, ControlFault> {
        if let Some(message) = self.incoming.take().map_err(ControlFault::Malformed)? {
            return Ok(Some(message));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let (link, rung) = (self.stream.as_fd(), bell.fd());
        let mut ends = [link, rung].map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN));
        match poll(&mut ends, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(ControlFault::Io(error.into())),
        }
        if ends[1].revents().contains(PollFlags::IN) {
            bell.clear();
        }
        // What has come may be a part of a message; its rest is on its way.
        let has_come = !ends[0].revents().is_empty();
        self.receive(if has_come { deadline } else { Instant::now() })
    }

    /// The next message; none if there is none until `deadline`.
    ///
    /// # Errors
    ///
    /// The link is gone, or what came is no message.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<T>, ControlFault> {
        loop {
            if let Some(message) = self.incoming.take().map_err(ControlFault::Malformed)? {
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).map_err(ControlFault::Io)?;
            match (&*self.stream).read(&mut self.piece) {
                Ok(0) => return Err(ControlFault::Closed),
                Ok(bytes) => self.incoming.add(&self.piece[..bytes]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Err(ControlFault::Closed),
                    _ => return Err(ControlFault::Io(error)),
                },
            }
        }
    }
}

impl Drop for ControlLink {
    fn drop(&mut self) {
        // Writers may still have the socket.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl ControlWriter {
    /// Sends a message. Two threads' messages must not be sent at once: callers hold a lock.
    ///
    /// # Errors
    ///
    /// The link is gone, or takes nothing for a second: it is closed then, since a part of the
    /// message may have left.
    pub fn send(&mut self, message: &ToCoordinator) -> Result<(), ControlFault> {
        let frame =
            control_frame(message, CONTROL_REQUEST_BYTES_MAX).map_err(ControlFault::Malformed)?;
        (&*self.stream).write_all(&frame).map_err(|error| {
            let _ = self.stream.shutdown(Shutdown::Both);
            ControlFault::Io(error)
        })
    }
}

impl fmt::Display for ControlFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlFault::Connect { address, error } => {
                write!(f, "no coordinator answers at {address}: {error}")
            }
            ControlFault::Closed => f.write_str("the coordinator has closed the link"),
            ControlFault::Io(error) => write!(f, "the link to the coordinator: {error}"),
            ControlFault::Malformed(error) => {
                write!(f, "the coordinator speaks otherwise: {error}")
            }
        }
    }
}

impl std::error::Error for ControlFault {}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use wire::ToMember;

    use super::*;

    fn pair() -> (ControlLink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let link = ControlLink::connect(&address, Duration::from_secs(5)).expect("connects");
        (link, listener.accept().expect("accepts").0)
    }

    #[test]
    fn a_wait_for_a_message_ends_at_its_deadline_and_none_of_it_is_lost() {
        let (mut link, mut other) = pair();
        let frame = control_frame(&ToMember::BeatSeen { sent_ns: 7 }, 1000).expect("short");
        let (first, rest) = frame.split_at(6);
        other.write_all(first).expect("written");
        let soon = Instant::now() + Duration::from_millis(30);
        assert!(link.receive::<ToMember>(soon).expect("open").is_none());
        other.write_all(rest).expect("written");
        let late = Instant::now() + Duration::from_secs(10);
        let message = link.receive::<ToMember>(late).expect("open");
        assert_eq!(message, Some(ToMember::BeatSeen { sent_ns: 7 }));
    }

    #[test]
    fn a_wait_for_a_message_ends_when_the_bell_is_rung_and_each_ring_ends_one() {
        let (mut link, mut other) = pair();
        let bell = ControlBell::new().expect("a bell");
        let late = Instant::now() + Duration::from_secs(600);
        bell.waker().wake();
        bell.waker().wake();
        assert_eq!(link.receive_or_rung::<ToMember>(late, &bell).expect("open"), None);
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(link.receive_or_rung::<ToMember>(soon, &bell).expect("open"), None);
        assert!(Instant::now() >= soon, "it was rung before");
        let seen = ToMember::BeatSeen { sent_ns: 7 };
        let frame = control_frame(&seen, 1000).expect("short");
        other.write_all(&[&frame[..], &frame[..]].concat()).expect("written");
        assert_eq!(link.receive_or_rung(late, &bell).expect("open"), Some(seen.clone()));
        bell.waker().wake();
        assert_eq!(link.receive_or_rung(late, &bell).expect("open"), Some(seen));
        assert_eq!(link.receive_or_rung::<ToMember>(late, &bell).expect("open"), None);
    }

    #[test]
    fn a_link_that_the_coordinator_closed_says_so() {
        let (mut link, other) = pair();
        drop(other);
        let late = Instant::now() + Duration::from_secs(10);
        assert!(matches!(link.receive::<ToMember>(late), Err(ControlFault::Closed)));
    }

    #[test]
    fn an_address_where_nobody_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let fault = ControlLink::connect(&address, Duration::from_secs(5)).expect_err("nobody");
        assert!(fault.to_string().contains(&address), "{fault}");
    }
}
