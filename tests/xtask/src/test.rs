//! `test`: the whole workspace under `cargo test`, with the real students in place, then the kernels and the
//! C ABI for Arm under emulation, and one line of totals at the end. A test that cannot run prints
//! `skipped: REASON`; such tests are counted and named, never taken for passed ones.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::arm::Arm;
use crate::debian;
use crate::dist;
use crate::fetch;
use crate::limbeck;
use crate::onnx::Onnx;
use crate::process::{self, Doing, Failure, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

/// Programs that the tests of the C ABI take, and Debian's packages of them. Those tests say
/// themselves what they did without.
const C_TOOLS: [(&str, &str); 4] =
    [("c++", "g++"), ("valgrind", "valgrind"), ("pkg-config", "pkg-config"), ("nm", "binutils")];
/// For the backend of GPUs a Vulkan device in software, on machines that have none, and layers that check how it is
/// used: where they are found, and Debian's packages of them.
const VULKAN: [(&str, &[&str]); 2] = [
    ("/usr/share/vulkan/icd.d", &["libvulkan1", "mesa-vulkan-drivers"]),
    (
        "/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json",
        &["vulkan-validationlayers"],
    ),
];
/// Builds the examples against the installed library.
const CMAKE: &str = "cmake==4.4.4\n";

/// How strict to be, and what to run.
#[derive(Args)]
pub struct Options {
    /// Fail when anything was skipped or a student is missing, as CI does
    #[arg(long)]
    require_all: bool,
    /// Arguments for `cargo test` in place of `--workspace`, after `--`: `-- -p limbeck-plan`
    #[arg(last = true)]
    cargo: Vec<String>,
}

/// Runs the tests. The tests find the students through `LIMBECK_STUDENTS`, ONNX Runtime through `LIMBECK_ORT`
/// and a Python with it through `LIMBECK_PYTHON`; with `LIMBECK_REQUIRE=1` they fail rather than skip when something is missing.
///
/// # Errors
/// When a test failed, a test program died or did not build, or, with `--require-all`, when
/// anything was skipped.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut totals = Totals::default();
    let missing = match fetch::students(workspace) {
        Ok(_) => None,
        Err(failure) if options.require_all => return Err(failure),
        Err(failure) => {
            eprintln!("warning: {failure}\nwarning: tests that need it will be skipped");
            Some(failure)
        }
    };
    let onnx = match Onnx::open(workspace) {
        Ok(onnx) => Some(onnx),
        Err(failure) if options.require_all => return Err(failure),
        Err(failure) => {
            eprintln!("warning: {failure}\nwarning: tests of ONNX segments will be skipped");
            None
        }
    };
    let arm = if options.cargo.is_empty() { Arm::new(workspace) } else { Ok(None) };
    let arm = match arm {
        Ok(arm) => arm,
        Err(failure) if options.require_all => return Err(failure),
        Err(failure) => {
            totals.skipped.push(failure.to_string());
            None
        }
    };
    let mut cargo = limbeck::cargo(workspace);
    if options.cargo.is_empty() {
        install_c_tools();
        install_vulkan();
        let tree = workspace.target("install");
        dist::tree(workspace, &tree)?;
        cargo.env("LIMBECK_DIST", tree).env("LIMBECK_CMAKE", cmake(workspace)?);
    }
    cargo.args(["test", "--no-fail-fast"]);
    match options.cargo.as_slice() {
        [] => cargo.arg("--workspace"),
        chosen => cargo.args(chosen),
    };
    cargo.env("LIMBECK_STUDENTS", workspace.target("students"));
    if let Some(onnx) = &onnx {
        cargo.env("LIMBECK_ORT", &onnx.library).env("LIMBECK_PYTHON", &onnx.python);
    }
    let all = missing.is_none() && onnx.is_some();
    cargo.env("LIMBECK_REQUIRE", if all { "1" } else { "0" });

    let mut whole = read_tests(workspace, &mut cargo, &mut totals)?;
    if let Some(Arm { mut kernels, mut library, mut programs }) = arm {
        eprintln!("testing the kernels for Arm under emulation");
        whole &= read_tests(workspace, &mut kernels, &mut totals)?;
        eprintln!("testing the C ABI for Arm under emulation");
        process::run(&mut library)?;
        whole &= read_tests(workspace, &mut programs, &mut totals)?;
    }

    for skipped in &totals.skipped {
        println!("not run: {skipped}");
    }
    if let Some(missing) = &missing {
        println!("not run with the real students: {missing}");
    }
    println!("{totals}");
    if totals.failed > 0 {
        return Err(Failure::new("tests failed"));
    }
    if !whole {
        return Err(Failure::new("a test program died or did not build"));
    }
    if options.require_all && !totals.skipped.is_empty() {
        return Err(Failure::new("tests were skipped, and --require-all wants every one to run"));
    }
    Ok(())
}

/// Installs what is missing of [`C_TOOLS`], where it can be.
fn install_c_tools() {
    for (program, package) in C_TOOLS {
        if !debian::starts(program)
            && let Err(failure) = debian::install("the C ABI is tested", &[package])
        {
            eprintln!("warning: {failure}");
        }
    }
}

