//! The server: one thread a core, each with one transport and one shard.
#![forbid(unsafe_code)]
