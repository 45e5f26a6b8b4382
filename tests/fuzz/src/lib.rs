//! Decoders and readers fed with bad bytes.
#![forbid(unsafe_code)]
