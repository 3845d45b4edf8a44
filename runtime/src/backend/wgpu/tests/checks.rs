//! The tests of this backend once more, in a process of their own, with shaders that check no bounds and under the
//! validation layers of Vulkan, whose errors are a test's. A device may still hold accesses within what is bound:
//! so values are bound with what lies behind them, which must stay as it was; see `guards.rs`.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use super::harness::{gpu, required};

/// Set for that process.
const UNCHECKED: &str = "LIMBECK_TEST_UNCHECKED";
/// Where Debian's package `vulkan-validationlayers` puts what names the layers to the loader.
const LAYERS: &str = "/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json";

fn unchecked() -> bool {
    std::env::var_os(UNCHECKED).is_some()
}

/// The checks of shaders: none where this process is for that.
pub(in crate::backend::wgpu) fn checks(
    usual: wgpu::ShaderRuntimeChecks,
) -> wgpu::ShaderRuntimeChecks {
    if unchecked() { wgpu::ShaderRuntimeChecks::unchecked() } else { usual }
}

/// The features of the device: no subgroups where this process is for shaders without checks, so that both ways to add
/// up are tested.
pub(in crate::backend::wgpu) fn features(usual: wgpu::Features) -> wgpu::Features {
    if unchecked() { usual.difference(wgpu::Features::SUBGROUP) } else { usual }
}

/// What layers say that are older than the number of WGSL in SPIR-V. wgpu writes it where it makes a messenger for them;
/// they then look at no more of a module.
const UNKNOWN_LANGUAGE: &str = "Invalid source language operand: 10";

/// What the layers said.
static HEARD: Heard = Heard { errors: Mutex::new(Vec::new()), layers: AtomicBool::new(false) };

struct Heard {
    errors: Mutex<Vec<String>>,
    /// Whether they told what they are set to, as they do when they are loaded.
    layers: AtomicBool,
}

impl log::Log for Heard {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_hal::vulkan")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        // Lines that begin with a tab name what the message before them is of.
        let error = record.level() == log::Level::Error && !message.starts_with('\t');
        if error && !message.contains(UNKNOWN_LANGUAGE) {
            self.errors.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        } else if message.contains("khronos-validation-createinstance-status-message") {
            self.layers.store(true, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// Hears the layers from here on, in a process that is for that.
pub fn listen() {
    static ONCE: Once = Once::new();
    if unchecked() {
        ONCE.call_once(|| {
            log::set_logger(&HEARD).expect("no other logger");
            log::set_max_level(log::LevelFilter::Debug);
        });
    }
}

/// # Panics
/// Where the layers complained.
pub fn nothing_heard() {
    let heard = HEARD.errors.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(heard.is_empty(), "{}", heard.join("\n"));
}

#[test]
fn layers_that_are_installed_are_heard() {
    if unchecked() && Path::new(LAYERS).exists() {
        gpu().expect("a device");
        assert!(HEARD.layers.load(Ordering::Relaxed));
    }
}

#[test]
fn shaders_without_checks_stay_within_their_buffers() {
    if unchecked() || gpu().is_none() {
        return;
    }
    if !Path::new(LAYERS).exists() {
        let reason = "the validation layers of Vulkan are not installed";
        assert!(!required(), "{reason}: install vulkan-validationlayers");
        println!("without layers: {reason}");
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["backend::wgpu::tests", "--skip", "shaders::"]);
    command.env(UNCHECKED, "1").env("WGPU_VALIDATION", "1").env("WGPU_DEBUG", "1");
    let output = command.output().expect("this program runs");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}{}", text[0], text[1]);
    assert!(text[0].contains("linears_of_every_format_and_edge_shape_match_the_reference ... ok"));
}
