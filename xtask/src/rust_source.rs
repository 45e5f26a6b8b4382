//! A Rust file as the checks see it: code without comments and strings, functions, its test tail.
//!
//! Owns the one lexer. It knows comments, strings, characters and lifetimes, and nothing of Rust's
//! grammar beyond `fn name … { … }`. What a file must hold is left to `checks`.
//!
//! Invariant: `code` has the bytes of `text` or a space in their place, so that a byte offset and
//! a line mean the same in both.

use std::ops::Range;

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// One Rust file.
pub(crate) struct Source<'text> {
    /// The file as it is.
    pub(crate) text: &'text str,
    /// The same, with comments and the insides of strings and characters blanked.
    pub(crate) code: String,
    tests_start: usize,
}

/// One function with a body.
pub(crate) struct Function<'source> {
    pub(crate) name: &'source str,
    /// From `fn` to the brace that opens the body.
    pub(crate) signature: &'source str,
    /// Whether other crates may see it: `pub` alone.
    pub(crate) is_public: bool,
    /// Lines from `fn` to the brace that closes the body, both counted, 1-based.
    pub(crate) lines: Range<usize>,
}

impl<'text> Source<'text> {
    pub(crate) fn new(text: &'text str) -> Self {
        let code = blank(text);
        let tests_start = tests_start(&code);
        Self { text, code, tests_start }
    }

    /// The code up to the test module that ends the file.
    pub(crate) fn code_without_tests(&self) -> &str {
        &self.code[..self.tests_start]
    }

    /// The code of the test module that ends the file; empty if there is none.
    pub(crate) fn code_of_tests(&self) -> &str {
        &self.code[self.tests_start..]
    }

    /// Name of the test module that lies in a file of its own: `mod name;` under `cfg(test)`.
    pub(crate) fn test_file(&self) -> Option<&str> {
        let (_, after) = self.code.split_once(TEST_ATTRIBUTE)?;
        let (name, _) = after.trim_start().strip_prefix("mod ")?.split_once(';')?;
        (!name.contains('{')).then(|| name.trim())
    }

    /// The 1-based line of a byte offset.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// Offsets of `word` in `code`, where it stands as a word of its own.
    pub(crate) fn words<'a>(&self, code: &'a str, word: &'a str) -> Vec<usize> {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let bytes = code.as_bytes();
        let whole = |&offset: &usize| {
            let before = offset.checked_sub(1).and_then(|index| bytes.get(index));
            !before.is_some_and(is_word) && !bytes.get(offset + word.len()).is_some_and(is_word)
        };
        code.match_indices(word).map(|(offset, _)| offset).filter(whole).collect()
    }

    /// What `root::` is followed by, wherever it stands in `code`, with the offset of `root`. Of
    /// `root::{a::b, c, *}` that is `a`, `c` and `*`.
    pub(crate) fn segments_after<'a>(&self, code: &'a str, root: &'a str) -> Vec<(usize, &'a str)> {
        let mut found = Vec::new();
        for offset in self.words(code, root) {
            let Some(rest) = code[offset + root.len()..].strip_prefix("::") else { continue };
            match rest.strip_prefix('{') {
                Some(group) => found.extend(members_of(group).map(|member| (offset, member))),
                None => found.push((offset, segment(rest))),
            }
        }
        found
    }

    /// Every function with a body, in the file's order.
    pub(crate) fn functions(&self) -> Vec<Function<'_>> {
        let starts = self.words(&self.code, "fn");
        starts.into_iter().filter_map(|offset| self.function_at(offset)).collect()
    }

    fn function_at(&self, offset: usize) -> Option<Function<'_>> {
        let after = self.code[offset + "fn".len()..].trim_start();
        let name_end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let name = (name_end > 0).then(|| &after[..name_end])?;
        let opening = offset + opening_brace(&self.code[offset..])?;
        let closing = opening + closing_brace(&self.code[opening..])?;
        let line_start = self.code[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        Some(Function {
            name,
            signature: &self.code[offset..opening],
            is_public: self.code[line_start..offset].trim_start().starts_with("pub "),
            lines: self.line_at(offset)..self.line_at(closing) + 1,
        })
    }
}

