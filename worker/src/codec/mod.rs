//! Codecs of a worker's messages: which one a table has, and all that this side remembers for it.
//!
//! Owns the choice for each table, and the parts that work on it: keys in `keys` and `dictionary`,
//! values in `values`, what was held back in `residuals`. The shard's side is `shard::decode`; the
//! arithmetic is `kernels::codec`.
//!
//! Invariant: a request's values are encoded once, when it is admitted. Its keys are written anew
//! at each sending, in whatever form the shard can read then, and mean the same keys each time.

mod choice;
mod dictionary;
mod keys;
mod number_set;
mod residuals;
mod values;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use kernels::Isa;
pub use kernels::codec::ValueCodec;
use kernels::codec::{Damaged, RowShape};
use wire::{Announced, Carried, Encoding, Header, KeyForm, TableId, Time, VALUES_BY_COLUMN};
use zerocopy::FromBytes;

pub use choice::{CodecChoice, CodecError};
use choice::{Trials, Way};
pub(crate) use dictionary::Dictionary;
pub(crate) use keys::{KeyWriter, Listed, WhichKeys};
use number_set::NumberSet;
use residuals::Residuals;
pub(crate) use values::CodedValues;
use values::{AnswerDecoder, PushEncoder, PushShape};

use crate::request::Body;
use crate::split::Split;

/// How the pushes and pulls of one table are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableCodec {
    /// The form of keys.
    pub keys: KeyCodec,
    /// The first column of a push: of FTRL, the sum of gradients. Rounded by chance, so that sums
    /// of many pushes are right on average; [`ValueCodec::OneBit`] with error feedback.
    pub push_first: ValueCodec,
    /// The other columns of a push, rounded by chance. [`ValueCodec::OneBit`] is none of theirs:
    /// they may be sums of squares, which must not turn negative.
    pub push_rest: ValueCodec,
    /// Which rows a push carries.
    pub selection: Selection,
    /// The values that a pull returns, rounded to the nearest.
    pub pull: ValueCodec,
}

/// How keys travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCodec {
    /// As they are, eight bytes each.
    Plain,
    /// Packed; a push names the list that its pull carried.
    Packed,
    /// As `Packed`, and a key that was sent before travels as a number that it was given then.
    Numbered,
}

/// Which rows of a push are carried. What the last three hold back is added to the key's next push.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// All.
    All,
    /// Those with a number that is not zero.
    Nonzero,
    /// Those with a number of a larger magnitude. Source: the significantly-modified filter of Li
    /// et al., OSDI 2014.
    Above(f32),
    /// Those whose pulled values were not all zero in the first column, and those whose first
    /// column has a number of a larger magnitude: the KKT filter of Li et al., OSDI 2014, for
    /// weights that an l1 penalty keeps at zero. A part of the penalty, such as half. Rows pushed
    /// without a pull before are all carried.
    AtZeroAbove(f32),
    /// This share of them, those with the largest magnitudes; above 0, at most 1. Source: Aji and
    /// Heafield, EMNLP 2017.
    Top(f32),
}

impl TableCodec {
    /// Nothing is encoded: bytes are read where they landed.
    pub const RAW: TableCodec = TableCodec {
        keys: KeyCodec::Plain,
        push_first: ValueCodec::F32,
        push_rest: ValueCodec::F32,
        selection: Selection::All,
        pull: ValueCodec::F32,
    };

    /// Fewer bits for keys, every value as it is: the shard gets the same keys and deltas.
    pub const EXACT: TableCodec = TableCodec { keys: KeyCodec::Numbered, ..TableCodec::RAW };

    /// Values of pushes in this codec, of pulls in one that is fit for weights. Columns behind the
    /// first one matter by their size alone: with few bits for the first they have four.
    pub fn lossy(codec: ValueCodec) -> TableCodec {
        let (rest, pull) = match codec {
            ValueCodec::F32 | ValueCodec::Bf16 | ValueCodec::F16 => (codec, codec),
            _ => (ValueCodec::Float4, ValueCodec::F16),
        };
        TableCodec { push_first: codec, push_rest: rest, pull, ..TableCodec::EXACT }
    }

