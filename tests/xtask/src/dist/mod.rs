//! `dist`: the library as C and C++ developers install it. A tree of headers, a shared and a static
//! library, a pkg-config file, a CMake package, licences and examples; it may be moved as a whole.

mod licences;
mod package;
mod paths;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::Value;

use crate::limbeck;
use crate::process::{self, Doing, Failure, Result};
use crate::workspace::Workspace;
use package::{Names, Version};

/// Where the tree goes.
#[derive(Args)]
pub struct Options {
    /// Folder of the tree, target/install unless given; what an earlier tree had is written over
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

/// Builds the library and writes the tree.
///
/// # Errors
/// When the library does not build, or a file cannot be written.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let prefix = options.prefix.clone().unwrap_or_else(|| workspace.target("install"));
    tree(workspace, &prefix)?;
    let prefix = prefix.display();
    println!("the library is in {prefix}; with pkg-config and with CMake:");
    println!("  export PKG_CONFIG_PATH={prefix}/lib/pkgconfig");
    println!("  cc app.c $(pkg-config --cflags --libs limbeck)");
    println!("  cmake -DCMAKE_PREFIX_PATH={prefix}");
    Ok(())
}

/// Builds the library and writes the tree to a folder.
///
/// # Errors
/// As for [`run`].
pub fn tree(workspace: &Workspace, prefix: &Path) -> Result<()> {
    let version = Version::of(env!("CARGO_PKG_VERSION"))?;
    let names = Names::of(&version);
    let shared = shared(workspace, &names)?;
    let (archive, system) = archive(workspace)?;
    let (include, lib) = (prefix.join("include"), prefix.join("lib"));
    for header in ["limbeck.h", "limbeck.hpp"] {
        copy(&workspace.root().join("ffi/include").join(header), &include.join(header))?;
    }
    copy(&shared, &lib.join(&names.shared))?;
    for link in &names.links {
        symlink(&names.shared, &lib.join(link))?;
    }
    copy(&archive, &lib.join(names.archive))?;
    write(&lib.join("pkgconfig/limbeck.pc"), &package::pkg_config(&version, &system))?;
    let cmake = lib.join("cmake/limbeck");
    write(&cmake.join("limbeck-config.cmake"), &package::cmake_config(&names, &system))?;
    write(&cmake.join("limbeck-config-version.cmake"), &package::cmake_version(&version))?;
    let documents = prefix.join("share/doc/limbeck");
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&workspace.root().join(licence), &documents.join(licence))?;
    }
    write(&documents.join("THIRD-PARTY.txt"), &licences::list(workspace)?)?;
    for example in examples(workspace)? {
        let name = example.file_name().unwrap_or_default().to_owned();
        copy(&example, &documents.join("examples").join(name))?;
    }
    Ok(())
}

/// The C and C++ files of the examples, by name.
fn examples(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = workspace.root().join("ffi/examples");
    let mut files = Vec::new();
    for file in fs::read_dir(&folder).doing("read", &folder)? {
        let path = file.doing("read", &folder)?.path();
        let extension = path.extension().unwrap_or_default();
        if extension == "c" || extension == "cpp" {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Builds the shared library, by the name under which loaders look for it.
fn shared(workspace: &Workspace, names: &Names) -> Result<PathBuf> {
    eprintln!("building the shared library");
    let mut cargo = library(workspace, "cdylib")?;
    cargo.args(names.link_args());
    let messages = process::stdout_of(&mut cargo)?;
    built(&messages, &["so", "dylib", "dll"])
}

/// Builds the static library; gives it with the system's libraries that it needs, as linkers take them.
fn archive(workspace: &Workspace) -> Result<(PathBuf, Vec<String>)> {
    eprintln!("building the static library");
    let mut cargo = library(workspace, "staticlib")?;
    let messages = process::quiet(cargo.args(["--print", "native-static-libs"]))?;
    let line = messages.lines().find_map(|line| line.split_once("native-static-libs: "));
    let (_, system) = line.ok_or_else(|| Failure::new("rustc names no native libraries"))?;
    let system = system.split_whitespace().map(str::to_owned).collect();
    Ok((built(&messages, &["a", "lib"])?, system))
}

/// A build of the library as one kind; what is added goes to rustc.
fn library(workspace: &Workspace, kind: &str) -> Result<Command> {
    let mut cargo = limbeck::cargo(workspace);
    cargo.args(paths::left_out(workspace)?);
    cargo.args(["rustc", "--profile", "dist", "--package", "limbeck-ffi", "--lib"]);
    cargo.args(["--message-format=json-render-diagnostics", "--crate-type", kind, "--"]);
    Ok(cargo)
}

/// The file with one of these extensions that cargo tells of.
fn built(messages: &str, extensions: &[&str]) -> Result<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = messages.filter(|message| message["target"]["name"] == "limbeck_ffi");
    let files = ours.filter_map(|message| Some(message["filenames"].as_array()?.clone())).flatten();
    let mut files = files.filter_map(|file| file.as_str().map(PathBuf::from));
    let named = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension))
    };
    let found = files.rfind(named);
    found.ok_or_else(|| Failure::new(format!("cargo built no file in {extensions:?}")))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).doing("copy", from).map(|_| ())
}

fn write(to: &Path, text: &str) -> Result<()> {
    make_parent(to)?;
    fs::write(to, text).doing("write", to)
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), process::make_dir)
}

#[cfg(unix)]
fn symlink(to: &str, link: &Path) -> Result<()> {
    if fs::symlink_metadata(link).is_ok() {
        fs::remove_file(link).doing("replace", link)?;
    }
    std::os::unix::fs::symlink(to, link).doing("link", link)
}

/// Systems without symbolic links for everyone have no further names.
#[cfg(not(unix))]
fn symlink(_to: &str, _link: &Path) -> Result<()> {
    Ok(())
}
