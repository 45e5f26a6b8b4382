//! One suite over every transport.
#![forbid(unsafe_code)]
