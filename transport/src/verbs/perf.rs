//! A bare queue pair for measuring: what the device does when nothing but the bare work is done.
//!
//! Owns one connected queue pair, an area that it sends from and one that its peer writes to. What
//! is measured, and how the ends find each other, is left to the caller.
//!
//! Invariant: nobody gets a slice of the areas; bytes of them are read and written one by one, as
//! atomics, so that a device may write there at any time.

use std::fmt;
use std::net::IpAddr;

use super::completion::{Completion, CompletionQueue, Failure, POLL_MAX};
use super::device::{Device, LinkLayer, Mtu, devices};
use super::error::VerbsError;
use super::gid::{Choice, Gid, choose};
use super::memory::{Access, Local, Registered};
use super::queue_pair::{
    CHAIN_MAX, Operation, Path, Payload, PostError, QpSpec, QueuePair, Remote, Request, Signal,
};
use super::settings::VerbsSettings;
use super::station::wish;

/// Requests that one [`Endpoint::post`] takes at most.
pub const POST_MAX: usize = CHAIN_MAX;

/// Payload that requests carry in themselves where the device has as much, in bytes; what
/// `ib_write_lat` asks for.
const INLINE_BYTES: u32 = 220;

/// Reads under way at one queue pair, as far as the device allows.
const READS_MAX: u8 = 16;

/// A packet is sent again after 67 ms, seven times.
const TIMEOUT: u8 = 14;
const RETRIES: u8 = 7;

/// The most that the library counts; a receiver is at most this many times 0.64 ms late.
const RNR_RETRIES: u8 = 6;

/// Areas begin at a multiple of this, in bytes.
const AREA_ALIGN_BYTES: usize = 4096;

/// Marks the completion of a receive.
const RECV: u64 = 1 << 63;

/// What an end is opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Of the rails that are named the first that is active is used; if none is named, the one of
    /// the address. How long a request may take is not looked at.
    pub settings: VerbsSettings,
    /// Local address of a TCP link to the peer: the device that has it is taken.
    pub local: IpAddr,
    /// Longest message, in bytes.
    pub message_bytes_max: usize,
    /// Requests under way at most.
    pub sends_max: u32,
    /// Receives posted at most.
    pub recvs_max: u32,
}

/// What the peer needs to know of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    qp_number: u32,
    psn: u32,
    rkey: u32,
    lid: u16,
    mtu: Mtu,
    reads_max: u8,
    gid: Gid,
    memory: u64,
    memory_bytes: u64,
}

/// Work that a request does, measured one kind at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Writes into the peer's memory; the peer sees the bytes change.
    Write,
    /// Fills the peer's next receive.
    Send,
    /// Reads the peer's memory.
    Read,
}

/// What a poll found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests of this side that are over.
    pub sent: usize,
    /// Messages that came.
    pub received: usize,
}

/// Why measuring ended. The queue pair takes no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerfError {
    /// A device, queue or memory cannot be had.
    Verbs(VerbsError),
    /// Requests were not taken.
    Post {
        /// The device.
        device: String,
        /// `errno`.
        errno: i32,
    },
    /// A request failed.
    Failed {
        /// The device.
        device: String,
        /// How, in the words of the completion.
        why: String,
    },
    /// The peer's address is none, or of another kind of network.
    Peer {
        /// What is wrong with it.
        what: &'static str,
        /// What it says.
        found: u64,
        /// What this end could use, at most.
        limit: u64,
    },
}

/// One end of a connection for measuring. Used by the thread that opened it.
pub struct Endpoint {
    qp: QueuePair,
    cq: CompletionQueue,
    memory: Registered,
    device: Device,
    choice: Choice,
    path: Path,
    area_bytes: usize,
    peer: Option<Address>,
    /// What short messages are copied from.
    short: Vec<u8>,
    /// Receives into the area that the peer writes to, as they are posted.
    recvs: Box<[(u64, Local)]>,
    /// What a poll fills in, kept from poll to poll.
    completions: Box<[Completion; POLL_MAX]>,
    sends_max: usize,
}

