//! The words of `gradwire checkpoint`.
//!
//! Owns its flags and their help.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cluster::CoordinatorArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Print what checkpoints there are; parts are not read.
    List(ListArgs),
    /// Read and check each byte of each checkpoint.
    Verify(NumberArgs),
    /// Print what one checkpoint is made of; parts are not read.
    Inspect(NumberArgs),
    /// Have a running cluster take one now, and wait until it is whole.
    Take(TakeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TakeArgs {
    #[command(flatten)]
    pub(crate) at: CoordinatorArgs,
    /// Print it as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print it as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NumberArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// One checkpoint [default: to verify all, to inspect the newest].
    #[arg(long, value_name = "N")]
    pub(crate) number: Option<u64>,
    /// Print it as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where checkpoints lie.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// A directory, or s3://, gs:// or az:// with a bucket and a prefix, if built with those.
    #[arg(value_name = "URL")]
    pub(crate) place: String,
    /// Settings of the object store, such as aws_region = "eu-west-1", one a line.
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) store_config: Option<PathBuf>,
    /// The most that one call of the store may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
}
