//! Rows of Vowpal Wabbit's text format.
//!
//! Owns the grammar `label [importance [base]] ['tag]|namespace[:scale] name[:value] ... |...`.
//! A feature's key is `feature_key(namespace, name)`, be the name a number or not. The base and
//! the tag are read over.
//!
//! Invariant: no name and no number is taken from past the newline that ends the row.

use super::csr::Builder;
use super::error::{Fault, Reason};
use super::hash::{KEY_MAX, hash_bytes, hash_word, key_of, namespace_seed};
use super::label::{Labeller, finite, importance};
use super::marks::Marks;

/// Text that starts with a row, and the marks of `Stops::Names` of all the text around it.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    text: &'a [u8],
    /// Where `text` starts among the bytes that were marked.
    start: usize,
    marks: &'a [u64],
}

impl<'a> Line<'a> {
    /// What starts at byte `start` of `block`, which these `marks` are of.
    #[inline]
    pub(crate) fn at(block: &'a [u8], start: usize, marks: &'a [u64]) -> Line<'a> {
        Line { text: &block[start..], start, marks }
    }

    /// The stops at or after `at`, in bytes from the row's start.
    #[inline]
    fn stops(self, at: usize) -> impl Iterator<Item = usize> + use<'a> {
        Marks::from(self.marks, self.start + at).map(move |mark| mark - self.start)
    }
}

/// Reads the row that `line` starts with, up to its newline.
///
/// - Panics: if there is none. A block's rows all end with one.
pub(crate) fn row(line: Line<'_>, labeller: Labeller, builder: &mut Builder) -> Result<(), Fault> {
    let (label, importance, mut at) = match bare_label(line) {
        Some(label) => (labeller.text(label, 0)?, 1.0, label.len() + 1),
        None => {
            let end = memchr::memchr2(b'|', b'\n', line.text).expect("a row ends with a newline");
            let (label, importance) = head(&line.text[..end], labeller)?;
            (label, importance, end)
        }
    };
    while line.text[at] == b'|' {
        at = namespace(line, at + 1, builder)?;
    }
    builder.end_row(label, importance);
    Ok(())
}

/// The label of a row that starts with it, one space and the bar: nearly every row does.
#[inline]
fn bare_label<'a>(line: Line<'a>) -> Option<&'a [u8]> {
    let end = line.stops(0).next()?;
    let is_bare = end > 0 && line.text[0] != b'\'' && line.text[end..].starts_with(b" |");
    is_bare.then(|| &line.text[..end])
}

/// Label and importance from what stands before the first `|`.
fn head(head: &[u8], labeller: Labeller) -> Result<(f32, f32), Fault> {
    let mut tokens = Tokens { text: head, at: 0 };
    let missing = || Fault::expected("a label", head, head.len());
    let Some((at, label)) = tokens.next().filter(|(_, token)| token[0] != b'\'') else {
        return Ok((labeller.missing(missing)?, 1.0));
    };
    let label = labeller.text(label, at)?;
    let mut weight = 1.0;
    // A token that touches the bar is the tag, and so is one that starts with a quote.
    let is_tag = |at: usize, token: &[u8]| token[0] == b'\'' || at + token.len() == head.len();
    for index in 0.. {
        match (tokens.next(), index) {
            (None, _) => break,
            (Some((at, token)), _) if is_tag(at, token) => {}
            (Some((at, token)), 0) => weight = importance(token, at)?,
            (Some((at, token)), 1) => drop(finite(token, at, "a base")?),
            (Some((at, _)), _) => return Err(Fault::expected("'|'", head, at)),
        }
    }
    Ok((label, weight))
}

/// Tokens between blanks, each with where it starts.
struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<(usize, &'a [u8])> {
        let rest = &self.text[self.at..];
        let start = rest.iter().position(|&byte| byte > b' ')?;
        let token = &rest[start..];
        let len = token.iter().position(|&byte| byte <= b' ').unwrap_or(token.len());
        let start = self.at + start;
        self.at = start + len;
        Some((start, &token[..len]))
    }
}