impl Address {
    /// Length on the wire, in bytes.
    pub const BYTES: usize = 48;

    /// As the peer reads it: little-endian, in the order of the fields.
    pub fn to_bytes(&self) -> [u8; Address::BYTES] {
        let mut bytes = [0; Address::BYTES];
        bytes[0..4].copy_from_slice(&self.qp_number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.psn.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.rkey.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.lid.to_le_bytes());
        (bytes[14], bytes[15]) = (self.mtu as u8, self.reads_max);
        bytes[16..32].copy_from_slice(&self.gid.0);
        bytes[32..40].copy_from_slice(&self.memory.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.memory_bytes.to_le_bytes());
        bytes
    }

    /// What a peer sent.
    ///
    /// Errors: [`PerfError::Peer`].
    pub fn from_bytes(bytes: &[u8; Address::BYTES]) -> Result<Address, PerfError> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let peer = |what, found, limit| PerfError::Peer { what, found, limit };
        let mtu = Mtu::from_number(u32::from(bytes[14]));
        let mtu = mtu.ok_or(peer("number of an MTU", bytes[14].into(), Mtu::Bytes4096 as u64))?;
        for (what, number) in [("queue pair", word(0)), ("packet number", word(4))] {
            if number > PSN_MAX {
                return Err(peer(what, number.into(), PSN_MAX.into()));
            }
        }
        Ok(Address {
            qp_number: word(0),
            psn: word(4),
            rkey: word(8),
            lid: u16::from_le_bytes([bytes[12], bytes[13]]),
            mtu,
            reads_max: bytes[15],
            gid: Gid(*bytes[16..].first_chunk().expect("16 of 32 bytes")),
            memory: long(32),
            memory_bytes: long(40),
        })
    }
}

/// Numbers of queue pairs and packets have 24 bits.
const PSN_MAX: u32 = 0xff_ffff;

impl Endpoint {
    /// Opens an end, not connected, with all of `recvs_max` receives posted.
    ///
    /// Errors: [`PerfError::Verbs`].
    pub fn open(spec: &Spec) -> Result<Endpoint, PerfError> {
        let settings = &spec.settings;
        let choice = choose(&devices()?, &wish(spec.local, settings))?;
        let device = Device::open(&choice.device)?;
        let port = device.port(choice.port)?;
        let path = Path {
            port: choice.port,
            link_layer: choice.link_layer,
            gid_index: choice.gid_index,
            pkey_index: settings.pkey_index,
            mtu: settings.mtu_max.map_or(port.mtu, |mtu_max| mtu_max.min(port.mtu)),
            service_level: settings.service_level,
            traffic_class: settings.traffic_class,
            timeout: TIMEOUT,
            retry_count: RETRIES,
            rnr_retry_count: RNR_RETRIES,
            reads_max: device.limits().reads_max.clamp(1, READS_MAX),
            psn: 0,
        };
        let cq = CompletionQueue::new(&device, spec.sends_max.saturating_add(spec.recvs_max))?;
        let (sends_max, recvs_max) = (spec.sends_max, spec.recvs_max);
        let bounds = QpSpec { sends_max, recvs_max, inline_bytes: INLINE_BYTES };
        let mut qp = QueuePair::new(&device, &cq, bounds)?;
        qp.init(&path)?;
        let area_bytes = spec.message_bytes_max.max(1).next_multiple_of(AREA_ALIGN_BYTES);
        let memory = Registered::register(&device, 2 * area_bytes, Access::RemoteReadWrite)?;
        let short = vec![0; qp.inline_bytes_max()];
        let recvs = vec![(RECV, memory.local(area_bytes..2 * area_bytes)); POST_MAX].into();
        let sends_max = sends_max as usize;
        let mut end = Endpoint {
            qp,
            cq,
            memory,
            device,
            choice,
            path,
            area_bytes,
            peer: None,
            short,
            recvs,
            completions: Box::new([Completion::EMPTY; POLL_MAX]),
            sends_max,
        };
        end.post_recvs(recvs_max as usize)?;
        Ok(end)
    }

