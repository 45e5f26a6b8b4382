//! Pages whose rows are written in fewer bytes, for a store of checkpoints.
//!
//! Owns how such a page lies: keys, then of each row what is written as it is, then of each row the
//! numbers it begins with, in two bytes each. Which numbers may be rounded is left to the rule, the
//! rounding to `kernels::codec`.
//!
//! The length of a page says how many numbers of a row are rounded: so it is read as it was
//! written, whatever the rule of the reader says.
//!
//! Invariant: a page that is read and written again has the same bytes. So have those of two
//! servers with the same rows: numbers are rounded to the nearest, and never by chance.

use kernels::Isa;
use kernels::codec::{Rounding, ValueCodec, decode_values, encode_values};
use wire::{
    Carried, Coded, Encoding, HEADER_BYTES, Header, Key, KeyForm, Malformed, RowsView, StoredValues,
};
use zerocopy::FromBytes;

/// How rows' first numbers are written: see [`StoredValues::Bf16`]. A finite number stays finite,
/// infinities stay what they are, and a NaN stays one.
const CODEC: ValueCodec = ValueCodec::Bf16;

/// Bytes of a number in [`CODEC`].
const CODED_BYTES: usize = size_of::<u16>();

/// The encoding of such a page.
const ENCODING: Encoding = Encoding::new(KeyForm::Plain, CODEC.to_u8(), Carried::All);

/// What there is to know of a page that may be written in fewer bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) isa: Isa,
    /// Numbers that a row begins with and that may be rounded.
    pub(super) roundable: usize,
}

/// Writes pages in fewer bytes, one after another.
#[derive(Debug)]
pub struct PageWriter {
    pub(super) values: StoredValues,
    /// `[keys, roundable]`: what is rounded of a page, if that is not all of it.
    first: Vec<f32>,
    coded: Vec<u8>,
}

/// Reads such pages.
#[derive(Debug, Default)]
pub(super) struct PageReader {
    /// `[keys, width]`.
    rows: Vec<f32>,
    /// `[keys, roundable]`.
    first: Vec<f32>,
}

/// Numbers of a page and of its rows.
#[derive(Clone, Copy)]
struct Shape {
    keys: usize,
    width: usize,
    /// Of a row: those that it begins with and that are rounded.
    first: usize,
}

impl Shape {
    fn body_bytes(self) -> usize {
        let Shape { keys, width, first } = self;
        keys * (size_of::<u64>() + (width - first) * size_of::<f32>() + first * CODED_BYTES)
    }

    /// The shape of a page with this header and so many bytes, if it has one.
    fn of(header: &Header, body_bytes: usize) -> Option<Shape> {
        let (keys, width) = (header.keys as usize, usize::from(header.width));
        let whole = Shape { keys, width, first: 0 }.body_bytes();
        let first = whole.checked_sub(body_bytes)?.checked_div(keys * CODED_BYTES)?;
        let shape = Shape { keys, width, first };
        let fits = (1..=width).contains(&first) && shape.body_bytes() == body_bytes;
        fits.then_some(shape)
    }
}

impl PageWriter {
    /// Writes pages so.
    pub fn new(values: StoredValues) -> PageWriter {
        PageWriter { values, first: Vec::new(), coded: Vec::new() }
    }

    /// Writes a page in its place.
    ///
    /// - `message`: a page of whole rows, plain, as it was sealed.
    /// - Result: its header, for [`wire::seal`], and how long it is now.
    pub(super) fn write(&mut self, message: &mut [u8], form: Form) -> (Header, usize) {
        let Form { isa, roundable } = form;
        let (head, body) = message.split_at_mut(HEADER_BYTES);
        let header = Header::read_from_bytes(head).expect("64 bytes");
        let (keys, width) = (header.keys as usize, usize::from(header.width));
        let shape = Shape { keys, width, first: roundable };
        let rows = &mut body[keys * size_of::<u64>()..];
        let floats = <[f32]>::mut_from_bytes(rows).expect("a page is aligned");
        let exact = if roundable == width { 0 } else { self.take_first(floats, width, roundable) };
        let first = if exact == 0 { &*floats } else { &self.first };
        self.coded.resize(first.len() * CODED_BYTES, 0);
        encode_values(isa, CODEC, first, Rounding::Nearest, &mut self.coded);
        let start = exact * size_of::<f32>();
        rows[start..start + self.coded.len()].copy_from_slice(&self.coded);
        let header = Header { encoding: ENCODING.get(), ..header };
        (header, HEADER_BYTES + shape.body_bytes())
    }

    /// Takes what each row begins with, and moves the others together. How many those are.
    fn take_first(&mut self, floats: &mut [f32], width: usize, first: usize) -> usize {
        self.first.clear();
        let rest = width - first;
        let rows = floats.len() / width;
        for row in 0..rows {
            let begin = row * width;
            self.first.extend_from_slice(&floats[begin..begin + first]);
            floats.copy_within(begin + first..begin + width, row * rest);
        }
        rows * rest
    }
}

