//! The body of a table's definition: name, rule, shape, parameters.
//!
//! Owns the layout, the bounds of the names, and [`TableSpec`]. What a rule makes of its
//! parameters is left to `shard`, how rows come and go to `life`.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::acknowledge::Acknowledge;
use crate::life::{KeyAdmission, LifeLayout, RowLife, RowLifeError};

/// The longest name of a table or rule, in bytes of UTF-8.
pub const TABLE_NAME_BYTES_MAX: usize = 48;

/// How many parameters a rule may have.
pub const PARAMETERS_MAX: usize = 8;

/// The largest dim and one more: it has three bytes.
const DIM_END: u32 = 1 << 24;

/// Size of a definition's body in bytes.
pub const DEFINE_BODY_BYTES: usize = 152;

/// What a table is. Two servers that agree on it hold the same bytes for the same pushes.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSpec {
    /// The table's name, 1 to [`TABLE_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The rule's name, 1 to [`TABLE_NAME_BYTES_MAX`] bytes.
    pub rule: String,
    /// Values a key, at least 1 and below 2^24.
    pub dim: u32,
    /// The rule's parameters in its own order; what it does not use is zero.
    pub parameters: [f32; PARAMETERS_MAX],
    /// Hash of the row's layout, so that a row is never read as another shape.
    pub layout: u64,
    /// When its rows begin and end.
    pub life: RowLife,
    /// Where its pushes are acknowledged.
    pub acknowledge: Acknowledge,
    /// Whether a chain's head adds up the pushes of different workers before it applies and passes
    /// them on: rows then see sums, and chains fewer operations.
    pub aggregate: bool,
}

/// Why a table cannot be named so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TableSpecError {
    /// A name is empty or longer than [`TABLE_NAME_BYTES_MAX`].
    NameLength {
        /// Its length.
        bytes: usize,
    },
    /// The dim is zero, or does not fit its three bytes.
    Dim {
        /// What it is.
        found: u32,
    },
    /// Rows cannot come and go so.
    Life(RowLifeError),
    /// Its pushes cannot be aggregated.
    Aggregate(AggregateError),
}

/// Why pushes of a table cannot be aggregated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateError {
    /// New keys are admitted by how often, or when, they are pushed, which a sum no longer tells.
    Admission,
    /// The head acknowledges pushes before others have them: there is nothing to wait for.
    AtHead,
}

impl fmt::Display for TableSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableSpecError::NameLength { bytes } => write!(
                f,
                "a name of {bytes} bytes; a table's or rule's name has 1 to {TABLE_NAME_BYTES_MAX}"
            ),
            TableSpecError::Dim { found } => {
                write!(f, "a table of dim {found}; at least 1 is needed, and below {DIM_END}")
            }
            TableSpecError::Life(error) => error.fmt(f),
            TableSpecError::Aggregate(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TableSpecError {}

impl fmt::Display for AggregateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AggregateError::Admission => {
                "a table whose pushes are aggregated admits all keys: of a sum it is not known how \
                 often a key was pushed"
            }
            AggregateError::AtHead => {
                "a table whose pushes are aggregated has its tail acknowledge them"
            }
        })
    }
}

impl std::error::Error for AggregateError {}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    name: [u8; TABLE_NAME_BYTES_MAX],
    rule: [u8; TABLE_NAME_BYTES_MAX],
    parameters: [f32; PARAMETERS_MAX],
    layout: u64,
    /// Little-endian.
    dim: [u8; 3],
    /// [`Acknowledge`], and [`AGGREGATE`]. Was the last byte of `dim`, and 0, when there was no
    /// choice.
    replication: u8,
    announced: Announced,
    life: LifeLayout,
}

const _: () = assert!(size_of::<Layout>() == DEFINE_BODY_BYTES);

/// In [`Layout::replication`]: pushes are aggregated.
const AGGREGATE: u8 = 2;

/// How the sender of a definition will write its pushes and pulls of the table: one encoding each,
/// as numbers that a shard may not know. A shard that does not refuses the definition.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Announced {
    /// An [`Encoding`](crate::Encoding) of pushes.
    pub push: u8,
    /// An [`Encoding`](crate::Encoding) of pulls and their answers.
    pub pull: u8,
}

