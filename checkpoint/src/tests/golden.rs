//! Checkpoints in the tree, one of each format: what was written once can be read for ever.

use std::fs;
use std::path::{Path, PathBuf};

use super::{SHARDS, assert_as_written, newest, options, write_checkpoint};
use crate::{Manifest, Store};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/format-1")
}

#[test]
fn the_checkpoint_of_format_1_is_read() {
    let place = golden();
    let store = Store::open(place.to_str().expect("its name"), &options()).expect("a directory");
    let found = newest(&store);
    assert_eq!(found.passed_over, []);
    let checkpoint = found.checkpoint.expect("it is in the tree");
    assert_eq!(checkpoint.manifest().rows(), 2 + 3 + 4);
    assert_as_written(&checkpoint);
}

#[test]
fn format_1_is_still_what_is_written() {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Store::open(folder.path().to_str().expect("its name"), &options()).expect("it");
    let written = write_checkpoint(&store).expect("written");
    for shard in 0..SHARDS {
        let file = Path::new("ckpt-0000000001").join(format!("part-{shard:05}"));
        let read = |root: &Path| fs::read(root.join(&file)).unwrap_or_default();
        assert_eq!(read(folder.path()), read(&golden()), "{}", file.display());
    }
    let text = fs::read(golden().join("ckpt-0000000001/manifest")).expect("it is in the tree");
    let golden = Manifest::from_text(&text, written.number, String::new).expect("it holds");
    assert_eq!(Manifest { gradwire: golden.gradwire.clone(), ..written }, golden);
}
