//! Dial: from the name of a place to a link whose handshake is over, on the side that connects.
//!
//! Owns connecting and saying hello, with a limit of time. What a hello asks for and what a welcome
//! means is left to the caller; the other side is `server::handshake`.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use wire::{
    HEADER_BYTES, Header, Kind, Malformed, Refusal, Seal, Status, VERSION, read_header, seal,
};

use crate::api::{Limits, Link};
use crate::shm;
use crate::tcp;

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// `host:port`, reached by TCP.
    Tcp(&'a str),
    /// A socket in this host's file system; bytes then move by shared memory.
    Unix(&'a Path),
}

/// Begins the name of a place in the file system.
pub const UNIX_PREFIX: &str = "unix:";

/// Why there is no link. What was connected is closed again.
#[derive(Debug)]
pub enum DialError {
    /// Nobody can be reached there.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The handshake broke off.
    Handshake(io::Error),
    /// What answers there speaks another language or version.
    Malformed(Malformed),
    /// It says no.
    Refused(Refusal),
}

impl<'a> Address<'a> {
    /// The address that a name means: `unix:PATH`, or else `host:port`.
    pub fn of(name: &'a str) -> Address<'a> {
        match name.strip_prefix(UNIX_PREFIX) {
            Some(path) => Address::Unix(Path::new(path)),
            None => Address::Tcp(name),
        }
    }
}

/// Says hello, and gives the welcome; the connection is closed.
///
/// - `timeout`: for connecting, and for each part of the handshake.
/// - `crc32c`: checksum of a slice, from zero.
pub fn ask(
    address: Address<'_>,
    hello: Header,
    timeout: Duration,
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<Header, DialError> {
    match address {
        Address::Tcp(address) => introduce(&mut tcp_stream(address, timeout)?, hello, crc32c),
        Address::Unix(path) => introduce(&mut unix_stream(path, timeout)?, hello, crc32c),
    }
}

/// Connects and says hello; gives the link and the welcome.
///
/// - `limits`: of the transport that is to adopt the link.
/// - `timeout`, `crc32c`: as [`ask`].
pub fn link(
    address: Address<'_>,
    hello: Header,
    (limits, timeout): (&Limits, Duration),
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<(Link, Header), DialError> {
    match address {
        Address::Tcp(address) => {
            let mut stream = tcp_stream(address, timeout)?;
            let welcome = introduce(&mut stream, hello, crc32c)?;
            stream.set_read_timeout(None).map_err(DialError::Handshake)?;
            stream.set_write_timeout(None).map_err(DialError::Handshake)?;
            Ok((Link::Tcp(stream), welcome))
        }
        Address::Unix(path) => {
            let mut stream = unix_stream(path, timeout)?;
            let welcome = introduce(&mut stream, hello, crc32c)?;
            let end = shm::offer(stream, shm::ring_bytes(limits));
            let end =
                end.map_err(|error| DialError::Handshake(io::Error::other(error.to_string())))?;
            Ok((Link::Shm(end), welcome))
        }
    }
}

/// Says hello and reads the welcome.
fn introduce(
    stream: &mut (impl Read + Write),
    hello: Header,
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<Header, DialError> {
    let mut bytes = [0; HEADER_BYTES];
    seal(&mut bytes, hello, Seal::HeaderOnly, &crc32c);
    stream.write_all(&bytes).map_err(DialError::Handshake)?;
    stream.read_exact(&mut bytes).map_err(DialError::Handshake)?;
    let welcome = read_header(&bytes, &crc32c).map_err(DialError::Malformed)?;
    if welcome.kind() != Kind::Welcome {
        return Err(DialError::Malformed(Malformed::Kind { found: welcome.kind }));
    }
    match welcome.status().map_err(DialError::Malformed)? {
        Status::Refused(refusal) => Err(DialError::Refused(refusal)),
        Status::Done | Status::Duplicate => Ok(welcome),
    }
}

fn tcp_stream(address: &str, timeout: Duration) -> Result<std::net::TcpStream, DialError> {
    let unreachable =
        |error: tcp::ConnectError| DialError::Unreachable { reason: error.to_string() };
    let stream = tcp::connect(address, timeout).map_err(unreachable)?;
    stream.set_nodelay(true).map_err(DialError::Handshake)?;
    stream.set_read_timeout(Some(timeout)).map_err(DialError::Handshake)?;
    stream.set_write_timeout(Some(timeout)).map_err(DialError::Handshake)?;
    Ok(stream)
}

fn unix_stream(path: &Path, timeout: Duration) -> Result<UnixStream, DialError> {
    let unreachable = |error: io::Error| DialError::Unreachable { reason: error.to_string() };
    let stream = UnixStream::connect(path).map_err(unreachable)?;
    stream.set_read_timeout(Some(timeout)).map_err(DialError::Handshake)?;
    stream.set_write_timeout(Some(timeout)).map_err(DialError::Handshake)?;
    Ok(stream)
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Unreachable { reason } => f.write_str(reason),
            DialError::Handshake(error) => write!(f, "the handshake broke off: {error}"),
            DialError::Malformed(malformed) => {
                write!(f, "what answers there is no gradwire of version {VERSION}: {malformed}")
            }
            DialError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}
