//! Rows of the LibSVM text format.
//!
//! Owns the grammar `label [qid:n] number:value ... [# comment]`. A feature's key is its number.
//! The query is read over.
//!
//! Invariant: every key is below 2^63, so that none is the intercept's.

use super::csr::Builder;
use super::error::{Fault, Reason};
use super::label::{Labeller, finite};
use super::number::decimal;

/// A comment reaches from here to the end of its line.
pub(crate) const COMMENT: u8 = b'#';
const FEATURE_NUMBER_END: u64 = 1 << 63;
const QUERY: &[u8] = b"qid:";

/// Reads the row `line`, which holds no newline.
pub(crate) fn row(line: &[u8], labeller: Labeller, builder: &mut Builder) -> Result<(), Fault> {
    let end = memchr::memchr(COMMENT, line).unwrap_or(line.len());
    let line = &line[..end];
    let (start, label_end) = token(line, 0);
    let text = &line[start..label_end];
    let (label, mut at) = if text.is_empty() || text.contains(&b':') {
        (labeller.missing(|| Fault::expected("a label", line, start))?, start)
    } else {
        (labeller.text(text, start)?, label_end)
    };
    loop {
        let (start, end) = token(line, at);
        if start == end {
            break;
        }
        if !line[start..end].starts_with(QUERY) {
            feature(line, start, end, builder)?;
        }
        at = end;
    }
    builder.end_row(label, 1.0);
    Ok(())
}

/// Start and end of the first token at or after `at`; both the line's end if there is none.
#[inline]
fn token(line: &[u8], mut at: usize) -> (usize, usize) {
    while at < line.len() && line[at] <= b' ' {
        at += 1;
    }
    let start = at;
    while at < line.len() && line[at] > b' ' {
        at += 1;
    }
    (start, at)
}

#[inline]
fn feature(line: &[u8], start: usize, end: usize, builder: &mut Builder) -> Result<(), Fault> {
    let text = &line[start..end];
    let digits = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    if digits == 0 {
        return Err(Fault::expected("a feature's number", line, start));
    }
    if text.get(digits) != Some(&b':') {
        return Err(Fault::expected("':'", &line[..end], start + digits));
    }
    let key = decimal(&text[..digits]).filter(|&number| number < FEATURE_NUMBER_END);
    let key = key.ok_or_else(|| Fault::new(start, Reason::FeatureNumber))?;
    match &text[digits + 1..] {
        b"1" => builder.one(key),
        value => builder.value(key, finite(value, start + digits + 1, "a number")?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::parse::testing::{fault, only_row};
    use super::super::spec::{Format, Labels};

    #[test]
    fn a_row_is_read_without_its_query_and_comment() {
        let csr = only_row(Format::LibSvm, "+1 qid:3 9:1 2:-0.5 9223372036854775807:1e3 # 4:4");
        assert_eq!(csr.keys, [2, 9, (1 << 63) - 1]);
        assert_eq!((&csr.columns[..], &csr.values[..]), (&[1, 0, 2][..], &[1.0, -0.5, 1e3][..]));
        assert_eq!(csr.labels, [1.0]);
    }

    #[test]
    fn broken_rows_are_named_to_the_byte() {
        let message = |line| fault(Format::LibSvm, line, Labels::Required);
        assert_eq!(message("1:2"), "test:1:1: expected a label, found '1'");
        assert_eq!(message("a 1:2"), "test:1:1: expected a label, found 'a'");
        assert_eq!(message("0 x:2"), "test:1:3: expected a feature's number, found 'x'");
        assert_eq!(message("0 12"), "test:1:5: expected ':', found the end of the line");
        assert_eq!(message("0 12;3"), "test:1:5: expected ':', found ';'");
        assert_eq!(message("0 3:"), "test:1:5: expected a number, found nothing");
        assert_eq!(message("0 3:nan"), "test:1:5: a number is not a finite number");
        assert_eq!(
            message("0 9223372036854775808:1"),
            "test:1:3: expected a feature number below 2^63"
        );
    }
}
