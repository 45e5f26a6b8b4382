//! Whether an answer is one to what was asked.
//!
//! Owns the check of its kind and shape; what its values mean is left to `codec`.

use wire::{Encoding, Header, Kind};

use crate::error::WorkerError;

/// Whether an answer that is no refusal has the kind and the shape that were asked for.
pub(crate) fn check_fits(server: &str, asked: &Header, answer: &Header) -> Result<(), WorkerError> {
    let found = (answer.keys, answer.width);
    let (kind, expected) = match asked.kind() {
        Kind::Pull => (Kind::Values, Some((asked.keys, asked.width))),
        Kind::Scan => (Kind::Rows, None),
        Kind::Measure => (Kind::Size, None),
        Kind::Join => (Kind::Joined, None),
        _ => (Kind::Reply, None),
    };
    let encoding = match kind {
        Kind::Values => asked.encoding,
        _ => Encoding::PLAIN.get(),
    };
    let as_asked = answer.kind() == kind && answer.encoding == encoding;
    if as_asked && expected.is_none_or(|expected| expected == found) {
        return Ok(());
    }
    let (server, kind) = (server.to_owned(), answer.kind());
    Err(WorkerError::Unexpected { server, kind, found, expected })
}
