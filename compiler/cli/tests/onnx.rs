//! Plans with segments of ONNX Runtime: how its library is found, and what is said where it is not.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Run, array, golden, run};
use npyz::half::f16;
use serde_json::Value;

type Npz = npyz::npz::NpzWriter<std::io::BufWriter<std::fs::File>>;

/// ONNX Runtime's library, or `None`, with the reason printed, where it is missing.
fn library() -> Option<PathBuf> {
    limbeck_tests::onnx_runtime()
}

/// Runs `limbeck` with `LIMBECK_ORT` as given, and nothing else that names a library.
fn limbeck(args: &[&str], variable: Option<&str>) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limbeck"));
    command.args(args).env_remove("LIMBECK_ORT").env_remove("ORT_DYLIB_PATH");
    if let Some(path) = variable {
        command.env("LIMBECK_ORT", path);
    }
    run(command, b"")
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A classifier, whose images need no tokenizer, and inputs for it.
    fn classifier(&self, prefer: &str) -> (String, Value) {
        let (source, plan) = (golden("resnet/basic").display().to_string(), self.path(prefer));
        let args =
            ["compile", &source, "-o", &plan, "--quant", "f32", "--prefer", prefer, "--json"];
        let report = limbeck(&args, None).json();
        (plan, report)
    }
}

fn bench<'a>(plan: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", plan, "-r", "1", "--threads", "1", "--json"], more].concat()
}

#[test]
fn segments_are_reported_and_inspected() {
    let place = Place::new();
    let (plan, report) = place.classifier("onnx");
    let segments = report["onnx_segments"].as_array().expect("segments");
    assert_eq!(segments.len(), 1, "{report}");
    let reasons = segments[0]["reasons"].as_array().expect("reasons");
    assert_eq!(reasons.len(), 1, "{report}");
    assert_eq!(reasons[0]["reason"], "--prefer onnx");
    assert_eq!(reasons[0]["nodes"].as_array().map(Vec::len), Some(11), "{report}");
    let inspected = limbeck(&["inspect", &plan, "--json", "--verify"], None).json();
    assert_eq!(inspected["onnx_segments"].as_array().map(Vec::len), Some(1), "{inspected}");
    assert!(
        inspected["sections"].as_array().expect("sections").iter().any(|s| s["kind"] == "onnx")
    );
    assert!(limbeck(&["inspect", &plan], None).ok().contains("onnx segments"));
}

/// A model of ONNX is told in a line, whatever becomes of its nodes.
#[test]
fn notes_on_nodes_are_short_and_json_has_all() {
    let place = Place::new();
    let (model, plan) = (golden("onnx/segments.onnx").display().to_string(), place.path("x.lbk"));
    let run = limbeck(&["compile", &model, "-o", &plan, "--json"], None);
    let note = run.stderr.lines().find(|line| line.contains("ONNX Runtime computes"));
    let note = note.unwrap_or_else(|| panic!("{run:?}"));
    assert!(note.contains(" x no native operator Celu (") && note.len() < 1000, "{note}");
    let report = run.json();
    let segments = report["onnx_segments"].as_array().expect("segments");
    for segment in segments {
        let reasons = segment["reasons"].as_array().expect("reasons");
        let named: usize = reasons.iter().filter_map(|r| Some(r["nodes"].as_array()?.len())).sum();
        assert_eq!(segment["nodes"], named, "{segment}");
    }
    let args = ["compile", &model, "-o", &plan, "--prefer", "onnx", "--quant", "q8"];
    let run = limbeck(&args, None);
    assert!(run.stderr.contains("kept as the model has them"), "{run:?}");
    run.ok();
    let run = limbeck(&["compile", &model, "-o", &plan, "--onnx-for", "*_Constant"], None);
    run.fails(&["no node is called so"]);
}

#[test]
fn files_that_are_not_meant_are_one_sentence() {
    let place = Place::new();
    let (plan, _) = place.classifier("native");
    limbeck(&["export", &plan, "-o", &plan], None).fails(&["native", "it is a file"]);
    let empty = place.path("empty.onnx");
    std::fs::write(&empty, b"").expect("a file");
    limbeck(&["compile", &empty, "-o", &plan], None).fails(&["empty.onnx", "it is empty"]);
}

