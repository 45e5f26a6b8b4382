//! Training over a link of 1 Gbit/s: two network namespaces, joined and shaped.
//!
//! Owns the namespaces of one test. What the link costs is measured elsewhere: here only results
//! count.

use std::process::Command;

use crate::namespaces::{inside, succeeds};
use crate::processes::Running;
use crate::{gradwire, skipped, wait_for};

/// The server's address on the link.
const SERVER: &str = "10.77.31.2:7101";

/// Two namespaces and the link between them; gone with it.
struct ShapedLink {
    worker: String,
    server: String,
}

impl ShapedLink {
    /// Builds the link; nothing where this process may not.
    fn build() -> Option<ShapedLink> {
        let id = std::process::id();
        let link = ShapedLink { worker: format!("gw{id}a"), server: format!("gw{id}b") };
        let ShapedLink { worker, server } = &link;
        let mut steps = vec![
            format!("ip netns add {worker}"),
            format!("ip netns add {server}"),
            format!("ip link add gw0 netns {worker} type veth peer name gw0 netns {server}"),
        ];
        for (namespace, host) in [(worker, 1), (server, 2)] {
            steps.extend([
                format!("ip -n {namespace} addr add 10.77.31.{host}/24 dev gw0"),
                format!("ip -n {namespace} link set lo up"),
                format!("ip -n {namespace} link set gw0 up"),
                format!(
                    "tc -n {namespace} qdisc add dev gw0 root tbf rate 1gbit burst 256kb \
                     latency 50ms"
                ),
            ]);
        }
        steps.iter().all(|step| succeeds(step)).then_some(link)
    }

    /// Trains over the link. Returns its figures.
    fn train(&self, codec: &str) -> serde_json::Value {
        let train = gradwire(&["train", "--json", "--servers", SERVER, "--codec", codec]);
        let output = inside(&self.worker, &train).output().expect("`ip` runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{codec}: {said}");
        serde_json::from_slice(&output.stdout).expect("one line of JSON")
    }
}

impl Drop for ShapedLink {
    fn drop(&mut self) {
        for namespace in [&self.worker, &self.server] {
            succeeds(&format!("ip netns del {namespace}"));
        }
    }
}

#[test]
fn over_a_shaped_link_codecs_come_to_the_same_results() {
    let name = "over_a_shaped_link_codecs_come_to_the_same_results";
    if !rustix::process::geteuid().is_root() {
        return skipped(name, "network namespaces need root");
    }
    let Some(link) = ShapedLink::build() else {
        return skipped(name, "`ip` and `tc` cannot build a shaped link here");
    };
    let serve = gradwire(&["serve", "--listen", SERVER, "--cores", "1", "--insecure"]);
    let _served = Running::start(&mut inside(&link.server, &serve));
    let port = SERVER.rsplit_once(':').expect("a port").1;
    wait_for("server that listens", || {
        let listens = format!("ip netns exec {} ss -Hltn sport = :{port}", link.server);
        let mut words = listens.split_whitespace();
        let output = Command::new(words.next()?).args(words).output().ok()?;
        (!output.stdout.is_empty()).then_some(())
    });
    let raw = link.train("raw");
    let exact = link.train("exact");
    let lossy = link.train("int8");
    let figure = |result: &serde_json::Value, name: &str| result[name].as_f64().expect("a number");
    assert_eq!(raw["test_logloss"], exact["test_logloss"], "the same bits of every value");
    let apart = figure(&lossy, "test_logloss") / figure(&raw, "test_logloss") - 1.0;
    assert!(apart.abs() < 0.005, "int8 changes the loss by {apart}");
    let sent = |result| figure(result, "bytes_sent");
    assert!(sent(&exact) < 0.5 * sent(&raw), "{} bytes of {}", sent(&exact), sent(&raw));
    assert!(sent(&lossy) < 0.25 * sent(&raw), "{} bytes of {}", sent(&lossy), sent(&raw));
}
