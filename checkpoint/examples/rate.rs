//! How fast a checkpoint is written and read, beside plain files of the same bytes.
//!
//! `cargo run --release -p gradwire-checkpoint --example rate -- DIR [MIB] [REPEATS]`. Reads are
//! from the disk: what the kernel kept of a file is dropped before. What it writes it removes.
#![allow(clippy::print_stdout, missing_docs, reason = "an example prints")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use gradwire_checkpoint::{Cluster, ClusterId, Facts, Options, PartEnd, Store};
use rustix::fs::{Advice, fadvise};
use wire::{Epoch, ShardId};

/// A message as a shard fills another one: a page of rows.
const MESSAGE_BYTES: usize = 256 << 10;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("where? DIR [MIB] [REPEATS]")?;
    let mib: usize = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let repeats: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let folder = PathBuf::from(folder).join(format!("rate-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let page = page();
    let mut rates = [const { Vec::new() }; 4];
    let mut run = || -> Outcome<()> {
        for repeat in 0..=repeats {
            let mut figures = [0.0; 4];
            // A disk that was just used is slower: each kind comes first as often as second.
            let order = if repeat % 2 == 0 { [0, 1, 2, 3] } else { [1, 0, 3, 2] };
            for index in order {
                figures[index] = match index {
                    0 => write_plain(&folder, &page, mib)?,
                    1 => write_ours(&folder, &page, mib)?,
                    2 => read_plain(&folder, mib)?,
                    _ => read_ours(&folder)?,
                };
            }
            // The first one finds the disk in another state.
            if repeat > 0 {
                rates.iter_mut().zip(figures).for_each(|(all, seconds)| all.push(seconds));
            }
            fs::remove_dir_all(&folder)?;
            fs::create_dir_all(&folder)?;
        }
        Ok(())
    };
    let ran = run();
    fs::remove_dir_all(&folder)?;
    ran?;
    println!("{mib} MiB, {repeats} repeats, medians       MiB/s  of plain");
    let medians = rates.map(|mut all| {
        all.sort_by(f64::total_cmp);
        mib as f64 / all[all.len() / 2]
    });
    let names = ["plain write and sync", "checkpoint written", "plain read", "checkpoint read"];
    for (index, name) in names.into_iter().enumerate() {
        let share = medians[index] / medians[index & !1];
        println!("{name:32} {:9.0}  {share:8.2}", medians[index]);
    }
    Ok(())
}

/// Bytes that no disk makes shorter.
fn page() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..MESSAGE_BYTES).map(|_| next()).collect()
}

fn write_plain(folder: &Path, page: &[u8], mib: usize) -> Outcome<f64> {
    let begin = Instant::now();
    let mut file = File::create(folder.join("plain"))?;
    for _ in 0..(mib << 20) / MESSAGE_BYTES {
        file.write_all(page)?;
    }
    file.sync_all()?;
    let seconds = begin.elapsed().as_secs_f64();
    forget(&folder.join("plain"))?;
    Ok(seconds)
}

fn write_ours(folder: &Path, page: &[u8], mib: usize) -> Outcome<f64> {
    let begin = Instant::now();
    let store = open(folder)?;
    let cluster = Cluster { name: "rate".to_owned(), id: ClusterId::new(1) };
    let mut writer = store.begin(cluster, 1)?;
    let mut part = store.write_part(writer.plan(ShardId::new(0)))?;
    for _ in 0..(mib << 20) / MESSAGE_BYTES {
        part.append(page)?;
    }
    let entry = part.finish(PartEnd { rows: 0, position: 0 })?;
    let facts = Facts { epoch: Epoch::new(1), clock: None, created_s: 0, tables: Vec::new() };
    writer.publish(vec![entry], facts)?;
    let seconds = begin.elapsed().as_secs_f64();
    forget(&folder.join("ckpt-0000000001/part-00000"))?;
    Ok(seconds)
}

fn read_plain(folder: &Path, mib: usize) -> Outcome<f64> {
    let begin = Instant::now();
    let mut file = File::open(folder.join("plain"))?;
    let mut buffer = vec![0; 4 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => bytes += read,
        }
    }
    assert_eq!(bytes, mib << 20);
    Ok(begin.elapsed().as_secs_f64())
}

fn read_ours(folder: &Path) -> Outcome<f64> {
    let begin = Instant::now();
    let store = open(folder)?;
    let listed = store.list()?;
    let checkpoint = store.checkpoint(listed[0].number, None)?;
    checkpoint.check()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn open(folder: &Path) -> Outcome<Store> {
    Ok(Store::open(folder.to_str().ok_or("a directory whose name is UTF-8")?, &Options::default())?)
}

/// Has the kernel drop what it kept of a file.
fn forget(path: &Path) -> Outcome<()> {
    Ok(fadvise(File::open(path)?, 0, None, Advice::DontNeed)?)
}