    /// Panics if the selection's number is out of range.
    pub(crate) fn check(&self) {
        match self.selection {
            Selection::Above(least) | Selection::AtZeroAbove(least) => {
                assert!(least >= 0.0, "threshold {least}: 0 or above");
            }
            Selection::Top(share) => {
                assert!(share > 0.0 && share <= 1.0, "share {share}: above 0, at most 1");
            }
            Selection::All | Selection::Nonzero => {}
        }
        assert!(self.push_rest != ValueCodec::OneBit, "one-bit is for the first column alone");
    }

    /// How a worker with this codec will write, as its table's definition announces it.
    pub(crate) fn announced(&self) -> Announced {
        let keys = match self.keys {
            KeyCodec::Plain => KeyForm::Plain,
            KeyCodec::Packed => KeyForm::Packed,
            KeyCodec::Numbered => KeyForm::Numbered,
        };
        let push = if self.push_first == self.push_rest {
            self.push_first.to_u8()
        } else {
            VALUES_BY_COLUMN
        };
        let carried = match self.selection {
            Selection::All => Carried::All,
            _ => Carried::Some,
        };
        Announced {
            push: Encoding::new(keys, push, carried).get(),
            pull: Encoding::new(keys, self.pull.to_u8(), Carried::All).get(),
        }
    }

    /// Whether what a push does not carry is kept for a later one.
    pub(crate) fn holds_back(&self) -> bool {
        match self.selection {
            Selection::All | Selection::Nonzero => false,
            Selection::Above(_) | Selection::AtZeroAbove(_) | Selection::Top(_) => true,
        }
    }

    /// Whether values of pushes travel as they are, all of them.
    pub(crate) fn pushes_plain_values(&self) -> bool {
        let codecs = (self.push_first, self.push_rest);
        codecs == (ValueCodec::F32, ValueCodec::F32) && self.selection == Selection::All
    }
}

/// The codec of one table.
#[derive(Debug)]
pub(crate) struct TableState {
    pub(crate) codec: TableCodec,
    /// Whether the codec is used only while it is the faster way.
    trials: Option<Trials>,
    way: Way,
    pub(crate) dim: usize,
    pub(crate) residuals: Residuals,
}

/// The codecs of all tables, and the buffers of encoding and decoding.
pub(crate) struct Codecs {
    tables: BTreeMap<u16, TableState>,
    encoder: PushEncoder,
    decoder: AnswerDecoder,
    /// Coded values of pushes that are answered.
    spare: Vec<CodedValues>,
}

/// Coded values that are kept for later pushes.
const CODED_POOLED_MAX: usize = 64;

impl Codecs {
    pub(crate) fn new(isa: Isa, seed: u64) -> Codecs {
        Codecs {
            tables: BTreeMap::new(),
            encoder: PushEncoder::new(isa, seed),
            decoder: AnswerDecoder::new(isa),
            spare: Vec::new(),
        }
    }

    /// Takes note of a table that is defined.
    pub(crate) fn set(&mut self, table: TableId, choice: CodecChoice, dim: u32) {
        let codec = choice.announced();
        if codec == TableCodec::RAW {
            self.tables.remove(&table.get());
            return;
        }
        let (trials, way) = match choice {
            CodecChoice::Fixed(_) => (None, Way::Coded),
            CodecChoice::Auto(_) => (Some(Trials::new()), Way::Plain),
        };
        let (residuals, dim) = (Residuals::default(), dim as usize);
        self.tables.insert(table.get(), TableState { codec, trials, way, dim, residuals });
    }

