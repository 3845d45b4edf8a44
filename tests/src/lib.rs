//! What the suites share: goldens, students, and compiled plans.
//!
//! Goldens lie in `golden/` beside the generators that made them. Real students are fetched
//! (`cargo xtask fetch`) to the folder that `LIMBECK_STUDENTS` names, `target/students` unless it
//! is set. Where they are missing a test prints why it is skipped, and fails when
//! `LIMBECK_REQUIRE=1`.
#![deny(unsafe_code)]

pub mod checkpoint;
mod format_plans;
pub mod hostile;
pub mod memory;
mod npz;
pub mod onnx_cases;

use std::path::{Path, PathBuf};

use limbeck::plan::{Linear, Op, Plan, Program};
use limbeck::{BackendKind, Engine, EngineOptions, Model, SessionOptions, Wanted, Work};
use limbeck_compiler::{Options, Quant, SparsityLevel, compile, rewrite, set_levels, sparsify};

pub use format_plans::{FORMAT_PLANS, FormatPlan};
pub use npz::Npz;

/// The folder of the goldens.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// A file or folder of a fetched student, or `None`, with the reason printed, where it is missing.
///
/// # Panics
/// When it is missing and `LIMBECK_REQUIRE=1`.
pub fn student(path: &str) -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/students");
    let folder = std::env::var_os("LIMBECK_STUDENTS").map_or_else(default, PathBuf::from);
    let found = folder.join(path);
    if found.exists() {
        return Some(found);
    }
    skip(&format!("{} is missing: run `cargo xtask fetch`", found.display()));
    None
}

/// Says why a test ends early.
///
/// # Panics
/// When `LIMBECK_REQUIRE=1`, which lets nothing be missing.
pub fn skip(reason: &str) {
    let required = std::env::var("LIMBECK_REQUIRE").is_ok_and(|v| v == "1");
    assert!(!required, "{reason}");
    println!("skipped: {reason}");
}

/// Whether there is an adapter for the backend `wgpu`; the reason is printed where there is none.
///
/// # Panics
/// When there is none and `LIMBECK_REQUIRE=1`.
pub fn adapter() -> bool {
    let found = limbeck::adapters().iter().any(|adapter| adapter.chosen);
    if !found {
        skip("there is no adapter for the backend wgpu: install Mesa's llvmpipe");
    }
    found
}

/// Every backend, that of GPUs where there is an adapter.
///
/// # Panics
/// As [`adapter`].
pub fn backends() -> Vec<BackendKind> {
    let gpu = adapter().then_some(BackendKind::Wgpu);
    [BackendKind::Fake, BackendKind::Cpu].into_iter().chain(gpu).collect()
}

/// The GGUF file of SmolLM2-135M-Instruct.
pub const SMOLLM2: &str = "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
/// The folder of all-MiniLM-L6-v2.
pub const MINILM: &str = "minilm";

/// The folder of adaptive modules for it, which lies in the repository.
pub fn minilm_acm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("students/minilm-acm")
}

/// Levels of sparsity of SmolLM2, as `limbeck tune --sparsity --json` prints them.
pub fn smollm2_levels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("students/smollm2-sparsity/levels.json")
}

/// The few-step student of `models/recipes/fashion_mnist` and its classifier.
pub fn fashion_mnist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("students/fashion-mnist")
}

/// Sentences of English, from docstrings of Python's library.
///
/// # Panics
/// When the golden cannot be read.
pub fn sentences() -> Vec<String> {
    let text = std::fs::read_to_string(golden().join("docstrings.txt")).expect("the sentences");
    text.lines().map(str::to_owned).collect()
}

/// A compiled plan in a folder of its own, which goes with it.
#[derive(Debug)]
pub struct Compiled {
    folder: tempfile::TempDir,
}

