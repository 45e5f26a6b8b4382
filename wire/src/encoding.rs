//! The encoding of a body: how its keys and values are written, and the fixed parts of each form.
//!
//! Owns the byte `encoding` of the header and the heads of key lists and numbers. The bits of
//! packed keys and of value codecs are left to `kernels::codec`; who knows which keys, to `shard`
//! and `worker`.
//!
//! Invariant: encoding 0 is the plain body, keys and f32 as they are, read where they landed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::frame::{FRAME_BYTES_MAX, HEADER_BYTES, Malformed};
use crate::header::{Header, Kind};
use crate::ids::Sequence;

/// The most keys that an encoded message stands for: as many as a plain pull could name.
pub const ENCODED_KEYS_MAX: usize = (FRAME_BYTES_MAX - HEADER_BYTES) / 8;

/// Key lists that a shard keeps of one worker; a further one drops the oldest.
pub const LISTS_MAX: usize = 64;

/// Keys in all lists that a shard keeps of one worker; a further list drops the oldest.
pub const LIST_KEYS_MAX: usize = ENCODED_KEYS_MAX;

/// Keys of one worker that have numbers on one shard. Keys that are new once a message's would
/// exceed it get none and travel as themselves.
pub const NUMBERS_MAX: usize = 1 << 22;

/// The number of values in [`Encoding`] that says: each column begins with its own codec.
pub const VALUES_BY_COLUMN: u8 = 15;

/// What a part of a body is filled up to, in bytes, so that what follows is aligned.
pub const PART_BYTES: usize = 8;

/// Columns of a row of `width` values in a table of `dim` values a key: each is encoded on its own.
/// A width that is no multiple of the dim is one column.
pub const fn columns(width: usize, dim: usize) -> usize {
    if dim == 0 || width == 0 || !width.is_multiple_of(dim) { 1 } else { width / dim }
}

/// How a body is written: the byte [`Header::encoding`].
///
/// Bits 0 and 1 are a [`KeyForm`]; bits 2 to 5 the number of a value codec, where 0 is plain f32
/// and [`VALUES_BY_COLUMN`] many; bit 6 says that the values of only some of the keys are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Encoding(u8);

/// How keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum KeyForm {
    /// As u64.
    #[default]
    Plain = 0,
    /// Packed by `kernels::codec::pack_keys`.
    Packed = 1,
    /// As those of a pull before: [`ListHead`].
    List = 2,
    /// As numbers that the shard has learned, and new keys that it learns: [`NumbersHead`].
    Numbered = 3,
}

/// Which of the keys have values in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// All.
    All,
    /// Those whose bit is set in a bitmap that follows the keys. The others are not pushed.
    Some,
}

const CARRIED_SOME: u8 = 1 << 6;

impl Encoding {
    /// Keys and values as they are.
    pub const PLAIN: Encoding = Encoding(0);

    /// The encoding of these three.
    ///
    /// - Panics: if `values` is above [`VALUES_BY_COLUMN`].
    pub const fn new(keys: KeyForm, values: u8, carried: Carried) -> Encoding {
        assert!(values <= VALUES_BY_COLUMN, "a value codec has four bits");
        let some = match carried {
            Carried::All => 0,
            Carried::Some => CARRIED_SOME,
        };
        Encoding(keys as u8 | values << 2 | some)
    }

    /// The encoding of this byte, if it is one.
    pub const fn from_u8(raw: u8) -> Option<Encoding> {
        if raw < CARRIED_SOME << 1 { Some(Encoding(raw)) } else { None }
    }

    /// The byte.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// How keys are written.
    pub const fn keys(self) -> KeyForm {
        match self.0 & 3 {
            0 => KeyForm::Plain,
            1 => KeyForm::Packed,
            2 => KeyForm::List,
            _ => KeyForm::Numbered,
        }
    }

    /// The number of the value codec; in a pull, of its answer.
    pub const fn values(self) -> u8 {
        self.0 >> 2 & 15
    }

    /// Which keys have values.
    pub const fn carried(self) -> Carried {
        if self.0 & CARRIED_SOME == 0 { Carried::All } else { Carried::Some }
    }

    /// The same but for the form of the keys.
    #[must_use]
    pub const fn with_keys(self, keys: KeyForm) -> Encoding {
        Encoding(self.0 & !3 | keys as u8)
    }
}

/// Keys of a [`KeyForm::List`]: some that follow each other in a pull of the same worker to the
/// same shard, which travelled packed or numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListHead {
    /// The pull's sequence: it names the keys, since a request keeps its content under its number.
    pub pull: u64,
    /// Index of the first key among the pull's.
    pub first: u32,
    /// Zero.
    pub reserved: u32,
}

