//! `gradwire doctor` on the machine that runs the tests, whatever it is.

use serde_json::Value;

use crate::{run, run_well, skipped, stderr};

/// Where the kernel shows RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";

/// What the doctor found: its findings' names, values and verdicts.
fn findings() -> Vec<(String, String, String)> {
    let told: Value = serde_json::from_str(&run_well(&["doctor", "--json"])).expect("JSON");
    let sections = told["sections"].as_array().expect("sections").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    sections
        .flat_map(|section| section["findings"].as_array().expect("findings"))
        .map(|one| (text(&one["name"]), text(&one["value"]), text(&one["verdict"])))
        .collect()
}

fn devices() -> Vec<String> {
    let entries = std::fs::read_dir(DEVICES).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_machine_that_runs_these_tests_is_fit() {
    let found = findings();
    assert!(found.iter().any(|(name, ..)| name == "kernel"), "{found:?}");
    assert!(found.iter().all(|(.., verdict)| verdict != "unfit"), "{found:?}");
}

#[test]
fn what_is_needed_and_is_not_there_is_exit_code_4() {
    if !devices().is_empty() {
        return skipped("what_is_needed_and_is_not_there_is_exit_code_4", "there is RDMA here");
    }
    let output = run(&["doctor", "--need", "rdma"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("gradwire: this machine is not fit: messages"));
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(page.contains("UNFIT  messages"), "what was found is told all the same: {page}");
}

#[test]
fn each_rdma_device_of_the_kernel_is_told_with_its_ports_and_addresses() {
    let devices = devices();
    if devices.is_empty() {
        let test = "each_rdma_device_of_the_kernel_is_told_with_its_ports_and_addresses";
        return skipped(test, "the kernel shows no RDMA device");
    }
    let found = findings();
    let value = |wanted: String| {
        let finding = found.iter().find(|(name, ..)| *name == wanted);
        finding.unwrap_or_else(|| panic!("no '{wanted}' in {found:?}")).1.clone()
    };
    for device in devices {
        value(device.clone());
        let state = std::fs::read_to_string(format!("{DEVICES}/{device}/ports/1/state"));
        let is_active = state.expect("a state").contains("ACTIVE");
        assert_eq!(value(format!("{device}/1 state")).starts_with("active"), is_active);
        // The guest's own devices, whose addresses are known.
        if std::path::Path::new("/run/guest/net").exists() {
            assert!(value(format!("{device}/1 GIDs")).contains("::ffff:10.7"), "{found:?}");
            assert!(value(format!("{device} windows")).starts_with("2B"), "{found:?}");
            for told in ["rails", "messages"] {
                assert!(value(told.to_owned()).contains(&format!("{device}/1")), "{found:?}");
            }
        }
    }
}
