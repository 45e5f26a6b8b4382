//! The manifest: the object that makes a checkpoint one, and says what it is made of.
//!
//! Owns its fields and its text: a line of JSON, and a line with the JSON line's sum. Both end with
//! a newline, and nothing follows. That much stands in every format, so that an older gradwire
//! tells a newer manifest from a damaged one.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use wire::{Clock, Epoch, ShardId, StoredValues};

use crate::error::Broken;
use crate::layout::{CheckpointNumber, Object, is_part_file};
use crate::sum::Sum;

/// The newest format: that of checkpoints with numbers that were rounded, and of their parts. This
/// build reads it and those before.
pub const FORMAT: u32 = 3;

/// The format of checkpoints of changes with numbers as they are.
pub(crate) const FORMAT_CHANGES: u32 = 2;

/// The format of checkpoints that have everything as it is, and of parts with numbers as they are.
pub(crate) const FORMAT_FULL: u32 = 1;

/// The most checkpoints that one may stand for: changes, those before them, and so on to one that
/// has everything.
pub const LINE_MAX: u32 = 64;

/// The longest manifest, in bytes: some 300 a part, and 65536 shards at most.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

const SUM_NAME: &str = "xxh3-128 ";

/// A cluster's 64-bit name; never given twice. 16 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterId(u64);

impl ClusterId {
    /// Names the cluster with this number.
    pub const fn new(raw: u64) -> ClusterId {
        ClusterId(raw)
    }

    /// The number, as it stands in a part.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Whose checkpoint this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// What people call it.
    pub name: String,
    /// Its own number.
    pub id: ClusterId,
}

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Everything: it needs no other one.
    Full,
    /// Of some shards only what has changed since this one, which has to be read before.
    ChangesSince(CheckpointNumber),
}

/// What a table is, for people; its parts hold what is to be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableNote {
    /// Its name.
    pub name: String,
    /// The name of its rule.
    pub rule: String,
}

/// A part as its writer left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// The shard that it holds.
    pub shard: ShardId,
    /// Its object's name in the folder of the checkpoint.
    pub object: String,
    /// Its length, header included.
    pub bytes: u64,
    /// Its blocks.
    pub blocks: u64,
    /// Its messages.
    pub messages: u64,
    /// Root over the sums of its header and its blocks.
    pub root: Sum,
    /// Rows that the shard has after the last message.
    pub rows: u64,
    /// The shard's position after the last message: how many operations it had applied.
    pub position: u64,
    /// The checkpoint since which it has the changes; none: it has everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<CheckpointNumber>,
    /// The order of its rows, if it is known: a shard whose tables have the same one takes them in
    /// fastest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How numbers of rows are written that their rule lets be rounded; as they are, if nothing is
    /// said.
    #[serde(default, skip_serializing_if = "StoredValues::is_exact")]
    pub values: StoredValues,
}

/// What a checkpoint is made of. Its checkpoint is whole if each part is what is said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format; that of each part is this one or an earlier one.
    pub format: u32,
    /// The gradwire that wrote it.
    pub gradwire: String,
    /// Its number.
    pub number: CheckpointNumber,
    /// Whose it is.
    pub cluster: Cluster,
    /// What it holds.
    pub content: Content,
    /// The cluster's epoch when it was published.
    pub epoch: Epoch,
    /// The job's slowest clock, if it counts clocks.
    pub clock: Option<Clock>,
    /// When it was published, in seconds since 1970 by the publisher's clock: for people.
    pub created_s: u64,
    /// Shards of the cluster, each of which has one part.
    pub shards: u16,
    /// By shard: its part.
    pub parts: Vec<PartEntry>,
    /// The tables, for people.
    pub tables: Vec<TableNote>,
}

