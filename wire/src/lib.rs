//! Names and bytes: newtypes, the fixed header, messages as views over bytes.
#![forbid(unsafe_code)]
