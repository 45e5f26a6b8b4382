//! What a source shall read: the settings of a pass over data.
//!
//! Owns the words of the specification and their defaults. Opening files is left to `source`.
//!
//! Invariant: two processes with equal specifications number rows and batches alike, so that
//! they may share the batches by number.

use serde::{Deserialize, Serialize};

use super::csr::Intercept;
use super::error::{DataError, Reason};

/// Rows a batch holds unless told otherwise.
pub const BATCH_ROWS_DEFAULT: usize = 1000;
/// Most rows a batch may hold.
pub const BATCH_ROWS_MAX: usize = 1 << 20;
/// Most parser threads of one source.
pub const PARSERS_MAX: usize = 64;

/// A pass over data: what is read, how, and which of its rows are delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceSpec {
    /// Paths, patterns such as `day_*.tsv.gz`, or one generator such as
    /// `gen:criteo?rows=1000000&seed=1&zipf=1.05`. Rows are numbered on across all of them, in
    /// this order; the files of a pattern go by name.
    pub inputs: Vec<String>,
    /// Their format. None: told by the first file's name, else by its first line.
    pub format: Option<Format>,
    /// What the columns of CSV, Parquet and Criteo mean. The label rule holds for every format.
    pub columns: ColumnSpec,
    /// Rows of the source that each batch is cut from, 1 to [`BATCH_ROWS_MAX`].
    pub batch_rows: usize,
    /// Parser threads, 1 to [`PARSERS_MAX`], beside the one that reads and unpacks.
    pub parsers: usize,
    /// What happens at a row that cannot be used.
    pub bad_rows: BadRows,
    /// Share of the rows that take part at all, 0 to 1.
    pub portion: f64,
    /// What a row's draws for the hold-out and the portion go by.
    pub draw: Draw,
    /// Which side of the hold-out the rows are from.
    pub part: Part,
    /// Share of the rows that are held out for `Part::Test`, 0 to 1. `Part::All` ignores it.
    pub holdout: f64,
    /// Whether each row gets a constant feature.
    pub intercept: Intercept,
    /// Whether a row must have a label.
    pub labels: Labels,
}

impl Default for SourceSpec {
    fn default() -> SourceSpec {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        SourceSpec {
            inputs: Vec::new(),
            format: None,
            columns: ColumnSpec::default(),
            batch_rows: BATCH_ROWS_DEFAULT,
            parsers: cores.min(PARSERS_MAX),
            bad_rows: BadRows::Fail,
            portion: 1.0,
            draw: Draw::Number,
            part: Part::All,
            holdout: 0.1,
            intercept: Intercept::Append,
            labels: Labels::Required,
        }
    }
}

impl SourceSpec {
    /// Checks what needs no file. Fractions are checked where they are used, by `Selection`.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let range = |name, value: usize, max: usize| {
            let message = format!("expected 1 to {max}, found {value}");
            let good = (1..=max).contains(&value);
            if good { Ok(()) } else { Err(DataError::Setting { name, message }) }
        };
        range("batch_rows", self.batch_rows, BATCH_ROWS_MAX)?;
        range("parsers", self.parsers, PARSERS_MAX)?;
        if let LabelRule::Above(threshold) = self.columns.label_rule
            && !threshold.is_finite()
        {
            let message = format!("expected a finite threshold, found {threshold}");
            return Err(DataError::Setting { name: "label", message });
        }
        Ok(())
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Vowpal Wabbit: `label [importance [base]] ['tag]|namespace name[:value] ...`.
    Vw,
    /// LibSVM: `label [qid:n] number:value ... [# comment]`.
    LibSvm,
    /// Comma-separated, with a header.
    Csv,
    /// Tab-separated, with a header.
    Tsv,
    /// Criteo's: tab-separated, no header: label, 13 integers, 26 categories.
    Criteo,
    /// Parquet.
    Parquet,
}

impl Format {
    /// The format's name, as settings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Vw => "vw",
            Format::LibSvm => "libsvm",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Criteo => "criteo",
            Format::Parquet => "parquet",
        }
    }
}

