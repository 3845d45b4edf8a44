//! What programs that are built already rely on: the functions, the numbers and the layouts of the
//! header, as the committed list has them, and as the headers of earlier versions in `abi/` do.
//!
//! A change of a line of the list, or one that is gone, breaks such programs: then the major version
//! changes. New lines are new functions, numbers, structs, or fields at the end of one: then the minor
//! version does. `LIMBECK_UPDATE=1 cargo test -p limbeck-ffi --test abi` writes the list. A released
//! header is copied to `abi/limbeck-MAJOR.MINOR.h`, and stays as it is.

mod common;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use common::{Build, Program, against};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, golden};

/// A name, and the fields of a struct with their types.
struct Struct {
    name: String,
    fields: Vec<(String, String)>,
}

/// The structs of the header whose fields it shows.
fn structs(header: &str) -> Vec<Struct> {
    let mut found: Vec<Struct> = Vec::new();
    let mut open = false;
    for line in header.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("typedef struct ").and_then(|l| l.strip_suffix(" {"))
        {
            found.push(Struct { name: name.to_owned(), fields: Vec::new() });
            open = true;
        } else if line.starts_with('}') {
            open = false;
        } else if open && line.ends_with(';') && !line.starts_with('*') {
            let declared = line.trim_end_matches(';');
            let (name, array) = declared.split_once('[').map_or((declared, ""), |(n, a)| (n, a));
            let at = name.rfind([' ', '*']).map_or(0, |at| at + 1);
            let (kind, name) = name.split_at(at);
            let kind = format!("{}{}", kind.trim(), if array.is_empty() { "" } else { "[]" });
            if let Some(last) = found.last_mut() {
                last.fields.push((name.to_owned(), kind));
            }
        }
    }
    found
}

/// What lies between each `start` and the next semicolon, in one line each.
fn declarations<'a>(header: &'a str, start: &str) -> impl Iterator<Item = String> + use<'a> {
    let parts: Vec<&str> = header.split(start).skip(1).collect();
    parts.into_iter().map(|part| {
        let declaration = part.split(';').next().unwrap_or_default();
        declaration.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// Functions with their parameters.
fn functions(header: &str) -> Vec<String> {
    let all = declarations(header, "\nLBK_API");
    let mut found: Vec<String> = all.filter(|f| !f.contains("lbk_test_")).collect();
    found.sort();
    found
}

/// Types without fields, those of callbacks with their parameters.
fn types(header: &str) -> Vec<String> {
    let all = declarations(header, "\ntypedef ").filter(|t| !t.contains('{'));
    let mut found: Vec<String> = all.map(|t| format!("typedef {t}")).collect();
    found.sort();
    found
}

fn numbers(header: &str) -> Vec<String> {
    let lines = header.lines().filter(|l| l.starts_with("#define LBK_"));
    let mut found: Vec<String> =
        lines.filter(|n| !n.contains("LBK_API")).map(str::to_owned).collect();
    found.sort();
    found
}

/// Sizes, and offsets and types of fields, as the C compiler has them.
fn layouts(header: &str) -> Vec<String> {
    let structs = structs(header);
    assert!(structs.len() > 12 && structs.iter().all(|s| !s.fields.is_empty()));
    let mut source = String::from("#include \"header.h\"\n#include <stdio.h>\nint main(void) {\n");
    for Struct { name, fields } in structs {
        let _ = writeln!(source, "printf(\"{name} %zu\\n\", sizeof({name}));");
        for (field, kind) in fields {
            let offset = format!("offsetof({name}, {field}), sizeof((({name} *)0)->{field})");
            let _ = writeln!(source, "printf(\"{name}.{field} %zu+%zu {kind}\\n\", {offset});");
        }
    }
    source.push_str("return 0;\n}\n");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("layouts.c");
    std::fs::write(folder.path().join("header.h"), header).expect("a header");
    std::fs::write(&path, source).expect("a source");
    let out = Program::new(path.to_str().expect("a path"), Build::Plain).run(&[], "");
    out.lines().map(str::to_owned).collect()
}

/// All that a header promises, in one line each.
fn promises(header: &str) -> Vec<String> {
    let mut found = [numbers(header), types(header), functions(header)].concat();
    assert!(found.len() > 150, "{found:#?}");
    // Layouts are those of 64-bit systems.
    if cfg!(target_pointer_width = "64") {
        found.extend(layouts(header));
    }
    found
}

/// What of `earlier` is not in `today`.
fn without<'a>(earlier: &'a [String], today: &[String]) -> Vec<&'a str> {
    earlier.iter().filter(|line| !today.contains(line)).map(String::as_str).collect()
}

/// What programs that rely on `earlier` would miss of `today`: a struct may have grown.
fn broken<'a>(earlier: &'a [String], today: &[String]) -> Vec<&'a str> {
    let size = |line: &str| {
        let (name, size) = line.split_once(' ')?;
        Some((name.to_owned(), size.parse::<usize>().ok()?))
    };
    let grown = |line: &str| {
        size(line).is_some_and(|(name, least)| {
            today.iter().filter_map(|l| size(l)).any(|(n, most)| n == name && most >= least)
        })
    };
    let mut missing = without(earlier, today);
    missing.retain(|line| !line.starts_with("#define LBK_ABI_VERSION") && !grown(line));
    missing
}

/// The header of today.
fn today() -> String {
    let path = common::folder().join("include/limbeck.h");
    std::fs::read_to_string(path).expect("the header")
}

