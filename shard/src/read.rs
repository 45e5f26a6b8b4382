//! What a request reads: values, whole rows, sizes.
//!
//! Owns the answers that carry more than a status. What changes a shard is left to `change`.

use kernels::codec::ValueCodec;
use kernels::hash::mix;
use wire::{
    Carried, Coded, Encoding, Flags, HEADER_BYTES, Header, KeyForm, Keyed, Keys, Kind, Refusal,
    ScanCursor, Seal, WorkerId,
};
use zerocopy::IntoBytes;

use crate::answer::Outbox;
use crate::cursor::{read_cursor, write_cursor};
use crate::decode::{answer_bytes, row_shape};
use crate::engine::{Mutation, Shard, Stop};
use crate::table::{Places, ScanGoesOn};

impl Shard {
    pub(crate) fn pull<O: Outbox>(
        &mut self,
        header: &Header,
        pulled: Pulled<'_>,
        outbox: &mut O,
    ) -> Result<(), Stop> {
        let anywhere = header.flags().has(Flags::ANY_REPLICA);
        let early = self.mutation == Mutation::ReadsEarly
            || anywhere && self.mutation == Mutation::ReplicasReadEarly;
        let waits = header.worker() != WorkerId::OBSERVER && !early;
        let stamp = self.stamp();
        self.member_job(header)?;
        let job = self.job.as_mut().expect("the sender is of it");
        let has_own = !anywhere
            || self.mutation == Mutation::OwnPushesMissed
            || job.has_pushes_before(header);
        let may_read = has_own && (!waits || job.may_read(header.clock()));
        let clock = job.moment(header).clock;
        // Before the wait: messages that come meanwhile may use what this one tells of keys.
        let keys = match pulled {
            Pulled::Plain(keys) => keys.as_slice(),
            Pulled::Coded(coded) => {
                let member = job.member(header.worker(), header.incarnation());
                // What its sender tells a replica in passing, no push of it will name.
                let known = member.ok().filter(|_| !anywhere).map(|member| &mut member.known);
                self.decoder.pull_keys(header, coded, known)?
            }
        };
        if !may_read {
            return Err(Stop::Waiting);
        }
        let table = self.tables.get(header.table())?;
        let shape = row_shape(table.widths().value, table.spec().dim as usize);
        let codec = answer_codec(header)?;
        let body_bytes = answer_bytes(codec, shape, keys.len());
        check_length(outbox, HEADER_BYTES + body_bytes)?;
        let seal = outbox.seal();
        let mut slot = outbox.acquire(HEADER_BYTES + body_bytes).ok_or(Stop::NoSlot)?;
        let body = &mut O::bytes_mut(&mut slot)[HEADER_BYTES..];
        let keeps_places = matches!(pulled, Pulled::Coded(_)) && !anywhere;
        let mut places = keeps_places.then_some(&mut self.places);
        if codec == ValueCodec::F32 {
            table.pull(keys, floats_mut(body), seal, clock, places.as_deref_mut());
        } else {
            let rows = self.encoder.rows_mut(keys.len() * shape.width());
            table.pull(keys, rows, Seal::Body, clock, places.as_deref_mut());
            self.encoder.encode(codec, shape, body);
        }
        self.hot.note(header.table(), keys);
        if let (Some(at), Ok(member)) = (places, job.member(header.worker(), header.incarnation()))
        {
            let places = Places { at, changes: table.changes() };
            member.known.note_places(header.sequence(), header.table(), places);
        }
        let answer = stamp.header(header, Kind::Values);
        let encoding = Encoding::new(KeyForm::Plain, codec.to_u8(), Carried::All).get();
        let width = shape.width() as u16;
        let flags = if self.hot.is_hot() { Flags::HOT } else { Flags::NONE }.get();
        stamp.send(outbox, slot, Header { flags, keys: header.keys, width, encoding, ..answer });
        self.tally.moved(header);
        Ok(())
    }

    /// Answers whole rows from the cursor on, as many whole lines of the index as a message
    /// holds. Rows that are added meanwhile may be missing.
    pub(crate) fn scan<O: Outbox>(&mut self, header: &Header, outbox: &mut O) -> Result<(), Stop> {
        let now = self.member_job(header)?.now().clock;
        let (stamp, epoch) = (self.stamp(), self.epoch);
        let table = self.tables.get(header.table())?;
        let (width, lines) = (table.widths().row, table.lines());
        // Another server of the chain has its rows in another order: its cursors mean nothing here.
        let changes = table.changes().wrapping_add(mix(epoch.get()));
        let start = read_cursor(ScanCursor::new(header.clock), lines, changes)?;
        let (mut end, mut rows) = (start, 0);
        while end < lines {
            let more = rows + table.line(end, now).count();
            if Keyed::message_bytes(more, width) > outbox.bytes_max() {
                break;
            }
            (end, rows) = (end + 1, more);
        }
        if end == start && end < lines {
            let bytes_max = outbox.bytes_max() as u32;
            return Err(Stop::Refused(Refusal::TooLarge { bytes_max }));
        }
        let bytes = Keyed::message_bytes(rows, width);
        let mut slot = outbox.acquire(bytes).ok_or(Stop::NoSlot)?;
        let (keys_out, rows_out) = Keyed::body_mut(O::bytes_mut(&mut slot), rows);
        let found = (start..end).flat_map(|line| table.line(line, now));
        for ((key, row), (key_out, row_out)) in
            found.zip(keys_out.iter_mut().zip(rows_out.chunks_exact_mut(width)))
        {
            *key_out = key;
            row_out.copy_from_slice(row);
        }
        table.scanned(if end < lines { ScanGoesOn::Later } else { ScanGoesOn::No });
        let answer = Header {
            keys: rows as u32,
            width: width as u16,
            clock: write_cursor(end, lines, changes).get(),
            ..stamp.header(header, Kind::Rows)
        };
        stamp.send(outbox, slot, answer);
        Ok(())
    }

    pub(crate) fn measure<O: Outbox>(
        &mut self,
        header: &Header,
        outbox: &mut O,
    ) -> Result<(), Stop> {
        self.member_job(header)?;
        let stamp = self.stamp();
        let size = self.tables.get(header.table())?.size();
        let bytes = HEADER_BYTES + wire::SIZE_BODY_BYTES;
        let mut slot = outbox.acquire(bytes).ok_or(Stop::NoSlot)?;
        O::bytes_mut(&mut slot)[HEADER_BYTES..].copy_from_slice(size.as_bytes());
        stamp.send(outbox, slot, stamp.header(header, Kind::Size));
        Ok(())
    }
}

/// A pull's keys, as they came.
#[derive(Clone, Copy)]
pub(crate) enum Pulled<'a> {
    Plain(Keys<'a>),
    Coded(Coded<'a>),
}

/// The codec that a pull's answer shall have.
fn answer_codec(header: &Header) -> Result<ValueCodec, Refusal> {
    let encoding = Encoding::from_u8(header.encoding).expect("`wire::open` checked it");
    ValueCodec::from_u8(encoding.values()).ok_or(Refusal::Malformed)
}

fn check_length<O: Outbox>(outbox: &O, bytes: usize) -> Result<(), Refusal> {
    let bytes_max = outbox.bytes_max();
    if bytes <= bytes_max { Ok(()) } else { Err(Refusal::TooLarge { bytes_max: bytes_max as u32 }) }
}

fn floats_mut(bytes: &mut [u8]) -> &mut [f32] {
    zerocopy::FromBytes::mut_from_bytes(bytes).expect("an answer's slot is 8-byte aligned")
}
