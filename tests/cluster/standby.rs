//! Several coordinators on one etcd: one leads, and whoever takes its place loses nothing.
//!
//! Owns the cluster of processes that these stories need. The load, and the comparison of what it
//! counted, is `gradwire soak` against a running cluster.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::etcd::{Etcd, free_port, is_installed};
use crate::metrics::figure_at;
use crate::namespaces::{Hosts, address, inside, succeeds};
use crate::processes::{Running, Server, signal};
use crate::under_load::{soak, survives, wait_whole};
use crate::{gradwire, skipped, wait_for};

const SERVERS: usize = 3;

/// A coordinator that its etcd has not heard for so long does not lead any more.
const NOBODY_LEADS_AFTER: Duration = Duration::from_secs(4);

/// For how long a server is gone without anybody who could say so: longer than with one.
const NOBODY_TAKES_OVER: Duration = Duration::from_secs(2);

/// A cluster with two coordinators, on one host or on several.
struct Cluster {
    etcds: Vec<Etcd>,
    hosts: Option<Hosts>,
    /// Where the coordinators listen.
    places: [String; 2],
    coordinators: [Option<Running>; 2],
    servers: Vec<Server>,
    /// Where servers tell their figures, those that are gone too.
    figures: Vec<String>,
}

impl Cluster {
    /// Starts it on this host; none where there is no etcd.
    ///
    /// - `etcds`: of how many etcd is made.
    fn start(test: &str, etcds: usize) -> Option<Cluster> {
        if !is_installed() {
            skipped(test, "etcd is not installed");
            return None;
        }
        let places = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        Some(Cluster::begin(Etcd::start_several(etcds), None, places))
    }

    fn begin(etcds: Vec<Etcd>, hosts: Option<Hosts>, places: [String; 2]) -> Cluster {
        let (coordinators, servers, figures) = ([None, None], Vec::new(), Vec::new());
        let mut cluster = Cluster { etcds, hosts, places, coordinators, servers, figures };
        // One that finds no etcd yet ends.
        wait_for("a coordinator", || {
            if cluster.coordinators[0].as_mut().is_none_or(|one| one.ended().is_some()) {
                cluster.start_coordinator(0);
            }
            cluster.status(&cluster.places[0]).map(drop)
        });
        cluster.start_coordinator(1);
        (0..SERVERS).for_each(|number| cluster.start_server(number));
        cluster.wait_whole();
        cluster
    }

    /// The program on a host of the cluster: etcd has the first one, then come coordinators.
    fn on(&self, host: usize, arguments: &[&str]) -> Command {
        let program = gradwire(arguments);
        match &self.hosts {
            Some(hosts) => inside(&hosts.others[host], &program),
            None => program,
        }
    }

    fn start_coordinator(&mut self, number: usize) {
        let endpoints: Vec<&str> = self.etcds.iter().map(|etcd| etcd.endpoint.as_str()).collect();
        let (listen, etcd) = (&self.places[number], endpoints.join(","));
        let arguments = [
            &["coordinate", "--insecure", "--listen", listen, "--etcd", &etcd][..],
            &["--cluster", "two", "--shards", "4", "--replicas", "2", "--servers-min", "3"],
        ];
        let mut command = self.on(1 + number, &arguments.concat());
        self.coordinators[number] = Some(Running::start(&mut command));
    }

    fn start_server(&mut self, number: usize) {
        let listen = match &self.hosts {
            Some(_) => format!("{}:7201", address(3 + number)),
            None => "127.0.0.1:0".to_owned(),
        };
        let (all, name) = (self.places.join(","), format!("s{number}"));
        let figures = format!("127.0.0.1:{}", free_port());
        let arguments = [
            &["serve", "--insecure", "--cores", "1", "--listen", &listen][..],
            &["--metrics", &figures],
            &["--coordinator", &all, "--cluster", "two", "--name", &name, "--host", &name],
        ];
        let mut command = self.on(3 + number, &arguments.concat());
        self.servers.push(Server { name, process: Running::start(&mut command) });
        self.figures.push(figures);
    }