/// The path segment that `path` starts with; a `*` is one.
fn segment(path: &str) -> &str {
    let path = path.trim_start();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    match path.find(|c| !is_word(c)) {
        Some(0) if path.starts_with('*') => "*",
        Some(end) => &path[..end],
        None => path,
    }
}

/// First segments of the members of a `use` group whose opening brace lies just before `group`.
fn members_of(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 1_usize;
    let mut starts_member = true;
    let members = group.split_inclusive(['{', '}', ',']).map_while(move |part| {
        let found = if depth == 1 && starts_member { segment(part) } else { "" };
        if depth == 0 {
            return None;
        }
        match part.as_bytes().last() {
            Some(b'{') => depth += 1,
            Some(b'}') => depth -= 1,
            _ => {}
        }
        starts_member = part.ends_with(',');
        Some(found)
    });
    members.filter(|member| !member.is_empty())
}

/// Where the body of the item that starts `code` opens; `None` if a semicolon ends it first.
fn opening_brace(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Where the brace that `code` starts with is closed.
fn closing_brace(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(offset),
            b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// Where the inline test module starts that ends the file; the file's end if there is none.
fn tests_start(code: &str) -> usize {
    let attributes = code.match_indices(TEST_ATTRIBUTE);
    let at_margin = attributes.filter(|(at, _)| *at == 0 || code.as_bytes()[at - 1] == b'\n');
    for (offset, attribute) in at_margin {
        let item = &code[offset + attribute.len()..];
        let Some(opening) = opening_brace(item) else { continue };
        let is_module = item.trim_start().starts_with("mod ");
        let closing = closing_brace(&item[opening..]);
        let ends_file = closing.is_some_and(|end| item[opening + end + 1..].trim().is_empty());
        if is_module && ends_file {
            return offset;
        }
    }
    code.len()
}

/// What the lexer stands in.
enum Region {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text { hashes: Option<usize> },
}

/// The text with comments and the insides of strings and characters as spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut region = Region::Code;
    let mut at = 0;
    while at < bytes.len() {
        let (next, kept) = match &mut region {
            Region::Code => step_in_code(bytes, at, &mut region),
            Region::LineComment => {
                if bytes[at] == b'\n' {
                    region = Region::Code;
                }
                (at + 1, false)
            }
            Region::BlockComment { depth } => {
                let (next, depth) = step_in_block_comment(bytes, at, *depth);
                region = if depth == 0 { Region::Code } else { Region::BlockComment { depth } };
                (next, false)
            }
            Region::Text { hashes } => {
                let (next, ended) = step_in_text(bytes, at, *hashes);
                if ended {
                    region = Region::Code;
                }
                (next, ended)
            }
        };
        let end = next.min(bytes.len());
        if !kept {
            let blanked = code[at..end].iter_mut().filter(|byte| **byte != b'\n');
            blanked.for_each(|byte| *byte = b' ');
        }
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// One step of code: where the next one starts, and whether these bytes are kept.
fn step_in_code(bytes: &[u8], at: usize, region: &mut Region) -> (usize, bool) {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        *region = Region::LineComment;
        return (at + 2, false);
    }
    if rest.starts_with(b"/*") {
        *region = Region::BlockComment { depth: 1 };
        return (at + 2, false);
    }
    if rest[0] == b'"' {
        *region = Region::Text { hashes: None };
        return (at + 1, true);
    }
    if rest[0] == b'r' && (!after_word || bytes[at - 1] == b'b' || bytes[at - 1] == b'c') {
        let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            *region = Region::Text { hashes: Some(hashes) };
            return (at + hashes + 2, true);
        }
    }
    if rest[0] == b'\'' {
        return (at + character_bytes(rest), false);
    }
    (at + 1, true)
}

/// Bytes of the character literal that `rest` starts with; 1 for a lifetime's tick.
fn character_bytes(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|&byte| byte == b'\'');
        return end.map_or(1, |end| end + 4);
    }
    // A character takes up to four bytes; a lifetime has no closing tick after its first letter.
    let first = rest.get(1).copied().unwrap_or(0);
    let width = match first.leading_ones() {
        0 => 1,
        ones => ones as usize,
    };
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 1 }
}

