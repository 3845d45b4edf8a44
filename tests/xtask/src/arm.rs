//! The kernels for Arm on another machine: built for it and run under QEMU's emulation, which tells
//! whether they are right, not how fast they are. What that takes is installed where it can be.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian;
use crate::limbeck;
use crate::process::{self, Result};
use crate::workspace::Workspace;

/// What the packages are for.
const WHAT: &str = "the kernels for Arm are tested";
const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where the emulated program finds its libraries.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// Debian's packages of these.
const PACKAGES: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];
/// Debian's compiler with the target's standard library, for machines whose own cannot get it.
const COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev:arm64"];
/// The kernels' test programs that go through every instruction set.
const TESTS: &[&str] = &["linear", "channels", "attention", "ops", "adaptive", "moe", "images"];
/// What the emulated CPU must have.
const ISAS: &str = "neon,neon-dotprod,neon-i8mm";
/// One of so many shapes is tested, since emulation is slow.
const EVERY: &str = "11";

/// A `cargo test` of the kernels on Arm; `None` on an Arm machine, whose own tests those are.
///
/// # Errors
/// When something that it takes is missing and cannot be installed, naming it.
pub fn tests(workspace: &Workspace) -> Result<Option<Command>> {
    if cfg!(target_arch = "aarch64") {
        return Ok(None);
    }
    if !(debian::starts(LINKER)
        && debian::starts(EMULATOR)
        && Path::new(LIBRARIES).join("lib").is_dir())
    {
        debian::install(WHAT, PACKAGES)?;
    }
    let mut cargo = cargo(workspace)?;
    cargo.args(["test", "--no-fail-fast", "--package", "limbeck-kernels", "--target", TARGET]);
    cargo.arg("--target-dir").arg(workspace.target("arm"));
    cargo.args(TESTS.iter().flat_map(|name| ["--test", name]));
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    // Where Debian's own libraries for Arm are installed too, the loader would mix the two.
    let libraries = format!("LD_LIBRARY_PATH={LIBRARIES}/lib");
    let runner = format!("{EMULATOR} -cpu max -L {LIBRARIES} -E {libraries}");
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    cargo.env("LIMBECK_EXPECT_ISAS", ISAS).env("LIMBECK_EVERY", EVERY);
    Ok(Some(cargo))
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
    fn a_compiler_without_the_target_is_known() {
        assert!(!has_target(Path::new("false")));
        assert!(!has_target(Path::new("/no/such/rustc")));
    }
}
