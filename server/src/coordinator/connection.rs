//! A connection of the coordinator: bytes in as messages, frames out as the socket takes them.
//!
//! Owns one socket that never blocks, and the bound on what waits for it. Who is at the other end
//! is left to `machine`.
//!
//! Invariant: what waits to be sent is bounded; a peer that does not read loses its connection, and
//! holds nobody up.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use wire::{CONTROL_BYTES_MAX, CONTROL_REQUEST_BYTES_MAX, ControlBuffer, Time, ToCoordinator};

/// Most bytes that wait for a peer: two placements of the greatest length.
const WAITING_BYTES_MAX: usize = 2 * CONTROL_BYTES_MAX;

/// How long a peer may take nothing of what waits for it.
const STUCK_MAX: Duration = Duration::from_secs(2);

/// How long a peer may say nothing: watchers beat some times a second, servers more often.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// Most bytes that are read from a peer before others have their turn.
const READ_BYTES_MAX: usize = 256 << 10;

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer closed it, or the network did.
    Closed,
    /// What came is no message.
    Malformed(String),
    /// The peer does not read what it is sent.
    Slow,
    /// The peer says nothing.
    Silent,
    /// All that was to be said is said, and the peer does not close.
    Done,
}

/// One socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    incoming: ControlBuffer,
    outgoing: VecDeque<Arc<[u8]>>,
    /// Bytes of the first outgoing frame that are sent.
    sent_bytes: usize,
    waiting_bytes: usize,
    /// When something was taken last, or nothing waited.
    taken_at: Time,
    heard_at: Time,
    last_words: LastWords,
}

/// Whether the connection is to end when all is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWords {
    NotYet,
    Queued,
    /// Nothing is sent any more. The peer closes; what it says until then is read and dropped,
    /// since closing over it would take back what was said.
    Said(Time),
}

impl Connection {
    /// Takes a socket over.
    ///
    /// # Errors
    ///
    /// The socket cannot be set up: it is gone already.
    pub(super) fn new(stream: TcpStream, now: Time) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            incoming: ControlBuffer::new(CONTROL_REQUEST_BYTES_MAX),
            outgoing: VecDeque::new(),
            sent_bytes: 0,
            waiting_bytes: 0,
            taken_at: now,
            heard_at: now,
            last_words: LastWords::NotYet,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what has arrived, through `piece`, and gives each message to `take`.
    pub(super) fn read(
        &mut self,
        piece: &mut [u8],
        now: Time,
        mut take: impl FnMut(ToCoordinator),
    ) -> Result<(), Ended> {
        let mut read_bytes = 0;
        while read_bytes < READ_BYTES_MAX {
            let bytes = match self.stream.read(piece) {
                Ok(0) => return Err(Ended::Closed),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Ended::Closed),
            };
            read_bytes += bytes;
            self.heard_at = now;
            if self.last_words != LastWords::NotYet {
                continue;
            }
            self.incoming.add(&piece[..bytes]);
            let malformed = |error: wire::ControlError| Ended::Malformed(error.to_string());
            while let Some(message) = self.incoming.take().map_err(malformed)? {
                take(message);
            }
        }
        Ok(())
    }

    /// Queues a frame and sends what the socket takes.
    pub(super) fn send(&mut self, frame: Arc<[u8]>, now: Time) -> Result<(), Ended> {
        if self.last_words != LastWords::NotYet {
            return Ok(());
        }
        if self.outgoing.is_empty() {
            self.taken_at = now;
        }
        self.waiting_bytes += frame.len();
        if self.waiting_bytes > WAITING_BYTES_MAX {
            return Err(Ended::Slow);
        }
        self.outgoing.push_back(frame);
        self.flush(now)
    }

    /// Whether something waits for the socket.
    pub(super) fn is_waiting(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self, now: Time) -> Result<(), Ended> {
        while let Some(frame) = self.outgoing.front() {
            let bytes = match self.stream.write(&frame[self.sent_bytes..]) {
                Ok(0) => return Err(Ended::Closed),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Ended::Closed),
            };
            self.taken_at = now;
            self.waiting_bytes -= bytes;
            self.sent_bytes += bytes;
            if self.sent_bytes == frame.len() {
                self.sent_bytes = 0;
                self.outgoing.pop_front();
            }
        }
        if self.last_words == LastWords::Queued {
            let _ = self.stream.shutdown(Shutdown::Write);
            self.last_words = LastWords::Said(now);
        }
        Ok(())
    }

    /// Ends the connection once all is sent.
    pub(super) fn close(&mut self, now: Time) -> Result<(), Ended> {
        if self.last_words == LastWords::NotYet {
            self.last_words = LastWords::Queued;
        }
        self.flush(now)
    }

    /// Whether the peer is still worth its connection.
    pub(super) fn look(&self, now: Time) -> Result<(), Ended> {
        if self.is_waiting() && now - self.taken_at > STUCK_MAX {
            return Err(Ended::Slow);
        }
        if let LastWords::Said(at) = self.last_words
            && now - at > STUCK_MAX
        {
            return Err(Ended::Done);
        }
        if now - self.heard_at > SILENT_MAX {
            return Err(Ended::Silent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let other = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let stream = listener.accept().expect("accepts").0;
        (Connection::new(stream, Time::default()).expect("a connection"), other)
    }

    #[test]
    fn a_peer_that_does_not_read_is_given_up_and_holds_bounded_memory() {
        let (mut connection, other) = pair();
        let frame: Arc<[u8]> = vec![0; 1 << 20].into();
        let now = Time::default();
        let mut sent = 0;
        let ended = loop {
            match connection.send(Arc::clone(&frame), now) {
                Ok(()) => sent += 1,
                Err(ended) => break ended,
            }
            assert!(connection.waiting_bytes <= WAITING_BYTES_MAX);
            assert!(sent < 1000, "no bound");
        };
        assert_eq!(ended, Ended::Slow);
        drop(other);
    }

    #[test]
    fn a_peer_that_takes_nothing_or_says_nothing_for_long_is_given_up() {
        let (mut connection, other) = pair();
        let now = Time::default();
        while !connection.is_waiting() {
            connection.send(vec![0; 1 << 20].into(), now).expect("waits");
        }
        assert_eq!(connection.look(now + STUCK_MAX), Ok(()));
        let late = now + STUCK_MAX + Duration::from_nanos(1);
        assert_eq!(connection.look(late), Err(Ended::Slow));
        let (quiet, _other) = pair();
        assert_eq!(quiet.look(now + SILENT_MAX), Ok(()));
        let late = now + SILENT_MAX + Duration::from_nanos(1);
        assert_eq!(quiet.look(late), Err(Ended::Silent));
        drop(other);
    }
}