fn step_in_block_comment(bytes: &[u8], at: usize, depth: usize) -> (usize, usize) {
    match &bytes[at..] {
        [b'*', b'/', ..] => (at + 2, depth - 1),
        [b'/', b'*', ..] => (at + 2, depth + 1),
        _ => (at + 1, depth),
    }
}

/// One step inside a string: where the next one starts, and whether the string ended here.
fn step_in_text(bytes: &[u8], at: usize, hashes: Option<usize>) -> (usize, bool) {
    match (bytes[at], hashes) {
        (b'\\', None) => (at + 2, false),
        (b'"', None) => (at + 1, true),
        (b'"', Some(hashes)) => {
            let closing = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
            if closing >= hashes { (at + 1 + hashes, true) } else { (at + 1, false) }
        }
        _ => (at + 1, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked_and_nothing_moves() {
        let text = r###"let a = "x\"fn"; // fn b
/* fn /* fn */ fn */ let c = r#"fn " fn"#; let d = 'f'; let e: &'static str = b"fn"; '\'' '"'
let g = '\u{41}'; h('ü');"###;
        let source = Source::new(text);
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.code.lines().count(), text.lines().count());
        assert!(!source.code.contains("fn"), "{}", source.code);
        for kept in ["let a", "let c", "let d", "let e: & static str", "let g", "h("] {
            assert!(source.code.contains(kept), "{kept} in {}", source.code);
        }
    }

    #[test]
    fn a_function_runs_from_its_name_to_its_closing_brace() {
        let text = "trait T { fn none(&self); }\n\npub fn one(a: [u8; 4])\n{\n    if a {}\n}\n";
        let source = Source::new(text);
        let functions = source.functions();
        let [one] = &functions[..] else { panic!("{} functions", functions.len()) };
        assert_eq!((one.name, one.lines.clone(), one.is_public), ("one", 3..7, true));
        assert!(one.signature.contains("a: [u8; 4]"));
    }

    #[test]
    fn the_test_tail_starts_at_the_module_that_ends_the_file() {
        let text = "//! A\n#[cfg(test)]\nfn helper() {}\nfn a() {}\n#[cfg(test)]\nmod tests { }\n";
        let source = Source::new(text);
        assert!(source.code_without_tests().contains("fn a"));
        assert!(source.code_of_tests().contains("mod tests"));
        assert!(!source.code_of_tests().contains("fn a"));
    }

    #[test]
    fn a_test_module_in_the_middle_is_no_tail() {
        let source = Source::new("#[cfg(test)]\nmod tests { }\nfn a() {}\n");
        assert_eq!(source.code_of_tests(), "");
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_named() {
        assert_eq!(Source::new("#[cfg(test)]\nmod trials;\n").test_file(), Some("trials"));
        assert_eq!(Source::new("#[cfg(test)]\nmod tests { a(); }\n").test_file(), None);
    }

    #[test]
    fn a_use_group_gives_the_first_segment_of_each_member() {
        let text =
            "use std::{\n    fmt::{self, net},\n    fs, time::Instant,\n};\nstd::env::var(a);";
        let source = Source::new(text);
        let found = source.segments_after(&source.code, "std");
        let segments: Vec<&str> = found.into_iter().map(|(_, segment)| segment).collect();
        assert_eq!(segments, ["fmt", "fs", "time", "env"]);
        let glob = Source::new("use std::*;");
        assert_eq!(glob.segments_after(&glob.code, "std"), [(4, "*")]);
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        let source = Source::new("unsafe unsafe_code not_unsafe unsafe{");
        assert_eq!(source.words(&source.code, "unsafe"), [0, 30]);
    }
}
