//! Shared memory between threads and processes of one host: a pair of rings in a memfd.
//!
//! Owns the pair, its doorbells and the transport over many of them.

/// One end of a pair of rings.
#[derive(Debug)]
pub struct End {}

/// A record of the ring towards the peer, under way.
#[derive(Debug)]
pub(crate) struct SendRecord(Vec<u8>);

/// A record of the ring from the peer.
#[derive(Debug)]
pub(crate) struct RecvRecord(Vec<u8>);

impl SendRecord {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl RecvRecord {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
