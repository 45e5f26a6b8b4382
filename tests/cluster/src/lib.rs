//! Real processes, killed and disturbed.
#![forbid(unsafe_code)]