/// Before keys of [`KeyForm::Numbered`]. Then come the numbers of known keys, packed, and the new
/// keys, packed. New keys get the numbers from `base` on, in ascending order of keys, as long as
/// that makes no more than [`NUMBERS_MAX`] in all; else none of this message's gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NumbersHead {
    /// Which dictionary of this worker: one with a larger number, begun at base 0, replaces it.
    pub generation: u32,
    /// How many keys have had numbers before this message: known numbers are below.
    pub base: u32,
    /// How many keys travel as their number; the others are new.
    pub known: u32,
    /// Zero.
    pub reserved: u32,
}

impl ListHead {
    /// The pull that carried the keys.
    pub const fn pull(&self) -> Sequence {
        Sequence::new(self.pull)
    }
}

/// A body that is not plain: bounded, not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded<'a> {
    /// How it is written.
    pub encoding: Encoding,
    /// Its bytes, 8-byte aligned.
    pub body: &'a [u8],
}

/// The encoding of a message of this kind, if it may have it.
pub(crate) fn checked(header: &Header) -> Result<Encoding, Malformed> {
    let error = Malformed::Field { name: "encoding" };
    let encoding = Encoding::from_u8(header.encoding).ok_or(error)?;
    let plain_values = encoding.values() == 0;
    let fits = match header.kind() {
        Kind::Push => true,
        Kind::Pull => encoding.carried() == Carried::All && encoding.values() != VALUES_BY_COLUMN,
        Kind::Values => {
            encoding.carried() == Carried::All
                && encoding.values() != VALUES_BY_COLUMN
                && encoding.keys() == KeyForm::Plain
        }
        Kind::Page => {
            encoding.carried() == Carried::All
                && encoding.values() != VALUES_BY_COLUMN
                && encoding.keys() == KeyForm::Plain
        }
        _ => plain_values && encoding == Encoding::PLAIN,
    };
    if fits { Ok(encoding) } else { Err(error) }
}

/// Bounds what an encoded body may stand for: no more keys, and no more values, than fit a plain
/// message. So a decoder may make room for them before it has seen that they are there.
pub(crate) fn bounded<'a>(
    header: &Header,
    encoding: Encoding,
    body: &'a [u8],
) -> Result<Coded<'a>, Malformed> {
    // 2^32 keys of 2^16 values are below 2^53 bytes: no overflow.
    let floats = u64::from(header.keys) * u64::from(header.width);
    let keys_fit = header.keys as usize <= ENCODED_KEYS_MAX;
    if keys_fit && floats * 4 <= FRAME_BYTES_MAX as u64 {
        return Ok(Coded { encoding, body });
    }
    let (keys, width) = (header.keys, header.width);
    Err(Malformed::Shape { keys, width, body_bytes: header.body_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_reads_back_as_written_and_no_other_byte_is_one() {
        let forms = [KeyForm::Plain, KeyForm::Packed, KeyForm::List, KeyForm::Numbered];
        let mut known = 0;
        for keys in forms {
            for values in 0..=VALUES_BY_COLUMN {
                for carried in [Carried::All, Carried::Some] {
                    let encoding = Encoding::new(keys, values, carried);
                    assert_eq!(Encoding::from_u8(encoding.get()), Some(encoding));
                    let back = (encoding.keys(), encoding.values(), encoding.carried());
                    assert_eq!(back, (keys, values, carried));
                    known += 1;
                }
            }
        }
        assert_eq!((0..=u8::MAX).filter(|&raw| Encoding::from_u8(raw).is_some()).count(), known);
    }

    #[test]
    fn only_pushes_pulls_values_and_pages_are_encoded() {
        let encoded = Encoding::new(KeyForm::Packed, 0, Carried::All).get();
        for raw in 1..=14 {
            let kind = Kind::from_u8(raw).expect("kinds count from 1 to 14");
            let header = Header { encoding: encoded, ..Header::new(kind) };
            let may = matches!(kind, Kind::Push | Kind::Pull);
            assert_eq!(checked(&header).is_ok(), may, "{kind:?}");
        }
    }

    #[test]
    fn an_encoded_message_stands_for_no_more_than_a_plain_one_holds() {
        let packed = Encoding::new(KeyForm::Packed, 3, Carried::All);
        let header = |keys, width| Header { keys, width, ..Header::new(Kind::Push) };
        let most = ENCODED_KEYS_MAX as u32;
        assert!(bounded(&header(most, 1), packed, &[]).is_ok());
        assert!(bounded(&header(most + 1, 1), packed, &[]).is_err());
        assert!(bounded(&header(most, u16::MAX), packed, &[]).is_err());
        assert!(bounded(&header(u32::MAX, u16::MAX), packed, &[]).is_err());
    }
}
