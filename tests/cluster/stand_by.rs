//! Hosts that stand by for a job of several hosts: one that is gone for good, with its journals,
//! costs the job neither a batch nor its end.

use serde_json::Value;

use crate::several_hosts::{Cluster, figures, kill_launcher};
use crate::{run_well, stderr, train, wait_for};

const DATA: &str = "gen:criteo?rows=400000&seed=5";

/// Of all epochs of the first story.
const STEPS: f64 = 2.0 * 400_000.0 / 100.0;

/// Waits until so many hosts stand by for a job.
fn wait_standbys(cluster: &Cluster, job: &str, count: u64) {
    wait_for("hosts that stand by", || (cluster.job(job)?["standbys"] == count).then_some(()));
}

#[test]
fn a_model_whose_only_host_was_lost_has_the_bytes_of_an_undisturbed_one() {
    // One shard, and pushes of one message: a step is whole or not there.
    let words = ["--train", DATA, "--epochs", "2", "--batch-rows", "100", "--job", "alone"];
    let words = [&words[..], &["--job-workers", "1", "--job-patience", "5s"]].concat();
    let calm = Cluster::begin(None, 1, 1);
    let calm_model = calm.files.path("model");
    let (calm_figures, _) =
        figures(&mut calm.launch("a", &[&words[..], &["--save", &calm_model]].concat()));

    let mut cluster = Cluster::begin(None, 1, 1);
    let model = cluster.files.path("model");
    let mut hosts = ["a", "b", "c"].into_iter();
    let mut on = cluster.launch(hosts.next().expect("three"), &words);
    for (host, dealt) in hosts.zip([6, 20]) {
        let stands_by = [&words[..], &["--stand-by", "--save", &model]].concat();
        wait_for("the job", || cluster.job("alone"));
        let next = cluster.launch(host, &stands_by);
        wait_standbys(&cluster, "alone", 1);
        cluster.wait_dealt("alone", dealt);
        kill_launcher(on);
        if host == "c" {
            cluster.start_coordinator(0);
        }
        on = next;
    }
    let (whole, said) = figures(&mut on);
    assert!(said.contains("worker 0 of 1, in place of a host that is gone"), "{said}");
    let export = |dir: &str| run_well(&["model", "export", dir]);
    assert!(export(&calm_model) == export(&model), "the models differ");
    let count = |result: &Value, name: &str| result[name].as_u64().expect("a count");
    // Some of each batch is held out: it has less than 100 rows on average.
    let all = count(&calm_figures, "rows") as f64;
    let untold = count(&whole, "steps_untold") as f64 * all / STEPS;
    assert!(untold > 0.0, "{whole}");
    let told = count(&whole, "rows") as f64;
    assert!(told + untold < 1.01 * all, "{told} and {untold} of {all}: {whole}");
    assert_eq!(count(&calm_figures, "steps_untold"), 0);
}

#[test]
fn a_model_whose_host_was_replaced_by_order_has_the_bytes_of_an_undisturbed_one() {
    let words = ["--train", DATA, "--epochs", "4", "--batch-rows", "100", "--job", "alone"];
    let words = [&words[..], &["--job-workers", "1"]].concat();
    let run = |hosts: &[&str]| {
        let cluster = Cluster::begin(None, 1, 1);
        let model = cluster.files.path("model");
        let words = [&words[..], &["--save", &model]].concat();
        let mut on = cluster.launch("a", &words);
        wait_for("the job", || cluster.job("alone"));
        for (host, dealt) in hosts.iter().zip([4, 24, 44]) {
            cluster.wait_dealt("alone", dealt);
            let order = ["replace-host", "--job", "alone", "--worker", "0"];
            let refused = cluster.order(&order);
            assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
            assert!(stderr(&refused).contains("no host stands by"), "{}", stderr(&refused));
            let next = cluster.launch(host, &[&words[..], &["--stand-by"]].concat());
            wait_standbys(&cluster, "alone", 1);
            let taken = cluster.order(&order);
            assert!(taken.status.success(), "{}", stderr(&taken));
            let (status, said) = std::mem::replace(&mut on, next).end();
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("another process has taken this one's places"), "{said}");
        }
        let (whole, said) = figures(&mut on);
        assert_eq!(whole["steps_untold"].as_u64() > Some(0), !hosts.is_empty(), "{said}");
        run_well(&["model", "export", &model])
    };
    assert!(run(&[]) == run(&["b", "c", "d"]), "the models differ");
}

#[test]
fn a_host_that_is_lost_among_others_is_replaced_and_told_so_if_it_comes_back() {
    let calm = train(&["--train", DATA, "--epochs", "4"]);
    let cluster = Cluster::start();
    let words = ["--train", DATA, "--epochs", "4", "--job", "some", "--job-workers", "2"];
    let words = [&words[..], &["--job-patience", "5s"]].concat();
    let mut first = cluster.launch("a", &words);
    wait_for("the first host", || cluster.job("some"));
    let second = cluster.launch("b", &words);
    let stands_by = [&words[..], &["--stand-by"]].concat();
    let mut third = cluster.launch("c", &stands_by);
    wait_standbys(&cluster, "some", 1);
    let mut fourth = cluster.launch("d", &stands_by);
    wait_standbys(&cluster, "some", 2);
    cluster.wait_dealt("some", 8);
    kill_launcher(second);
    wait_standbys(&cluster, "some", 1);
    let late = cluster.command("b", &words).output().expect("it runs");
    assert_eq!(late.status.code(), Some(1), "{}", stderr(&late));
    let told = stderr(&late);
    assert!(told.contains("another process has taken this one's places"), "{told}");
    let (whole, _) = figures(&mut first);
    // Who has stood by for longest is first.
    let (status, said) = fourth.end();
    assert!(status.success() && said.contains("this host was not needed"), "{said}");
    let (part, said) = figures(&mut third);
    assert!(said.contains("worker 1 of 2, in place of a host that is gone"), "{said}");
    let count = |result: &Value, name: &str| result[name].as_u64().expect("a count");
    assert!(count(&part, "rows") > 0 && count(&part, "steps_untold") > 0, "{part}");
    assert!(count(&whole, "rows") < count(&calm, "rows"), "{whole}");
    assert_eq!(whole["steps_untold"], part["steps_untold"], "{whole}");
    let loss = |result: &Value| result["test_logloss"].as_f64().expect("rows to test on");
    assert!((loss(&whole) - loss(&calm)).abs() < 0.05, "{whole}\n{calm}");
    assert_eq!(cluster.job("some").expect("known")["state"], "done");
}
