//! The shard: a pure state machine of tables, rules, admission and clocks.
#![forbid(unsafe_code)]
