//! `model.json`: what a model directory holds.
//!
//! Owns the manifest's fields, its checks, and comparing a table with the one a run would make.
//! `data` and `trained` belong to the program: they are carried, never looked into.
//!
//! Invariant: in a manifest that was read, every part belongs to a table, is as long as its rows
//! make it, and lies in the directory; a table's rows are the sum of its parts'.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shard::rule::{PARAMETERS_MAX, TableSpec};
use worker::{Acknowledge, RowLife};

use super::ModelError;
use super::format::{ROW_WIDTH_MAX, file_bytes};
use super::weights::parameter_name;

/// The manifest's file in a model directory.
pub const MANIFEST_FILE: &str = "model.json";
/// The manifest's `format`.
pub const FORMAT: &str = "gradwire-model";
/// The manifest's `format_version`, and the only one that is read.
pub const FORMAT_VERSION: u32 = 1;

/// Longest manifest that is read: some hundred thousand parts.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;
const PART_PREFIX: &str = "part-";
const PART_SUFFIX: &str = ".rows";

/// What a model directory holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Version of the gradwire that wrote the model.
    pub gradwire: String,
    /// The learner that trained it, such as `lr`.
    pub learner: String,
    /// The model's tables. A part names its table by index.
    pub tables: Vec<TableManifest>,
    /// The files of rows.
    pub parts: Vec<Part>,
    /// How the input was read, so that a prediction can read its input the same way.
    pub data: Value,
    /// What was trained and how well: rows, epochs, losses.
    pub trained: Map<String, Value>,
}

/// One table of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableManifest {
    /// The table's name.
    pub name: String,
    /// The name of its rule.
    pub rule: String,
    /// Values a key.
    pub dim: u32,
    /// The rule's parameters, zeros after the last.
    pub parameters: [f32; PARAMETERS_MAX],
    /// Hash of the row's layout, as the table's definition has it.
    #[serde(with = "hex")]
    pub layout: u64,
    /// f32 a key: values and the optimizer's state.
    pub row_width: u32,
    /// Keys of the table, in all its parts.
    pub rows: u64,
}

/// One file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The file's name in the directory.
    pub file: String,
    /// The index of its table.
    pub table: u32,
    /// Keys in the file.
    pub rows: u64,
    /// The file's length.
    pub bytes: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

impl Manifest {
    /// A manifest without parts: [`super::ModelWriter::commit`] fills in `parts` and the tables'
    /// `rows`.
    pub fn new(learner: &str, tables: Vec<TableManifest>) -> Manifest {
        Manifest {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            gradwire: env!("CARGO_PKG_VERSION").to_owned(),
            learner: learner.to_owned(),
            tables,
            parts: Vec::new(),
            data: Value::Null,
            trained: Map::new(),
        }
    }

    /// Reads and checks the manifest of the model at `dir`.
    pub(super) fn read(dir: &Path) -> Result<Manifest, ModelError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = read_stamped(&path)?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| ModelError::json(&path, &error))?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let mut rows = vec![0_u64; self.tables.len()];
        for table in &self.tables {
            table.check(path)?;
        }
        let mut files = HashSet::new();
        for part in &self.parts {
            let bad_name =
                |what| ModelError::Name { path: path.to_owned(), what, name: part.file.clone() };
            if !is_part_file(&part.file) {
                return Err(bad_name("part"));
            }
            if !files.insert(&part.file) {
                return Err(bad_name("second part"));
            }
            let index = part.table as usize;
            let Some(table) = self.tables.get(index) else {
                let (path, tables) = (path.to_owned(), self.tables.len());
                return Err(ModelError::NoTable { path, index, tables });
            };
            let bytes = file_bytes(part.rows, table.row_width).unwrap_or(u64::MAX);
            let what = || format!("bytes of {}, by its {} rows", part.file, part.rows);
            ModelError::unless_equal(path, what, bytes, part.bytes)?;
            rows[index] = rows[index].saturating_add(part.rows);
        }
        for (table, rows) in self.tables.iter().zip(rows) {
            let what = || format!("rows of table {}, the sum of its parts'", table.name);
            ModelError::unless_equal(path, what, rows, table.rows)?;
        }
        Ok(())
    }
}

