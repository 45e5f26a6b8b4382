//! The `gradwire` binary.
#![forbid(unsafe_code)]

fn main() {}
