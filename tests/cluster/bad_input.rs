//! What is wrong ends with one clear line and an exit code, and leaves nothing that looks whole.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use crate::{Files, run, run_well, skipped, stderr};

/// Runs a command that must fail: code 1 or 2, one line that says all of `words`.
fn complains(arguments: &[&str], code: i32, words: &[&str]) {
    let output = run(arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    let complaint: Vec<&str> = said.lines().filter(|line| line.starts_with("gradwire: ")).collect();
    assert_eq!(complaint.len(), 1, "{arguments:?}: one line, not\n{said}");
    for word in words {
        assert!(complaint[0].contains(word), "no '{word}' in: {said}");
    }
    assert!(output.stdout.is_empty(), "results of a failed run");
}

/// Trains on one file, which must fail, and checks that no model is left.
fn training_complains(name: &str, content: impl AsRef<[u8]>, words: &[&str]) {
    let files = Files::new();
    let data = files.file(name, content);
    complains(&["train", "--train", &data, "--save", &files.path("model")], 1, words);
    assert_eq!(files.names(), [name], "nothing is left");
}

#[test]
fn a_broken_line_names_file_line_and_column() {
    let text = crate::rows(10) + "1 5:x\n" + &crate::rows(10);
    training_complains("rows.libsvm", text, &["rows.libsvm:11:5", "expected"]);
}

#[test]
fn broken_lines_may_be_left_out_up_to_a_number() {
    let files = Files::new();
    let text = crate::rows(500) + "1 5:x\n" + &crate::rows(500) + "2 5:1\n";
    let data = files.file("rows.libsvm", text);
    let test = files.file("test.libsvm", crate::rows(100));
    let train = ["train", "--json", "--train", &data, "--test", &test, "--bad-rows"];
    let result = run_well(&[&train[..], &["skip:2"]].concat());
    assert!(result.contains("\"bad_rows\":2"), "{result}");
    complains(&[&train[..], &["skip:1"]].concat(), 1, &["rows.libsvm:1002:1"]);
}

#[test]
fn files_without_rows_labels_or_a_second_class_are_told_apart() {
    training_complains("empty.libsvm", "", &["empty.libsvm", "no rows"]);
    training_complains("some.vw", "|f a b\n|f c\n", &["some.vw:1:1", "label"]);
    training_complains("one.libsvm", "1 1:1\n".repeat(50), &["label 1", "nothing to learn"]);
}

#[test]
fn one_class_only_is_seen_by_processes_too() {
    let files = Files::new();
    let data = files.file("one.libsvm", "1 1:1\n".repeat(5000));
    let train = ["train", "--processes", "--workers", "2", "--train", &data];
    let save = ["--save", &files.path("model")];
    complains(&[&train[..], &save].concat(), 1, &["label 1", "nothing to learn"]);
    assert_eq!(files.names(), ["one.libsvm"], "nothing is left");
}

#[test]
fn numbers_that_are_none_or_too_large_are_named() {
    training_complains("nan.libsvm", crate::rows(4) + "1 5:nan\n", &["nan.libsvm:5:5", "finite"]);
    let large = crate::rows(4) + "1 9223372036854775808:1\n";
    training_complains("large.libsvm", large, &["large.libsvm:5:3", "2^63"]);
}

#[test]
fn a_cut_off_archive_is_named() {
    let whole = zstd::encode_all(crate::rows(20_000).as_bytes(), 1).expect("compressed");
    training_complains("cut.libsvm.zst", &whole[..whole.len() / 2], &["cut.libsvm.zst", "cut off"]);
}

#[test]
fn a_file_that_is_not_there_and_a_folder_are_named() {
    complains(&["train", "--train", "no/such.vw"], 1, &["no/such.vw"]);
    complains(&["train", "--train", "tests"], 1, &["tests", "directory"]);
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    complains(&["train", "--train", "x.vw", "--workers", "0"], 2, &["--workers", "1 to"]);
    assert_eq!(run(&["train", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(run(&["train", "--clock", "ssp"]).status.code(), Some(2));
    assert_eq!(run(&["train", "--servers", "nonsense", "--train", "x"]).status.code(), Some(1));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_directory_that_is_no_model_is_not_written_over() {
    let files = Files::new();
    let data = files.file("rows.libsvm", crate::rows(100));
    std::fs::create_dir(files.path("mine")).expect("made");
    std::fs::write(files.path("mine/letter.txt"), "dear").expect("written");
    complains(&["train", "--train", &data, "--save", &files.path("mine")], 1, &["mine"]);
    assert_eq!(std::fs::read_to_string(files.path("mine/letter.txt")).expect("there"), "dear");
}

#[test]
fn a_directory_without_permission_is_named() {
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere but into the kernel's own files.
        let files = Files::new();
        let data = files.file("rows.libsvm", crate::rows(100));
        complains(&["train", "--train", &data, "--save", "/proc/model"], 1, &["/proc"]);
        return;
    }
    let data = Files::new();
    let rows = data.file("rows.libsvm", crate::rows(100));
    complains(&["train", "--train", &rows, "--save", "/root/model"], 1, &["/root"]);
}

#[test]
fn a_model_of_another_layout_is_refused() {
    let files = Files::new();
    let (data, dir) = (files.file("rows.libsvm", crate::rows(300)), files.path("model"));
    run_well(&["train", "--train", &data, "--save", &dir]);
    let manifest = files.path("model/model.json");
    let text = std::fs::read_to_string(&manifest).expect("there");
    let place = text.find("\"layout\"").expect("a layout") + "\"layout\": \"0x".len();
    let digit = if &text[place..=place] == "1" { "2" } else { "1" };
    let other = text[..place].to_owned() + digit + &text[place + 1..];
    std::fs::write(&manifest, other).expect("written");
    complains(&["train", "--train", &data, "--resume", &dir], 1, &["layout"]);
}

#[test]
fn a_changed_byte_of_a_model_is_found() {
    let files = Files::new();
    let (data, dir) = (files.file("rows.libsvm", crate::rows(300)), files.path("model"));
    run_well(&["train", "--train", &data, "--save", &dir]);
    let part = files.path("model/part-00000.rows");
    let mut bytes = std::fs::read(&part).expect("there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&part, bytes).expect("written");
    complains(&["predict", "--model", &dir, "--input", &data], 1, &["part-00000.rows"]);
}

#[test]
fn a_full_disk_leaves_no_model() {
    let files = Files::new();
    let mount = files.path("small");
    std::fs::create_dir(&mount).expect("made");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs", &mount])
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        skipped("a_full_disk_leaves_no_model", "a tmpfs cannot be mounted here");
        return;
    }
    let model = format!("{mount}/model");
    let output = run(&["train", "--save", &model]);
    let left = std::fs::read_dir(&mount).expect("readable").count();
    let unmounted = Command::new("umount").arg(&mount).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
    assert_eq!(left, 0, "nothing is left");
}

#[test]
fn a_port_in_use_and_an_open_address_are_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    complains(&["serve", "--listen", &address], 1, &[&address, "in use"]);
    complains(&["serve", "--listen", "0.0.0.0:0"], 1, &["--insecure"]);
    complains(&["serve", "--listen", "nowhere"], 1, &["nowhere"]);
}

#[test]
fn a_link_that_cannot_be_measured_is_told_why() {
    let bench = |more: &[&'static str]| [&["bench", "transport"][..], more].concat();
    complains(&bench(&["--size", "0"]), 2, &["size is 0", "1 to"]);
    complains(&bench(&["--transport", "shm", "--size", "63"]), 2, &["63", "64 to"]);
    complains(&bench(&["--transport", "shm", "127.0.0.1:1"]), 2, &["within one process"]);
    complains(&bench(&["--in-flight", "0"]), 2, &["in_flight is 0"]);
    complains(&bench(&["--transport", "epoll", "127.0.0.1:1"]), 1, &["127.0.0.1:1", "refused"]);
    complains(&bench(&["--listen", "nowhere"]), 1, &["nowhere"]);
    complains(&bench(&["--listen", "0.0.0.0:0"]), 1, &["--insecure"]);
    complains(&bench(&["--transport", "auto"]), 2, &["name it"]);
    complains(&bench(&["--transport", "epoll", "--rdma-port", "1"]), 2, &["--transport verbs"]);
    let named = run(&bench(&["--rdma-device", "none-such"]));
    assert_eq!(named.status.code(), Some(1));
    let said = stderr(&named);
    let whys = ["none-such", "no RDMA device", "libibverbs.so.1"];
    assert!(whys.iter().any(|why| said.contains(why)), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    complains(&["train", "--servers", &free.to_string()], 1, &[&free.to_string(), "refused"]);
}

#[test]
fn a_server_of_another_version_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a guest");
        let mut hello = [0; wire::HEADER_BYTES];
        stream.read_exact(&mut hello).expect("a hello");
        // The version stands behind the magic.
        hello[4] = 99;
        stream.write_all(&hello).expect("answered");
    });
    complains(&["train", "--servers", &address], 1, &[&address, "version 99"]);
    server.join().expect("it served once");
}

#[test]
fn a_server_that_takes_no_message_of_any_use_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = std::thread::spawn(move || {
        // Every guest is told the same, for as long as guests come.
        for stream in listener.incoming().take(2) {
            let mut stream = stream.expect("a guest");
            let mut bytes = [0; wire::HEADER_BYTES];
            stream.read_exact(&mut bytes).expect("a hello");
            let longest = wire::HEADER_BYTES as u64;
            let welcome = wire::Header::new(wire::Kind::Welcome);
            let welcome = wire::Header { keys: 1, sequence: longest, ..welcome };
            let crc = |bytes: &[u8]| kernels::crc32c::crc32c(kernels::Isa::detect(), 0, bytes);
            wire::seal(&mut bytes, welcome, wire::Seal::HeaderOnly, crc);
            stream.write_all(&bytes).expect("answered");
        }
    });
    complains(&["train", "--servers", &address], 1, &[&address, "sequence"]);
    drop(std::net::TcpStream::connect(&address)); // So that the server ends.
    let _ = server.join();
}

#[test]
fn a_server_that_is_something_else_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a guest");
        stream.write_all(&[b'H'; wire::HEADER_BYTES]).expect("answered");
    });
    complains(&["train", "--servers", &address], 1, &[&address, "not a gradwire peer"]);
    server.join().expect("it served once");
}
