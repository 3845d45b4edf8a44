//! Which backend is taken where none is named, and how fast its memory is.

use super::harness::gpu;
use crate::backend::Backend;
use crate::backend::wgpu::device::{Adapter, adapters, prefers, prefers_gpu};
use crate::{BackendKind, Engine, EngineOptions};

fn adapter(kind: &'static str, chosen: bool) -> Adapter {
    Adapter {
        name: "an adapter".into(),
        kind,
        driver: String::new(),
        interface: "vulkan".into(),
        f16: false,
        subgroups: false,
        max_binding: 0,
        max_buffer: 0,
        chosen,
        reason: String::new(),
    }
}

#[test]
fn a_gpu_goes_before_the_cpu_and_software_does_not_unless_it_is_named() {
    for kind in ["discrete", "integrated", "virtual", "other"] {
        assert!(prefers(&[adapter("software", false), adapter(kind, true)], false), "{kind}");
    }
    assert!(!prefers(&[], false));
    let software = [adapter("software", true)];
    assert!(!prefers(&software, false) && prefers(&software, true));
    // A name that no adapter has is not overlooked.
    assert!(prefers(&[], true) && prefers(&[adapter("discrete", false)], true));
}

#[test]
fn an_engine_says_which_backend_it_took() {
    if gpu().is_none() {
        return;
    }
    let options = EngineOptions { backend: "auto".parse().unwrap(), ..EngineOptions::default() };
    assert_eq!(options.backend, BackendKind::Auto);
    let engine = Engine::new(options).unwrap_or_else(|e| panic!("{e}"));
    let first = if prefers_gpu(&adapters()) { "wgpu" } else { "cpu" };
    assert!(engine.backend().starts_with(first), "{}", engine.backend());
}

#[test]
fn memory_is_read_at_a_rate_that_a_longer_look_finds_too() {
    let Some(gpu) = gpu() else { return };
    let rate = || gpu.read_rate().expect("a rate").expect("a device");
    let (first, second) = (rate(), rate());
    // No memory is as fast as what reads nothing seems.
    let memory = 1e8..2e13;
    assert!(
        memory.contains(&first) && memory.contains(&second),
        "{first} and {second} bytes a second"
    );
    let apart = (first / second).max(second / first);
    assert!(apart < 4.0, "{first} and {second} bytes a second");
}
