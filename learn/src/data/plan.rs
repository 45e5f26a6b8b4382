//! What is done with each column of a table.
//!
//! Owns the decision, from names and from what columns hold, and the keys of cells. Cutting rows
//! into cells is left to `delimited` and `table`.
//!
//! Invariant: a cell's key depends on its column's name and its text alone, so the same table gives
//! the same keys as CSV and as Parquet.

use super::hash::{hash_bytes, hash_word, key_of, namespace_seed};
use super::spec::{ColumnSpec, Labels};

/// The names under which a label is looked for, where none is given.
const LABEL_NAMES: [&str; 3] = ["label", "click", "y"];

/// What one column's cells become. A cell without a value becomes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Ignore,
    Label,
    Category { seed: u64 },
    Number { key: u64 },
    Bucket { seed: u64 },
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Whole,
    Real,
}

/// The decision for all columns of a table.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// The same in words, with every column in a list.
    pub(crate) columns: ColumnSpec,
}

/// Decides for columns of these names and kinds. The error is a message about the header.
pub(crate) fn plan(
    names: &[String],
    kinds: &[Kind],
    spec: &ColumnSpec,
    labels: Labels,
) -> Result<Plan, String> {
    assert_eq!(names.len(), kinds.len());
    check_names(names, spec)?;
    let label = label_index(names, spec, labels)?;
    let mut columns = ColumnSpec {
        label: label.map(|index| names[index].clone()),
        label_rule: spec.label_rule,
        ..ColumnSpec::default()
    };
    let decide = |(index, (name, kind)): (usize, (&String, &Kind))| {
        let is_in = |list: &[String]| list.contains(name);
        let seed = namespace_seed(name.as_bytes());
        let (action, list) = if label == Some(index) {
            return Action::Label;
        } else if is_in(&spec.ignored) {
            (Action::Ignore, &mut columns.ignored)
        } else if is_in(&spec.bucketed) {
            (Action::Bucket { seed }, &mut columns.bucketed)
        } else if is_in(&spec.numeric) || (*kind == Kind::Real && !is_in(&spec.categorical)) {
            (Action::Number { key: number_key(seed) }, &mut columns.numeric)
        } else {
            (Action::Category { seed }, &mut columns.categorical)
        };
        list.push(name.clone());
        action
    };
    let actions = names.iter().zip(kinds).enumerate().map(decide).collect();
    Ok(Plan { actions, columns })
}

fn check_names(names: &[String], spec: &ColumnSpec) -> Result<(), String> {
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(format!("column '{name}' occurs twice (is the first line a header?)"));
        }
    }
    let lists = [&spec.categorical, &spec.numeric, &spec.bucketed, &spec.ignored];
    let named: Vec<&String> = lists.into_iter().flatten().chain(&spec.label).collect();
    for (index, name) in named.iter().enumerate() {
        if named[..index].contains(name) {
            return Err(format!("column '{name}' is named twice in the settings"));
        }
        let is_label = spec.label.as_ref() == Some(name); // `label_index` looks after it.
        if !is_label && !names.contains(name) {
            return Err(format!("no column '{name}' among {}", quoted(names)));
        }
    }
    Ok(())
}

fn label_index(
    names: &[String],
    spec: &ColumnSpec,
    labels: Labels,
) -> Result<Option<usize>, String> {
    let find = |wanted: &str| names.iter().position(|name| name == wanted);
    match (&spec.label, labels) {
        (Some(name), Labels::Optional) => Ok(find(name)),
        (Some(name), Labels::Required) => {
            let missing = || format!("no label column '{name}' among {}", quoted(names));
            find(name).map(Some).ok_or_else(missing)
        }
        (None, Labels::Optional) => Ok(LABEL_NAMES.into_iter().find_map(find)),
        (None, Labels::Required) => Ok(LABEL_NAMES.into_iter().find_map(find).or(Some(0))),
    }
}

/// The names for a message, not too many.
fn quoted(names: &[String]) -> String {
    const SHOWN_MAX: usize = 40;
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).map(String::as_str).collect();
    let dots = if names.len() > SHOWN_MAX { ", ..." } else { "" };
    format!("'{}'{dots}", shown.join("', '"))
}

/// The key of a column whose cells are values.
pub(crate) fn number_key(seed: u64) -> u64 {
    key_of(hash_bytes(seed, b""))
}

/// The key of the category `text`.
#[inline]
pub(crate) fn category_key(seed: u64, text: &[u8]) -> u64 {
    key_of(hash_bytes(seed, text))
}