/// Installs what is missing of [`VULKAN`], where it can be. The tests say themselves what they did without.
fn install_vulkan() {
    for (path, packages) in VULKAN {
        let found = match std::fs::read_dir(path) {
            Ok(mut folder) => folder.next().is_some(),
            Err(_) => Path::new(path).is_file(),
        };
        if cfg!(target_os = "linux")
            && !found
            && let Err(failure) = debian::install("the backend of GPUs is tested", packages)
        {
            eprintln!("warning: {failure}");
        }
    }
}

/// CMake: the machine's own, or else that of Python's packages.
fn cmake(workspace: &Workspace) -> Result<PathBuf> {
    if Command::new("cmake").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return Ok("cmake".into());
    }
    let venv = Venv::open(workspace)?;
    venv.require("cmake", CMAKE)?;
    Ok(venv.tool("cmake"))
}

/// Runs a `cargo test`, adds its tests to the totals and tells whether it succeeded.
fn read_tests(workspace: &Workspace, cargo: &mut Command, totals: &mut Totals) -> Result<bool> {
    cargo.args(["--", "--show-output"]);
    cargo.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = cargo.spawn().map_err(|error| process::not_started(cargo, &error))?;
    let bar = spinner();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.doing("read from cargo in", workspace.root())?;
            let line = String::from_utf8_lossy(&line);
            let shown = totals.read(&line);
            if shown == Shown::Always || (shown == Shown::WithoutTerminal && bar.is_hidden()) {
                bar.suspend(|| println!("{line}"));
            }
            bar.set_message(totals.to_string());
        }
    }
    let status = child.wait().doing("wait for cargo in", workspace.root())?;
    bar.finish_and_clear();
    Ok(status.success())
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Whether a line of the test programs' output goes to the person.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    Always,
    /// Only where no spinner tells how far the tests are.
    WithoutTerminal,
    Never,
}

/// Where in the output of one test program a line stands.
#[derive(Clone, Copy, Default, PartialEq)]
enum Section {
    #[default]
    Running,
    Successes,
    Failures,
}

/// Counts over all test programs, read from their output line by line.
#[derive(Default)]
struct Totals {
    passed: usize,
    failed: usize,
    /// One entry for each test: its name and its reason.
    skipped: Vec<String>,
    /// Tests of the current program that skipped themselves, which it counts as passed.
    skipped_as_passed: usize,
    section: Section,
    /// The test whose output is being read, until a reason to skip was found in it.
    test: Option<String>,
}

impl Totals {
    fn read(&mut self, line: &str) -> Shown {
        match line {
            "successes:" => self.section = Section::Successes,
            "failures:" => self.section = Section::Failures,
            _ => {}
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.section = Section::Running;
            self.test = None;
            let passed = count(rest, "passed");
            self.passed += passed.saturating_sub(std::mem::take(&mut self.skipped_as_passed));
            self.failed += count(rest, "failed");
            return Shown::Always;
        }
        match self.section {
            Section::Failures => Shown::Always,
            Section::Successes => {
                self.read_success(line);
                Shown::Never
            }
            Section::Running => self.read_running(line),
        }
    }

    fn read_running(&mut self, line: &str) -> Shown {
        let Some(test) = line.strip_prefix("test ") else {
            return Shown::WithoutTerminal;
        };
        if let Some((name, reason)) = test.split_once(" ... ignored") {
            self.skipped.push(format!("{name}: ignored{reason}"));
        }
        if test.ends_with("FAILED") { Shown::Always } else { Shown::WithoutTerminal }
    }

    /// Reads captured output: a heading `---- NAME stdout ----`, then what the test printed.
    fn read_success(&mut self, line: &str) {
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = heading {
            self.test = Some(name.to_owned());
        } else if let Some(reason) = line.trim_start().strip_prefix("skipped:")
            && let Some(name) = self.test.take()
        {
            self.skipped.push(format!("{name}: {}", reason.trim()));
            self.skipped_as_passed += 1;
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped.len();
        write!(f, "{} passed, {} failed, {skipped} skipped", self.passed, self.failed)
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; ...`.
fn count(result: &str, what: &str) -> usize {
    let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == what);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test a::one ... ok
test a::two ... FAILED
test a::three ... ok
test a::four ... ignored, too slow

successes:

---- a::one stdout ----
loading
skipped: no student
skipped: said twice
---- a::three stdout ----
this test is not skipped: it says so

successes:
    a::one
    a::three

failures:

---- a::two stdout ----
skipped: only in a failed test

failures:
    a::two

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s

running 1 test
test b ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn totals_sum_over_programs_and_tell_skipped_from_passed() {
        let mut totals = Totals::default();
        for line in OUTPUT.lines() {
            totals.read(line);
        }
        assert_eq!(totals.to_string(), "2 passed, 1 failed, 2 skipped");
        assert_eq!(totals.skipped, ["a::four: ignored, too slow", "a::one: no student"]);
    }

    #[test]
    fn failures_are_shown_and_the_output_of_passing_tests_is_not() {
        let mut totals = Totals::default();
        let shown: Vec<&str> =
            OUTPUT.lines().filter(|line| totals.read(line) == Shown::Always).collect();
        assert!(shown.contains(&"test a::two ... FAILED"));
        assert!(shown.contains(&"skipped: only in a failed test"));
        assert!(!shown.contains(&"loading") && !shown.contains(&"test a::one ... ok"));
    }
}
