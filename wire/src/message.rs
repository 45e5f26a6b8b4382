//! Messages as views over bytes: opened once, checked once, read in place.
//!
//! Owns [`open`], the only door from received bytes to a typed body, and [`seal`], its mirror.
//! The checksum function is an argument, since arithmetic lives in `kernels`.
//!
//! Invariant: the [`Keys`] of an opened message are strictly ascending and hold no reserved key.

use zerocopy::{FromBytes, IntoBytes};

use crate::define::{Announced, TableSpec};
use crate::encoding::{self, Coded, Encoding, KeyForm};
use crate::frame::{FRAME_BYTES_MAX, HEADER_BYTES, Malformed, framed_since};
use crate::header::{Flags, Header, Kind, RECORDED_SINCE, VERSION};
use crate::ids::Key;
use crate::join::{Join, Joined};
use crate::lane::LaneMessage;
use crate::merged::{Merged, PushName};
use crate::rows::{RowsView, TableSize};

/// Strictly ascending keys without the reserved one: what a pull asks for and a push carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a>(&'a [u64]);

impl<'a> Keys<'a> {
    /// Checks the order.
    ///
    /// - Errors: the index of the first key that is not above the one before it, or is reserved.
    pub fn new(keys: &'a [u64]) -> Result<Keys<'a>, Malformed> {
        // Two passes: the first has no early exit, so that the compiler makes vectors of it.
        let ascending = keys.windows(2).fold(true, |all, pair| all & (pair[0] < pair[1]));
        let reserved_free = keys.last() != Some(&Key::RESERVED.get());
        if ascending && reserved_free {
            return Ok(Keys(keys));
        }
        let broken = keys.windows(2).position(|pair| pair[0] >= pair[1]);
        Err(Malformed::Order { index: broken.map_or(keys.len() - 1, |first| first + 1) })
    }

    /// The keys' numbers.
    pub const fn as_slice(self) -> &'a [u64] {
        self.0
    }
}

/// Keys with a row of values each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keyed<'a> {
    /// The keys.
    pub keys: Keys<'a>,
    /// `[keys * width]` f32: row after row.
    pub values: &'a [f32],
}

