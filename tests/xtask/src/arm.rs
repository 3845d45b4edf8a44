//! The kernels and the C ABI for Arm on another machine: built for it and run under QEMU's emulation, which
//! tells whether they are right, not how fast they are. What that takes is installed where it can be.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian;
use crate::limbeck;
use crate::process::{self, Result};
use crate::workspace::Workspace;

/// What the packages are for.
const WHAT: &str = "what is for Arm is tested";
const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// How the names of this tool and of others for it begin.
const TOOLS: &str = "aarch64-linux-gnu-";
const EMULATOR: &str = "qemu-aarch64";
/// Where the emulated program finds its libraries.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// Debian's packages of these.
const PACKAGES: &[&str] = &["g++-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];
/// Debian's compiler with the target's standard library, for machines whose own cannot get it.
const COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev:arm64"];
/// The kernels' test programs that go through every instruction set.
const TESTS: &[&str] =
    &["linear", "channels", "attention", "ops", "adaptive", "moe", "images", "tensors"];
/// What the emulated CPU must have.
const ISAS: &str = "neon,neon-dotprod,neon-i8mm";
/// One of so many shapes is tested, since emulation is slow.
const EVERY: &str = "11";

/// Cargo's profile of the library.
const PROFILE: &str = "emulated";
/// The test programs of the C ABI, in which programs in C and C++ are built and run.
const C_TESTS: &[&str] = &["programs", "abi"];

/// What there is to run for Arm.
pub struct Arm {
    /// A `cargo test` of the kernels.
    pub kernels: Command,
    /// A `cargo build` of the library, for `programs`.
    pub library: Command,
    /// A `cargo test` of this machine's that builds the programs of the C ABI for Arm and runs them.
    pub programs: Command,
}

impl Arm {
    /// `None` on an Arm machine, whose own tests those are.
    ///
    /// # Errors
    /// When something that it takes is missing and cannot be installed, naming it.
    pub fn new(workspace: &Workspace) -> Result<Option<Arm>> {
        if cfg!(target_arch = "aarch64") {
            return Ok(None);
        }
        let libraries = Path::new(LIBRARIES).join("lib").is_dir();
        let tools = ["gcc", "g++", "nm"].map(|tool| format!("{TOOLS}{tool}"));
        let tools = tools.iter().all(|tool| debian::starts(tool));
        if !(libraries && tools && debian::starts(EMULATOR)) {
            debian::install(WHAT, PACKAGES)?;
        }
        Ok(Some(Arm {
            kernels: kernels(workspace)?,
            library: library(workspace)?,
            programs: programs(workspace),
        }))
    }
}

/// What runs a program, with its arguments.
fn runner() -> String {
    // Where Debian's own libraries for Arm are installed too, the loader would mix the two.
    format!("{EMULATOR} -cpu max -L {LIBRARIES} -E LD_LIBRARY_PATH={LIBRARIES}/lib")
}

fn kernels(workspace: &Workspace) -> Result<Command> {
    let mut cargo = cargo(workspace)?;
    cargo.args(["test", "--no-fail-fast", "--package", "limbeck-kernels", "--target", TARGET]);
    cargo.arg("--target-dir").arg(workspace.target("arm"));
    cargo.args(TESTS.iter().flat_map(|name| ["--test", name]));
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner());
    cargo.env("LIMBECK_EXPECT_ISAS", ISAS).env("LIMBECK_EVERY", EVERY);
    Ok(cargo)
}

fn library(workspace: &Workspace) -> Result<Command> {
    let mut cargo = cargo(workspace)?;
    cargo.args(["build", "--package", "limbeck-ffi", "--lib", "--features", "test-hooks"]);
    cargo.args(["--profile", PROFILE, "--target", TARGET, "--target-dir"]);
    cargo.arg(workspace.target("arm"));
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    Ok(cargo)
}

/// As the tests of the workspace, so that nothing is built anew.
fn programs(workspace: &Workspace) -> Command {
    let mut cargo = limbeck::cargo(workspace);
    cargo.args(["test", "--no-fail-fast", "--workspace"]);
    cargo.args(C_TESTS.iter().flat_map(|name| ["--test", name]));
    cargo.env("LIMBECK_C_TOOLS", TOOLS);
    cargo.env("LIMBECK_C_LIBRARY", workspace.target("arm").join(TARGET).join(PROFILE));
    cargo.env("LIMBECK_C_RUNNER", runner());
    cargo
}

/// A cargo whose compiler has the target's standard library: the one that runs this, with what
/// rustup gets for it, or else Debian's.
fn cargo(workspace: &Workspace) -> Result<Command> {
    let rustc = std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    let rustup = || process::quiet(Command::new("rustup").args(["target", "add", TARGET]));
    if has_target(&rustc) || (rustup().is_ok() && has_target(&rustc)) {
        return Ok(limbeck::cargo(workspace));
    }
    let rustc = Path::new("/usr/bin/rustc");
    if !has_target(rustc) {
        process::quiet(Command::new("dpkg").args(["--add-architecture", "arm64"]))?;
        debian::install(WHAT, COMPILER)?;
    }
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.current_dir(workspace.root()).env("RUSTC", rustc);
    Ok(cargo)
}

/// Whether the compiler can build for the target.
fn has_target(rustc: &Path) -> bool {
    let output = Command::new(rustc).args(["--print=target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| {
        output.status.success() && Path::new(process::both(&output).trim()).is_dir()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_programs_are_those_that_go_through_every_instruction_set() {
        let folder = Workspace::locate().root().join("runtime/kernels/tests");
        let mut found = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.contains("all_kernels()") || text.contains("kernel_table()") {
                found.push(path.file_stem().unwrap().to_string_lossy().into_owned());
            }
        }
        found.sort();
        let mut want = TESTS.to_vec();
        want.sort();
        assert_eq!(found, want);
    }

    #[test]
    fn the_test_programs_of_the_c_abi_are_there() {
        let folder = Workspace::locate().root().join("ffi/tests");
        for name in C_TESTS {
            let text = std::fs::read_to_string(folder.join(name).with_extension("rs")).unwrap();
            assert!(text.contains("mod common;"), "{name}");
        }
    }

    #[test]
    fn a_compiler_without_the_target_is_known() {
        assert!(!has_target(Path::new("false")));
        assert!(!has_target(Path::new("/no/such/rustc")));
    }
}
