//! Execution providers by name.

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

use crate::error::{Error, ErrorKind, Result};

/// A provider: its name, whether the library has it, and how it is asked.
type Provider = (&'static str, fn() -> ort::Result<bool>, fn() -> ExecutionProviderDispatch);

/// Those that can be chosen.
const PROVIDERS: &[Provider] = &[
    ("coreml", ep::CoreML::is_available, || ep::CoreML::default().build()),
    ("cpu", ep::CPU::is_available, || ep::CPU::default().build()),
    ("cuda", ep::CUDA::is_available, || ep::CUDA::default().build()),
    ("directml", ep::DirectML::is_available, || ep::DirectML::default().build()),
    ("nnapi", ep::NNAPI::is_available, || ep::NNAPI::default().build()),
    ("openvino", ep::OpenVINO::is_available, || ep::OpenVINO::default().build()),
    ("qnn", ep::QNN::is_available, || ep::QNN::default().build()),
    ("webgpu", ep::WebGPU::is_available, || ep::WebGPU::default().build()),
    ("xnnpack", ep::XNNPACK::is_available, || ep::XNNPACK::default().build()),
];

/// Whether a provider is meant by its name here, or by ONNX Runtime's own: `CPUExecutionProvider`.
fn is_called(provider: &str, name: &str) -> bool {
    const END: &str = "executionprovider";
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(END).unwrap_or(&name);
    provider == name || provider == "directml" && name == "dml"
}

/// The names of those that the loaded library has.
pub(super) fn available() -> Vec<String> {
    let has = |provider: &&Provider| provider.1().unwrap_or(false);
    PROVIDERS.iter().filter(has).map(|provider| provider.0.to_owned()).collect()
}

/// Those of these names, in order.
///
/// # Errors
/// A name that is none, or a provider that the loaded library has not.
pub(super) fn chosen(names: &[String]) -> Result<Vec<ExecutionProviderDispatch>> {
    let choose = |name: &String| {
        let found = PROVIDERS.iter().find(|p| is_called(p.0, name));
        let found = found.filter(|p| p.1().unwrap_or(false)).ok_or_else(|| {
            let message = format!(
                "ONNX Runtime has no execution provider {name:?} here, only {}",
                available().join(", ")
            );
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        Ok((found.2)().error_on_failure())
    };
    names.iter().map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_have_names_here_and_in_onnx_runtime() {
        for (provider, name, meant) in [
            ("cpu", "cpu", true),
            ("cpu", "CPU", true),
            ("cpu", "CPUExecutionProvider", true),
            ("qnn", "qnnexecutionprovider", true),
            ("directml", "DmlExecutionProvider", true),
            ("directml", "DirectML", true),
            ("coreml", "dml", false),
            ("cpu", "ExecutionProvider", false),
            ("cpu", "", false),
        ] {
            assert_eq!(is_called(provider, name), meant, "{provider} {name}");
        }
    }
}