/// Integers that a call takes may be of any width.
#[test]
fn narrow_integers_are_taken_for_wide_ones() {
    let place = Place::new();
    let (model, plan) = (golden("onnx/integers.onnx").display().to_string(), place.path("x.lbk"));
    limbeck(&["compile", &model, "-o", &plan], None).ok();
    let a = [3i8, -4, 0, 7];
    let b = [true, false, true, true];
    let outputs = |file: &str, write: &dyn Fn(&mut Npz)| {
        let (input, output) = (place.path(file), place.path(&format!("out-{file}")));
        let mut npz = Npz::create(&input).expect("a file");
        write(&mut npz);
        drop(npz);
        limbeck(&["forward", &plan, "--inputs", &input, "--outputs", &output], None).ok();
        let mut npz = npyz::npz::NpzArchive::open(output).expect("outputs");
        let array = npz.by_name("Add").expect("an archive").expect("an output");
        array.into_vec::<i32>().expect("integers")
    };
    let narrow = outputs("narrow.npz", &|npz| {
        array(npz, "a", &[1, 4], &a);
        array(npz, "b", &[4], &b);
    });
    let wide = outputs("wide.npz", &|npz| {
        array(npz, "a", &[1, 4], &a.map(i64::from));
        array(npz, "b", &[4], &b.map(u16::from));
    });
    assert_eq!(narrow, wide);
    assert_eq!(narrow, [4, -4, 1, 8]);
}

/// Floats are f32 within; those of other widths become it as numpy's `astype` makes it.
#[test]
fn floats_of_other_widths_are_taken_for_f32() {
    let place = Place::new();
    let (model, plan) =
        (golden("onnx/elementwise.onnx").display().to_string(), place.path("x.lbk"));
    limbeck(&["compile", &model, "-o", &plan], None).ok();
    let negated = |write: &dyn Fn(&mut Npz)| {
        let (input, output) = (place.path("in.npz"), place.path("out.npz"));
        let mut npz = Npz::create(&input).expect("a file");
        write(&mut npz);
        array(&mut npz, "y", &[1, 1, 7], &[1f32; 7]);
        drop(npz);
        limbeck(&["forward", &plan, "--inputs", &input, "--outputs", &output], None).ok();
        let mut npz = npyz::npz::NpzArchive::open(output).expect("outputs");
        let array = npz.by_name("Neg").expect("an archive").expect("an output");
        let values = array.into_vec::<f32>().expect("floats").into_iter();
        values.map(|v| (-v).to_bits()).collect::<Vec<u32>>()
    };
    let wide = [
        (1.0 + 2f64.powi(-24), 0x3f80_0000),
        (1.0 + 2f64.powi(-24) + 2f64.powi(-40), 0x3f80_0001),
        (1.0 + 3.0 * 2f64.powi(-24), 0x3f80_0002),
        (0.1, 0x3dcc_cccd),
        (-3.5e38, 0xff80_0000),
        (1e300, 0x7f80_0000),
        (5e-324, 0),
        (1e-40, 0x0001_16c2),
        (-1e-46, 0x8000_0000),
        (16_777_217.0, 0x4b80_0000),
    ];
    let mut values = [0f64; 35];
    values.iter_mut().zip(wide).for_each(|(value, (wide, _))| *value = wide);
    let found = negated(&|npz| array(npz, "x", &[1, 5, 7], &values));
    assert_eq!(found[..wide.len()], wide.map(|(_, bits)| bits));
    let narrow = [
        (0x3c01, 0x3f80_2000),
        (0x0001, 0x3380_0000),
        (0x7c00, 0x7f80_0000),
        (0xfbff, 0xc77f_e000),
        (0x8000, 0x8000_0000),
    ];
    let mut values = [f16::ZERO; 35];
    values.iter_mut().zip(narrow).for_each(|(value, (bits, _))| *value = f16::from_bits(bits));
    let found = negated(&|npz| array(npz, "x", &[1, 5, 7], &values));
    assert_eq!(found[..narrow.len()], narrow.map(|(_, bits)| bits));
}

#[test]
fn an_input_is_fixed_once() {
    let place = Place::new();
    let (model, plan) = (golden("onnx/integers.onnx").display().to_string(), place.path("x.lbk"));
    let compile =
        |more: &[&str]| limbeck(&[&["compile", &model, "-o", &plan], more].concat(), None);
    for second in ["n=2", "n=1"] {
        compile(&["--fix", "n=1", "--fix", second]).usage(&["--fix", "\"n\" twice"]);
    }
    assert!(!std::path::Path::new(&plan).exists());
    compile(&["--fix", "n=1"]).ok();
}

