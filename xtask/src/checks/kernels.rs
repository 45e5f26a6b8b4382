//! Kernels: whatever runs at a level that the caller chooses is tested on every level there is, and
//! variants written by hand have the scalar reference beside them.

use super::Report;
use crate::rust_source::{Function, Source};
use crate::tree::Tree;

const FOLDER: &str = "kernels/src/";
/// The one file whose variants compute nothing: loads and stores, which kernels are made of.
const LANES: &str = "kernels/src/lanes.rs";
/// Instruction sets that a variant's name or one of its parts is called after.
const LEVELS: [&str; 2] = ["avx2", "avx512"];
/// The argument that chooses a level.
const CHOICE: &str = ": Isa";
const REFERENCE: &str = "scalar";
/// What a test asks for the machine's levels.
const ORACLE: &str = "Isa::available";

pub(super) fn check(tree: &Tree) -> Report {
    let mut report = Report::new("kernels", "kernels");
    let is_kernel = |path: &str| path.starts_with(FOLDER) && path != LANES;
    for (path, text) in tree.with_extension("rs").filter(|(path, _)| is_kernel(path)) {
        let source = Source::new(text);
        let functions = source.functions();
        let is_called = |part: &str| {
            functions.iter().find(|function| function.name.split('_').any(|own| own == part))
        };
        let chooses =
            |function: &&Function<'_>| function.is_public && function.signature.contains(CHOICE);
        let variant = LEVELS.iter().find_map(|level| is_called(level));
        let Some(kernel) = variant.or(functions.iter().find(chooses)) else { continue };
        report.looked_at += 1;
        let (name, line) = (kernel.name, kernel.lines.start);
        if variant.is_some() && is_called(REFERENCE).is_none() {
            report.find(path, line, format!("`{name}` has no `fn {REFERENCE}` beside it"));
        }
        if !source.code_of_tests().contains(ORACLE) && !test_file_asks(tree, path, &source) {
            report.find(path, line, format!("`{name}` has no test over `{ORACLE}()`"));
        }
    }
    report.done()
}

/// Whether the file's test module lies in a file of its own that asks for the levels.
fn test_file_asks(tree: &Tree, path: &str, source: &Source<'_>) -> bool {
    let Some(name) = source.test_file() else { return false };
    let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let text = tree.text(&format!("{stem}/{name}.rs"));
    text.is_some_and(|text| Source::new(text).code.contains(ORACLE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::findings;

    const VARIANT: &str = "//! A\nfn avx2() {}\n";

    #[test]
    fn a_variant_without_reference_and_without_test_is_found() {
        let expected = [
            "kernels/src/sgd.rs:2: `avx2` has no `fn scalar` beside it",
            "kernels/src/sgd.rs:2: `avx2` has no test over `Isa::available()`",
        ];
        assert_eq!(findings(check, &[("kernels/src/sgd.rs", VARIANT)]), expected);
    }

    #[test]
    fn a_public_function_of_any_level_without_a_test_over_the_levels_is_found() {
        let text = "//! A\npub fn apply(\n    isa: Isa,\n    a: u8,\n) {\n}\nfn b(isa: Isa) {}\n";
        let expected = "kernels/src/sgd.rs:2: `apply` has no test over `Isa::available()`";
        assert_eq!(findings(check, &[("kernels/src/sgd.rs", text)]), [expected]);
    }

    #[test]
    fn a_variant_with_both_passes_and_its_test_may_lie_in_a_file_of_its_own() {
        let test = "fn bits() { for isa in Isa::available() {} }";
        let inline = format!("{VARIANT}fn scalar() {{}}\n#[cfg(test)]\nmod tests {{ {test} }}\n");
        assert_eq!(findings(check, &[("kernels/src/sgd.rs", &inline)]), [""; 0]);
        let apart = format!("{VARIANT}fn scalar_row() {{}}\n#[cfg(test)]\nmod tests;\n");
        let files = [("kernels/src/sgd.rs", apart.as_str()), ("kernels/src/sgd/tests.rs", test)];
        assert_eq!(findings(check, &files), [""; 0]);
    }
}
