//! Push and pull through the whole path, beside the roofs of the same run.
//!
//! `cargo run --release -p gradwire-bench --example push_pull -- [FIELD=VALUE ...] [json]`, where
//! a field is `transport`, `optimizer`, `seconds`, `repeats`, `in_flight`, `keys_per_request`,
//! `resident_keys`, `dim`, `zipf_exponent` or `seed`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;

use gradwire_bench::{PushPullSpec, run};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut spec, mut json) = (PushPullSpec::default(), false);
    for argument in &arguments {
        match argument.split_once('=') {
            Some((field, value)) => set(&mut spec, field, value)?,
            None if argument == "json" => json = true,
            None => return Err(format!("'{argument}' is not FIELD=VALUE").into()),
        }
    }
    let command = format!("push_pull {}", arguments.join(" "));
    let report = run(&spec, "unknown", &command, &mut |line| eprintln!("{line}"));
    let report = report.map_err(|error| error.to_string())?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

fn set(spec: &mut PushPullSpec, field: &str, value: &str) -> Result<(), Box<dyn Error>> {
    match field {
        "transport" => spec.transport = value.parse()?,
        "optimizer" => spec.optimizer = value.parse()?,
        "seconds" => spec.seconds = value.parse()?,
        "repeats" => spec.repeats = value.parse()?,
        "in_flight" => spec.in_flight = value.parse()?,
        "keys_per_request" => spec.keys_per_request = value.parse()?,
        "resident_keys" => spec.resident_keys = value.parse()?,
        "dim" => spec.dim = value.parse()?,
        "zipf_exponent" => spec.zipf_exponent = value.parse()?,
        "seed" => spec.seed = value.parse()?,
        _ => return Err(format!("no field '{field}'").into()),
    }
    Ok(())
}
