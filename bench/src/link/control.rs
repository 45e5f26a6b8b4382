//! What the two ends of a measurement say to each other, over a TCP connection beside it.
//!
//! Owns the few messages and their bytes, all little-endian. What they are about is left to the
//! parent and to `verbs`.
//!
//! Invariant: every read has a limit of time, and what comes is bounded before it is used.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use transport::verbs::perf::Address;

use super::error::LinkError;
use super::{IN_FLIGHT_MAX, LinkWay, LinkWork, VERBS_BYTES_MAX};
use crate::spec::SECONDS_MAX;

/// How long an end waits for the other one's next word where that has nothing else to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long the far end waits for the next phase, during one that goes on without it.
const PHASE_WAIT_MAX: Duration = Duration::from_secs(SECONDS_MAX as u64 + 60);

/// The first bytes of a conversation, with its version.
const MAGIC: u64 = u64::from_le_bytes(*b"gwlink\0\x01");

/// Longest reason that the far end gives, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) way: LinkWay,
    pub(super) work: LinkWork,
    /// Requests under way at most.
    pub(super) in_flight: u32,
    /// Longest message, in bytes.
    pub(super) message_bytes_max: u64,
}

/// What comes next, by verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) kind: PhaseKind,
    /// Length of a message, in bytes.
    pub(super) bytes: usize,
    /// How many messages.
    pub(super) count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseKind {
    /// One way, as fast as they go.
    Stream,
    /// There and back, one after another.
    Pings,
    /// No more.
    End,
}

/// The connection.
pub(super) struct Control {
    stream: TcpStream,
}

impl Control {
    /// Over a connected socket.
    pub(super) fn over(stream: TcpStream) -> Result<Control, LinkError> {
        stream.set_nodelay(true).map_err(LinkError::os("TCP_NODELAY"))?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(LinkError::os("SO_SNDTIMEO"))?;
        Ok(Control { stream })
    }