impl Manifest {
    /// Length of all parts together, in bytes.
    pub fn part_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    /// Rows of all shards together.
    pub fn rows(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.rows))
    }

    /// How numbers of rows are written: of all parts the way that says least.
    pub fn values(&self) -> StoredValues {
        self.parts.iter().map(|part| part.values).max().unwrap_or_default()
    }

    /// The checkpoint that has to be read before this one.
    pub fn base(&self) -> Option<CheckpointNumber> {
        match self.content {
            Content::Full => None,
            Content::ChangesSince(base) => Some(base),
        }
    }

    /// The text of the manifest.
    pub(crate) fn to_text(&self) -> String {
        let json = serde_json::to_string(self).expect("names are strings, numbers are finite");
        closed(json)
    }

    /// Reads the text at checkpoint `number`.
    ///
    /// - Errors: it is damaged, cut off, of a newer format, of another number, a mark that the
    ///   checkpoint was given up, or does not make sense.
    pub(crate) fn from_text(
        text: &[u8],
        number: CheckpointNumber,
        object: impl Fn() -> String,
    ) -> Result<Manifest, Broken> {
        let shape = |offset, what| Broken::Shape { object: object(), offset, what };
        let json = opened(text, &object)?;
        if json == abandoned_json(number).as_bytes() {
            return Err(Broken::Abandoned { object: object() });
        }
        let format = serde_json::from_slice::<FormatOnly>(json);
        let format = format.map_err(|_| shape(0, "a manifest without a format"))?.format;
        if format > FORMAT {
            return Err(Broken::Newer { object: object(), format });
        }
        let manifest: Manifest = serde_json::from_slice(json)
            .map_err(|error| shape(error.column() as u64, "fields are missing, or not known"))?;
        if manifest.number != number {
            let (expected, found) = (number, manifest.number);
            return Err(Broken::OtherNumber { object: object(), expected, found });
        }
        let shards = (0..manifest.shards).map(ShardId::new);
        let entries = manifest.parts.iter().map(|part| part.shard);
        if manifest.shards == 0 || !shards.eq(entries) {
            return Err(shape(0, "its parts are not one for each shard"));
        }
        if !manifest.parts.iter().all(|part| is_part_file(&part.object, part.shard)) {
            return Err(shape(0, "a part has a name that is no part's"));
        }
        let base = manifest.base();
        if base.is_some_and(|base| base >= number)
            || manifest.parts.iter().any(|part| part.base.is_some() && part.base != base)
        {
            return Err(shape(0, "it has changes since what is none before it"));
        }
        Ok(manifest)
    }

    /// The object of a part.
    pub(crate) fn object(&self, part: &PartEntry) -> Object {
        Object { number: self.number, file: part.object.clone() }
    }
}

/// The text that stands where the manifest would, so that none can be published any more.
pub(crate) fn abandoned_text(number: CheckpointNumber) -> String {
    closed(abandoned_json(number))
}

/// A JSON line and the line of its sum.
fn closed(mut text: String) -> String {
    text.push('\n');
    let sum = Sum::of(text.as_bytes());
    text + SUM_NAME + &sum.to_string() + "\n"
}

/// The JSON line of a text whose sum holds, without its newline.
fn opened<'a>(text: &'a [u8], object: &impl Fn() -> String) -> Result<&'a [u8], Broken> {
    let shape = |offset, what| Broken::Shape { object: object(), offset: offset as u64, what };
    let Some(line) = text.iter().position(|&byte| byte == b'\n').map(|at| at + 1) else {
        return Err(shape(text.len(), "it ends in its first line"));
    };
    let (json, rest) = text.split_at(line);
    let promised = str::from_utf8(rest).ok();
    let promised = promised.and_then(|rest| rest.strip_prefix(SUM_NAME)?.strip_suffix('\n'));
    let Some(promised) = promised.and_then(Sum::from_text) else {
        return Err(shape(line, "no checksum in its second line"));
    };
    let computed = Sum::of(json);
    if promised != computed {
        let (object, bytes) = (object(), text.len() as u64);
        return Err(Broken::Damaged { object, offset: 0, bytes, promised, computed });
    }
    Ok(&json[..line - 1])
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// The JSON of the mark.
fn abandoned_json(number: CheckpointNumber) -> String {
    format!("{{\"abandoned\":{}}}", number.get())
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {:016x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ClusterId, D::Error> {
        let text = String::deserialize(deserializer)?;
        let id = u64::from_str_radix(&text, 16).ok().filter(|id| format!("{id:016x}") == text);
        let wrong = || de::Error::custom(format!("'{text}' is no 16 hexadecimal digits"));
        id.map(ClusterId).ok_or_else(wrong)
    }
}