impl TableManifest {
    /// The table of this definition, without rows so far.
    ///
    /// - `row_width`: f32 a key as the shards keep it, [`ROW_WIDTH_MAX`] at most.
    pub fn of(spec: &TableSpec, row_width: u32) -> TableManifest {
        // How rows are kept is the job's to say, and no part of the model.
        let TableSpec {
            name,
            rule,
            dim,
            parameters,
            layout,
            life: _,
            acknowledge: _,
            aggregate: _,
        } = spec.clone();
        TableManifest { name, rule, dim, parameters, layout, row_width, rows: 0 }
    }

    /// The definition that makes this table again on a shard, where every row stays.
    pub fn spec(&self) -> TableSpec {
        let TableManifest { name, rule, dim, parameters, layout, .. } = self.clone();
        let (life, acknowledge) = (RowLife::default(), Acknowledge::Tail);
        TableSpec { name, rule, dim, parameters, layout, life, acknowledge, aggregate: false }
    }

    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let disagree = |what: &str, expected: u32, found: u32| {
            let what = format!("{what} of table {}", self.name);
            let (expected, found) = (u64::from(expected), u64::from(found));
            Err(ModelError::Disagree { path: path.to_owned(), what, expected, found })
        };
        if self.dim == 0 {
            return disagree("dim, at least,", 1, self.dim);
        }
        if self.row_width < self.dim {
            return disagree("row_width, at least its dim,", self.dim, self.row_width);
        }
        if self.row_width > ROW_WIDTH_MAX {
            return disagree("row_width, at most,", ROW_WIDTH_MAX, self.row_width);
        }
        Ok(())
    }
}

/// An error that names both sides, unless the model's table is what a run would make:
/// the same rule, dim, parameters and layout. The name may differ.
pub fn check_table(table: &TableManifest, run: &TableSpec) -> Result<(), ModelError> {
    let differ = |what: String, model: String, run: String| {
        Err(ModelError::TableDiffers { table: table.name.clone(), what, model, run })
    };
    if table.rule != run.rule {
        return differ("rule".to_owned(), table.rule.clone(), run.rule.clone());
    }
    if table.dim != run.dim {
        return differ("dim".to_owned(), table.dim.to_string(), run.dim.to_string());
    }
    for (index, (model, run)) in table.parameters.iter().zip(&run.parameters).enumerate() {
        if model.to_bits() != run.to_bits() {
            let what = format!("{} {}", table.rule, parameter_name(&table.rule, index));
            return differ(what, format!("{model:?}"), format!("{run:?}"));
        }
    }
    if table.layout != run.layout {
        let hex = |layout: u64| format!("{layout:#018x}");
        return differ("row layout".to_owned(), hex(table.layout), hex(run.layout));
    }
    Ok(())
}

/// The name of the part of this number.
pub(super) fn part_file(index: usize) -> String {
    format!("{PART_PREFIX}{index:05}{PART_SUFFIX}")
}

/// Whether a file of this name is a part: such a name stays in the directory.
pub(super) fn is_part_file(name: &str) -> bool {
    let number = name.strip_prefix(PART_PREFIX).and_then(|rest| rest.strip_suffix(PART_SUFFIX));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What every version of the manifest has.
#[derive(Deserialize)]
struct Stamp {
    format: String,
    format_version: u32,
}

/// Whether the file is some version's manifest of a gradwire model.
pub(super) fn is_manifest(path: &Path) -> bool {
    let stamp = read_bounded(path).map(|bytes| serde_json::from_slice(&bytes));
    matches!(stamp, Ok(Ok(Stamp { format, .. })) if format == FORMAT)
}

/// The bytes of a manifest whose format and version are the ones that are read here.
fn read_stamped(path: &Path) -> Result<Vec<u8>, ModelError> {
    let bytes = read_bounded(path)?;
    let stamp: Stamp =
        serde_json::from_slice(&bytes).map_err(|error| ModelError::json(path, &error))?;
    let (path, found) = (PathBuf::from(path), stamp.format_version);
    if stamp.format != FORMAT {
        return Err(ModelError::Format { path, expected: FORMAT, found: stamp.format });
    }
    if found != FORMAT_VERSION {
        return Err(ModelError::Version { path, expected: FORMAT_VERSION, found });
    }
    Ok(bytes)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ModelError::NoManifest { path: path.to_owned() },
        _ => ModelError::io("open", path)(error),
    })?;
    let mut bytes = Vec::new();
    let mut bounded = file.take(MANIFEST_BYTES_MAX + 1);
    bounded.read_to_end(&mut bytes).map_err(ModelError::io("read", path))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let (path, bytes_max) = (path.to_owned(), MANIFEST_BYTES_MAX);
        return Err(ModelError::ManifestTooLong { path, bytes_max });
    }
    Ok(bytes)
}