    /// The near end of a conversation that needs no more than a hello.
    pub(super) fn begin(stream: TcpStream, hello: &Hello) -> Result<Control, LinkError> {
        let mut control = Control::over(stream)?;
        control.write_hello(hello)?;
        control.read_answer()?;
        Ok(control)
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The address of this end.
    pub(super) fn local(&self) -> Result<IpAddr, LinkError> {
        let address = self.stream.local_addr().map_err(LinkError::os("getsockname"))?;
        Ok(address.ip())
    }

    pub(super) fn write_hello(&mut self, hello: &Hello) -> Result<(), LinkError> {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        (bytes[8], bytes[9]) = (hello.way as u8, hello.work as u8);
        bytes[12..16].copy_from_slice(&hello.in_flight.to_le_bytes());
        bytes[16..].copy_from_slice(&hello.message_bytes_max.to_le_bytes());
        self.write(&bytes)
    }

    pub(super) fn read_hello(&mut self) -> Result<Hello, LinkError> {
        let bytes: [u8; 24] = self.read(PATIENCE)?;
        let magic = long(&bytes, 0);
        let bounded = |what, found, expected| match found <= expected {
            true => Ok(found),
            false => Err(LinkError::NotAPeer { what, found, expected }),
        };
        if magic != MAGIC {
            return Err(LinkError::NotAPeer { what: "version", found: magic, expected: MAGIC });
        }
        let way = match bounded("way", bytes[8].into(), LinkWay::Epoll as u64)? {
            0 => LinkWay::Verbs,
            1 => LinkWay::Shm,
            2 => LinkWay::Uring,
            _ => LinkWay::Epoll,
        };
        let work = match bounded("operation", bytes[9].into(), LinkWork::Read as u64)? {
            0 => LinkWork::Write,
            1 => LinkWork::Send,
            _ => LinkWork::Read,
        };
        let in_flight = long(&bytes, 8) >> 32;
        let in_flight = bounded("messages under way", in_flight, IN_FLIGHT_MAX as u64)?;
        let longest = bounded("longest message", long(&bytes, 16), VERBS_BYTES_MAX as u64)?;
        let in_flight = u32::try_from(in_flight).expect("bounded").max(1);
        Ok(Hello { way, work, in_flight, message_bytes_max: longest.max(1) })
    }

    pub(super) fn write_address(&mut self, address: &Address) -> Result<(), LinkError> {
        self.write(&address.to_bytes())
    }

    pub(super) fn read_address(&mut self) -> Result<Address, LinkError> {
        Ok(Address::from_bytes(&self.read(PATIENCE)?)?)
    }

    pub(super) fn write_phase(&mut self, phase: &Phase) -> Result<(), LinkError> {
        let mut bytes = [0; 24];
        bytes[0] = phase.kind as u8;
        bytes[8..16].copy_from_slice(&(phase.bytes as u64).to_le_bytes());
        bytes[16..].copy_from_slice(&phase.count.to_le_bytes());
        self.write(&bytes)
    }

    /// The next phase. One that is too long for what was agreed is refused.
    pub(super) fn read_phase(&mut self, hello: &Hello) -> Result<Phase, LinkError> {
        let bytes: [u8; 24] = self.read(PHASE_WAIT_MAX)?;
        let kind = match bytes[0] {
            0 => PhaseKind::Stream,
            1 => PhaseKind::Pings,
            2 => PhaseKind::End,
            found => {
                let (found, expected) = (found.into(), PhaseKind::End as u64);
                return Err(LinkError::NotAPeer { what: "phase", found, expected });
            }
        };
        let (found, expected) = (long(&bytes, 8), hello.message_bytes_max);
        if found > expected || (found == 0 && kind != PhaseKind::End) {
            return Err(LinkError::NotAPeer { what: "message's length", found, expected });
        }
        let bytes_of_message = usize::try_from(found).expect("bounded");
        Ok(Phase { kind, bytes: bytes_of_message, count: long(&bytes, 16) })
    }

    /// Says that this end is ready, or why it is not.
    pub(super) fn answer(&mut self, answer: &Result<(), String>) -> Result<(), LinkError> {
        let reason = answer.as_ref().err().map_or("", String::as_str).as_bytes();
        let reason = &reason[..reason.len().min(REASON_BYTES_MAX)];
        let bytes = u16::try_from(reason.len()).expect("at most a kilobyte").to_le_bytes();
        self.write(&[&[u8::from(answer.is_err())], &bytes[..], reason].concat())
    }

    /// What the far end answers.
    ///
    /// Errors: [`LinkError::Far`] with its reason.
    pub(super) fn read_answer(&mut self) -> Result<(), LinkError> {
        let [failed, low, high] = self.read(PATIENCE)?;
        let bytes = usize::from(u16::from_le_bytes([low, high])).min(REASON_BYTES_MAX);
        let mut reason = vec![0; bytes];
        self.read_into(&mut reason, PATIENCE)?;
        match failed {
            0 => Ok(()),
            _ => Err(LinkError::Far { why: String::from_utf8_lossy(&reason).into_owned() }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.stream.write_all(bytes).map_err(LinkError::os("write to the other end"))
    }

    fn read<const BYTES: usize>(&mut self, timeout: Duration) -> Result<[u8; BYTES], LinkError> {
        let mut bytes = [0; BYTES];
        self.read_into(&mut bytes, timeout)?;
        Ok(bytes)
    }

    fn read_into(&mut self, bytes: &mut [u8], timeout: Duration) -> Result<(), LinkError> {
        let set = self.stream.set_read_timeout(Some(timeout));
        set.map_err(LinkError::os("SO_RCVTIMEO"))?;
        self.stream.read_exact(bytes).map_err(LinkError::os("read from the other end"))
    }
}

fn long(bytes: &[u8; 24], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofs::tcp_pair;

    #[test]
    fn what_one_end_says_the_other_reads_and_nonsense_is_refused() {
        let (near, far) = tcp_pair().unwrap();
        let (mut near, mut far) = (Control::over(near).unwrap(), Control::over(far).unwrap());
        let (way, work) = (LinkWay::Verbs, LinkWork::Send);
        let hello = Hello { way, work, in_flight: 128, message_bytes_max: 1 << 20 };
        near.write_hello(&hello).unwrap();
        assert_eq!(far.read_hello().unwrap(), hello);
        let phase = Phase { kind: PhaseKind::Pings, bytes: 4096, count: 1 << 40 };
        near.write_phase(&phase).unwrap();
        assert_eq!(far.read_phase(&hello).unwrap(), phase);
        far.answer(&Ok(())).unwrap();
        near.read_answer().unwrap();
        far.answer(&Err("no device".repeat(1000))).unwrap();
        let error = near.read_answer().unwrap_err().to_string();
        assert!(error.contains("no device"), "{error}");
        near.write_phase(&Phase { bytes: (1 << 20) + 1, ..phase }).unwrap();
        let error = far.read_phase(&hello).unwrap_err().to_string();
        assert!(error.contains("1048577") && error.contains("1048576"), "{error}");
        near.write(&[7; 24]).unwrap();
        assert!(matches!(far.read_hello(), Err(LinkError::NotAPeer { what: "version", .. })));
        near.write_hello(&Hello { message_bytes_max: u64::MAX, ..hello }).unwrap();
        let error = far.read_hello().unwrap_err();
        assert!(matches!(error, LinkError::NotAPeer { what: "longest message", .. }), "{error}");
    }
}
