//! The way out: a transport, and how messages over it are sealed and opened.
//!
//! Owns the transport and turns a request into a posted slot, coded as its table wants. When a
//! request is sent is left to `turn`.

use std::time::Duration;

use kernels::{Isa, crc32c::crc32c};
use transport::{Integrity, PeerId, RecvSlot, SendRefusal, Transport};
use wire::{
    Carried, Encoding, FRAME_BYTES_MAX, HEADER_BYTES, Header, KeyForm, Kind, Malformed, PART_BYTES,
    Seal, Time,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::codec::{Dictionary, KeyCodec, KeyWriter, WhichKeys};
use crate::error::WorkerError;
use crate::request::{Body, Pen, Reliance, Request};

/// What a coded push takes at most beside its keys, bitmap and values, in bytes: heads of streams,
/// and what fills up parts.
const CODED_HEADS_BYTES: usize = 64;

/// Whereto a request goes.
pub(crate) struct Towards<'a> {
    pub(crate) peer: PeerId,
    pub(crate) shard: usize,
    /// The numbers that the shard has learned.
    pub(crate) numbers: &'a mut Dictionary,
}

/// A transport and what is known of it.
pub(crate) struct Port {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) recv_bytes_max: usize,
    /// Bytes that may be in flight to one shard of what may wait there. The shard's transport has
    /// bounds like this one's, and what waits keeps its room there: a push that it waits for must
    /// find some.
    pub(crate) pulls_bytes_max: usize,
    isa: Isa,
    integrity: Integrity,
    message_bytes_max: usize,
    keys: KeyWriter,
}

impl Port {
    pub(crate) fn new(transport: Box<dyn Transport>, isa: Isa) -> Port {
        let limits = transport.limits();
        let integrity = transport.integrity();
        // Pulls get half of what may be under way, and a push has to fit the other half.
        let pulls_bytes_max = limits.send_bytes_max.min(limits.recv_bytes_max) / 2;
        let message_bytes_max = limits.message_bytes_max.min(pulls_bytes_max).min(FRAME_BYTES_MAX);
        let recv_bytes_max = limits.recv_bytes_max;
        let keys = KeyWriter::new(isa);
        Port { transport, recv_bytes_max, pulls_bytes_max, isa, integrity, message_bytes_max, keys }
    }

    pub(crate) fn now(&self) -> Time {
        self.transport.now()
    }

    /// The most keys of a pull, so that neither it nor its answer exceeds a message.
    pub(crate) fn pull_keys_max(&self, width: usize) -> Result<usize, WorkerError> {
        self.keys_max(width, (4 * width).max(8))
    }

    /// The most keys of a push or load.
    pub(crate) fn push_keys_max(&self, width: usize) -> Result<usize, WorkerError> {
        self.keys_max(width, 8 + 4 * width)
    }

    /// The most keys of a push whose values are coded: a byte more a key, and some for them all,
    /// is more than bitmaps and heads of streams take.
    pub(crate) fn coded_push_keys_max(&self, width: usize) -> Result<usize, WorkerError> {
        let room = self.message_bytes_max.saturating_sub(HEADER_BYTES + CODED_HEADS_BYTES);
        match room / (9 + 4 * width) {
            0 => {
                let message_bytes_max = self.message_bytes_max;
                Err(WorkerError::WidthTooLarge { width, message_bytes_max })
            }
            keys_max => Ok(keys_max),
        }
    }

    fn keys_max(&self, width: usize, key_bytes: usize) -> Result<usize, WorkerError> {
        let message_bytes_max = self.message_bytes_max;
        match message_bytes_max.saturating_sub(HEADER_BYTES) / key_bytes {
            0 => Err(WorkerError::WidthTooLarge { width, message_bytes_max }),
            keys_max => Ok(keys_max),
        }
    }

    /// Whether a message can be damaged on its way, so that whoever finds it so drops it and the
    /// request is sent again. Memory loses nothing: there a request is sent once on each link, and
    /// a server that is slow is not made slower.
    pub(crate) fn may_damage(&self) -> bool {
        self.integrity == Integrity::NeedsChecksum
    }

    /// When a request that is sent now is sent again.
    pub(crate) fn due_at(&self, now: Time, patience: Duration) -> Time {
        if self.may_damage() { now + patience } else { Time::NEVER }
    }

