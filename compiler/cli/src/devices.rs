//! `limbeck devices`.

use limbeck::{BackendKind, Engine, EngineOptions, OnnxOptions, OnnxRuntime};
use serde_json::json;

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
    if args.json {
        return print_json(&json!({ "devices": devices }));
    }
    devices.iter().try_for_each(|d| {
        let text = |key: &str| d[key].as_str().unwrap_or("").to_owned();
        print_line(format!("{:5} {}", text("backend"), text("description")))
    })
}
