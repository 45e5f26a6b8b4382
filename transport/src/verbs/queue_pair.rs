//! Reliable queue pairs: where work requests are posted.

use super::completion::CompletionQueue;
use super::device::{Device, Mtu};
use super::error::VerbsError;
use super::gid::Gid;
use super::memory::Local;

/// Bounds of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QpSpec {
    /// Sends, writes and reads under way at most.
    pub(crate) sends_max: u32,
    /// Posted receives at most.
    pub(crate) recvs_max: u32,
    /// Payload that a request may carry in itself, in bytes; less if the device has less.
    pub(crate) inline_bytes: u32,
}

/// This side's way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// From 1.
    pub(crate) port: u8,
    pub(crate) gid_index: u8,
    pub(crate) pkey_index: u16,
    /// At most that of either port.
    pub(crate) mtu: Mtu,
    pub(crate) service_level: u8,
    pub(crate) traffic_class: u8,
    /// A packet is sent again after 4.096 us times two to this power; 1 to 31.
    pub(crate) timeout: u8,
    /// How often it is; at most 7.
    pub(crate) retry_count: u8,
    /// How often a send waits for a receive at the peer; at most 6, as 7 is for ever.
    pub(crate) rnr_retry_count: u8,
    /// Reads under way in either direction; 0 forbids them.
    pub(crate) reads_max: u8,
    /// Number of the first packet sent: 24 bits.
    pub(crate) psn: u32,
}

/// The peer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// 24 bits.
    pub(crate) qp_number: u32,
    /// Number of the first packet it sends: 24 bits.
    pub(crate) psn: u32,
    /// 0 on Ethernet.
    pub(crate) lid: u16,
    pub(crate) gid: Gid,
}

/// Whether a request that succeeds has a completion. One that fails always has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Completes,
    Silent,
}

/// What a request sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    /// Nothing.
    Empty,
    /// Registered memory, left as it is until the request is over.
    Registered(Local),
    /// Bytes that posting copies; at most [`QueuePair::inline_bytes_max`].
    Inline(&'a [u8]),
}

/// A write into the peer's memory that uses up one of its receives and gives it a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteImm<'a> {
    pub(crate) wr_id: u64,
    pub(crate) payload: Payload<'a>,
    pub(crate) remote_address: u64,
    pub(crate) rkey: u32,
    pub(crate) imm: u32,
    pub(crate) signal: Signal,
}

/// Why requests were not posted. Those before were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PostError {
    /// How many of the requests were posted.
    pub(crate) posted: usize,
    /// `errno`: `ENOMEM` says that the queue is full.
    pub(crate) errno: i32,
}

/// A reliable queue pair. On drop it is destroyed before its completion queue and its device;
/// completions of it that were not polled may still come, or not.
pub(crate) struct QueuePair {
    _device: Device,
}

impl QueuePair {
    /// A queue pair, not connected, whose completions go to `cq`.
    pub(crate) fn new(
        device: &Device,
        cq: &CompletionQueue,
        spec: QpSpec,
    ) -> Result<QueuePair, VerbsError> {
        let _ = (device, cq, spec);
        Err(VerbsError::Unwritten("QueuePair::new"))
    }

    /// Its number: 24 bits, this device's alone while it lives.
    pub(crate) fn number(&self) -> u32 {
        0
    }

    /// Payload that a request may carry in itself, in bytes.
    pub(crate) fn inline_bytes_max(&self) -> usize {
        0
    }

    /// To INIT, where receives may be posted.
    pub(crate) fn init(&mut self, path: &Path) -> Result<(), VerbsError> {
        let _ = path;
        Err(VerbsError::Unwritten("QueuePair::init"))
    }

    /// From INIT to ready to receive and ready to send.
    pub(crate) fn connect(&mut self, path: &Path, remote: &Remote) -> Result<(), VerbsError> {
        let _ = (path, remote);
        Err(VerbsError::Unwritten("QueuePair::connect"))
    }

    /// To the error state: what is posted completes as flushed, and no more goes or comes.
    pub(crate) fn fail(&mut self) -> Result<(), VerbsError> {
        Err(VerbsError::Unwritten("QueuePair::fail"))
    }

    /// Posts `count` receives of no bytes, all of this `wr_id`, by one doorbell.
    pub(crate) fn post_recvs(&mut self, count: usize, wr_id: u64) -> Result<(), PostError> {
        let _ = (count, wr_id);
        Err(PostError { posted: 0, errno: 0 })
    }

    /// Posts the writes in order, by one doorbell.
    pub(crate) fn post_writes(&mut self, writes: &[WriteImm<'_>]) -> Result<(), PostError> {
        let _ = writes;
        Err(PostError { posted: 0, errno: 0 })
    }
}
