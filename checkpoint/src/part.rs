//! The header of a part: what it is a part of.
//!
//! Owns its 64 bytes and their check. Blocks follow it, see `block`. Little-endian:
//! magic 0..8, format 8..12, shard 12..16, checkpoint 16..24, cluster 24..32, zeros 32..48, and the
//! sum of these 48 bytes. Magic, format and sum stand there in every format, so that an older
//! gradwire tells a newer part from a damaged one.

use wire::{ShardId, StoredValues};

use crate::error::Broken;
use crate::layout::CheckpointNumber;
use crate::manifest::{ClusterId, FORMAT, FORMAT_FULL};
use crate::sum::Sum;

/// Bytes of a part's header.
pub(crate) const HEAD_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"GRDWCKPT";
const SUMMED_BYTES: usize = HEAD_BYTES - Sum::BYTES;

/// What a part is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartHead {
    pub(crate) number: CheckpointNumber,
    pub(crate) cluster: ClusterId,
    pub(crate) shard: ShardId,
}

impl PartHead {
    /// The header as it stands in a part whose numbers are written so.
    pub(crate) fn to_bytes(self, values: StoredValues) -> [u8; HEAD_BYTES] {
        self.to_bytes_of_format(if values.is_exact() { FORMAT_FULL } else { FORMAT })
    }

    pub(crate) fn to_bytes_of_format(self, format: u32) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&format.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::from(self.shard.get()).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.get().to_le_bytes());
        bytes[24..32].copy_from_slice(&self.cluster.get().to_le_bytes());
        let sum = Sum::of(&bytes[..SUMMED_BYTES]);
        bytes[SUMMED_BYTES..].copy_from_slice(&sum.to_bytes());
        bytes
    }

    /// The sum at a header's end; blocks are bound to it.
    pub(crate) fn sum(bytes: &[u8; HEAD_BYTES]) -> Sum {
        Sum::from_bytes(array(&bytes[SUMMED_BYTES..]))
    }

    /// Checks that this is the header of the part `expected`.
    ///
    /// - Errors: it is damaged, of a newer format, or of another part.
    pub(crate) fn check(
        self,
        bytes: &[u8; HEAD_BYTES],
        object: impl Fn() -> String,
    ) -> Result<(), Broken> {
        if bytes[..8] != MAGIC {
            let what = "no part of a checkpoint begins so";
            return Err(Broken::Shape { object: object(), offset: 0, what });
        }
        let (promised, computed) = (PartHead::sum(bytes), Sum::of(&bytes[..SUMMED_BYTES]));
        if promised != computed {
            let bytes = HEAD_BYTES as u64;
            return Err(Broken::Damaged { object: object(), offset: 0, bytes, promised, computed });
        }
        let format = u32::from_le_bytes(array(&bytes[8..12]));
        if format > FORMAT {
            return Err(Broken::Newer { object: object(), format });
        }
        let shard = u32::from_le_bytes(array(&bytes[12..16]));
        let Ok(shard) = u16::try_from(shard).map(ShardId::new) else {
            let what = "there are no such shards";
            return Err(Broken::Shape { object: object(), offset: 12, what });
        };
        let number = CheckpointNumber::new(u64::from_le_bytes(array(&bytes[16..24])));
        let cluster = ClusterId::new(u64::from_le_bytes(array(&bytes[24..32])));
        self.check_same(PartHead { number, cluster, shard }, object)
    }

    fn check_same(self, found: PartHead, object: impl Fn() -> String) -> Result<(), Broken> {
        if found.cluster != self.cluster {
            let (expected, found) = (self.cluster, found.cluster);
            return Err(Broken::OtherCluster { object: object(), expected, found });
        }
        if found.number != self.number {
            let (expected, found) = (self.number, found.number);
            return Err(Broken::OtherNumber { object: object(), expected, found });
        }
        if found.shard != self.shard {
            let (expected, found) = (self.shard, found.shard);
            return Err(Broken::OtherShard { object: object(), expected, found });
        }
        Ok(())
    }
}

/// The first `N` bytes, which are there.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("bounds are constants, or were checked")
}
