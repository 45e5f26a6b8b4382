//! The measuring harness: load generators, roofs, reports.
#![forbid(unsafe_code)]
