//! Rows of Vowpal Wabbit's text format.
//!
//! Owns the grammar `label [importance [base]] ['tag]|namespace[:scale] name[:value] ... |...`.
//! A feature's key is `feature_key(namespace, name)`, be the name a number or not. The base and
//! the tag are read over.
//!
//! Invariant: nothing is read past the newline that ends the row.

use super::csr::Builder;
use super::error::{Fault, Reason};
use super::hash::{KEY_MAX, hash_bytes, hash_word, key_of, namespace_seed};
use super::label::{Labeller, finite, importance};

/// Reads the row that `line` starts with, up to a newline or the end of `line`.
pub(crate) fn row(line: &[u8], labeller: Labeller, builder: &mut Builder) -> Result<(), Fault> {
    let head_end = memchr::memchr2(b'|', b'\n', line).unwrap_or(line.len());
    let (label, importance) = head(&line[..head_end], labeller)?;
    let mut at = head_end;
    while line.get(at) == Some(&b'|') {
        at = namespace(line, at + 1, builder)?;
    }
    builder.end_row(label, importance);
    Ok(())
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

/// Reads one namespace, from the byte after its bar. Returns where it ends: at a bar, at the
/// newline, or at the end.
fn namespace(line: &[u8], start: usize, builder: &mut Builder) -> Result<usize, Fault> {
    let mut at = start + name_len(&line[start..]);
    let seed = namespace_seed(&line[start..at]);
    let mut scale = 1.0;
    if line.get(at) == Some(&b':') {
        (scale, at) = value(line, at + 1)?;
    }
    loop {
        while line.get(at).is_some_and(|&byte| byte <= b' ' && byte != b'\n') {
            at += 1;
        }
        if matches!(line.get(at), None | Some(b'\n' | b'|')) {
            return Ok(at);
        }
        let (hash, len) = name_hash(seed, &line[at..]);
        if len == 0 {
            return Err(Fault::expected("a feature's name", line, at));
        }
        // Not `key_of`: with a hash that is this rarely reserved, a minimum costs no branch.
        let key = hash.min(KEY_MAX);
        debug_assert_eq!(key, key_of(hash));
        at += len;
        if line.get(at) == Some(&b':') {
            let (number, end) = value(line, at + 1)?;
            let scaled = number * scale;
            if !scaled.is_finite() {
                let what = "a number times its namespace's";
                return Err(Fault::new(at + 1, Reason::NotFinite { what }));
            }
            builder.value(key, scaled);
            at = end;
        } else if scale == 1.0 {
            builder.one(key);
        } else {
            builder.value(key, scale);
        }
    }
}

/// The number at `at`, and where it ends.
#[inline]
fn value(line: &[u8], at: usize) -> Result<(f32, usize), Fault> {
    let rest = &line[at..];
    let is_end = |&byte: &u8| byte <= b' ' || byte == b'|';
    let end = at + rest.iter().position(is_end).unwrap_or(rest.len());
    Ok((finite(&line[at..end], at, "a number")?, end))
}

/// The hash and the length of the name that `text` starts with.
///
/// Nearly every name is shorter than eight bytes: one load finds its end and is its hash's input.
#[inline]
fn name_hash(seed: u64, text: &[u8]) -> (u64, usize) {
    if let Some(chunk) = text.first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let ends = name_ends(word);
        if ends != 0 {
            let bits = ends.trailing_zeros() - 7; // The flag is the byte's highest bit.
            let name = word & ((1 << bits) - 1);
            return (hash_word(seed, name), bits as usize / 8);
        }
    }
    let len = name_len(text);
    (hash_bytes(seed, &text[..len]), len)
}

fn name_len(text: &[u8]) -> usize {
    let is_end = |&byte: &u8| byte <= b' ' || byte == b':' || byte == b'|';
    text.iter().position(is_end).unwrap_or(text.len())
}

/// Flags, by its highest bit, the lowest byte of `word` that ends a name, and maybe higher ones.
///
/// Source: Mycroft's test for a zero byte, and its form for a byte below a bound (Anderson, "Bit
/// Twiddling Hacks"). A borrow can flag a byte wrongly only above one that is flagged rightly.
#[inline]
fn name_ends(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, b' ' + 1) | equal(b':') | equal(b'|')) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::super::csr::{Csr, Intercept};
    use super::super::hash::feature_key;
    use super::super::parse::testing::{fault, only_row};
    use super::super::spec::{Format, Labels};
    use super::*;
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
        for line in ["|f a", "'tag |f a", " | a"] {
            let mut builder = Builder::new(Intercept::None);
            builder.start(Csr::default(), Default::default());
            row(line.as_bytes(), labeller, &mut builder).unwrap();
            assert!(builder.finish().labels[0].is_nan());
        }
    }

    proptest! {
        #[test]
        fn a_name_hashes_alike_through_the_word_and_byte_by_byte(
            text in prop::collection::vec(any::<u8>(), 0..24), seed: u64
        ) {
            let len = name_len(&text);
            prop_assert_eq!(name_hash(seed, &text), (hash_bytes(seed, &text[..len]), len));
        }
    }
}
