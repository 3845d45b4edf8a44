//! What programs that are built already rely on: the functions, the numbers and the layouts of the
//! header, as the committed list has them.
//!
//! A change of a line, or one that is gone, breaks such programs: then the major version changes. New
//! lines are new functions, numbers, structs, or fields at the end of one: then the minor version does.
//! `LIMBECK_UPDATE=1 cargo test -p limbeck-ffi --test abi` writes the list.

mod common;

use std::fmt::Write;

use common::{Build, Program};

/// A name, and the fields of a struct.
struct Struct {
    name: String,
    fields: Vec<String>,
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
            let declared = line.trim_end_matches(';').split('[').next().unwrap_or_default();
            let field = declared.rsplit([' ', '*']).next().unwrap_or_default();
            if let Some(last) = found.last_mut() {
                last.fields.push(field.to_owned());
            }
        }
    }
    found
}

/// Functions with their parameters, in one line each.
fn functions(header: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in header.split("LBK_API").skip(1) {
        let declaration = part.split(';').next().unwrap_or_default();
        if declaration.contains("lbk_") && declaration.contains('(') && !declaration.contains('#') {
            found.push(declaration.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    found.retain(|f| !f.contains("lbk_test_"));
    found.sort();
    found
}

/// Numbers and types of one line each.
fn lines(header: &str, prefix: &str) -> Vec<String> {
    let lines = header.lines().filter(|l| l.starts_with(prefix) && !l.ends_with('{'));
    let mut found: Vec<String> = lines.map(str::to_owned).collect();
    found.sort();
    found
}

/// Sizes and offsets, as the C compiler has them.
fn layouts(structs: &[Struct]) -> String {
    let mut source = String::from("#include <limbeck.h>\n#include <stdio.h>\nint main(void) {\n");
    for Struct { name, fields } in structs {
        let _ = writeln!(source, "printf(\"{name} %zu\\n\", sizeof({name}));");
        for field in fields {
            let offset = format!("offsetof({name}, {field}), sizeof((({name} *)0)->{field})");
            let _ = writeln!(source, "printf(\"{name}.{field} %zu+%zu\\n\", {offset});");
        }
    }
    source.push_str("return 0;\n}\n");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("layouts.c");
    std::fs::write(&path, source).expect("a source");
    Program::new(path.to_str().expect("a path"), Build::Plain).run(&[], "")
}

#[test]
fn functions_numbers_and_layouts_are_those_that_programs_were_built_with() {
    let folder = common::folder();
    let header = std::fs::read_to_string(folder.join("include/limbeck.h")).expect("the header");
    let structs = structs(&header);
    assert!(structs.len() > 12 && structs.iter().all(|s| !s.fields.is_empty()));
    let numbers = lines(&header, "#define LBK_");
    let numbers: Vec<String> = numbers.into_iter().filter(|n| !n.contains("LBK_API")).collect();
    let mut found = [numbers, lines(&header, "typedef"), functions(&header)].concat().join("\n");
    found.push('\n');
    // Layouts are those of 64-bit systems.
    if cfg!(target_pointer_width = "64") {
        found.push_str(&layouts(&structs));
    }
    let path = folder.join("tests/abi.txt");
    if std::env::var("LIMBECK_UPDATE").is_ok_and(|v| v == "1") {
        std::fs::write(&path, &found).expect("the list");
    }
    let committed = std::fs::read_to_string(&path).expect("the list");
    let gone: Vec<&str> = committed.lines().filter(|l| !found.lines().any(|f| f == *l)).collect();
    let new: Vec<&str> = found.lines().filter(|l| !committed.lines().any(|c| c == *l)).collect();
    assert!(gone.is_empty(), "gone or changed, which breaks programs: {gone:#?}\nnew: {new:#?}");
    assert!(new.is_empty(), "new, which the list must have: {new:#?}");
}