/// A u64 as a string of hexadecimal digits: as a number, other readers of JSON would round it.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{value:#018x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16)
            .map_err(|error| D::Error::custom(format_args!("layout {text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{saved, table};
    use super::*;
    use proptest::prelude::*;
    use shard::rule::{Ftrl, table_spec};
    use std::fs;

    fn changed(from: &str, to: &str) -> Result<Manifest, ModelError> {
        let dir = saved(2);
        let path = dir.path().join("m").join(MANIFEST_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        Manifest::read(&dir.path().join("m"))
    }

    #[test]
    fn a_manifest_of_another_format_or_version_is_refused_with_both_named() {
        let error = changed("gradwire-model", "other").unwrap_err();
        assert!(matches!(error, ModelError::Format { ref found, .. } if found == "other"));
        let error = changed("\"format_version\": 1", "\"format_version\": 9").unwrap_err();
        assert!(matches!(error, ModelError::Version { expected: 1, found: 9, .. }));
        assert!(error.to_string().ends_with("has format version 9, this gradwire reads 1"));
    }

    #[test]
    fn a_manifest_whose_numbers_disagree_is_refused() {
        for (from, to) in [
            ("\"rows\": 2", "\"rows\": 3"),
            ("\"row_width\": 2", "\"row_width\": 3"),
            ("\"row_width\": 2", "\"row_width\": 0"),
            ("\"row_width\": 2", "\"row_width\": 4000000000"),
            ("\"dim\": 1", "\"dim\": 0"),
            ("\"table\": 0", "\"table\": 1"),
            ("part-00000.rows", "../part-00000.rows"),
            ("part-00000.rows", "/etc/passwd"),
            ("0x", "zz"),
            ("{", "["),
        ] {
            let error = changed(from, to).expect_err(to);
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_table_of_another_alpha_is_refused_with_both_named() {
        let run = Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0 };
        let error = check_table(&table(), &table_spec("w", 1, &run)).unwrap_err().to_string();
        assert_eq!(
            error,
            "table weights: the model has ftrl alpha 0.2, this run wants ftrl alpha 0.1"
        );
        assert_eq!(check_table(&table(), &table().spec()), Ok(()));
    }

    #[test]
    fn a_table_of_another_dim_rule_or_layout_is_refused() {
        for change in [
            |spec: &mut TableSpec| spec.dim = 2,
            |spec: &mut TableSpec| spec.rule = "sgd".to_owned(),
            |spec: &mut TableSpec| spec.layout ^= 1,
        ] {
            let mut spec = table().spec();
            change(&mut spec);
            let refused = check_table(&table(), &spec);
            assert!(matches!(refused, Err(ModelError::TableDiffers { .. })));
        }
    }

    proptest! {
        #[test]
        fn parameters_and_layout_come_back_with_their_bits(
            parameters in proptest::array::uniform8(-1e20_f32..1e20), layout: u64,
        ) {
            let table = TableManifest { parameters, layout, ..table() };
            let text = serde_json::to_string(&table).unwrap();
            prop_assert_eq!(serde_json::from_str::<TableManifest>(&text).unwrap(), table);
        }
    }
}
