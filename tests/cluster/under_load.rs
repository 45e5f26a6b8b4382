//! A load on a running cluster while something befalls it.
//!
//! The load, and the comparison of what it counted, is `gradwire soak`; what befalls the cluster,
//! and where its processes run, is each test's.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::look_until_hang;
use crate::processes::Server;

/// How long a load runs before something befalls its cluster.
const BEGUN: Duration = Duration::from_secs(2);

/// The program's arguments for a load that lasts so long, on the cluster of this name.
pub(crate) fn soak<'a>(duration: &'a str, coordinator: &'a str, name: &'a str) -> [&'a str; 8] {
    ["soak", "--json", "--for", duration, "--coordinator", coordinator, "--cluster", name]
}

/// Lets a load run while something happens, and compares what it counted.
pub(crate) fn survives(mut soak: Command, story: impl FnOnce()) {
    let soak = soak.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    sleep(BEGUN);
    story();
    let output = soak.wait_with_output().expect("it is ours");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    for name in ["lost", "doubled", "violations"] {
        assert_eq!(report[name], 0, "{name} in {report}");
    }
    assert!(report["acknowledged"].as_u64() > Some(100), "{report}");
}

/// Waits until exactly these servers take part and no shard is in trouble.
pub(crate) fn wait_whole(servers: &[Server], mut status: impl FnMut() -> Option<Value>) {
    let names: BTreeSet<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let mut last = None;
    let whole = look_until_hang(|| {
        last = status();
        is_whole(last.as_ref()?, &names)
    });
    whole.unwrap_or_else(|| panic!("the cluster is not whole: {last:?}"));
}

fn is_whole(status: &Value, names: &BTreeSet<&str>) -> Option<()> {
    let fit = status["servers"].as_array()?.iter().filter(|one| one["state"] == "Fit");
    // By name: one that was killed a moment ago is still thought fit.
    let fit: BTreeSet<&str> = fit.filter_map(|one| one["member"]["name"].as_str()).collect();
    let whole = status["troubled"].as_array()?.is_empty();
    (fit == *names && whole && status["epoch"].as_u64()? > 0).then_some(())
}
