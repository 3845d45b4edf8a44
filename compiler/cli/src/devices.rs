//! `limbeck devices`.

use limbeck::{BackendKind, Engine, EngineOptions, OnnxOptions, OnnxRuntime};
use serde_json::{Value, json};

use crate::args::DevicesArgs;
use crate::output::{Failure, note, print_json, print_line};

pub fn execute(args: DevicesArgs) -> Result<(), Failure> {
    let mut devices = Vec::new();
    for (name, backend) in [("cpu", BackendKind::Cpu), ("fake", BackendKind::Fake)] {
        let engine = Engine::new(EngineOptions { backend, ..EngineOptions::default() })?;
        devices.push(json!({"backend": name, "description": engine.backend()}));
    }
    let named = args.ort_library.is_some();
    let options = OnnxOptions { library: args.ort_library, ..OnnxOptions::default() };
    match OnnxRuntime::load(&options) {
        Ok(OnnxRuntime { version, library, providers }) => devices.push(json!({
            "backend": "onnx",
            "description": format!(
                "ONNX Runtime {version} ({}), for onnx segments, --ep {}",
                library.display(),
                providers.join(", ")
            ),
            "version": version,
            "library": library.display().to_string(),
            "providers": providers,
        })),
        Err(e) if named => return Err(e.into()),
        Err(e) => note(format!("onnx segments cannot run: {e}")),
    }
    let (found, auto) = adapters();
    devices.extend(found);
    if args.json {
        return print_json(&json!({ "devices": devices, "auto": auto }));
    }
    devices.iter().try_for_each(|d| {
        let text = |key: &str| d[key].as_str().unwrap_or("").to_owned();
        print_line(format!("{:5} {}", text("backend"), text("description")))
    })?;
    print_line(format!("auto  takes {auto}"))
}

/// What the backend `wgpu` may run on, and which backend `auto` is.
#[cfg(feature = "wgpu")]
fn adapters() -> (Vec<Value>, &'static str) {
    let describe = |adapter: limbeck::Adapter| {
        let known = |has: bool| if has { "" } else { "no " };
        let mib = |bytes: u64| bytes >> 20;
        let taken = if adapter.chosen { "chosen" } else { "not chosen" };
        let description = format!(
            "{} ({}, {}, {}; {}f16, {}subgroups; {} MiB a binding, {} MiB a buffer), {taken}: {}",
            adapter.name,
            adapter.kind,
            adapter.interface,
            adapter.driver,
            known(adapter.f16),
            known(adapter.subgroups),
            mib(adapter.max_binding),
            mib(adapter.max_buffer),
            adapter.reason,
        );
        json!({
            "backend": "wgpu",
            "description": description,
            "name": adapter.name,
            "kind": adapter.kind,
            "driver": adapter.driver,
            "interface": adapter.interface,
            "f16": adapter.f16,
            "subgroups": adapter.subgroups,
            "max_binding": adapter.max_binding,
            "max_buffer": adapter.max_buffer,
            "chosen": adapter.chosen,
            "reason": adapter.reason,
        })
    };
    let found = limbeck::adapters();
    let auto = if limbeck::prefers_gpu(&found) { "wgpu" } else { "cpu" };
    (found.into_iter().map(describe).collect(), auto)
}

/// The backend `wgpu` runs on nothing: this build lacks it.
#[cfg(not(feature = "wgpu"))]
fn adapters() -> (Vec<Value>, &'static str) {
    (Vec::new(), "cpu")
}