impl Compiled {
    /// Compiles a checkpoint, with or without the passes.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn new(source: &Path, quant: Quant, passes: bool) -> Compiled {
        Compiled::with(source, &[], quant, passes)
    }

    /// Compiles a checkpoint with overlays.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn with(source: &Path, overlays: &[PathBuf], quant: Quant, passes: bool) -> Compiled {
        Compiled::by(source, quant, |options| Options {
            passes,
            overlays: overlays.to_vec(),
            ..options
        })
    }

    /// Compiles a checkpoint so that activations meet quantised weights in two parts.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn precise(source: &Path, quant: Quant) -> Compiled {
        Compiled::by(source, quant, |options| Options { precise: true, ..options })
    }

    fn by(source: &Path, quant: Quant, change: impl FnOnce(Options) -> Options) -> Compiled {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let compiled = Compiled { folder };
        let options = change(Options::new(source, compiled.path(), quant));
        compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        compiled
    }

    /// Compiles a checkpoint with activation sparsity at these thresholds, the same for each sparse
    /// linear; the levels cost and lose evenly.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn sparse(source: &Path, quant: Quant, thresholds: &[f32]) -> Compiled {
        let compiled = Compiled::new(source, quant, true);
        let bytes = std::fs::read(compiled.path()).expect("the plan");
        let plan = Plan::parse(&bytes).expect("a plan");
        sparsify(&plan, &bytes, &Default::default(), &compiled.path(), &mut |_, _, _| {})
            .unwrap_or_else(|e| panic!("{e}"));
        let bytes = std::fs::read(compiled.path()).expect("the plan");
        let plan = Plan::parse(&bytes).expect("a plan");
        let mut program = plan.program().clone();
        let count = thresholds.len() as f64;
        let levels = thresholds.iter().enumerate().map(|(i, threshold)| SparsityLevel {
            gain: -(count - i as f64).powi(2),
            cost: (i + 1) as f64 / (count + 1.0),
            thresholds: vec![*threshold; 64],
        });
        set_levels(&mut program, &levels.collect::<Vec<_>>());
        rewrite(&plan, &bytes, &program, None, &compiled.path()).unwrap_or_else(|e| panic!("{e}"));
        compiled
    }

    /// The plan file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("student.lbk")
    }

    /// Opens it.
    ///
    /// # Panics
    /// When it does not open.
    pub fn open(&self, backend: BackendKind, threads: usize) -> Model {
        let engine = Engine::new(EngineOptions { backend, threads, ..EngineOptions::default() })
            .expect("an engine");
        engine.open(self.path()).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// The logits after each of `ids`, `[ids, vocab]`.
///
/// # Panics
/// When the step fails.
pub fn all_logits(model: &Model, ids: &[u32], options: SessionOptions) -> Vec<f32> {
    let mut session = model.session(options).expect("a session");
    let sequence = session.sequence();
    let mut logits = Vec::new();
    let work = [Work { sequence, tokens: ids, wanted: Wanted::All }];
    session.step(&work, |_, row| logits.extend_from_slice(row)).expect("a step");
    logits
}

/// Norm of the difference over norm of `expected`.
///
/// # Panics
/// When the lengths differ or a value is not finite.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|v| v.is_finite()), "a value is not finite");
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let pairs = found.iter().zip(expected);
    let difference = squares(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let norm = squares(&mut expected.iter().map(|v| f64::from(*v)));
    (difference / norm).sqrt()
}

/// Copies a folder with all that lies in it.
///
/// # Panics
/// When a file cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("the folder") {
        let file = file.expect("a file").path();
        let target = to.join(file.file_name().expect("a name"));
        match file.is_dir() {
            true => copy_folder(&file, &target),
            false => drop(std::fs::copy(&file, &target).expect("a copy")),
        }
    }
}

/// The linears of a program, in the order of its steps.
pub fn linears(program: &mut Program) -> Vec<&mut Linear> {
    let steps = program.entries.iter_mut().flat_map(|e| &mut e.segments);
    let ops = steps.flat_map(|s| &mut s.steps).map(|step| &mut step.op);
    ops.filter_map(|op| if let Op::Linear(linear) = op { Some(linear) } else { None }).collect()
}

/// The cosine of two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Runs the checker of Python's `onnx` over a model, by the Python that `LIMBECK_PYTHON` names.
///
/// # Panics
/// When it does not accept the model, or is missing and `LIMBECK_REQUIRE=1`.
pub fn onnx_check(model: &Path) {
    let Some(python) = python() else { return };
    let check = "import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=True)";
    let checked = std::process::Command::new(python).args(["-c", check]).arg(model).output();
    let checked = checked.expect("a Python");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// ONNX Runtime's library, by `LIMBECK_ORT`, or `None`, with the reason printed, where it is missing.
///
/// # Panics
/// When it is missing and `LIMBECK_REQUIRE=1`.
pub fn onnx_runtime() -> Option<PathBuf> {
    let found = std::env::var_os("LIMBECK_ORT").map(PathBuf::from).filter(|path| path.is_file());
    if found.is_none() {
        skip("LIMBECK_ORT names no library of ONNX Runtime: run `cargo xtask test`");
    }
    found
}

/// What ONNX Runtime gives for the calls of a golden, as `out.npz` in a folder, or `None`, with the reason
/// printed, where there is no Python for it.
///
/// # Panics
/// When it fails, or is missing and `LIMBECK_REQUIRE=1`.
pub fn run_onnx_runtime(model: &Path, calls: &Path, threads: usize) -> Option<tempfile::TempDir> {
    let python = python()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx_run.py");
    let mut command = std::process::Command::new(python);
    command.arg("-B").arg(script).arg(model).arg(calls).arg(folder.path().join("out.npz"));
    let ran = command.arg(threads.to_string()).output().expect("a Python");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Some(folder)
}

/// A Python with `onnx` and `onnxruntime`, by `LIMBECK_PYTHON`.
fn python() -> Option<std::ffi::OsString> {
    let found = std::env::var_os("LIMBECK_PYTHON");
    if found.is_none() {
        skip("LIMBECK_PYTHON names no Python with `onnx`: run `cargo xtask test`");
    }
    found
}
