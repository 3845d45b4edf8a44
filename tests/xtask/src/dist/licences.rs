//! The crates that the library is made of, and their licences.

use std::collections::BTreeSet;

use crate::limbeck;
use crate::process::{self, Failure, Result};
use crate::workspace::Workspace;

/// A line for each crate of others that is linked into the library: name, version, licence and where
/// it comes from.
///
/// # Errors
/// When cargo does not tell, or a crate names no licence.
pub fn list(workspace: &Workspace) -> Result<String> {
    let mut cargo = limbeck::cargo(workspace);
    cargo.args(["tree", "--package", "limbeck-ffi", "--edges", "normal", "--prefix", "none"]);
    cargo.args(["--format", "{p}|{l}|{r}"]);
    let tree = process::stdout_of(&mut cargo)?;
    let mut lines = BTreeSet::new();
    for line in tree.lines() {
        lines.extend(entry(line)?);
    }
    let head = "The library contains these crates, each under the licence named:\n\n";
    Ok(lines.into_iter().fold(head.to_owned(), |text, line| text + &line + "\n"))
}

/// `NAME VERSION: LICENCE, REPOSITORY` of a line of the tree; none for crates of ours and for those
/// that were listed above.
fn entry(line: &str) -> Result<Option<String>> {
    let mut parts = line.trim_end_matches(" (*)").split('|');
    let (package, licence) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let repository = parts.next().unwrap_or("");
    let ours = package.starts_with("limbeck");
    if package.is_empty() || ours {
        return Ok(None);
    }
    if licence.is_empty() {
        return Err(Failure::new(format!("the crate {package} names no licence")));
    }
    // Macros are marked, with their path in brackets.
    let package = package.split(" (").next().unwrap_or(package);
    Ok(Some(format!("{}: {licence}, {repository}", package.replacen(" v", " ", 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_become_names_versions_and_licences() {
        let line = "half v2.7.1|MIT OR Apache-2.0|https://github.com/a/half";
        let want = "half 2.7.1: MIT OR Apache-2.0, https://github.com/a/half";
        assert_eq!(entry(line).unwrap().as_deref(), Some(want));
        let again = "half v2.7.1|MIT OR Apache-2.0|https://github.com/a/half (*)";
        assert_eq!(entry(again).unwrap().as_deref(), Some(want));
        let derive = "serde_derive v1.0.2 (proc-macro)|MIT|r";
        assert_eq!(entry(derive).unwrap().as_deref(), Some("serde_derive 1.0.2: MIT, r"));
        assert_eq!(entry("limbeck v0.1.0 (/a/runtime)|MIT|").unwrap(), None);
        assert_eq!(entry("").unwrap(), None);
        assert!(entry("nobody v1.0.0||r").is_err());
    }
}
