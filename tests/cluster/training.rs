//! Training, saving, resuming and predicting.

use crate::{Files, run, run_well, stderr, train};

fn figure(result: &serde_json::Value, name: &str) -> f64 {
    result[name].as_f64().unwrap_or_else(|| panic!("no figure {name} in {result}"))
}

#[test]
fn without_arguments_it_learns_from_the_flights_and_prints_a_table() {
    let table = run_well(&["train"]);
    for name in ["rows/s", "test logloss", "test AUC", "features"] {
        assert!(table.contains(name), "no {name} in:\n{table}");
    }
}

#[test]
fn the_json_has_every_promised_key() {
    let result = train(&[]);
    let names = [
        "rows",
        "rows_per_s",
        "test_logloss",
        "test_auc",
        "features",
        "table_bytes_per_key",
        "bytes_sent",
        "pairs_pushed",
        "push_bytes",
        "pull_bytes",
        "push_bits_per_pair",
        "transport",
        "clock",
        "servers",
        "workers",
    ];
    for name in names {
        assert!(!result[name].is_null(), "no {name} in {result}");
    }
    let loss = figure(&result, "test_logloss");
    assert!(loss < 0.51, "the flights' mean alone gives 0.547, this gave {loss}");
}

#[test]
fn every_way_to_run_comes_to_the_same_loss_within_a_hundredth() {
    let reference = figure(&train(&[]), "test_logloss");
    for transport in ["shm", "uring"] {
        for clock in ["bsp", "ssp:3", "asp"] {
            for processes in [&["--processes"][..], &[]] {
                let mut arguments = vec!["--transport", transport, "--clock", clock];
                arguments.extend(["--servers-local", "2", "--workers", "2"]);
                arguments.extend(processes);
                let result = train(&arguments);
                let loss = figure(&result, "test_logloss");
                let apart = (loss / reference - 1.0).abs();
                assert!(apart < 0.01, "{arguments:?} gives {loss}, alone it is {reference}");
                assert_eq!(figure(&result, "rows"), figure(&train(&[]), "rows"));
            }
        }
    }
}

#[test]
fn under_bsp_with_one_worker_the_model_has_the_same_bytes_on_any_servers_and_instructions() {
    let files = Files::new();
    let export = |name: &str, arguments: &[&str]| {
        let dir = files.path(name);
        let mut all = vec!["--save", &dir];
        all.extend(arguments);
        train(&all);
        run_well(&["model", "export", &dir])
    };
    let one = export("one", &[]);
    assert!(one.lines().count() > 8000, "{} lines", one.lines().count());
    assert!(one == export("three", &["--servers-local", "3"]), "three servers differ");
    assert!(one == export("scalar", &["--isa", "scalar"]), "scalar kernels differ");
    let processes = ["--processes", "--servers-local", "2", "--transport", "uring"];
    assert!(one == export("processes", &processes), "processes differ");
    let exact = ["--servers-local", "2", "--transport", "uring", "--codec", "exact"];
    assert!(one == export("exact", &exact), "keys that travel as numbers differ");
    let auto = ["--transport", "epoll", "--codec", "auto"];
    assert!(one == export("auto", &auto), "a codec that is changed on the way differs");
    assert!(one == export("nonzero", &["--codec", "nonzero"]), "without zeros it differs");
}

#[test]
fn the_kkt_filter_carries_fewer_pairs_to_the_same_loss_within_half_a_percent() {
    for (l1, codec) in [("4", "kkt:2"), ("4", "kkt:2+int8")] {
        let common = ["--l1", l1, "--servers-local", "2", "--workers", "2"];
        let all = train(&common);
        let filtered = train(&[&common[..], &["--codec", codec]].concat());
        let (loss, reference) = (figure(&filtered, "test_logloss"), figure(&all, "test_logloss"));
        let apart = (loss / reference - 1.0).abs();
        assert!(apart < 0.005, "{codec} gives {loss}, all pairs {reference}");
        let (pushed, carried) =
            (figure(&filtered, "pairs_pushed"), figure(&filtered, "pairs_carried"));
        assert!(carried < 0.9 * pushed, "{codec} carries {carried} of {pushed}");
        assert_eq!(figure(&all, "pairs_carried"), pushed, "of the same batches");
    }
}

#[test]
fn a_saved_model_predicts_what_the_test_pass_measured() {
    let files = Files::new();
    let (data, dir) = (files.file("rows.libsvm", crate::rows(4000)), files.path("model"));
    train(&["--train", &data, "--test", &data, "--save", &dir]);
    let scores = run_well(&["predict", "--model", &dir, "--input", &data]);
    let scores: Vec<f64> = scores.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(scores.len(), 4000);
    assert!(scores.iter().enumerate().all(|(row, &p)| (p > 0.5) == (row % 2 == 1)));
    let unlabelled = files.file("new.libsvm", "1:1\n2:1\n");
    let output = files.path("scores.txt");
    run_well(&["predict", "--model", &dir, "--input", &unlabelled, "--output", &output]);
    let scores = std::fs::read_to_string(output).expect("written");
    assert_eq!(scores.lines().count(), 2);
    assert!(run_well(&["model", "inspect", &dir]).contains("ftrl"));
}