/// A header's version: major and minor.
fn version(header: &str) -> (u32, u32) {
    let number = header.lines().find_map(|l| l.strip_prefix("#define LBK_ABI_VERSION "));
    let number: u32 = number.and_then(|n| n.trim().parse().ok()).expect("a version");
    (number >> 16, number & 0xffff)
}

/// The headers of earlier versions with what they say, by their paths.
fn earlier() -> Vec<(PathBuf, String)> {
    let folder = common::folder().join("tests/abi");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the headers") {
        let path = entry.expect("a header").path();
        let header = std::fs::read_to_string(&path).expect("a header");
        found.push((path, header));
    }
    found.sort();
    found
}

#[test]
fn functions_numbers_and_layouts_are_those_that_programs_were_built_with() {
    let found = promises(&today());
    let path = common::folder().join("tests/abi.txt");
    if std::env::var("LIMBECK_UPDATE").is_ok_and(|v| v == "1") {
        std::fs::write(&path, found.join("\n") + "\n").expect("the list");
    }
    let committed = std::fs::read_to_string(&path).expect("the list");
    let committed: Vec<String> = committed.lines().map(str::to_owned).collect();
    let (gone, new) = (without(&committed, &found), without(&found, &committed));
    assert!(gone.is_empty(), "gone or changed, which breaks programs: {gone:#?}\nnew: {new:#?}");
    assert!(new.is_empty(), "new, which the list must have: {new:#?}");
}

#[test]
fn a_function_that_is_gone_and_a_field_in_the_midst_are_seen() {
    let header = today();
    let before = promises(&header);
    let changed = |from: &str, to: &str| {
        assert!(header.contains(from), "{from}");
        let after = promises(&header.replacen(from, to, 1));
        broken(&before, &after).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let gone = changed("LBK_API uint32_t lbk_version(void);", "");
    assert_eq!(gone, ["uint32_t lbk_version(void)"]);
    let moved = changed(
        "    double price;\n    /**\n     * Why",
        "    double more;\n    double price;\n    /**\n     * Why",
    );
    assert!(moved.iter().any(|l| l.starts_with("lbk_status.price 8+8")), "{moved:?}");
    let other = changed("    double target;", "    uint64_t target;");
    assert_eq!(other, ["lbk_status.target 0+8 double"]);
    let parameter = changed("size_t vocab,\n", "uint32_t vocab,\n");
    assert!(parameter[0].contains("(*lbk_logits_fn)"), "{parameter:?}");
    // At the end, a struct may grow.
    let end =
        "    lbk_unmet unmet;\n    /**\n     * 0.\n     */\n    int32_t reserved;\n} lbk_status;";
    let more = end.replace("} lbk_status", "    double more;\n} lbk_status");
    assert_eq!(changed(end, &more), Vec::<String>::new());
    assert_eq!(changed("#define LBK_OK 0", "#define LBK_OK 1"), ["#define LBK_OK 0"]);
}

#[test]
fn what_the_header_declares_is_exported_and_nothing_else() {
    let library = common::library().join("liblimbeck_ffi.so");
    let nm = common::nm().args(["-D", "--defined-only"]).arg(&library).output();
    let Ok(output) = nm else {
        println!("skipped: there is no nm");
        return;
    };
    let symbols = String::from_utf8_lossy(&output.stdout).into_owned();
    let exported = symbols.lines().filter_map(|line| line.split_whitespace().last());
    let exported: Vec<&str> = exported.filter(|name| !name.starts_with("lbk_test_")).collect();
    let functions = functions(&today());
    let declared = functions.iter().filter_map(|f| f.split('(').next()?.rsplit([' ', '*']).next());
    let declared: Vec<&str> = declared.collect();
    let missing: Vec<_> = declared.iter().filter(|name| !exported.contains(name)).collect();
    let others: Vec<_> = exported.iter().filter(|name| !declared.contains(name)).collect();
    assert!(missing.is_empty(), "declared and not exported: {missing:?}");
    assert!(others.is_empty(), "exported and not declared: {others:?}");
}

#[test]
fn headers_of_earlier_versions_are_a_part_of_that_of_today() {
    let header = today();
    let (major, minor) = version(&header);
    let now = promises(&header);
    let mut versions = Vec::new();
    for (path, text) in earlier() {
        let found = version(&text);
        let name = format!("limbeck-{}.{}.h", found.0, found.1);
        assert!(path.ends_with(&name), "{} is {name}", path.display());
        assert!(found.0 == major && found.1 <= minor, "{name} is not before {major}.{minor}");
        let then = promises(&text);
        let missing = broken(&then, &now);
        assert!(missing.is_empty(), "programs built with {name} rely on {missing:#?}");
        versions.push(found.1);
    }
    // The first version was 0.1.
    let before = if (major, minor) == (0, 1) { minor } else { minor.saturating_sub(1) };
    assert!(versions.contains(&before), "there is no header of {major}.{before}");
}

#[test]
fn programs_built_with_headers_of_earlier_versions_run() {
    let plan = Compiled::new(&golden().join("acm/decoder"), Quant::F32, true);
    let plan: &Path = &plan.path();
    for (header, _) in earlier() {
        let builds = [Build::Plain, Build::Sanitised, Build::Valgrind];
        against(&header, "tests/c/earlier.c", &builds, &[plan]);
    }
}