    /// Posts `request`, which means the same each time; it leaves with the next flush. Returns the
    /// length of the message in bytes.
    pub(crate) fn post(
        &mut self,
        to: Towards<'_>,
        request: &mut Request,
    ) -> Result<usize, SendRefusal> {
        let seal = match self.integrity {
            Integrity::NeedsChecksum => Seal::Body,
            Integrity::Memory => Seal::HeaderOnly,
        };
        let pen = Pen { isa: self.isa, seal };
        let mut slot = self.transport.acquire(to.peer, request.message_bytes())?;
        let is_coded =
            request.coding.keys != KeyCodec::Plain || matches!(request.body, Body::Coded { .. });
        let header = if is_coded {
            let (header, bytes) = write_coded(&mut self.keys, pen, to, request, slot.bytes_mut());
            slot.truncate(bytes);
            header
        } else {
            request.write_body(pen, slot.bytes_mut());
            request.header
        };
        let message = slot.bytes_mut();
        wire::seal(message, header, seal, |bytes| crc32c(self.isa, 0, bytes));
        let bytes = message.len();
        self.transport.post(slot);
        Ok(bytes)
    }

    /// Checks a received message and returns its header.
    pub(crate) fn open(&self, slot: &RecvSlot) -> Result<Header, Malformed> {
        let (header, _) = wire::open(slot.bytes(), |bytes| crc32c(self.isa, 0, bytes))?;
        header.status()?;
        Ok(header)
    }
}

/// Writes the body of a request whose keys, or values, are coded. Returns its header and the length
/// of the message in bytes.
fn write_coded(
    writer: &mut KeyWriter,
    pen: Pen,
    to: Towards<'_>,
    request: &mut Request,
    message: &mut [u8],
) -> (Header, usize) {
    let Towards { shard, numbers, .. } = to;
    let Request { header, body, coding, sends, .. } = request;
    let (split, range, values) = match body {
        Body::Keys { split, range } | Body::Deltas { split, range, .. } => (split, range, None),
        Body::Coded { split, range, values } => (split, range, Some(values)),
        _ => unreachable!("only pulls and pushes of keys are coded"),
    };
    let relies = coding.reliance == Reliance::Known;
    let is_push = header.kind() == Kind::Push;
    let which = WhichKeys {
        all: split.keys_at(range.clone()),
        carried: values.as_ref().and_then(|values| values.bitmap()),
        list: if relies && is_push { split.list_of(shard, range) } else { None },
        // Numbers are told once: a copy that came before the first one would leave a gap.
        codec: match coding.keys {
            KeyCodec::Numbered if !relies || *sends > 0 => KeyCodec::Packed,
            codec => codec,
        },
    };
    let written = writer.write(which, numbers);
    (coding.form, coding.generation) = (written.form, numbers.generation());
    let mut end = HEADER_BYTES;
    let mut put = |bytes: &[u8]| {
        message[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    match written.form {
        KeyForm::Plain => put(writer.plain(which).as_bytes()),
        _ => put(writer.bytes()),
    }
    let mut encoding = Encoding::from_u8(header.encoding).expect("it was made from one");
    if let Some(values) = values {
        let carried = match (written.form, values.bitmap()) {
            (KeyForm::List, Some(bitmap)) => {
                put(bitmap.as_bytes());
                Carried::Some
            }
            _ => Carried::All,
        };
        put(&values.bytes);
        encoding = values.encoding(carried);
    } else if let Body::Deltas { split, range, deltas } = body {
        let width = usize::from(header.width);
        debug_assert!(end.is_multiple_of(PART_BYTES), "parts of keys are filled up");
        let to_deltas = &mut message[end..end + range.len() * width * size_of::<f32>()];
        end += to_deltas.len();
        let to_deltas = <[f32]>::mut_from_bytes(to_deltas).expect("a part begins aligned");
        pen.write_deltas(split, range.clone(), width, deltas, to_deltas);
    }
    writer.posted(numbers);
    let count = u32::try_from(written.count).expect("a message has fewer keys than `KEYS_MAX`");
    let encoding = encoding.with_keys(written.form).get();
    (Header { encoding, keys: count, ..*header }, end)
}