impl PageReader {
    /// The rows of a page.
    ///
    /// - Errors: it is no such page.
    pub(super) fn read<'a>(
        &'a mut self,
        isa: Isa,
        header: &Header,
        coded: Coded<'a>,
    ) -> Result<RowsView<'a>, Malformed> {
        if coded.encoding != ENCODING {
            return Err(Malformed::Field { name: "encoding" });
        }
        let Header { keys, width, body_bytes, .. } = *header;
        let malformed = Malformed::Shape { keys, width, body_bytes };
        let Shape { keys, width, first } = Shape::of(header, coded.body.len()).ok_or(malformed)?;
        let split = <[u64]>::ref_from_prefix_with_elems(coded.body, keys);
        let (keys, body) = split.map_err(|_| malformed)?;
        if let Some(index) = keys.iter().position(|&key| key == Key::RESERVED.get()) {
            return Err(Malformed::Order { index });
        }
        let exact = keys.len() * (width - first);
        let split = <[f32]>::ref_from_prefix_with_elems(body, exact);
        let (exact, body) = split.map_err(|_| malformed)?;
        self.rows.resize(keys.len() * width, 0.0);
        let is_whole = first == width;
        self.first.resize(if is_whole { 0 } else { keys.len() * first }, 0.0);
        let to = if is_whole { &mut self.rows } else { &mut self.first };
        decode_values(isa, CODEC, body, to).map_err(|_| malformed)?;
        if !is_whole {
            let rows = self.rows.chunks_exact_mut(width);
            let parts = self.first.chunks_exact(first).zip(exact.chunks_exact(width - first));
            for (row, (begin, end)) in rows.zip(parts) {
                row[..first].copy_from_slice(begin);
                row[first..].copy_from_slice(end);
            }
        }
        Ok(RowsView { keys, rows: &self.rows })
    }
}

#[cfg(test)]
mod tests {
    use kernels::crc32c::crc32c;
    use proptest::prelude::*;
    use wire::{Keyed, Kind, Message, Seal};
    use zerocopy::IntoBytes;

    use super::*;

    /// A page of `width` numbers a key, as it is sealed, in words.
    fn page(rows: &[f32], width: usize) -> Vec<u64> {
        let keys = rows.len() / width;
        let bytes = Keyed::message_bytes(keys, width);
        let mut words = vec![0; bytes.div_ceil(8)];
        let message = &mut words.as_mut_bytes()[..bytes];
        let (to_keys, values) = Keyed::body_mut(message, keys);
        to_keys.iter_mut().zip(1..).for_each(|(to, key)| *to = key * 3);
        values.copy_from_slice(rows);
        let header = Header { keys: keys as u32, width: width as u16, ..Header::new(Kind::Page) };
        seal(message, header);
        words
    }

    fn seal(message: &mut [u8], header: Header) {
        wire::seal(message, header, Seal::HeaderOnly, |bytes| crc32c(Isa::detect(), 0, bytes));
    }

    /// The same, with what each row begins with rounded. The message.
    fn coded(isa: Isa, rows: &[f32], width: usize, roundable: usize) -> Vec<u8> {
        let mut words = page(rows, width);
        let bytes = Keyed::message_bytes(rows.len() / width, width);
        let message = &mut words.as_mut_bytes()[..bytes];
        let mut writer = PageWriter::new(StoredValues::Bf16);
        let (header, bytes) = writer.write(message, Form { isa, roundable });
        seal(&mut message[..bytes], header);
        message[..bytes].to_vec()
    }

    /// The rows of a message, as they are read back.
    fn read(isa: Isa, message: &[u8]) -> Result<Vec<f32>, Malformed> {
        let mut words = vec![0_u64; message.len().div_ceil(8)];
        words.as_mut_bytes()[..message.len()].copy_from_slice(message);
        let bytes = &words.as_bytes()[..message.len()];
        let (header, message) = wire::open_recorded(bytes, |bytes| crc32c(isa, 0, bytes))?;
        let Message::CodedPage(coded) = message else { panic!("{message:?}") };
        let mut reader = PageReader::default();
        let page = reader.read(isa, &header, coded)?;
        assert!(page.keys.iter().zip(1..).all(|(&key, number)| key == number * 3));
        Ok(page.rows.to_vec())
    }

