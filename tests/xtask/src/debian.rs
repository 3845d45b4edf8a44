//! Programs that tests take beside the compilers: whether they are there, and Debian's packages of them.

use std::process::Command;

use crate::process::{self, Failure, Result};

/// Whether a program is there.
pub fn starts(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Installs packages; `what` says what they are for, as in `the kernels for Arm are tested`.
///
/// # Errors
/// Where the system is not Debian's, the user is not root, or the packages cannot be had.
pub fn install(what: &str, packages: &[&str]) -> Result<()> {
    let user = Command::new("id").arg("-u").output();
    let root = user.is_ok_and(|output| process::both(&output).trim() == "0");
    if !(root && starts("apt-get")) {
        let names = packages.join(" ");
        return Err(Failure::new(format!(
            "{what} with {names} (Debian's names), which are not all here"
        )));
    }
    eprintln!("installing {}", packages.join(" "));
    process::quiet(Command::new("apt-get").args(["update", "--quiet"]))?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
    process::quiet(apt.env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(())
}