/// Reads one namespace, from the byte after its bar. Returns where it ends: at a bar or at the
/// newline.
///
/// Where a name ends is known before it is looked at, so the names of a row wait for each other
/// only at `Marks`, which is one instruction a name.
fn namespace(line: Line<'_>, start: usize, builder: &mut Builder) -> Result<usize, Fault> {
    let text = line.text;
    let mut stops = line.stops(start);
    let mut next = || stops.next().expect("a row ends with a newline");
    let mut end = next();
    let seed = namespace_seed(&text[start..end]);
    let mut scale = 1.0;
    if text[end] == b':' {
        (scale, end) = value(text, end + 1, &mut next)?;
    }
    loop {
        if matches!(text[end], b'\n' | b'|') {
            return Ok(end);
        }
        let at = end + 1; // `end` is at a blank.
        end = next();
        let is_colon = text[end] == b':';
        if at == end {
            if is_colon {
                return Err(Fault::expected("a feature's name", text, at));
            }
            continue;
        }
        // Not `key_of`: with a hash that is this rarely reserved, a minimum costs no branch.
        let hash = name_hash(seed, text, at, end);
        let key = hash.min(KEY_MAX);
        debug_assert_eq!(key, key_of(hash));
        if is_colon {
            let colon = end;
            let number;
            (number, end) = value(text, colon + 1, &mut next)?;
            let scaled = number * scale;
            if !scaled.is_finite() {
                let what = "a number times its namespace's";
                return Err(Fault::new(colon + 1, Reason::NotFinite { what }));
            }
            builder.value(key, scaled);
        } else if scale == 1.0 {
            builder.one(key);
        } else {
            builder.value(key, scale);
        }
    }
}

/// The number at `at`, and where it ends: at a blank or a bar, and never at a colon.
///
/// - `next`: gives the stops from `at` on.
#[inline]
fn value(text: &[u8], at: usize, next: &mut impl FnMut() -> usize) -> Result<(f32, usize), Fault> {
    let mut end = next();
    while text[end] == b':' {
        end = next();
    }
    Ok((finite(&text[at..end], at, "a number")?, end))
}