/// The key of the bucket that `value` falls in: itself up to 2, floor((log2 value)²) above.
#[inline]
pub(crate) fn bucket_key(seed: u64, value: i64) -> u64 {
    // For 3 and more the square is 2 and more: one is added, to keep 2 for itself.
    let bucket = if value <= 2 { value } else { 1 + i64::from(log2_squared(value as u64)) };
    key_of(hash_word(seed, bucket as u64))
}

/// floor((log2 `value`)²), `value` above 0. All in integers: no two machines differ.
fn log2_squared(value: u64) -> u32 {
    match SMALL_LOGS.get(value as usize) {
        Some(&small) => u32::from(small),
        None => computed_log2_squared(value),
    }
}

/// Most counts are small: theirs lie here.
static SMALL_LOGS: [u8; SMALL_LOGS_END] = {
    let (mut logs, mut value) = ([0; SMALL_LOGS_END], 1);
    while value < SMALL_LOGS_END {
        logs[value] = computed_log2_squared(value as u64) as u8;
        value += 1;
    }
    logs
};
const SMALL_LOGS_END: usize = 1 << 12;

const fn computed_log2_squared(value: u64) -> u32 {
    const FRACTION_BITS: u32 = 16;
    let whole = value.ilog2();
    let (mut log, mut bits) = (whole as u64, 0);
    let mut mantissa = value << (63 - whole); // In [1, 2), the point after the highest bit.
    while bits < FRACTION_BITS {
        let square = mantissa as u128 * mantissa as u128;
        let carry = (square >> 127) as u64; // The square is in [1, 4).
        log = log << 1 | carry;
        mantissa = (square >> (63 + carry)) as u64;
        bits += 1;
    }
    ((log * log) >> (2 * FRACTION_BITS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn columns_in_no_list_go_by_what_they_hold_and_the_label_by_its_name() {
        let spec = ColumnSpec {
            bucketed: names(&["count"]),
            ignored: names(&["id"]),
            ..ColumnSpec::default()
        };
        let header = names(&["id", "click", "day", "price", "site", "count"]);
        let kinds = [Kind::Whole, Kind::Whole, Kind::Whole, Kind::Real, Kind::Text, Kind::Whole];
        let plan = plan(&header, &kinds, &spec, Labels::Required).unwrap();
        assert_eq!(plan.actions[1], Action::Label);
        assert_eq!(plan.columns.label.as_deref(), Some("click"));
        assert_eq!(plan.columns.categorical, ["day", "site"]);
        assert_eq!(plan.columns.numeric, ["price"]);
        let again = super::plan(&header, &[Kind::Text; 6], &plan.columns, Labels::Required);
        assert_eq!(again.unwrap().actions, plan.actions);
    }

    #[test]
    fn the_first_column_is_the_label_where_one_is_required_and_none_is_named_so() {
        let header = names(&["late", "day"]);
        let label = |labels| {
            let plan = plan(&header, &[Kind::Whole; 2], &ColumnSpec::default(), labels);
            plan.unwrap().columns.label
        };
        assert_eq!(label(Labels::Required).as_deref(), Some("late"));
        assert_eq!(label(Labels::Optional), None);
    }

    #[test]
    fn a_header_that_does_not_fit_is_refused_with_the_names_it_has() {
        let refuse = |header: &[&str], spec: ColumnSpec| {
            let kinds = vec![Kind::Text; header.len()];
            plan(&names(header), &kinds, &spec, Labels::Required).unwrap_err()
        };
        let numeric = ColumnSpec { numeric: names(&["b"]), ..ColumnSpec::default() };
        assert_eq!(refuse(&["y", "a"], numeric), "no column 'b' among 'y', 'a'");
        let label = ColumnSpec { label: Some("z".into()), ..ColumnSpec::default() };
        assert_eq!(refuse(&["y", "a"], label), "no label column 'z' among 'y', 'a'");
        let twice = "column 'a' occurs twice (is the first line a header?)";
        assert_eq!(refuse(&["y", "a", "a"], ColumnSpec::default()), twice);
        let twice =
            ColumnSpec { numeric: names(&["a"]), ignored: names(&["a"]), ..ColumnSpec::default() };
        assert_eq!(refuse(&["y", "a"], twice), "column 'a' is named twice in the settings");
    }

    #[test]
    fn squared_logarithms_are_exact_at_powers_of_two_and_near_the_real_ones_between() {
        for power in 0..64 {
            assert_eq!(log2_squared(1 << power), power * power);
        }
        assert!((1..SMALL_LOGS_END as u64).all(|v| log2_squared(v) == computed_log2_squared(v)));
        for value in (3u64..1 << 20).filter(|value| !value.is_power_of_two()) {
            let exact = (value as f64).log2().powi(2);
            let bucket = f64::from(log2_squared(value));
            assert!((exact - 1.001..=exact).contains(&bucket), "{value}: {exact} {bucket}");
        }
    }
}