#[test]
fn resuming_goes_on_from_the_saved_rows_and_only_with_the_same_rule() {
    let files = Files::new();
    let (data, dir) = (files.file("rows.libsvm", crate::rows(3000)), files.path("model"));
    let first = train(&["--train", &data, "--save", &dir]);
    let second = train(&["--train", &data, "--resume", &dir, "--save", &dir]);
    assert!(figure(&second, "train_logloss") < figure(&first, "train_logloss"));
    let other = run(&["train", "--train", &data, "--resume", &dir, "--alpha", "0.3"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("alpha"), "{}", stderr(&other));
}

#[test]
fn every_optimizer_learns() {
    let files = Files::new();
    let data = files.file("rows.libsvm", crate::rows(20_000));
    for optimizer in
        ["ftrl", "ftrl-compact", "adagrad", "rmsprop", "adam", "adamw", "sgd", "momentum"]
    {
        let result = train(&["--train", &data, "--optimizer", optimizer, "--batch-rows", "100"]);
        let loss = figure(&result, "test_logloss");
        assert!(loss < 0.5, "{optimizer} comes to {loss}, chance is 0.693");
    }
}

#[test]
fn compact_ftrl_comes_to_the_loss_of_ftrl_in_fewer_bytes_on_any_servers_alike() {
    let files = Files::new();
    let full = train(&[]);
    let export = |name: &str, servers: &str| {
        let dir = files.path(name);
        let arguments = ["--optimizer", "ftrl-compact", "--servers-local", servers];
        let result = train(&[&arguments[..], &["--save", &dir]].concat());
        let apart = figure(&result, "test_logloss") / figure(&full, "test_logloss") - 1.0;
        assert!(apart.abs() < 0.005, "the loss differs by {apart}");
        (result, run_well(&["model", "export", &dir]))
    };
    let (one, weights) = export("one", "1");
    let bytes = |result: &serde_json::Value| figure(result, "table_bytes_per_key");
    // Few keys and large batches: room is made for a batch as if all its keys were new.
    assert!(bytes(&one) < 0.8 * bytes(&full), "{} of {} bytes", bytes(&one), bytes(&full));
    assert!(weights == export("three", "3").1, "three servers differ");
    assert!(weights.contains("weight_0\tz_0\tn_0") && !weights.contains("NaN"));
}

#[test]
fn a_compact_model_predicts_what_the_test_pass_measured_and_goes_on_from_there() {
    let files = Files::new();
    let (data, dir) = (files.file("rows.libsvm", crate::rows(4000)), files.path("model"));
    let arguments = ["--train", &data, "--test", &data, "--optimizer", "ftrl-compact"];
    let first = train(&[&arguments[..], &["--save", &dir]].concat());
    let scores = run_well(&["predict", "--model", &dir, "--input", &data]);
    let scores: Vec<f64> = scores.lines().map(|line| line.parse().expect("a number")).collect();
    let loss = scores.iter().enumerate().map(|(row, &p)| if row % 2 == 1 { p } else { 1.0 - p });
    let loss = -loss.map(f64::ln).sum::<f64>() / 4000.0;
    let measured = figure(&first, "test_logloss");
    assert!((loss / measured - 1.0).abs() < 1e-3, "predicted {loss}, measured {measured}");
    let second = train(&[&arguments[..], &["--resume", &dir]].concat());
    assert!(figure(&second, "train_logloss") < figure(&first, "train_logloss"));
}

#[test]
fn the_generator_is_data_like_any_other() {
    let result = train(&["--train", "gen:criteo?rows=20000&seed=7", "--epochs", "2"]);
    assert_eq!(figure(&result, "rows"), 2.0 * (20_000.0 - figure(&result, "test_rows")));
}

#[test]
fn a_report_is_one_page_with_the_figures() {
    let files = Files::new();
    let page = files.path("run.html");
    train(&["--report", &page]);
    let page = std::fs::read_to_string(page).expect("written");
    assert!(page.contains("<svg") && page.contains("test logloss"));
    assert!(!page.contains("src=\"http"), "a page has all it needs");
}

#[test]
fn every_codec_learns_and_sends_fewer_bits() {
    let raw = train(&["--transport", "uring", "--codec", "raw"]);
    let bits = |result: &serde_json::Value| figure(result, "sent_bits_per_pair");
    assert!(bits(&raw) > 190.0, "three numbers of 64 bits: {}", bits(&raw));
    let codecs = [
        ("exact", 0.0, 90.0),
        ("bf16", 0.005, 60.0),
        ("float8", 0.005, 40.0),
        ("int8", 0.005, 40.0),
        ("int4", 0.03, 36.0),
        ("one-bit", 0.05, 33.0),
        ("top-k:0.5", 0.03, 70.0),
        ("threshold:0.1", 0.03, 90.0),
    ];
    for (codec, loss_most, bits_most) in codecs {
        let coded = train(&["--servers-local", "2", "--transport", "uring", "--codec", codec]);
        let apart = figure(&coded, "test_logloss") / figure(&raw, "test_logloss") - 1.0;
        assert!(apart.abs() <= loss_most, "{codec}: the loss differs by {apart}");
        assert!(bits(&coded) < bits_most, "{codec}: {} bits a pair", bits(&coded));
    }
}
