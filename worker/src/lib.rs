//! The client side: split by shard, combine equal keys, tickets, retry.
#![forbid(unsafe_code)]