    fn bits(rows: &[f32]) -> Vec<u32> {
        rows.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn a_page_is_read_as_its_nearest_and_written_again_with_the_same_bytes(
            raw in proptest::collection::vec(any::<u32>(), 1..200),
            width in 1_usize..9, first in 1_usize..9,
        ) {
            let (first, raw_len) = (first.min(width), raw.len() / width * width);
            prop_assume!(raw_len > 0);
            let rows: Vec<f32> = raw[..raw_len].iter().map(|&bits| f32::from_bits(bits)).collect();
            let written = coded(Isa::detect(), &rows, width, first);
            for isa in Isa::available() {
                prop_assert_eq!(&coded(isa, &rows, width, first), &written);
                let back = read(isa, &written).expect("it was just written");
                for (at, (&was, &is)) in rows.iter().zip(&back).enumerate() {
                    if at % width >= first {
                        prop_assert_eq!(was.to_bits(), is.to_bits());
                    } else if was.is_nan() {
                        prop_assert!(is.is_nan() && is.to_bits() >> 31 == was.to_bits() >> 31);
                    } else if was.is_infinite() {
                        prop_assert_eq!(was, is);
                    } else {
                        // Half of the last of eight bits, or of the least there is.
                        let error = (f64::from(was) - f64::from(is)).abs();
                        let bound = f64::from(was).abs() * 2.0_f64.powi(-8);
                        let least = 2.0_f64.powi(-134);
                        prop_assert!(is.is_finite() && error <= bound.max(least), "{was:e} {is:e}");
                    }
                }
                prop_assert_eq!(&coded(isa, &back, width, first), &written);
                let again = read(isa, &coded(isa, &back, width, first)).expect("written");
                prop_assert_eq!(bits(&again), bits(&back));
            }
        }

        #[test]
        fn a_page_of_random_bytes_is_refused_or_read_and_never_panics(
            keys in 0_u32..9, width in 0_u16..9, encoding in 0_u8..64,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut words = vec![0_u64; (HEADER_BYTES + body.len()).div_ceil(8)];
            let message = &mut words.as_mut_bytes()[..HEADER_BYTES + body.len()];
            message[HEADER_BYTES..].copy_from_slice(&body);
            seal(message, Header { keys, width, encoding, ..Header::new(Kind::Page) });
            let isa = Isa::detect();
            let opened = wire::open_recorded(message, |bytes| crc32c(isa, 0, bytes));
            if let Ok((header, Message::CodedPage(coded))) = opened {
                let mut reader = PageReader::default();
                if let Ok(page) = reader.read(isa, &header, coded) {
                    prop_assert_eq!(page.rows.len(), page.keys.len() * usize::from(width));
                }
            }
        }
    }

    #[test]
    fn each_length_of_a_page_is_one_shape_or_none() {
        let rows = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5];
        let written = coded(Isa::detect(), &rows, 3, 2);
        assert_eq!(written.len(), HEADER_BYTES + 2 * (8 + 4 + 2 * 2));
        assert_eq!(read(Isa::detect(), &written), Ok(rows.to_vec()));
        let header = Header { keys: 2, width: 3, ..Header::new(Kind::Page) };
        let first = |bytes| Shape::of(&header, bytes).map(|shape| shape.first);
        let found: Vec<_> =
            (0..48).filter_map(|bytes| first(bytes).map(|it| (bytes, it))).collect();
        assert_eq!(found, [(28, 3), (32, 2), (36, 1)]);
        assert_eq!(Shape::of(&Header::new(Kind::Page), 0).map(|shape| shape.first), None);
    }

    #[test]
    fn a_page_has_the_bytes_that_the_format_says() {
        let huge = f32::MAX;
        let rows = [1.0, -2.5, 0.1, 3.0078125, huge, 0.2, f32::INFINITY, -0.0, 0.3];
        let written = coded(Isa::detect(), &rows, 3, 2);
        let body = &written[HEADER_BYTES..];
        let keys = [3_u64, 6, 9].map(u64::to_le_bytes).concat();
        let exact = [0.1_f32, 0.2, 0.3].map(f32::to_le_bytes).concat();
        let halves = [0x3f80_u16, 0xc020, 0x4040, 0x7f7f, 0x7f80, 0x8000].map(u16::to_le_bytes);
        assert_eq!(body, [keys, exact, halves.concat()].concat());
        let header = Header::read_from_bytes(&written[..HEADER_BYTES]).expect("64 bytes");
        assert_eq!((header.encoding, header.keys, header.width), (4, 3, 3));
    }

    #[test]
    fn servers_take_no_such_page_of_each_other() {
        let written = coded(Isa::detect(), &[1.0, 2.0], 1, 1);
        let mut words = vec![0_u64; written.len().div_ceil(8)];
        words.as_mut_bytes()[..written.len()].copy_from_slice(&written);
        let bytes = &words.as_bytes()[..written.len()];
        let opened = wire::open(bytes, |bytes| crc32c(Isa::detect(), 0, bytes));
        assert_eq!(opened, Err(Malformed::Field { name: "encoding" }));
    }
}
