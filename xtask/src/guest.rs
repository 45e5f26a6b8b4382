//! `cargo xtask guest`: the scripts of `tests/guest`, called from wherever one stands.
//!
//! Owns which script is meant. What a guest is, and every option, is left to the scripts.

use std::io;
use std::path::Path;
use std::process::Command;

/// Exit code where a script was ended by a signal.
const EXIT_SIGNAL: u8 = 1;

/// Runs the script that `arguments` (what stands behind `guest`) mean, in the caller's folder and
/// with the caller's output. Returns its exit code.
///
/// Errors: the script cannot be run.
pub(crate) fn run(root: &Path, arguments: &[String]) -> io::Result<u8> {
    let (script, rest) = script(arguments);
    let path = root.join("tests/guest").join(script);
    let mut command = Command::new(&path);
    let status = command.args(rest).status();
    let status = status.map_err(|error| {
        io::Error::new(error.kind(), format!("{} cannot be run: {error}", path.display()))
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(EXIT_SIGNAL))
}

/// The script, and the arguments that it gets: `--suite` and `--two` choose one if they come first.
fn script(arguments: &[String]) -> (&'static str, &[String]) {
    match arguments.split_first() {
        Some((first, rest)) if first == "--suite" => ("suite.sh", rest),
        Some((first, rest)) if first == "--two" => ("two.sh", rest),
        _ => ("run.sh", arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_word_chooses_the_script_and_no_later_one_does() {
        assert_eq!(script(&words("--suite")), ("suite.sh", &[][..]));
        assert_eq!(script(&words("--two -- a -- b")), ("two.sh", &words("-- a -- b")[..]));
        assert_eq!(script(&words("-- a --suite")), ("run.sh", &words("-- a --suite")[..]));
        assert_eq!(script(&[]), ("run.sh", &[][..]));
    }

    #[test]
    fn each_script_is_there() {
        let root = crate::workspace_root();
        for arguments in ["", "--suite", "--two"] {
            let path = root.join("tests/guest").join(script(&words(arguments)).0);
            assert!(path.is_file(), "{}", path.display());
        }
    }
}
