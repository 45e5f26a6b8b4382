//! `gradwire doctor`: what this machine is to gradwire, what is wrong with it, how to mend it.
//!
//! Owns the order of what is looked at, and the end: fit or not. Each kind of thing has its file;
//! all of them read the kernel's files below a root, which tests make up.
//!
//! Invariant: it changes nothing. Whatever is not fine has a reason and a remedy, and only what
//! makes gradwire, or what was said to be needed, unusable is unfit.

mod answers;
mod counters;
mod fabric;
mod finding;
mod lossless;
mod machine;
mod memory;
mod rails;
mod rdma;
mod text;
mod tree;

#[cfg(test)]
mod trials;

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::answers::{Answers, nic_counters};
use self::counters::Counted;
use self::fabric::{Device, Port};
use self::finding::{Finding, Verdict};
use self::tree::Tree;
use crate::cli::DoctorArgs;
use crate::failure::Failure;
use crate::output::{json, result};
use crate::push_pull::COMMIT;

/// From one look at counters to the next one.
const COUNTING_TIME: Duration = Duration::from_secs(1);

/// What a machine must have besides what every job needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// A way for messages to go by RDMA.
    Rdma,
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
struct Diagnosis {
    gradwire: &'static str,
    commit: &'static str,
    fit: bool,
    sections: Vec<Section>,
}

/// Findings about one kind of thing.
#[derive(Clone, Debug, Serialize)]
struct Section {
    name: &'static str,
    findings: Vec<Finding>,
}

/// Looks at this machine and says what it found.
///
/// Errors: [`Failure::Unfit`] if it is not fit, after all was said.
pub(crate) fn run(arguments: &DoctorArgs) -> Result<(), Failure> {
    let tree = Tree::new("/");
    let devices = fabric::read(&tree);
    let counted = count(&tree, &devices);
    let diagnosis = diagnose(&tree, &Answers::ask(&devices), &devices, counted, arguments.need);
    if arguments.json {
        json(&diagnosis)?;
    } else {
        result(&text::render(&diagnosis))?;
    }
    match diagnosis.fit {
        true => Ok(()),
        false => Err(Failure::Unfit(unfit(&diagnosis))),
    }
}

fn diagnose(
    tree: &Tree,
    answers: &Answers,
    devices: &[Device],
    counted: Vec<Finding>,
    need: Option<Need>,
) -> Diagnosis {
    let sections = vec![
        Section { name: "machine", findings: machine::look(tree, answers) },
        Section { name: "memory", findings: memory::look(tree, answers) },
        Section { name: "rdma", findings: rdma::look(tree, answers, devices, need) },
        Section { name: "rdma counters", findings: counted },
    ];
    let sections: Vec<Section> =
        sections.into_iter().filter(|section| !section.findings.is_empty()).collect();
    let is_fit =
        |section: &Section| section.findings.iter().all(|finding| finding.verdict < Verdict::Unfit);
    Diagnosis {
        gradwire: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        fit: sections.iter().all(is_fit),
        sections,
    }
}

/// What ports count while we wait.
fn count(tree: &Tree, devices: &[Device]) -> Vec<Finding> {
    let ports: Vec<&Port> = devices.iter().flat_map(|device| &device.ports).collect();
    if ports.is_empty() {
        return Vec::new();
    }
    let look = |port: &&Port| {
        let nic = port.netdev.as_ref().and_then(|netdev| nic_counters(&netdev.name));
        (Instant::now(), Counted::read(tree, port, nic.as_deref()))
    };
    let before: Vec<_> = ports.iter().map(look).collect();
    thread::sleep(COUNTING_TIME);
    let after = ports.iter().map(look);
    let judged = ports.iter().zip(before.iter().zip(after)).map(
        |(port, ((began, before), (ended, after)))| {
            counters::judge(port, before, &after, ended - *began)
        },
    );
    judged.flatten().collect()
}

/// What makes the machine unfit, in a line.
fn unfit(diagnosis: &Diagnosis) -> String {
    let findings = diagnosis.sections.iter().flat_map(|section| &section.findings);
    let unfit = findings.filter(|finding| finding.verdict == Verdict::Unfit);
    let whys: Vec<String> = unfit
        .map(|finding| {
            let reason = finding.reason.as_deref().unwrap_or_default();
            format!("{}: {} ({reason})", finding.name, finding.value)
        })
        .collect();
    format!("this machine is not fit: {}", whys.join("; "))
}