    /// What a person is told who asks at these places.
    fn ask(&self, places: &str, words: &[&str]) -> (bool, String, String) {
        let at = ["--coordinator", places, "--cluster", "two"];
        let output = self.on(3, &[words, &at].concat()).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    fn status(&self, places: &str) -> Option<Value> {
        let (_, stdout, _) = self.ask(places, &["status", "--json"]);
        serde_json::from_str(&stdout).ok()
    }

    /// Waits until all servers that shall be there take part and no shard is in trouble.
    fn wait_whole(&self) {
        wait_whole(&self.servers, || self.status(&self.places.join(",")));
    }

    /// The number of the coordinator that leads after a term.
    fn leader_after(&self, term: u64) -> usize {
        wait_for("a leader", || {
            let status = self.status(&self.places.join(","))?;
            let is_later = status["term"].as_u64()? > term;
            let leader = status["leader"].as_str()?;
            self.places.iter().position(|place| is_later && place == leader)
        })
    }

    /// Lets a load run for so long while something happens, and compares what it counted.
    fn survive(&mut self, duration: &str, story: impl FnOnce(&mut Cluster)) {
        let all = self.places.join(",");
        let soak = self.on(3, &soak(duration, &all, "two"));
        survives(soak, || story(self));
    }

    /// Waits until a person who asks is told that nobody can lead, and why, in this word: for 10 s
    /// somebody else might.
    fn wait_leaderless(&self, word: &str) {
        wait_for("a clear word", || {
            let (is_well, _, said) = self.ask(&self.places[0], &["status"]);
            (!is_well && said.contains("cannot lead") && said.contains(word)).then_some(())
        });
    }

    /// Waits until pushes have come that have not come yet.
    fn wait_pushes(&self) {
        let keys = || -> f64 {
            let keys = |at: &String| figure_at(at, "gradwire_keys_pushed_total", "");
            self.figures.iter().filter_map(keys).sum()
        };
        let before = keys();
        wait_for("further pushes", || (keys() > before).then_some(()));
    }

    /// Has a server killed, and another one started: whoever leads has to see to both.
    fn replace_server(&mut self) {
        self.servers.remove(0);
        self.start_server(SERVERS);
        self.wait_whole();
    }
}

#[test]
fn a_leader_that_is_killed_under_load_is_followed_by_one_that_goes_on() {
    let test = "a_leader_that_is_killed_under_load_is_followed_by_one_that_goes_on";
    let Some(mut cluster) = Cluster::start(test, 1) else { return };
    cluster.survive("15s", |cluster| {
        let old = cluster.leader_after(0);
        cluster.coordinators[old] = None;
        assert_eq!(cluster.leader_after(1), 1 - old);
        cluster.replace_server();
        // Back, it is a standby, and the other one's end makes it the leader at once.
        cluster.start_coordinator(old);
        wait_for("a standby", || {
            let (_, shown, _) = cluster.ask(&cluster.places[old], &["status"]);
            shown.contains(&format!("by {} in term 2", cluster.places[1 - old])).then_some(())
        });
        let new = cluster.coordinators[1 - old].as_mut().expect("it leads");
        signal(new.id(), Signal::TERM);
        let (status, said) = new.end();
        assert!(status.success(), "{said}");
        assert_eq!(cluster.leader_after(2), old);
    });
    cluster.wait_whole();
}

#[test]
fn a_leader_that_sleeps_wakes_up_as_a_standby_and_says_so() {
    let test = "a_leader_that_sleeps_wakes_up_as_a_standby_and_says_so";
    let Some(mut cluster) = Cluster::start(test, 1) else { return };
    cluster.survive("12s", |cluster| {
        let old = cluster.leader_after(0);
        let process = cluster.coordinators[old].as_ref().expect("it runs").id();
        signal(process, Signal::STOP);
        // Asked alone: the one that sleeps answers nobody.
        let place = cluster.places[1 - old].clone();
        wait_for("another leader", || (cluster.status(&place)?["leader"] == *place).then_some(()));
        cluster.replace_server();
        signal(process, Signal::CONT);
        wait_for("a standby", || {
            let status = cluster.status(&cluster.places[old])?;
            (status["leader"] == *place && status["term"] == 2).then_some(())
        });
        let one = cluster.coordinators[old].as_mut().expect("it runs");
        signal(process, Signal::TERM);
        let (status, said) = one.end();
        assert!(status.success(), "{said}");
        let fenced = "another coordinator leads: the store is in term 2, this one led in 1";
        assert!(said.contains(fenced) || said.contains("stands by"), "{said}");
    });
    cluster.wait_whole();
}

#[test]
fn an_etcd_that_is_killed_under_load_stops_no_push_and_says_why_nobody_leads() {
    let test = "an_etcd_that_is_killed_under_load_stops_no_push_and_says_why_nobody_leads";
    let Some(mut cluster) = Cluster::start(test, 1) else { return };
    cluster.survive("20s", |cluster| {
        let all = cluster.places.join(",");
        cluster.etcds[0].kill();
        sleep(NOBODY_LEADS_AFTER);
        cluster.wait_pushes();
        cluster.wait_leaderless("refused");
        cluster.etcds[0].run(|command| command);
        wait_for("a leader", || cluster.status(&all));
        cluster.replace_server();
    });
    cluster.wait_whole();
}

#[test]
fn an_etcd_that_has_lost_its_majority_stops_no_push_and_lets_nobody_take_over() {
    let test = "an_etcd_that_has_lost_its_majority_stops_no_push_and_lets_nobody_take_over";
    let Some(mut cluster) = Cluster::start(test, 3) else { return };
    cluster.survive("30s", |cluster| {
        cluster.etcds[..2].iter_mut().for_each(Etcd::kill);
        sleep(NOBODY_LEADS_AFTER);
        cluster.wait_pushes();
        cluster.wait_leaderless("");
        // Nobody may say that this one is gone.
        cluster.servers.remove(0);
        cluster.start_server(SERVERS);
        sleep(NOBODY_TAKES_OVER);
        let all = cluster.places.join(",");
        assert!(cluster.status(&all).is_none(), "nobody leads without a majority");
        // Two of three are one.
        cluster.etcds[0].run(|command| command);
        cluster.wait_whole();
        cluster.etcds[1].run(|command| command);
    });
    cluster.wait_whole();
}

#[test]
fn an_order_outlives_the_leader_that_took_it() {
    let test = "an_order_outlives_the_leader_that_took_it";
    let Some(mut cluster) = Cluster::start(test, 1) else { return };
    let all = cluster.places.join(",");
    let state = |cluster: &Cluster, number: u64| -> Option<Value> {
        let status = cluster.status(&all)?;
        let mut servers = status["servers"].as_array()?.iter();
        let server = servers.find(|one| one["member"]["server"] == number)?;
        Some(server["state"].clone())
    };
    // The last server has what nobody else has, and cannot go.
    for left in (1..SERVERS).rev() {
        cluster.servers.pop();
        wait_for("a server less", || {
            let status = cluster.status(&all)?;
            let servers = status["servers"].as_array()?;
            let fit = servers.iter().filter(|one| one["state"] == "Fit").count();
            let is_settled = left == 1 || status["troubled"].as_array()?.is_empty();
            (fit == left && servers.len() == left && is_settled).then_some(())
        });
    }
    let number = wait_for("a server", || {
        let status = cluster.status(&all)?;
        let servers = status["servers"].as_array()?;
        servers.iter().find(|one| one["state"] == "Fit")?["member"]["server"].as_u64()
    });
    let (is_well, _, said) =
        cluster.ask(&all, &["cluster", "drain", "--server", &number.to_string()]);
    assert!(is_well, "{said}");
    assert_eq!(state(&cluster, number), Some("Leaving".into()));
    let old = cluster.leader_after(0);
    cluster.coordinators[old] = None;
    cluster.leader_after(1);
    wait_for("a server that still leaves", || {
        (state(&cluster, number)? == "Leaving").then_some(())
    });
    // A new server takes what it holds, and it is released.
    cluster.start_server(SERVERS);
    wait_for("a server that has left", || match state(&cluster, number) {
        None => cluster.status(&all).map(drop),
        Some(_) => None,
    });
}

#[test]
fn a_leader_that_is_cut_off_from_etcd_alone_lets_its_servers_go() {
    let test = "a_leader_that_is_cut_off_from_etcd_alone_lets_its_servers_go";
    if !is_installed() {
        return skipped(test, "etcd is not installed");
    }
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "network namespaces need root");
    }
    let Some(hosts) = Hosts::build("d", 3 + SERVERS + 1) else {
        return skipped(test, "`ip` cannot join namespaces by a bridge here");
    };
    let mut etcd = Etcd::at(&address(0), 2379, 2380);
    etcd.run(|command| inside(&hosts.others[0], &command));
    let places = [1, 2].map(|host| format!("{}:7200", address(host)));
    let mut cluster = Cluster::begin(vec![etcd], Some(hosts), places);
    cluster.survive("15s", |cluster| {
        let old = cluster.leader_after(0);
        let hosts = cluster.hosts.as_ref().expect("built");
        let (from, to) = (&hosts.others[1 + old], address(0));
        let route = |does: &str| format!("ip -n {from} route {does} blackhole {to}/32");
        let (cut, mend) = (route("add"), route("del"));
        assert!(succeeds(&cut), "{cut}");
        assert_eq!(cluster.leader_after(1), 1 - old);
        cluster.replace_server();
        assert!(succeeds(&mend), "{mend}");
    });
    cluster.wait_whole();
    assert_eq!(cluster.status(&cluster.places.join(",")).expect("it answers")["term"], 2);
}
