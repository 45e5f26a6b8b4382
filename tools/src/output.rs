//! Printing: results to stdout, the rest to stderr.
//!
//! Owns the two ways out. A reader that has gone away is no failure.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use learn::model::write_whole_file;

use serde::Serialize;

use crate::failure::Failure;

/// One line of a result.
pub(crate) fn result(line: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A result as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value);
    result(&line.map_err(|error| Failure::failed(format!("the result is no JSON: {error}")))?)
}

/// One line for a person.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a file that appears whole or not at all. Returns what `write` returned.
pub(crate) fn whole_file<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut outcome = None;
    let written = write_whole_file(path, |file| {
        let ended = write(file);
        let stopped = ended.as_ref().err().map(|why| io::Error::other(why.to_string()));
        outcome = Some(ended);
        stopped.map_or(Ok(()), Err)
    });
    let disk = |error| Failure::failed(format!("{}: {error}", path.display()));
    match outcome {
        Some(Err(failure)) => Err(failure),
        Some(Ok(value)) => written.map(|()| value).map_err(disk),
        None => Err(written.err().map_or_else(|| Failure::failed("nothing was written"), disk)),
    }
}

/// Names and values, to be printed by [`table`].
pub(crate) fn pairs_of<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The verdict of a measurement that has counted every push.
pub(crate) fn exactly_once(lost: u64, doubled: u64) -> Result<(), Failure> {
    match lost + doubled {
        0 => Ok(()),
        wrong => Err(Failure::verdict(format!("{wrong} additions are lost or doubled"))),
    }
}

/// Names and values in two aligned columns.
pub(crate) fn table(pairs: &[(String, String)]) -> Result<(), Failure> {
    let widest = |of: fn(&(String, String)) -> &String| {
        pairs.iter().map(|pair| of(pair).chars().count()).max().unwrap_or(0)
    };
    let (names, values) = (widest(|pair| &pair.0), widest(|pair| &pair.1));
    pairs.iter().try_for_each(|(name, value)| result(&format!("{name:<names$}  {value:>values$}")))
}

/// A count with its thousands apart: `2 500 001`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut apart = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            apart.push(' ');
        }
        apart.push(digit);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(2_500_001), "2 500 001");
    }
}