/// An opened message's body.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// See [`Kind::Hello`].
    Hello,
    /// See [`Kind::Welcome`].
    Welcome,
    /// See [`Kind::Join`].
    Join(Join),
    /// See [`Kind::Define`].
    Define(TableSpec, Announced),
    /// See [`Kind::Pull`].
    Pull(Keys<'a>),
    /// A pull whose keys are not plain.
    CodedPull(Coded<'a>),
    /// See [`Kind::Values`].
    Values(&'a [f32]),
    /// Values that are not plain.
    CodedValues(Coded<'a>),
    /// See [`Kind::Push`].
    Push(Keyed<'a>),
    /// A push that is not plain.
    CodedPush(Coded<'a>),
    /// See [`Kind::Reply`].
    Reply,
    /// See [`Kind::Leave`].
    Leave,
    /// See [`Kind::Scan`].
    Scan,
    /// See [`Kind::Rows`].
    Rows(RowsView<'a>),
    /// See [`Kind::Load`].
    Load(RowsView<'a>),
    /// See [`Kind::Remove`]; distinct or not, in any order.
    Remove(&'a [u64]),
    /// See [`Kind::Measure`].
    Measure,
    /// See [`Kind::Size`].
    Size(TableSize),
    /// See [`Kind::Lane`].
    Lane(LaneMessage),
    /// See [`Kind::Applied`].
    Applied,
    /// See [`Kind::Nothing`].
    Nothing,
    /// See [`Kind::State`].
    State(&'a [u64]),
    /// See [`Kind::Page`].
    Page(RowsView<'a>),
    /// A page of a recording whose values are not plain.
    CodedPage(Coded<'a>),
    /// See [`Kind::Counts`]: by number of its line, the line as [`COUNT_LINE_WIDTH`] f32.
    Counts(RowsView<'a>),
    /// See [`Kind::Filled`].
    Filled(&'a [u64]),
    /// See [`Kind::Part`].
    Part(&'a [u8]),
    /// See [`Kind::Joined`].
    Joined(Joined),
    /// See [`Kind::Merged`].
    Merged(Merged<'a>),
}

/// A line of counts in a [`Kind::Counts`] message, as a number of f32: 64 bytes.
pub const COUNT_LINE_WIDTH: usize = 16;

/// Whether a message's body travels with a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// With one: the way is a network.
    Body,
    /// Only the header has one: the way is this host's memory.
    HeaderOnly,
}

/// Reads and checks the header of a message: magic, version, kind, length, header checksum.
pub fn read_header(bytes: &[u8], crc32c: impl Fn(&[u8]) -> u32) -> Result<Header, Malformed> {
    read_header_since(bytes, VERSION, crc32c)
}

fn read_header_since(
    bytes: &[u8],
    oldest: u16,
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<Header, Malformed> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(Malformed::TooShort { bytes: bytes.len() });
    };
    let promised = framed_since(head, oldest)?;
    if promised != bytes.len() {
        return Err(Malformed::Length { promised, bytes: bytes.len() });
    }
    let header = Header::peek_since(head, oldest)?;
    let computed = crc32c(&head[..HEADER_BYTES - 4]);
    if computed != header.header_crc {
        return Err(Malformed::Checksum { promised: header.header_crc, computed });
    }
    Ok(header)
}

/// Opens a message: every check of the wire, once.
///
/// - `bytes`: the whole message, 8-byte aligned.
/// - `crc32c`: checksum of a slice, from zero.
/// - Errors: what is wrong; nothing was allocated but, for a definition, its two names.
/// - Panics: if `bytes` is not 8-byte aligned; every slot is 64-byte aligned.
pub fn open(
    bytes: &[u8],
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<(Header, Message<'_>), Malformed> {
    match open_since(bytes, VERSION, crc32c)? {
        // Between servers rows are what they are.
        (_, Message::CodedPage(_)) => Err(Malformed::Field { name: "encoding" }),
        opened => Ok(opened),
    }
}

/// Opens a message that was recorded, by this build or one whose recordings have the same bytes: as
/// [`open`], but that its version may be as old as [`RECORDED_SINCE`].
pub fn open_recorded(
    bytes: &[u8],
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<(Header, Message<'_>), Malformed> {
    open_since(bytes, RECORDED_SINCE, crc32c)
}

fn check_body(
    header: &Header,
    body: &[u8],
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<(), Malformed> {
    if header.flags().has(Flags::BODY_CHECKED) {
        let computed = crc32c(body);
        if computed != header.body_crc {
            return Err(Malformed::Checksum { promised: header.body_crc, computed });
        }
    }
    Ok(())
}

fn open_since(
    bytes: &[u8],
    oldest: u16,
    crc32c: impl Fn(&[u8]) -> u32,
) -> Result<(Header, Message<'_>), Malformed> {
    assert!(bytes.as_ptr().addr().is_multiple_of(8), "a message is 8-byte aligned");
    let header = read_header_since(bytes, oldest, &crc32c)?;
    let body = &bytes[HEADER_BYTES..];
    check_body(&header, body, crc32c)?;
    let encoding = encoding::checked(&header)?;
    let message = match header.kind() {
        Kind::Hello => empty(&header, Message::Hello)?,
        Kind::Welcome => empty(&header, Message::Welcome)?,
        Kind::Reply => empty(&header, Message::Reply)?,
        Kind::Leave => empty(&header, Message::Leave)?,
        Kind::Scan => empty(&header, Message::Scan)?,
        Kind::Join => {
            Message::Join(Join::from_bytes(body).ok_or(Malformed::Field { name: "join" })?)
        }
        Kind::Define => {
            let read = TableSpec::from_bytes(body);
            let (spec, announced) = read.map_err(|name| Malformed::Field { name })?;
            Message::Define(spec, announced)
        }
        Kind::Pull if encoding.keys() != KeyForm::Plain => {
            Message::CodedPull(encoding::bounded(&header, encoding, body)?)
        }
        Kind::Pull => {
            let (keys, values) = split(&header, body, 0)?;
            debug_assert!(values.is_empty());
            Message::Pull(Keys::new(keys)?)
        }
        Kind::Values if encoding != Encoding::PLAIN => {
            Message::CodedValues(encoding::bounded(&header, encoding, body)?)
        }
        Kind::Values => Message::Values(values_only(&header, body)?),
        Kind::Push if encoding != Encoding::PLAIN => {
            Message::CodedPush(encoding::bounded(&header, encoding, body)?)
        }
        Kind::Push => Message::Push(keyed(&header, body)?),
        Kind::Rows => Message::Rows(rows(&header, body)?),
        Kind::Load => Message::Load(rows(&header, body)?),
        Kind::Remove if header.width == 0 => Message::Remove(rows(&header, body)?.keys),
        Kind::Remove => return Err(shape(&header)),
        Kind::Measure => empty(&header, Message::Measure)?,
        Kind::Size => Message::Size(TableSize::read_from_bytes(body).map_err(|_| shape(&header))?),
        Kind::Lane => {
            Message::Lane(LaneMessage::from_bytes(body).ok_or(Malformed::Field { name: "lane" })?)
        }
        Kind::Applied => empty(&header, Message::Applied)?,
        Kind::Nothing => empty(&header, Message::Nothing)?,
        Kind::State => Message::State(words(&header, body)?),
        Kind::Page if encoding != Encoding::PLAIN => {
            Message::CodedPage(encoding::bounded(&header, encoding, body)?)
        }
        Kind::Page => Message::Page(rows(&header, body)?),
        Kind::Counts if usize::from(header.width) == COUNT_LINE_WIDTH => {
            Message::Counts(rows(&header, body)?)
        }
        Kind::Counts => return Err(shape(&header)),
        Kind::Filled => Message::Filled(words(&header, body)?),
        Kind::Part => Message::Part(body),
        Kind::Joined => Message::Joined(Joined::read_from_bytes(body).map_err(|_| shape(&header))?),
        Kind::Merged => {
            let (names, body) = PushName::split(&header, body)?;
            Message::Merged(Merged { names, sums: keyed(&header, body)? })
        }
    };
    Ok((header, message))
}

/// Writes `header` before a body that already stands in `bytes`, with lengths and checksums.
///
/// - `bytes`: the whole message; the first 64 bytes are overwritten, the rest is the body.
/// - Panics: if `bytes` is shorter than a header or longer than [`FRAME_BYTES_MAX`].
pub fn seal(bytes: &mut [u8], mut header: Header, seal: Seal, crc32c: impl Fn(&[u8]) -> u32) {
    assert!(bytes.len() <= FRAME_BYTES_MAX, "a message has {FRAME_BYTES_MAX} bytes at most");
    let (head, body) = bytes.split_at_mut(HEADER_BYTES);
    header.body_bytes = u32::try_from(body.len()).expect("FRAME_BYTES_MAX fits 32 bits");
    if seal == Seal::Body && !body.is_empty() {
        header.flags = header.flags().with(Flags::BODY_CHECKED).get();
        header.body_crc = crc32c(body);
    }
    header.header_crc = crc32c(&header.as_bytes()[..HEADER_BYTES - 4]);
    head.copy_from_slice(header.as_bytes());
}

impl Keyed<'_> {
    /// Length in bytes of a message with so many keys of this width; width 0 is a pull.
    pub const fn message_bytes(keys: usize, width: usize) -> usize {
        HEADER_BYTES + keys * (8 + 4 * width)
    }

    /// The places of keys and values in a message that is being written.
    ///
    /// - `bytes`: [`Keyed::message_bytes`] long and 8-byte aligned; anything else panics.
    pub fn body_mut(bytes: &mut [u8], keys: usize) -> (&mut [u64], &mut [f32]) {
        let (keys, values) = bytes[HEADER_BYTES..].split_at_mut(keys * 8);
        let keys = <[u64]>::mut_from_bytes(keys).expect("a slot is aligned");
        (keys, <[f32]>::mut_from_bytes(values).expect("values are a multiple of 4 bytes"))
    }
}

fn empty<'a>(header: &Header, message: Message<'a>) -> Result<Message<'a>, Malformed> {
    if header.body_bytes == 0 { Ok(message) } else { Err(shape(header)) }
}

/// Cuts a body into keys and `width` f32 a key.
fn split<'a>(
    header: &Header,
    body: &'a [u8],
    width: u16,
) -> Result<(&'a [u64], &'a [f32]), Malformed> {
    // 2^32 keys of 2^16 values are below 2^53 bytes: no overflow.
    let keys_bytes = u64::from(header.keys) * 8;
    let values_bytes = u64::from(header.keys) * u64::from(width) * 4;
    if keys_bytes + values_bytes != body.len() as u64 {
        return Err(shape(header));
    }
    let (keys, values) = <[u64]>::ref_from_prefix_with_elems(body, header.keys as usize)
        .map_err(|_| shape(header))?;
    let values = <[f32]>::ref_from_bytes(values).map_err(|_| shape(header))?;
    Ok((keys, values))
}

fn keyed<'a>(header: &Header, body: &'a [u8]) -> Result<Keyed<'a>, Malformed> {
    let (keys, values) = split(header, body, header.width)?;
    Ok(Keyed { keys: Keys::new(keys)?, values })
}

fn values_only<'a>(header: &Header, body: &'a [u8]) -> Result<&'a [f32], Malformed> {
    if u64::from(header.keys) * u64::from(header.width) * 4 != body.len() as u64 {
        return Err(shape(header));
    }
    <[f32]>::ref_from_bytes(body).map_err(|_| shape(header))
}

fn rows<'a>(header: &Header, body: &'a [u8]) -> Result<RowsView<'a>, Malformed> {
    let (keys, rows) = split(header, body, header.width)?;
    match keys.iter().position(|&key| key == Key::RESERVED.get()) {
        Some(index) => Err(Malformed::Order { index }),
        None => Ok(RowsView { keys, rows }),
    }
}

fn words<'a>(header: &Header, body: &'a [u8]) -> Result<&'a [u64], Malformed> {
    <[u64]>::ref_from_bytes(body).map_err(|_| shape(header))
}

pub(crate) fn shape(header: &Header) -> Malformed {
    Malformed::Shape { keys: header.keys, width: header.width, body_bytes: header.body_bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::acknowledge::Acknowledge;
    use crate::define::{Define, TableSpecError};
    use crate::ids::JobId;
    use crate::join::Staleness;
    use crate::life::{Expiry, KeyAdmission, RowLife};

    /// A stand-in checksum: `kernels` has the real one, and wire may not import it.
    fn sum(bytes: &[u8]) -> u32 {
        bytes.iter().fold(7, |sum: u32, &b| sum.rotate_left(5) ^ u32::from(b))
    }

    /// Bytes at an 8-byte boundary.
    fn aligned(bytes: &[u8]) -> Vec<u64> {
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        words
    }

    fn push(keys: &[u64], width: u16) -> Vec<u64> {
        let bytes = Keyed::message_bytes(keys.len(), width.into());
        let mut words = vec![0_u64; bytes.div_ceil(8)];
        let message = &mut words.as_mut_bytes()[..bytes];
        let (to_keys, to_values) = Keyed::body_mut(message, keys.len());
        to_keys.copy_from_slice(keys);
        for (index, value) in to_values.iter_mut().enumerate() {
            *value = index as f32;
        }
        let header =
            Header { keys: keys.len() as u32, width, sequence: 9, ..Header::new(Kind::Push) };
        seal(message, header, Seal::Body, sum);
        words
    }

    #[test]
    fn a_sealed_push_opens_as_the_same_keys_and_values() {
        let words = push(&[1, 5, 9], 2);
        let (header, message) = open(words.as_bytes(), sum).expect("it was just sealed");
        assert_eq!(header.sequence().get(), 9);
        let Message::Push(keyed) = message else { panic!("{message:?}") };
        assert_eq!(keyed.keys.as_slice(), [1, 5, 9]);
        assert_eq!(keyed.values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn each_single_flipped_bit_of_a_message_is_found() {
        let words = push(&[1, 5, 9], 2);
        let bytes = words.as_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut broken = aligned(bytes);
            broken.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
            assert!(open(broken.as_bytes(), sum).is_err(), "bit {bit} went unseen");
        }
    }

    #[test]
    fn keys_out_of_order_equal_or_reserved_are_refused_with_their_index() {
        assert_eq!(Keys::new(&[1, 3, 2]), Err(Malformed::Order { index: 2 }));
        assert_eq!(Keys::new(&[4, 4]), Err(Malformed::Order { index: 1 }));
        assert_eq!(Keys::new(&[1, u64::MAX]), Err(Malformed::Order { index: 1 }));
        assert!(Keys::new(&[]).is_ok());
    }

    #[test]
    fn a_body_that_is_not_what_keys_and_width_make_is_refused() {
        let mut words = push(&[1, 5], 2);
        let header = Header { keys: 3, width: 2, ..Header::new(Kind::Push) };
        seal(words.as_mut_bytes(), header, Seal::HeaderOnly, sum);
        let error = open(words.as_bytes(), sum).expect_err("three keys are promised");
        assert_eq!(error, Malformed::Shape { keys: 3, width: 2, body_bytes: 32 });
    }

    #[test]
    fn a_definition_and_a_join_read_back_as_written() {
        let spec = TableSpec {
            name: "weights".into(),
            rule: "ftrl".into(),
            dim: 1,
            parameters: [0.5; 8],
            layout: 77,
            life: RowLife { admission: KeyAdmission::Count(3), expiry: Expiry::Clocks(100) },
            acknowledge: Acknowledge::Head,
            aggregate: false,
        };
        let announced = Announced { push: 1, pull: 3 };
        let define = Define::new(&spec, announced).expect("the names are short");
        assert_eq!(TableSpec::from_bytes(define.as_bytes()), Ok((spec.clone(), announced)));
        let mut nowhere = *define.as_bytes();
        for (byte, wrong) in [(4, "acknowledge"), (3, "aggregate"), (2, "aggregate")] {
            nowhere[139] = byte; // The last one is right, but for the admission of keys.
            assert_eq!(TableSpec::from_bytes(&nowhere), Err(wrong), "{byte}");
        }
        let summed = TableSpec { aggregate: true, ..spec.clone() };
        let refused =
            |spec: &TableSpec| Define::new(spec, announced).err().map(|error| error.to_string());
        let at_head = refused(&summed).expect("it is acknowledged at the head");
        assert!(at_head.ends_with("has its tail acknowledge them"), "{at_head}");
        let summed = TableSpec { acknowledge: Acknowledge::Tail, ..summed };
        let counted = refused(&summed).expect("it counts pushes");
        assert!(counted.contains("admits all keys"), "{counted}");
        let summed = TableSpec { life: RowLife::default(), ..summed };
        let define = Define::new(&summed, announced).expect("now it can be");
        assert_eq!(define.as_bytes()[139], 2);
        assert_eq!(TableSpec::from_bytes(define.as_bytes()), Ok((summed, announced)));
        let wide = Define::new(&TableSpec { dim: 1 << 24, ..spec }, announced);
        assert_eq!(wide, Err(TableSpecError::Dim { found: 1 << 24 }));
        let join = Join { job: JobId::new(3), workers: 2, staleness: Staleness::ssp(3) };
        assert_eq!(Join::from_bytes(&join.to_bytes()), Some(join));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let words = aligned(&bytes);
            let _ = open(&words.as_bytes()[..bytes.len()], sum);
        }

        #[test]
        fn a_random_header_over_a_random_body_never_panics(
            kind in 0_u8..26, keys in any::<u32>(), width in any::<u16>(), encoding in any::<u8>(),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = HEADER_BYTES + body.len();
            let mut words = vec![0_u64; bytes.div_ceil(8)];
            let message = &mut words.as_mut_bytes()[..bytes];
            message[HEADER_BYTES..].copy_from_slice(&body);
            let header = Header { kind, keys, width, encoding, ..Header::new(Kind::Push) };
            seal(message, header, Seal::Body, sum);
            let _ = open(message, sum);
        }
    }
}
