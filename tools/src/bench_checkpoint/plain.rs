//! Plain files, as the measure of what a disk gives.
//!
//! Owns no figures. What is written is no program's to make shorter.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bench::Random;
use rustix::fs::{Advice, OFlags, fadvise, fcntl_setfl};

use crate::failure::Failure;

/// What is written and read at once.
const PIECE_BYTES: usize = 4 << 20;

/// What is written past the cache is a multiple of it.
const PAGE_BYTES: usize = 4096;

/// How a plain file is written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Cached,
    /// Past the kernel's cache, where the file system knows that; whole pages.
    Direct,
}

/// Writes a file of so many bytes, and syncs it. How long that took.
pub(super) fn write_plain(path: &Path, bytes: u64, way: Way) -> Result<Duration, Failure> {
    let mut random = Random::new(3);
    let mut memory: Vec<u8> = (0..PIECE_BYTES + PAGE_BYTES).map(|_| random.bits() as u8).collect();
    let piece = at_page(&mut memory);
    let begun = Instant::now();
    let mut file = File::create(path).map_err(Failure::failed)?;
    let mut left = bytes as usize;
    if way == Way::Direct {
        let _ = fcntl_setfl(&file, OFlags::DIRECT);
        left = left.next_multiple_of(PAGE_BYTES);
    }
    while left > 0 {
        let now = left.min(piece.len());
        file.write_all(&piece[..now]).map_err(Failure::failed)?;
        left -= now;
    }
    file.sync_all().map_err(Failure::failed)?;
    let took = begun.elapsed();
    fs::remove_file(path).map_err(Failure::failed)?;
    Ok(took)
}

/// A piece of memory that is a page longer, at a page's boundary.
fn at_page(memory: &mut [u8]) -> &mut [u8] {
    let first = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
    &mut memory[first..][..PIECE_BYTES]
}

/// Reads files to their ends, one after the other, none of which the kernel's cache holds. How
/// long that took.
pub(super) fn read_plain(paths: &[PathBuf], way: Way) -> Result<Duration, Failure> {
    paths.iter().try_for_each(|path| forget(path))?;
    let mut memory = vec![0; PIECE_BYTES + PAGE_BYTES];
    let piece = at_page(&mut memory);
    let begun = Instant::now();
    for path in paths {
        let mut file = File::open(path).map_err(Failure::failed)?;
        if way == Way::Direct {
            let _ = fcntl_setfl(&file, OFlags::DIRECT);
        }
        // Where a piece is short, the file ends.
        while file.read(piece).map_err(Failure::failed)? == piece.len() {}
    }
    Ok(begun.elapsed())
}

/// Has the kernel drop what it kept of a file.
pub(super) fn forget(path: &Path) -> Result<(), Failure> {
    let file = File::open(path).map_err(Failure::failed)?;
    fadvise(file, 0, None, Advice::DontNeed).map_err(Failure::failed)
}
