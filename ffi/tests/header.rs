//! The committed header is what the sources give.
//!
//! To bring it up to date: `LIMBECK_UPDATE=1 cargo test -p limbeck-ffi --test header`.

use std::path::{Path, PathBuf};

/// The concepts, in the order in which a reader meets them.
const SOURCES: [&str; 14] = [
    "error", "log", "bytes", "engine", "model", "control", "usage", "session", "text", "generate",
    "embed", "forward", "diffuse", "hooks",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn generated() -> String {
    let config =
        cbindgen::Config::from_file(folder().join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(folder().join("src").join(source).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().expect("a header").write(&mut header);
    String::from_utf8(header).expect("UTF-8")
}

#[test]
fn the_committed_header_is_that_of_the_sources() {
    let path = folder().join("include/limbeck.h");
    let generated = generated();
    if std::env::var("LIMBECK_UPDATE").is_ok_and(|v| v == "1") {
        std::fs::write(&path, &generated).expect("the header");
    }
    let committed = std::fs::read_to_string(&path).expect("the header");
    for (line, (found, wanted)) in (1..).zip(committed.lines().zip(generated.lines())) {
        assert_eq!(found, wanted, "limbeck.h:{line} is out of date: LIMBECK_UPDATE=1 writes it");
    }
    assert_eq!(committed, generated, "limbeck.h is out of date: LIMBECK_UPDATE=1 writes it");
}

#[test]
fn every_function_is_documented_and_exported_under_the_prefix() {
    let header = generated();
    let lines: Vec<&str> = header.lines().collect();
    let mut functions = 0;
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with("LBK_API") {
            functions += 1;
            let before = at.checked_sub(1).and_then(|at| lines.get(at)).copied();
            // A long declaration begins on the line after the mark.
            let declaration = lines.get(at..at + 2).unwrap_or_default().concat();
            assert_eq!(before, Some(" */"), "{declaration} has no documentation");
            assert!(declaration.contains("lbk_"), "{declaration}");
        }
    }
    assert!(functions > 80, "{functions} functions");
}

#[test]
fn every_source_with_entry_points_is_in_the_header() {
    let mut missing = Vec::new();
    for entry in std::fs::read_dir(folder().join("src")).expect("the sources") {
        let path = entry.expect("a source").path();
        let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let text = std::fs::read_to_string(&path).expect("a source");
        if text.contains("no_mangle") && !SOURCES.contains(&name.as_str()) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "not in the header: {missing:?}");
}
