//! Where the sources lie on this machine, which is nothing that the library should tell: the messages
//! of faults begin with the path of a file.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::limbeck;
use crate::process::{self, Failure, Result};
use crate::workspace::Workspace;

/// What makes cargo leave out the folders of the crates and of the standard library.
///
/// # Errors
/// When cargo or rustc does not tell where they are.
pub fn left_out(workspace: &Workspace) -> Result<[String; 2]> {
    let mut cargo = limbeck::cargo(workspace);
    let metadata = process::stdout_of(cargo.args(["metadata", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)
        .map_err(|error| Failure::new(format!("cargo's metadata cannot be read: {error}")))?;
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let sysroot = process::stdout_of(rustc.args(["--print", "sysroot"]))?;
    let mut flags: Vec<String> =
        folders(&metadata).iter().map(|folder| flag(&format!("{folder}/"), "")).collect();
    flags.push(flag(&format!("{}/lib/rustlib/src/rust/", sysroot.trim()), "/rustc/"));
    Ok(["--config".to_owned(), format!("build.rustflags=[{}]", flags.join(","))])
}

/// The folders in which the crates from elsewhere lie.
fn folders(metadata: &Value) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let others = packages.filter(|package| !package["source"].is_null());
    let manifests = others.filter_map(|package| package["manifest_path"].as_str());
    let folders = manifests.filter_map(|path| Path::new(path).parent()?.parent()?.to_str());
    folders.map(str::to_owned).collect()
}

/// An element of a TOML array.
fn flag(from: &str, to: &str) -> String {
    format!("'--remap-path-prefix={from}={to}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_those_of_crates_from_elsewhere() {
        let metadata = serde_json::json!({"packages": [
            {"source": null, "manifest_path": "/project/runtime/Cargo.toml"},
            {"source": "registry", "manifest_path": "/home/a/src/half-2.7.1/Cargo.toml"},
            {"source": "registry", "manifest_path": "/home/a/src/serde-1.0.2/Cargo.toml"},
        ]});
        assert_eq!(folders(&metadata), BTreeSet::from(["/home/a/src".to_owned()]));
        assert_eq!(flag("/home/a/src/", ""), "'--remap-path-prefix=/home/a/src/='");
    }
}
