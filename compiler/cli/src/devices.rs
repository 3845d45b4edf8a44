//! `limbeck devices`.

use limbeck::{BackendKind, Engine, EngineOptions};
use serde_json::json;

use crate::args::DevicesArgs;
use crate::output::{Failure, print_json, print_line};

pub fn execute(args: DevicesArgs) -> Result<(), Failure> {
    let mut devices = Vec::new();
    for (name, backend) in [("cpu", BackendKind::Cpu), ("fake", BackendKind::Fake)] {
        let engine = Engine::new(EngineOptions { backend, ..EngineOptions::default() })?;
        devices.push(json!({"backend": name, "description": engine.backend()}));
    }
    if args.json {
        return print_json(&json!({ "devices": devices }));
    }
    devices.iter().try_for_each(|d| {
        let text = |key: &str| d[key].as_str().unwrap_or("").to_owned();
        print_line(format!("{:5} {}", text("backend"), text("description")))
    })
}