    /// The codec of a table; [`TableCodec::RAW`] if none was set.
    pub(crate) fn of(&self, table: TableId) -> TableCodec {
        match self.tables.get(&table.get()) {
            Some(state) if state.way == Way::Coded => state.codec,
            _ => TableCodec::RAW,
        }
    }

    /// Lets tables whose codec is tried settle for the faster way.
    ///
    /// - `pairs`: pairs of key and delta pushed so far.
    pub(crate) fn try_ways(&mut self, now: Time, pairs: u64) {
        for state in self.tables.values_mut() {
            if let Some(trials) = &mut state.trials {
                state.way = trials.way(now, pairs);
            }
        }
    }

    /// The values of an answer, unless they are plain and lie in its body as they are. Where the
    /// table's selection asks for it, the split gets to know which keys are at zero.
    ///
    /// - `asked`: the pull's header, with the encoding that was asked for.
    /// - `split`: which grouped keys of a split the values are of.
    /// - Errors: what is wrong with the bytes; a shard encodes none like them.
    pub(crate) fn decode(
        &mut self,
        asked: &Header,
        body: &[u8],
        (split, range): (&Split, Range<usize>),
    ) -> Result<Option<&[f32]>, Damaged> {
        let encoding = Encoding::from_u8(asked.encoding).expect("it was made from one");
        let codec = ValueCodec::from_u8(encoding.values()).expect("it was made from one");
        let state = self.tables.get(&asked.table);
        let width = usize::from(asked.width);
        let looks_at_zeros =
            |state: &&TableState| matches!(state.codec.selection, Selection::AtZeroAbove(_));
        let first = state.filter(looks_at_zeros).map(|state| state.dim.min(width));
        let note = |values: &[f32]| {
            if let Some(first) = first {
                let zero = |row: &[f32]| row[..first].iter().all(|value| *value == 0.0);
                split.note_at_zero(range, values.chunks_exact(width).map(zero));
            }
        };
        if codec == ValueCodec::F32 {
            note(<[f32]>::ref_from_bytes(body).expect("`wire::open` checked the length"));
            return Ok(None);
        }
        let dim = state.map_or(1, |state| state.dim);
        let columns = wire::columns(width, dim);
        let shape = RowShape { columns, dim: width / columns };
        let values = self.decoder.decode(codec, shape, asked.keys as usize, body)?;
        note(values);
        Ok(Some(values))
    }

    /// The body of a push of some grouped keys: the caller's deltas, or what they are coded as.
    ///
    /// - `deltas`: of all keys of the split, in the caller's order.
    pub(crate) fn push_body(
        &mut self,
        table: TableId,
        split: &Rc<Split>,
        range: Range<usize>,
        deltas: &Rc<Vec<f32>>,
    ) -> Body {
        let state = self.tables.get_mut(&table.get());
        let coded =
            state.filter(|state| state.way == Way::Coded && !state.codec.pushes_plain_values());
        let Some(state) = coded else {
            return Body::Deltas { split: Rc::clone(split), range, deltas: Rc::clone(deltas) };
        };
        let width = deltas.len() / split.keys_count();
        let positions = split.positions_at(range.clone());
        let deltas = match positions {
            Some(_) => deltas.as_slice(),
            None => &deltas[range.start * width..range.end * width],
        };
        let at_zero = split.at_zero();
        let (keys, start) = (split.keys_at(range.clone()), range.start);
        let shape = PushShape { keys, positions, width, start, at_zero: &at_zero };
        let mut values = self.spare.pop().unwrap_or_default();
        self.encoder.encode(state, shape, deltas, &mut values);
        drop(at_zero);
        Body::Coded { split: Rc::clone(split), range, values }
    }

    /// Keeps the buffers of coded values that nobody needs any more.
    pub(crate) fn recycle(&mut self, coded: CodedValues) {
        if self.spare.len() < CODED_POOLED_MAX {
            self.spare.push(coded);
        }
    }
}
