//! The measuring harness: load generators, roofs and reports.
//!
//! Owns what is measured and how it is set against the roof of the same run. The command line and
//! files are left to `tools`, bringing servers up to `launch`.
//!
//! Invariant: a figure is a median over interleaved repeats, and a report carries the roofs that
//! were measured between them; work that was timed is checked for having been done.
#![forbid(unsafe_code)]

mod bystander;
mod cluster_load;
mod codec;
mod codec_stream;
mod crew;
mod crowd;
mod error;
mod format;
mod kernel;
mod keys;
mod link;
mod machine;
mod push_pull;
mod random;
mod report;
pub mod roofs;
mod soak;
mod spec;
mod stats;
mod stragglers;
mod table;
mod table_load;
mod turns;
mod verify;

pub use bystander::Precedence;
pub use cluster_load::{ClusterLoad, ClusterLoadSpec, Pulled};
pub use codec::{CodecRow, CodecSpec, Trained, render_codecs, run_codecs};
pub use codec_stream::{CodecBatch, CodecStream};
pub use crew::{Applied, Crew};
pub use crowd::{Crowd, CrowdError, CrowdLoad, CrowdTally, HARMFUL, Manner, crowd_work};
pub use error::{BenchError, Doing, SpecError};
pub use kernel::{
    Arrays, Case, Code, Form, KERNEL_NAMES, KernelRow, KernelSpec, kernel_cases, render_kernels,
    run_kernels,
};
pub use link::{
    Ends, LinkError, LinkRow, LinkSpec, LinkWay, LinkWork, SIZES_BYTES, render_link, run_link,
    serve_link,
};
pub use machine::Machine;
pub use push_pull::run;
pub use random::Random;
pub use report::{Latencies, PushPullReport, Roofs, Run, Shares, Spreads};
pub use soak::{Probes, SoakError, SoakLoad, SoakTally, soak_probe, soak_work};
pub use spec::{
    Carrier, IN_FLIGHT_MAX, NoSuchName, Optimizer, PushPullSpec, REPEATS_MAX, REPEATS_MIN,
    RESIDENT_KEYS_MAX,
};
pub use stats::Spread;
pub use stragglers::{
    Mode, StragglerRow, StragglerSpec, Trouble, render_stragglers, run_stragglers,
};
pub use table::{TableBenchSpec, TableRates, TableReport, TableShares, run_table};
pub use table_load::TableLoad;
pub use turns::Turns;