/// The hash of the name `text[at..end]`, which is not empty.
///
/// Nearly every name has at most eight bytes: one load is its hash's input.
#[inline]
fn name_hash(seed: u64, text: &[u8], at: usize, end: usize) -> u64 {
    let len = end - at;
    match text[at..].first_chunk() {
        Some(&word) if len <= size_of::<u64>() => {
            hash_word(seed, u64::from_le_bytes(word) & (u64::MAX >> (u64::BITS as usize - 8 * len)))
        }
        _ => hash_bytes(seed, &text[at..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::csr::{Csr, Intercept};
    use super::super::hash::feature_key;
    use super::super::parse::testing::{fault, only_row};
    use super::super::spec::{Format, Labels};
    use super::*;
    use kernels::Isa;
    use kernels::scan::{Stops, mark};
    use proptest::prelude::*;

    fn read(line: &str) -> Csr {
        only_row(Format::Vw, line)
    }

    fn features(csr: &Csr) -> Vec<(u64, f32)> {
        let value = |at: usize| csr.values.get(at).copied().unwrap_or(1.0);
        let keys = csr.columns.iter().map(|&column| csr.keys[column as usize]);
        keys.enumerate().map(|(at, key)| (key, value(at))).collect()
    }

    #[test]
    fn a_row_is_read_with_importance_base_tag_namespaces_scale_and_values() {
        let csr = read("-1 2.5 0.5 'tag|first a:0.5 a_rather_long_name |second:2 b c:3\t| 7 \r");
        let expected = [
            (feature_key(b"first", b"a"), 0.5),
            (feature_key(b"first", b"a_rather_long_name"), 1.0),
            (feature_key(b"second", b"b"), 2.0),
            (feature_key(b"second", b"c"), 6.0),
            (feature_key(b"", b"7"), 1.0),
        ];
        assert_eq!(features(&csr), expected);
        assert_eq!((csr.labels[0], csr.importance[0]), (0.0, 2.5));
    }

    #[test]
    fn a_tag_touches_the_bar_and_a_label_alone_is_no_tag() {
        assert_eq!(read("1 tag| a").labels, [1.0]);
        assert_eq!(read("1|f a").labels, [1.0]);
        assert_eq!(read("1 2 0 tag| a").importance, [2.0]);
        assert_eq!(read("1").labels, [1.0]);
    }

    #[test]
    fn broken_rows_are_named_to_the_byte() {
        let message = |line| fault(Format::Vw, line, Labels::Required);
        assert_eq!(message("|f a"), "test:1:1: expected a label, found the end of the line");
        assert_eq!(message("x |f a"), "test:1:1: expected a label, found 'x'");
        assert_eq!(message("3 |f a"), "test:1:1: expected a label of 0, 1 or -1, found 3");
        assert_eq!(message("nan |f a"), "test:1:1: the label is not a finite number");
        assert_eq!(message("1 0 |f a"), "test:1:3: expected an importance above 0, found 0");
        assert_eq!(message("1 1 0 4 |f a"), "test:1:7: expected '|', found '4'");
        assert_eq!(message("1 |f a:"), "test:1:8: expected a number, found nothing");
        assert_eq!(message("1 |f a:x b"), "test:1:8: expected a number, found 'x'");
        assert_eq!(message("1 |f a:inf"), "test:1:8: a number is not a finite number");
        let product = "test:1:13: a number times its namespace's is not a finite number";
        assert_eq!(message("1 |f:1e20 a:1e20"), product);
        assert_eq!(message("1 |f :3"), "test:1:6: expected a feature's name, found ':'");
    }

    #[test]
    fn a_row_without_label_is_read_where_labels_are_optional() {
        let labeller = Labeller { labels: Labels::Optional, ..Labeller::default() };
        for text in ["|f a\n", "'tag |f a\n", " | a\n"] {
            let mut marks = Vec::new();
            mark(Isa::scalar(), text.as_bytes(), Stops::Names, &mut marks);
            let mut builder = Builder::new(Intercept::None);
            builder.start(Csr::default(), Default::default());
            row(Line::at(text.as_bytes(), 0, &marks), labeller, &mut builder).unwrap();
            assert!(builder.finish().labels[0].is_nan());
        }
    }

    /// Reads a row byte by byte, by the grammar alone.
    fn slowly(line: &str) -> Vec<(u64, f32)> {
        let is_blank = |c: char| c <= ' ';
        let namespaces = line.split('|').skip(1).flat_map(|text| {
            let (name, features) = text.split_at(text.find(is_blank).unwrap_or(text.len()));
            let (name, scale) = name.split_once(':').unwrap_or((name, "1"));
            let feature = move |token: &str| {
                let (feature, number) = token.split_once(':').unwrap_or((token, "1"));
                let [number, scale]: [f32; 2] = [number, scale].map(|text| text.parse().unwrap());
                (feature_key(name.as_bytes(), feature.as_bytes()), number * scale)
            };
            features.split(is_blank).filter(|token| !token.is_empty()).map(feature)
        });
        namespaces.collect()
    }

    proptest! {
        #[test]
        fn a_name_hashes_alike_through_the_word_and_byte_by_byte(
            text in prop::collection::vec(any::<u8>(), 1..24), at in 0..23_usize, seed: u64
        ) {
            let at = at.min(text.len() - 1);
            for end in at + 1..=text.len() {
                prop_assert_eq!(name_hash(seed, &text, at, end), hash_bytes(seed, &text[at..end]));
            }
        }

        #[test]
        fn a_row_of_any_shape_reads_as_the_grammar_says(
            before in "(\n|x{0,70}\n)?",
            row in "(0|1|-1) ?\\|[a-z]{0,9}(:[1-9])?([ \t]{1,3}[a-z0-9]{1,12}(:[1-9])?){0,9} ?",
            other in "(\\|[A-Z]?( [a-z]{1,9}){0,9})?\r?",
        ) {
            let row = row + &other;
            let text = format!("{before}{row}\n1 |after a b c:4\n");
            let mut marks = Vec::new();
            mark(Isa::detect(), text.as_bytes(), Stops::Names, &mut marks);
            let mut builder = Builder::new(Intercept::None);
            builder.start(Csr::default(), Default::default());
            let line = Line::at(text.as_bytes(), before.len(), &marks);
            super::row(line, Labeller::default(), &mut builder).unwrap();
            prop_assert_eq!(features(&builder.finish()), slowly(&row));
        }
    }
}
