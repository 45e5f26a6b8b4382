//! `gradwire checkpoint`: what it says of a good store, and of a broken one.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Files, run, run_well, stderr};

/// The checkpoint of format 1 that lies in the tree, twice.
fn two() -> Files {
    let files = Files::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../checkpoint/testdata/format-1/ckpt-0000000001");
    for folder in ["ckpt-0000000001", "ckpt-0000000002"] {
        let folder = files.path(folder);
        fs::create_dir(&folder).expect("a directory");
        for entry in fs::read_dir(&golden).expect("in the tree") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), Path::new(&folder).join(entry.file_name())).expect("copied");
        }
    }
    // The second is unfinished.
    fs::remove_file(files.path("ckpt-0000000002/manifest")).expect("it was copied");
    files
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("one line of JSON")
}

#[test]
fn a_good_store_is_listed_verified_and_inspected() {
    let files = two();
    let place = files.path("");
    let listed = parsed(&run_well(&["checkpoint", "list", &place, "--json"]));
    assert_eq!(listed[0]["state"], "published");
    assert_eq!(listed[1]["state"], "unfinished");
    let verified = parsed(&run_well(&["checkpoint", "verify", &place, "--json"]));
    assert_eq!(verified[0]["verdict"], "good");
    let inspected = parsed(&run_well(&["checkpoint", "inspect", &place, "--json"]));
    assert_eq!(inspected["number"], 1);
    assert_eq!(inspected["parts"][2]["messages"], 4);
    let text = run_well(&["checkpoint", "inspect", &place]);
    assert!(text.contains("small") && text.contains("ftrl"), "{text}");
}

#[test]
fn a_broken_part_is_named_with_its_byte_and_the_exit_code_is_3() {
    let files = two();
    let place = files.path("");
    let part = files.path("ckpt-0000000001/part-00001");
    let mut bytes = fs::read(&part).expect("it was copied");
    bytes[120] ^= 1;
    fs::write(&part, bytes).expect("written");
    let output = run(&["checkpoint", "verify", &place]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("part-00001: damaged in the 136 bytes from byte 64"), "{text}");
    assert!(stderr(&output).contains("1 of 2 checkpoints broken"), "{}", stderr(&output));
}

#[test]
fn a_store_that_is_not_there_and_one_that_is_none_are_told_apart() {
    let files = Files::new();
    let absent = run(&["checkpoint", "list", &files.path("none")]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(stderr(&absent).contains("not found"), "{}", stderr(&absent));
    let none = run(&["checkpoint", "list", "ftp://a/b"]);
    assert_eq!(none.status.code(), Some(2), "{}", stderr(&none));
}
