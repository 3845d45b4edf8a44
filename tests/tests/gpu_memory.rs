//! What loading a plan on a GPU takes of this machine's memory. The memory of a device in software is a part of it.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use limbeck::{BackendKind, Engine, EngineOptions};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, SMOLLM2, adapter, student};

/// Names the plan to a process that loads it and does nothing else.
const PLAN: &str = "LIMBECK_TEST_PLAN";
/// Bytes that are on their way, and what the driver and its compiler take.
const BESIDE: u64 = 48 << 20;

/// Resident bytes that are no file's.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().expect("a number")
    };
    (kib("RssAnon") + kib("RssShmem")) << 10
}

/// The most that is resident while something runs, and what it gives.
fn most<T>(run: impl FnOnce() -> T) -> (u64, T) {
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let given = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let given = run();
        done.store(true, Ordering::Relaxed);
        given
    });
    (most.into_inner().max(resident()), given)
}

fn load(plan: &Path) {
    let options = EngineOptions { backend: BackendKind::Wgpu, ..EngineOptions::default() };
    let engine = Engine::new(options).expect("an engine");
    let before = resident();
    let (most, model) = most(|| engine.open(plan).unwrap_or_else(|e| panic!("{e}")));
    let weights: u64 = model.plan().program().weights.iter().map(|w| w.bytes).sum();
    let (grown, left) = (most - before, resident() - before);
    println!("{weights} bytes of weights: {grown} more at most, {left} in the end");
    assert!(weights > 100 << 20, "{weights} bytes are too few to tell");
    assert!(grown <= weights + weights / 50 + BESIDE, "{grown} bytes for {weights} of weights");
}

#[test]
fn weights_are_copied_to_the_device_and_nowhere_else() {
    if let Some(plan) = std::env::var_os(PLAN) {
        return load(Path::new(&plan));
    }
    if !adapter() {
        return;
    }
    let Some(source) = student(SMOLLM2) else { return };
    let plan = Compiled::new(&source, Quant::Q8, true);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--nocapture", "weights_are_copied"]).env(PLAN, plan.path());
    let output = command.output().expect("this program runs");
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    println!("{}{}", text[0], text[1]);
    assert!(output.status.success() && text[0].contains("bytes of weights"));
}
