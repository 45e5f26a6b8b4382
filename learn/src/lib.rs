//! Learners, jobs, data sources and metrics.
#![forbid(unsafe_code)]
