//! A disk that is full.

use std::io::Write;
use std::process::Command;

use wire::ShardId;

use super::{assert_as_written, cluster, newest, options, write_checkpoint};
use crate::{PartEnd, Store, StoreError, WriteError};

/// A file system of this size, in bytes.
const DISK_BYTES: usize = 2 << 20;

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Result<SmallDisk, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let size = format!("size={DISK_BYTES}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let output = mount.output().map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(SmallDisk(folder)),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_the_old_checkpoint_stays_whole() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => {
            let test = "a_full_disk_is_named_and_the_old_checkpoint_stays_whole";
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
            return;
        }
    };
    let place = disk.0.path().join("checkpoints");
    let store = Store::open(place.to_str().expect("its name"), &options()).expect("a directory");
    write_checkpoint(&store).expect("there is room for a small one");

    let mut writer = store.begin(cluster(), 1).expect("begun");
    let mut part = store.write_part(writer.plan(ShardId::new(0))).expect("begun");
    part.append(&vec![1; 2 * DISK_BYTES]).expect("room in memory");
    let error = part.finish(PartEnd { rows: 0, position: 0 }).expect_err("no room on the disk");
    let WriteError::Store(StoreError::Full { object, .. }) = &error else { panic!("{error}") };
    assert!(object.contains("/ckpt-0000000002/part-00000"), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");

    let found = newest(&store);
    assert_eq!(found.passed_over, []);
    assert_as_written(&found.checkpoint.expect("the first"));
    // What was written of the one that failed is gone: there is room for another small one.
    let manifest = write_checkpoint(&store).expect("room again");
    assert_eq!(manifest.number.get(), 3);
    drop(store);
}