#[test]
fn a_missing_or_wrong_library_is_one_sentence() {
    let place = Place::new();
    let (plan, _) = place.classifier("onnx");
    let text = golden("text.txt").display().to_string();
    let none = place.path("none.so");
    limbeck(&bench(&plan, &[]), None).fails(&["no ONNX Runtime library was found", "LIMBECK_ORT"]);
    limbeck(&bench(&plan, &[]), Some(&none)).fails(&["none.so", "cannot be read"]);
    limbeck(&bench(&plan, &["--ort-library", &none]), None).fails(&["none.so", "cannot be read"]);
    let wrong = bench(&plan, &["--ort-library", &text]);
    limbeck(&wrong, None).fails(&["text.txt", "not ONNX Runtime"]);
    let folder = place.path("");
    limbeck(&bench(&plan, &["--ort-library", &folder]), None).fails(&["not ONNX Runtime"]);
    limbeck(&["devices", "--ort-library", &text], None).fails(&["not ONNX Runtime"]);
    // Some other library.
    let libraries = ["/usr/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    if let Some(other) = libraries.into_iter().find(|path| std::path::Path::new(path).is_file()) {
        limbeck(&bench(&plan, &["--ort-library", other]), None).fails(&["not ONNX Runtime"]);
    }
}

/// An open plan holds its weights packed, and no second copy of them.
#[cfg(target_os = "linux")]
#[test]
fn weights_of_segments_are_held_once() {
    let (Some(library), Some(source)) = (library(), limbeck_tests::student(limbeck_tests::MINILM))
    else {
        return;
    };
    let place = Place::new();
    let (source, plan) = (source.display().to_string(), place.path("minilm.lbk"));
    let args = ["compile", &source, "-o", &plan, "--quant", "f32", "--prefer", "onnx", "--json"];
    let weights = limbeck(&args, None).json()["weight_bytes"].as_u64().expect("a number");
    let report = limbeck(&bench(&plan, &["-p", "8"]), Some(&library.display().to_string())).json();
    let held = report["memory"]["resident_after_open_bytes"].as_u64().expect("a number");
    assert!(held < weights * 3 / 2, "{held} bytes with weights of {weights}");
}

#[test]
fn a_plan_without_segments_never_loads_it() {
    let place = Place::new();
    let (plan, report) = place.classifier("native");
    assert_eq!(report["onnx_segments"].as_array().map(Vec::len), Some(0), "{report}");
    limbeck(&bench(&plan, &[]), Some("/nowhere/libonnxruntime.so")).ok();
    let run = limbeck(&bench(&plan, &["--ep", "coreml"]), None);
    assert!(run.stderr.contains("no ONNX segments"), "{run:?}");
    run.ok();
}

#[test]
fn the_library_is_found_and_its_providers_are_listed() {
    let Some(library) = library() else { return };
    let library = library.display().to_string();
    let place = Place::new();
    let (plan, _) = place.classifier("onnx");
    limbeck(&bench(&plan, &["--ort-library", &library]), None).json();
    limbeck(&bench(&plan, &[]), Some(&library)).json();
    limbeck(&bench(&plan, &["--ep", "cpu"]), Some(&library)).json();
    limbeck(&bench(&plan, &["--ep", "CPUExecutionProvider"]), Some(&library)).json();
    limbeck(&bench(&plan, &["--ep", "npu"]), Some(&library)).fails(&["\"npu\"", "cpu"]);
    let devices = limbeck(&["devices", "--json"], Some(&library)).json();
    let devices = devices["devices"].as_array().expect("devices");
    let onnx = devices.iter().find(|d| d["backend"] == "onnx").expect("ONNX Runtime");
    assert!(onnx["providers"].as_array().expect("providers").contains(&"cpu".into()), "{onnx}");
    assert!(onnx["version"].as_str().expect("a version").starts_with("1."), "{onnx}");
    let devices = limbeck(&["devices", "--json"], None).json();
    let devices = devices["devices"].as_array().expect("devices");
    assert!(devices.iter().all(|d| d["backend"] != "onnx"));
    // Beside the program: a copy of the command with a link to the library.
    let beside = Place::new();
    let program = beside.path("limbeck");
    std::fs::copy(env!("CARGO_BIN_EXE_limbeck"), &program).expect("a copy");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&library, beside.path("libonnxruntime.so")).expect("a link");
        let mut command = Command::new(&program);
        command.args(bench(&plan, &[])).env_remove("LIMBECK_ORT").env_remove("ORT_DYLIB_PATH");
        run(command, b"").json();
    }
}

#[test]
fn tensors_are_not_laid_over_an_onnx_model() {
    let place = Place::new();
    let (model, plan) =
        (golden("onnx/elementwise.onnx").display().to_string(), place.path("x.lbk"));
    let overlay = golden("acm/vit_dense").display().to_string();
    limbeck(&["compile", &model, "-o", &plan, "--with", &overlay], None)
        .fails(&["elementwise.onnx", "laid over a checkpoint"]);
}