    /// What the peer needs to know.
    ///
    /// Errors: [`PerfError::Verbs`]: the device is gone.
    pub fn address(&self) -> Result<Address, PerfError> {
        Ok(Address {
            qp_number: self.qp.number(),
            psn: self.path.psn,
            rkey: self.memory.rkey(),
            lid: self.device.port(self.path.port)?.lid,
            mtu: self.path.mtu,
            reads_max: self.path.reads_max,
            gid: self.choice.gid,
            memory: self.memory.address() + self.area_bytes as u64,
            memory_bytes: self.area_bytes as u64,
        })
    }

    /// The device and its port: `mlx5_0/1`.
    pub fn device(&self) -> String {
        format!("{}/{}", self.choice.device, self.choice.port)
    }

    /// Index and address of the GID: `3 (10.0.0.1)`.
    pub fn gid(&self) -> String {
        let Choice { gid_index, gid, link_layer, .. } = &self.choice;
        match link_layer {
            LinkLayer::Ethernet => format!("{gid_index} ({})", gid.address()),
            LinkLayer::InfiniBand => format!("{gid_index} ({gid})"),
        }
    }

    /// Connects to the peer of this address.
    ///
    /// Errors: [`PerfError`].
    pub fn connect(&mut self, peer: Address) -> Result<(), PerfError> {
        let (found, limit) = (peer.memory_bytes, self.area_bytes as u64);
        if found < limit {
            return Err(PerfError::Peer { what: "bytes of memory", found, limit });
        }
        let Address { qp_number, psn, lid, gid, mtu, reads_max, .. } = peer;
        let path = Path {
            mtu: self.path.mtu.min(mtu),
            reads_max: self.path.reads_max.min(reads_max.max(1)),
            ..self.path
        };
        self.qp.connect(&path, &Remote { qp_number, psn, lid, gid })?;
        self.peer = Some(peer);
        Ok(())
    }

    /// Posts `count` requests of `bytes` each, the last of which completes for all, by one
    /// doorbell.
    ///
    /// - Errors: [`PerfError::Post`].
    /// - Panics: if it is not connected, for more than [`POST_MAX`] requests, or for more bytes
    ///   than the end was opened for.
    pub fn post(&mut self, work: Work, bytes: usize, count: usize) -> Result<(), PerfError> {
        assert!(count <= POST_MAX.min(self.sends_max), "{count} requests, at most {POST_MAX}");
        assert!(bytes <= self.area_bytes, "{bytes} bytes of {}", self.area_bytes);
        let peer = self.peer.expect("connected before");
        let (remote_address, rkey) = (peer.memory, peer.rkey);
        let operation = match work {
            Work::Write => Operation::Write { remote_address, rkey },
            Work::Send => Operation::Send,
            Work::Read => Operation::Read { remote_address, rkey },
        };
        let is_short = bytes <= self.short.len() && work != Work::Read;
        let payload = if is_short {
            Payload::Inline(&self.short[self.short.len() - bytes..])
        } else {
            Payload::Registered(self.memory.local(0..bytes))
        };
        let last = Request { wr_id: count as u64, operation, payload, signal: Signal::Completes };
        let posted = if count == 1 {
            // SAFETY: nobody has a slice of the memory (invariant), and it is registered until the
            // queue pair is gone: fields drop in their order.
            unsafe { self.qp.post_requests(&[last]) }
        } else {
            let mut requests = [Request { signal: Signal::Silent, ..last }; POST_MAX];
            requests[count.saturating_sub(1)] = last;
            // SAFETY: as above.
            unsafe { self.qp.post_requests(&requests[..count]) }
        };
        posted.map_err(|error| self.refused(error))
    }

    /// Posts receives again.
    ///
    /// Errors: [`PerfError::Post`].
    pub fn post_recvs(&mut self, count: usize) -> Result<(), PerfError> {
        for first in (0..count).step_by(POST_MAX) {
            let recvs = &self.recvs[..(count - first).min(POST_MAX)];
            // SAFETY: as in `post`.
            let posted = unsafe { self.qp.post_recvs_into(recvs) };
            posted.map_err(|error| self.refused(error))?;
        }
        Ok(())
    }