/// What columns mean. A column is named in one list at most.
///
/// A column in no list is a category if it holds text or whole numbers, and a number if it holds
/// numbers with a point or an exponent: Parquet says so by its type, CSV by its first rows.
/// [`Source::columns`](super::Source::columns) tells what was decided: keep it with the model, so
/// that other files are read alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnSpec {
    /// The column of the label. None: `label`, `click` or `y`, whichever comes first; else, where
    /// labels are required, the first column.
    pub label: Option<String>,
    /// How the label becomes 0 or 1.
    pub label_rule: LabelRule,
    /// Columns of categories: a value's key is `feature_key(column, value as text)`.
    pub categorical: Vec<String>,
    /// Columns of numbers: the key is `feature_key(column, "")`, the number is the value.
    pub numeric: Vec<String>,
    /// Columns of whole numbers, such as counts, whose categories are powers: floor((log2 n)²) for
    /// n above 2, and n itself for the others.
    pub bucketed: Vec<String>,
    /// Columns that are left out.
    pub ignored: Vec<String>,
}

/// How a label becomes 0 or 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelRule {
    /// 0 and -1 become 0, 1 stays. Anything else is a bad row.
    #[default]
    Binary,
    /// A number above this one becomes 1, any other 0.
    Above(f64),
}

impl LabelRule {
    /// 0.0 or 1.0 for what stands in the data.
    #[inline]
    pub(crate) fn apply(self, value: f64) -> Result<f32, Reason> {
        if !value.is_finite() {
            return Err(Reason::NotFinite { what: "the label" });
        }
        match self {
            LabelRule::Above(threshold) => Ok(f32::from(value > threshold)),
            LabelRule::Binary if value == 1.0 => Ok(1.0),
            LabelRule::Binary if value == 0.0 || value == -1.0 => Ok(0.0),
            LabelRule::Binary => Err(Reason::Label { value: value as f32 }),
        }
    }
}

/// What happens at a row that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// The source ends with the row's error.
    #[default]
    Fail,
    /// That many are left out and counted; the next one ends the source.
    Skip(u64),
}

impl BadRows {
    pub(crate) fn allowed(self) -> u64 {
        match self {
            BadRows::Fail => 0,
            BadRows::Skip(allowed) => allowed,
        }
    }
}

/// What a row is drawn by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// Its number in the source.
    #[default]
    Number,
    /// Its place, which is known without reading what comes before: of text, which of the source's
    /// files it lies in and at which byte of it, unpacked; of others its number.
    Place,
}

/// Which side of the hold-out a pass reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Both sides.
    #[default]
    All,
    /// What is not held out. At its end, a source that gave no row or one class only is an error;
    /// to train on everything, hold out 0.
    Train,
    /// What is held out.
    Test,
}

/// Whether a row must have a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// A row without one is a bad row.
    #[default]
    Required,
    /// A row without one gets the label NaN.
    Optional,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named_with_both_numbers() {
        let message = |spec: SourceSpec| spec.check().unwrap_err().to_string();
        let spec = SourceSpec::default();
        assert_eq!(spec.check(), Ok(()));
        assert_eq!(
            message(SourceSpec { batch_rows: 0, ..spec.clone() }),
            "batch_rows: expected 1 to 1048576, found 0"
        );
        assert_eq!(
            message(SourceSpec { parsers: 65, ..spec.clone() }),
            "parsers: expected 1 to 64, found 65"
        );
    }

    #[test]
    fn a_specification_travels_through_json_and_what_is_left_out_has_its_default() {
        let spec = SourceSpec {
            bad_rows: BadRows::Skip(5),
            part: Part::Train,
            columns: ColumnSpec { label_rule: LabelRule::Above(15.0), ..ColumnSpec::default() },
            ..SourceSpec::default()
        };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<SourceSpec>(&json).unwrap(), spec);
        assert_eq!(serde_json::from_str::<SourceSpec>("{}").unwrap(), SourceSpec::default());
    }

    #[test]
    fn labels_are_minus_one_zero_one_or_above_a_threshold() {
        let binary = |value| LabelRule::Binary.apply(value);
        assert_eq!((binary(-1.0), binary(0.0), binary(1.0)), (Ok(0.0), Ok(0.0), Ok(1.0)));
        assert_eq!(binary(2.0), Err(Reason::Label { value: 2.0 }));
        assert_eq!(binary(f64::NAN), Err(Reason::NotFinite { what: "the label" }));
        assert_eq!(LabelRule::Above(15.0).apply(15.0), Ok(0.0));
        assert_eq!(LabelRule::Above(15.0).apply(15.5), Ok(1.0));
    }
}
