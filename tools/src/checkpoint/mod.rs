//! `gradwire checkpoint`: what lies in a store of checkpoints, whether it is good, and a new one.
//!
//! Owns what is printed. Reading and checking are left to the crate `checkpoint`.

mod args;
mod take;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use checkpoint::{
    CheckpointNumber, Listed, Manifest, Options, State, Store, StoreError, StoreOption,
};
use serde::Serialize;

pub(crate) use args::CheckpointCommand;
use args::{ListArgs, NumberArgs, StoreArgs};

use crate::failure::Failure;
use crate::output::{count, json, result, table};

/// Runs one of the commands.
pub(crate) fn run(command: &CheckpointCommand) -> Result<(), Failure> {
    match command {
        CheckpointCommand::List(arguments) => list(arguments),
        CheckpointCommand::Verify(arguments) => verify::run(arguments),
        CheckpointCommand::Inspect(arguments) => inspect(arguments),
        CheckpointCommand::Take(arguments) => take::run(arguments),
    }
}

/// How a store is used, by a file of settings.
pub(crate) fn store_options(config: Option<&Path>) -> Result<Options, Failure> {
    let Some(path) = config else { return Ok(Options::default()) };
    let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let settings: BTreeMap<String, String> =
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    let setting = |(name, value)| StoreOption { name, value };
    Ok(Options { store: settings.into_iter().map(setting).collect(), ..Options::default() })
}

fn open(arguments: &StoreArgs) -> Result<Store, Failure> {
    let limit = Duration::from_secs(arguments.timeout);
    let options = Options { limit, ..store_options(arguments.store_config.as_deref())? };
    Store::open(&arguments.place, &options).map_err(|error| match error {
        StoreError::Place { .. } | StoreError::NotBuilt { .. } => Failure::usage(error),
        error => Failure::failed(error),
    })
}

/// One checkpoint of `list`, for programs.
#[derive(Serialize)]
struct Line<'a> {
    number: CheckpointNumber,
    state: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<&'a Manifest>,
}

impl Line<'_> {
    fn of(listed: &Listed) -> Line<'_> {
        let (state, why, manifest) = match &listed.state {
            State::Published(manifest) => ("published", None, Some(&**manifest)),
            State::Unfinished => ("unfinished", None, None),
            State::Broken(broken) => ("broken", Some(broken.to_string()), None),
        };
        Line { number: listed.number, state, bytes: listed.bytes, why, manifest }
    }
}

fn list(arguments: &ListArgs) -> Result<(), Failure> {
    let store = open(&arguments.store)?;
    let listed = store.list().map_err(Failure::failed)?;
    let lines: Vec<Line<'_>> = listed.iter().map(Line::of).collect();
    if arguments.json {
        json(&lines)?;
    } else {
        print(&lines)?;
    }
    broken(lines.iter().filter(|line| line.why.is_some()).count(), lines.len())
}

fn print(lines: &[Line<'_>]) -> Result<(), Failure> {
    let head = ("number", "state", "since", "values", "bytes", "shards", "rows", "epoch", "clock");
    let (number, state, since, values, bytes, shards, rows, epoch, clock) = head;
    result(&format!(
        "{number:>10}  {state:10}  {since:>10}  {values:>6}  {bytes:>18}  {shards:>6}  {rows:>15}  \
         {epoch:>8}  {clock:>12}"
    ))?;
    for line in lines {
        let of = |value: fn(&Manifest) -> String| line.manifest.map_or("-".to_owned(), value);
        let clock = of(|manifest| manifest.clock.map_or("-".to_owned(), |c| c.get().to_string()));
        result(&format!(
            "{:>10}  {:10}  {:>10}  {:>6}  {:>18}  {:>6}  {:>15}  {:>8}  {clock:>12}",
            line.number.get(),
            line.state,
            of(|manifest| manifest.base().map_or("-".to_owned(), |it| it.get().to_string())),
            of(|manifest| manifest.values().to_string()),
            count(line.bytes),
            of(|manifest| manifest.shards.to_string()),
            of(|manifest| count(manifest.rows())),
            of(|manifest| manifest.epoch.get().to_string()),
        ))?;
        if let Some(why) = &line.why {
            result(&format!("{:>10}  {why}", ""))?;
        }
    }
    Ok(())
}

fn inspect(arguments: &NumberArgs) -> Result<(), Failure> {
    let store = open(&arguments.store)?;
    let number = match arguments.number {
        Some(number) => CheckpointNumber::new(number),
        None => newest_published(&store)?,
    };
    let checkpoint = store.checkpoint(number, None).map_err(Failure::verdict)?;
    let manifest = checkpoint.manifest();
    if arguments.json { json(manifest) } else { table(&pairs(manifest)) }
}

fn newest_published(store: &Store) -> Result<CheckpointNumber, Failure> {
    let listed = store.list().map_err(Failure::failed)?;
    let published = listed.iter().rev().find(|one| matches!(one.state, State::Published(_)));
    let none = || Failure::failed(format!("{}: no checkpoint was published there", store.place()));
    published.map(|one| one.number).ok_or_else(none)
}

fn pairs(manifest: &Manifest) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let clock = manifest.clock.map_or("-".to_owned(), |clock| clock.get().to_string());
    let mut pairs = vec![
        pair("number", manifest.number.get().to_string()),
        pair("format", manifest.format.to_string()),
        pair("saved by gradwire", manifest.gradwire.clone()),
        pair("changes since", manifest.base().map_or("-".to_owned(), |it| it.to_string())),
        pair("values", manifest.values().to_string()),
        pair("cluster", manifest.cluster.name.clone()),
        pair("cluster id", format!("{:016x}", manifest.cluster.id.get())),
        pair("saved at (seconds since 1970)", manifest.created_s.to_string()),
        pair("epoch", manifest.epoch.get().to_string()),
        pair("clock", clock),
        pair("rows", count(manifest.rows())),
        pair("bytes", count(manifest.part_bytes())),
    ];
    for table in &manifest.tables {
        pairs.push(pair("table", table.name.clone()));
        pairs.push(pair("  rule", table.rule.clone()));
    }
    for part in &manifest.parts {
        pairs.extend([
            pair(&part.shard.to_string(), part.object.clone()),
            pair("  bytes", count(part.bytes)),
            pair("  blocks", count(part.blocks)),
            pair("  messages", count(part.messages)),
            pair("  rows", count(part.rows)),
            pair("  position", count(part.position)),
            pair("  changes since", part.base.map_or("-".to_owned(), |it| it.to_string())),
            pair("  values", part.values.to_string()),
            pair("  root", part.root.to_string()),
        ]);
    }
    pairs
}

/// The end of a command that has found so many broken ones.
fn broken(broken: usize, all: usize) -> Result<(), Failure> {
    match broken {
        0 => Ok(()),
        _ => Err(Failure::verdict(format!("{broken} of {all} checkpoints broken"))),
    }
}
