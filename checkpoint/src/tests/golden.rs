//! Checkpoints in the tree, one of each format: what was written once can be read for ever.

use std::fs;
use std::path::{Path, PathBuf};

use wire::StoredValues;

use super::{SHARDS, assert_as_written, newest, options, write_checkpoint, write_rounded};
use crate::{Manifest, Store, WriteError};

fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/format-{format}"))
}

#[test]
fn the_checkpoints_of_each_format_are_read() {
    for format in [1, 3] {
        read(format);
    }
}

fn read(format: u32) {
    let place = golden(format);
    let store = Store::open(place.to_str().expect("its name"), &options()).expect("a directory");
    let found = newest(&store);
    assert_eq!(found.passed_over, []);
    let checkpoint = found.checkpoint.expect("it is in the tree");
    let manifest = checkpoint.manifest();
    assert_eq!((manifest.format, manifest.rows()), (format, 2 + 3 + 4));
    let values = if format == 3 { StoredValues::Bf16 } else { StoredValues::F32 };
    assert_eq!(manifest.values(), values);
    assert_as_written(&checkpoint);
}

#[test]
fn formats_1_and_3_are_still_what_is_written() {
    written(1, write_checkpoint);
    written(3, |store| write_rounded(store, None));
}

fn written(format: u32, write: fn(&Store) -> Result<Manifest, WriteError>) {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Store::open(folder.path().to_str().expect("its name"), &options()).expect("it");
    let written = write(&store).expect("written");
    assert_eq!(written.format, format);
    for shard in 0..SHARDS {
        let file = Path::new("ckpt-0000000001").join(format!("part-{shard:05}"));
        let read = |root: &Path| fs::read(root.join(&file)).unwrap_or_default();
        assert_eq!(read(folder.path()), read(&golden(format)), "{}", file.display());
    }
    let text =
        fs::read(golden(format).join("ckpt-0000000001/manifest")).expect("it is in the tree");
    let golden = Manifest::from_text(&text, written.number, String::new).expect("it holds");
    assert_eq!(Manifest { gradwire: golden.gradwire.clone(), ..written }, golden);
}