/// A table's definition as a message body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Define {
    bytes: [u8; DEFINE_BODY_BYTES],
}

impl Define {
    /// The body that defines a table so.
    ///
    /// - `announced`: how this sender will write its pushes and pulls of the table. It is no part
    ///   of the table: workers may differ in it.
    /// - Errors: a name is empty or too long, the dim is out of range, or rows cannot come and go
    ///   so.
    pub fn new(spec: &TableSpec, announced: Announced) -> Result<Define, TableSpecError> {
        if !(1..DIM_END).contains(&spec.dim) {
            return Err(TableSpecError::Dim { found: spec.dim });
        }
        let [low, middle, high, _] = spec.dim.to_le_bytes();
        spec.life.check().map_err(TableSpecError::Life)?;
        spec.check_aggregate().map_err(TableSpecError::Aggregate)?;
        let aggregate = if spec.aggregate { AGGREGATE } else { 0 };
        let layout = Layout {
            name: pad(&spec.name)?,
            rule: pad(&spec.rule)?,
            parameters: spec.parameters,
            layout: spec.layout,
            dim: [low, middle, high],
            replication: spec.acknowledge.to_u8() | aggregate,
            announced,
            life: LifeLayout::of(&spec.life),
        };
        Ok(Define { bytes: zerocopy::transmute!(layout) })
    }

    /// The body's bytes.
    pub fn as_bytes(&self) -> &[u8; DEFINE_BODY_BYTES] {
        &self.bytes
    }
}

impl TableSpec {
    /// Whether its pushes are not aggregated, or can be.
    fn check_aggregate(&self) -> Result<(), AggregateError> {
        match (self.aggregate, self.acknowledge, self.life.admission) {
            (false, ..) | (true, Acknowledge::Tail, KeyAdmission::All) => Ok(()),
            (true, Acknowledge::Head, _) => Err(AggregateError::AtHead),
            (true, ..) => Err(AggregateError::Admission),
        }
    }

    /// Reads a definition's body; the error names the field that is out of range.
    pub fn from_bytes(bytes: &[u8]) -> Result<(TableSpec, Announced), &'static str> {
        let layout = Layout::read_from_bytes(bytes).map_err(|_| "define")?;
        let [low, middle, high] = layout.dim;
        let dim = u32::from_le_bytes([low, middle, high, 0]);
        if dim == 0 {
            return Err("dim");
        }
        let spec = TableSpec {
            name: unpad(&layout.name).ok_or("name")?,
            rule: unpad(&layout.rule).ok_or("rule")?,
            dim,
            parameters: layout.parameters,
            layout: layout.layout,
            life: layout.life.read()?,
            acknowledge: Acknowledge::from_u8(layout.replication & !AGGREGATE)
                .ok_or("acknowledge")?,
            aggregate: layout.replication & AGGREGATE != 0,
        };
        spec.check_aggregate().map_err(|_| "aggregate")?;
        Ok((spec, layout.announced))
    }
}

fn pad(name: &str) -> Result<[u8; TABLE_NAME_BYTES_MAX], TableSpecError> {
    let bytes = name.len();
    if bytes == 0 || bytes > TABLE_NAME_BYTES_MAX {
        return Err(TableSpecError::NameLength { bytes });
    }
    let mut padded = [0; TABLE_NAME_BYTES_MAX];
    padded[..bytes].copy_from_slice(name.as_bytes());
    Ok(padded)
}

fn unpad(padded: &[u8; TABLE_NAME_BYTES_MAX]) -> Option<String> {
    let bytes = padded.iter().position(|&b| b == 0).unwrap_or(TABLE_NAME_BYTES_MAX);
    let rest_is_zero = padded[bytes..].iter().all(|&b| b == 0);
    let name = std::str::from_utf8(&padded[..bytes]).ok()?;
    (bytes > 0 && rest_is_zero).then(|| name.to_owned())
}
