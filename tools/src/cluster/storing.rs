//! A coordinator's checkpoints: where they go, and from which one its cluster begins.
//!
//! Owns the flags. Taking and restoring are left to `server`, finding a good one to `checkpoint`.

use std::path::PathBuf;

use checkpoint::{CheckpointNumber, Depth, Found, KEEP_MIN, LINE_MAX, Manifest, Options, Store};
use clap::{Args, ValueEnum};
use server::coordinator::{CheckpointSpec, Stored};
use wire::RestoredFrom;

use crate::checkpoint::store_options;
use crate::failure::Failure;
use crate::flags::{DurationFlag, RateFlag};
use crate::output::complain;

/// Parts the place of a store from a checkpoint's number.
const NUMBER_MARK: char = '#';

/// What lies behind the name of a store that is no directory.
const SCHEME_MARK: &str = "://";

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Checkpoints")]
pub(crate) struct StoringArgs {
    /// Where checkpoints go: a directory that all servers have under this path, or s3://, gs:// or
    /// az:// with a bucket and a prefix, if built with those.
    #[arg(long, value_name = "PLACE")]
    pub(crate) checkpoints: Option<String>,
    /// How often one is taken, such as 10m [default: when somebody asks, and at the end].
    #[arg(long, value_name = "DURATION", requires = "checkpoints")]
    pub(crate) checkpoint_every: Option<DurationFlag>,
    /// How many are kept.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) checkpoint_keep: usize,
    /// What each server may write of them: MiB/s; max, as fast as it goes; auto, 32 MiB/s a core
    /// while workers ask for something, and as fast as it goes while none does.
    #[arg(long, value_name = "auto|max|MIB", default_value = "auto")]
    #[arg(requires = "checkpoints")]
    pub(crate) checkpoint_rate: RateFlag,
    /// One in so many checkpoints has everything, the others what has changed since the one before;
    /// to restore one of those, all back to the full one are read.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "checkpoints")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(LINE_MAX)))]
    pub(crate) checkpoint_full_every: u32,
    /// Settings of the object store, such as aws_region = "eu-west-1", one a line; servers have
    /// their own.
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) store_config: Option<PathBuf>,
    /// Begin from a checkpoint: the newest good one of a store, or the one with this number. Only
    /// a cluster that was never placed does.
    #[arg(long, value_name = "PLACE[#NUMBER]")]
    pub(crate) restore: Option<String>,
    /// What is looked at before servers are told to restore: bytes, each one, so that a broken
    /// checkpoint is passed over; lengths, of its parts alone. Servers check each byte anyway.
    #[arg(long, value_enum, default_value = "bytes", requires = "restore")]
    pub(crate) restore_check: CheckFlag,
}

/// How a checkpoint is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFlag {
    Bytes,
    Lengths,
}

impl StoringArgs {
    /// What the coordinator of this cluster has to do with checkpoints.
    pub(crate) fn stored(&self, cluster: &str, shards: u16) -> Result<Stored, Failure> {
        let options = store_options(self.store_config.as_deref())?;
        if self.checkpoint_keep < KEEP_MIN {
            let (keep, least) = (self.checkpoint_keep, KEEP_MIN);
            return Err(Failure::usage(format!("--checkpoint-keep {keep}: at least {least}")));
        }
        let checkpoints = match &self.checkpoints {
            None => None,
            Some(place) => {
                let place = absolute(place)?;
                Store::open(&place, &options).map_err(Failure::usage)?;
                let (every, keep) = (self.checkpoint_every.map(|it| it.0), self.checkpoint_keep);
                let (options, rate_mib_s) = (options.clone(), self.checkpoint_rate.0);
                let full_every = self.checkpoint_full_every;
                Some(CheckpointSpec { place, options, every, keep, rate_mib_s, full_every })
            }
        };
        let restore = match &self.restore {
            None => None,
            Some(from) => Some(self.find(from, &options, (cluster, shards))?),
        };
        Ok(Stored { checkpoints, restore })
    }

    /// The checkpoint to begin from.
    fn find(
        &self,
        from: &str,
        options: &Options,
        (cluster, shards): (&str, u16),
    ) -> Result<RestoredFrom, Failure> {
        let (place, number) = parsed(from)?;
        let place = absolute(place)?;
        let store = Store::open(&place, options).map_err(Failure::usage)?;
        let depth = match self.restore_check {
            CheckFlag::Bytes => Depth::Bytes,
            CheckFlag::Lengths => Depth::Lengths,
        };
        let checkpoint = match number {
            Some(number) => {
                let found = store.checkpoint(number, None).map_err(Failure::failed)?;
                if depth == Depth::Bytes {
                    found.check().map_err(Failure::failed)?;
                }
                found
            }
            None => {
                let found = store.newest_good(None, depth).map_err(Failure::failed)?;
                let Found { checkpoint, passed_over } = found;
                passed_over.iter().for_each(|one| complain(&format!("gradwire: {one}")));
                let none = || format!("{place}: no checkpoint was published there");
                checkpoint.ok_or_else(none).map_err(Failure::failed)?
            }
        };
        let manifest = checkpoint.manifest();
        fits(manifest, cluster, shards)
            .map_err(|why| Failure::failed(format!("{place}: {why}")))?;
        let number = manifest.number.get();
        complain(&format!("gradwire: begins from {} of {place}", manifest.number));
        Ok(RestoredFrom { place, number })
    }
}

/// Whether a checkpoint can be what this cluster begins from.
fn fits(manifest: &Manifest, cluster: &str, shards: u16) -> Result<(), String> {
    let (number, theirs) = (manifest.number, &manifest.cluster.name);
    if theirs != cluster {
        return Err(format!("{number} is of cluster {theirs:?}, this one is {cluster:?}"));
    }
    if manifest.shards != shards {
        let theirs = manifest.shards;
        return Err(format!("{number} has {theirs} shards, this cluster {shards}"));
    }
    Ok(())
}

/// Place and number of `PLACE[#NUMBER]`.
fn parsed(from: &str) -> Result<(&str, Option<CheckpointNumber>), Failure> {
    let Some((place, number)) = from.rsplit_once(NUMBER_MARK) else { return Ok((from, None)) };
    let number = number.parse().map_err(|_| {
        Failure::usage(format!("--restore {from}: '{number}' is no checkpoint's number"))
    })?;
    Ok((place, Some(CheckpointNumber::new(number))))
}

/// A directory as every process finds it.
fn absolute(place: &str) -> Result<String, Failure> {
    if place.contains(SCHEME_MARK) || place.starts_with("memory:") {
        return Ok(place.to_owned());
    }
    let path =
        std::path::absolute(place).map_err(|error| Failure::usage(format!("{place}: {error}")))?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(format!("{place}: its path is no text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_behind_the_place() {
        let read = |text| parsed(text).map(|(place, number)| (place.to_owned(), number));
        let number = Some(CheckpointNumber::new(12));
        assert_eq!(read("/a/b#12").ok(), Some(("/a/b".to_owned(), number)));
        assert_eq!(read("s3://a/b").ok(), Some(("s3://a/b".to_owned(), None)));
        assert!(read("/a#b").is_err());
    }
}