    /// What is over since the last poll. Never waits.
    ///
    /// Errors: [`PerfError`].
    pub fn poll(&mut self) -> Result<Progress, PerfError> {
        let mut progress = Progress::default();
        let count = self.cq.poll(&mut self.completions)?;
        for completion in &self.completions[..count] {
            completion.outcome.map_err(|failure| self.failed(failure))?;
            match completion.wr_id {
                RECV => progress.received += 1,
                sent => progress.sent += sent as usize,
            }
        }
        Ok(progress)
    }

    /// Makes `mark` the last byte of each message of `bytes` that is posted from now on.
    ///
    /// Panics: of a message without bytes, or of more than the end was opened for.
    pub fn set_last_byte(&mut self, bytes: usize, mark: u8) {
        assert!((1..=self.area_bytes).contains(&bytes), "{bytes} bytes of {}", self.area_bytes);
        if let Some(last) = self.short.last_mut() {
            *last = mark;
        }
        // SAFETY: nobody has a slice of the memory (invariant).
        unsafe { self.memory.store_byte(bytes - 1, mark) };
    }

    /// The last byte of the message of `bytes` that the peer wrote last.
    ///
    /// Panics: as [`Endpoint::set_last_byte`].
    pub fn last_byte_written(&self, bytes: usize) -> u8 {
        assert!((1..=self.area_bytes).contains(&bytes), "{bytes} bytes of {}", self.area_bytes);
        // SAFETY: nobody has a slice of the memory (invariant).
        unsafe { self.memory.load_byte(self.area_bytes + bytes - 1) }
    }

    /// Makes [`Endpoint::last_byte_written`] 0, while the peer does not write.
    ///
    /// Panics: as [`Endpoint::set_last_byte`].
    pub fn clear_last_byte(&mut self, bytes: usize) {
        assert!((1..=self.area_bytes).contains(&bytes), "{bytes} bytes of {}", self.area_bytes);
        // SAFETY: nobody has a slice of the memory (invariant).
        unsafe { self.memory.store_byte(self.area_bytes + bytes - 1, 0) };
    }

    fn refused(&self, error: PostError) -> PerfError {
        PerfError::Post { device: self.device.name().to_owned(), errno: error.errno }
    }

    fn failed(&self, failure: Failure) -> PerfError {
        PerfError::Failed { device: self.device.name().to_owned(), why: failure.to_string() }
    }
}

impl From<VerbsError> for PerfError {
    fn from(error: VerbsError) -> PerfError {
        PerfError::Verbs(error)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({}, queue pair {})", self.device(), self.qp.number())
    }
}

impl fmt::Display for PerfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PerfError::Verbs(error) => error.fmt(f),
            PerfError::Post { device, errno } => {
                let why = std::io::Error::from_raw_os_error(*errno);
                write!(f, "{device} takes no more requests: {why}")
            }
            PerfError::Failed { device, why } => write!(f, "a request of {device} failed: {why}"),
            PerfError::Peer { what, found, limit } => {
                write!(f, "the peer's {what} is {found}, where this end uses up to {limit}")
            }
        }
    }
}

impl std::error::Error for PerfError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written_and_a_wrong_one_is_refused() {
        let address = Address {
            qp_number: 0x12_3456,
            psn: 0xff_ffff,
            rkey: 0x89ab_cdef,
            lid: 0x1234,
            mtu: Mtu::Bytes2048,
            reads_max: 16,
            gid: Gid(*b"0123456789abcdef"),
            memory: 0x1122_3344_5566_7788,
            memory_bytes: 4096,
        };
        let bytes = address.to_bytes();
        assert_eq!(Address::from_bytes(&bytes), Ok(address));
        for (at, byte) in [(3, 1), (7, 1), (14, 0), (14, 6)] {
            let mut bytes = bytes;
            bytes[at] = byte;
            assert!(matches!(Address::from_bytes(&bytes), Err(PerfError::Peer { .. })), "{at}");
        }
    }
}
