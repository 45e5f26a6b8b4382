//! Which format a source has, and what its columns mean.
//!
//! Owns telling the format by name or by content, and the choice of the row parser. Reading rows is
//! left to the formats.
//!
//! Invariant: one source has one layout, taken from its first file.

use std::sync::Arc;

use super::delimited::{self, Dialect};
use super::error::DataError;
use super::libsvm;
use super::plan::{Action, plan};
use super::spec::{ColumnSpec, Format, SourceSpec};
use super::text::{LineRules, Quotes, first_line};

/// How the rows of a text source are read.
#[derive(Clone, Debug)]
pub(crate) enum RowFormat {
    Vw,
    LibSvm,
    Delimited { dialect: Dialect, actions: Arc<[Action]> },
}

/// All that is decided before the first row of a text source.
pub(crate) struct Layout {
    pub(crate) rows: RowFormat,
    pub(crate) rules: LineRules,
    /// What the columns mean, if the format has columns.
    pub(crate) columns: Option<ColumnSpec>,
}

/// The layout of a text source of `format` whose first file is `path` and starts with `head`.
pub(crate) fn text_layout(
    format: Format,
    spec: &SourceSpec,
    path: &Arc<str>,
    head: &[u8],
) -> Result<Layout, DataError> {
    let rules = LineRules::default();
    match format {
        Format::Vw => Ok(Layout { rows: RowFormat::Vw, rules, columns: None }),
        Format::LibSvm => {
            let rules = LineRules { comment: Some(libsvm::COMMENT), ..rules };
            Ok(Layout { rows: RowFormat::LibSvm, rules, columns: None })
        }
        Format::Csv => with_header(Dialect::CSV, spec, path, head),
        Format::Tsv => with_header(Dialect::TSV, spec, path, head),
        Format::Criteo => criteo(spec, path, head),
        Format::Parquet => panic!("Parquet is no text: Source::open reads it by `table`"),
    }
}

fn with_header(
    dialect: Dialect,
    spec: &SourceSpec,
    path: &Arc<str>,
    head: &[u8],
) -> Result<Layout, DataError> {
    let (names, kinds, header) = delimited::probe(head, dialect);
    if names.is_empty() || header.is_empty() {
        return Err(DataError::Empty { path: path.clone() });
    }
    let plan = plan(&names, &kinds, &spec.columns, spec.labels)
        .map_err(|message| DataError::Header { path: path.clone(), message })?;
    Ok(Layout {
        rows: RowFormat::Delimited { dialect, actions: plan.actions.into() },
        rules: LineRules { comment: None, quotes: dialect.quotes, header: Some(header.into()) },
        columns: Some(plan.columns),
    })
}

/// Criteo's columns have fixed names and kinds; the specification can still leave some out.
fn criteo(spec: &SourceSpec, path: &Arc<str>, head: &[u8]) -> Result<Layout, DataError> {
    let names = delimited::criteo_names(head);
    let mut columns = spec.columns.clone();
    let lists = [&columns.categorical, &columns.numeric, &columns.bucketed, &columns.ignored];
    let is_listed = |name: &&String| lists.iter().any(|list| list.contains(name));
    let integers = names.iter().filter(|name| name.starts_with('i') && !is_listed(name));
    let integers: Vec<String> = integers.cloned().collect();
    columns.bucketed.extend(integers);
    let kinds = vec![super::plan::Kind::Text; names.len()];
    let plan = plan(&names, &kinds, &columns, spec.labels)
        .map_err(|message| DataError::Header { path: path.clone(), message })?;
    let dialect = Dialect::CRITEO;
    let rows = RowFormat::Delimited { dialect, actions: plan.actions.into() };
    Ok(Layout { rows, rules: LineRules::default(), columns: Some(plan.columns) })
}

/// The format that a file's name tells. The endings of packers are passed over.
pub(crate) fn format_of_name(path: &str) -> Option<Format> {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let packed = [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending));
    match packed.unwrap_or(&name).rsplit_once('.')?.1 {
        "vw" => Some(Format::Vw),
        "libsvm" | "svm" | "svmlight" => Some(Format::LibSvm),
        "csv" => Some(Format::Csv),
        "criteo" => Some(Format::Criteo),
        "parquet" => Some(Format::Parquet),
        _ => None, // "tsv" too: Criteo's files are called so.
    }
}

/// The format that the first line of `head` looks like.
pub(crate) fn format_of_text(head: &[u8]) -> Option<Format> {
    let (line, _) = first_line(head, Quotes::Plain);
    let mut tokens = line.split(|&byte| byte <= b' ').filter(|token| !token.is_empty());
    let is_pair = |token: &[u8]| {
        let digits = token.iter().take_while(|byte| byte.is_ascii_digit()).count();
        digits > 0 && token.get(digits) == Some(&b':')
    };
    if delimited::is_criteo(line) {
        Some(Format::Criteo)
    } else if line.contains(&b'\t') {
        Some(Format::Tsv)
    } else if line.contains(&b'|') {
        Some(Format::Vw)
    } else if tokens.nth(1).is_some_and(is_pair) || line.starts_with(&[libsvm::COMMENT]) {
        Some(Format::LibSvm)
    } else if line.contains(&b',') {
        Some(Format::Csv)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_format_under_its_packing() {
        assert_eq!(format_of_name("/a.csv/train.vw.zst"), Some(Format::Vw));
        assert_eq!(format_of_name("a9a.SVM.gz"), Some(Format::LibSvm));
        assert_eq!(format_of_name("day_0.csv"), Some(Format::Csv));
        assert_eq!(format_of_name("day_0.gz"), None);
        assert_eq!(format_of_name("train.tsv"), None);
    }

    #[test]
    fn a_first_line_tells_the_format() {
        assert_eq!(format_of_text(b"\n1 |f a b\n"), Some(Format::Vw));
        assert_eq!(format_of_text(b"-1 3:1 4:1\n"), Some(Format::LibSvm));
        assert_eq!(format_of_text(b"# made by hand\n-1 3:1\n"), Some(Format::LibSvm));
        assert_eq!(format_of_text(b"label,a,b\n"), Some(Format::Csv));
        assert_eq!(format_of_text(b"label\ta\tb\n"), Some(Format::Tsv));
        assert_eq!(format_of_text("0\t".repeat(39).as_bytes()), Some(Format::Criteo));
        assert_eq!(format_of_text(b"hello\n"), None);
    }
}
