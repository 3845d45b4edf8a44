//! The tree of `cargo xtask dist`, as a newcomer uses it: the examples built with pkg-config and with
//! CMake, and run. `LIMBECK_DIST` names the tree, `LIMBECK_CMAKE` the program (`cmake` unless set);
//! `cargo xtask test` makes the one and gets the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, MINILM, SMOLLM2, student};

/// What the stripped shared library may take at most.
const MOST_BYTES: u64 = 6_000_000;

const PROJECT: &str = "cmake_minimum_required(VERSION 3.16)
project(newcomer C CXX)
set(CMAKE_CXX_STANDARD 17)
find_package(limbeck REQUIRED)
find_package(Threads REQUIRED)
foreach(example search.c deadline.c stream.cpp chat.cpp)
  add_executable(${example}-shared ${SOURCES}/${example})
  target_link_libraries(${example}-shared limbeck::limbeck Threads::Threads)
  add_executable(${example}-static ${SOURCES}/${example})
  target_link_libraries(${example}-static limbeck::static Threads::Threads)
endforeach()
";

/// Fails unless engines of other backends than the CPU's are refused as unsupported.
const OTHERS: &str = "#include <limbeck.h>
int main(void) {
  const lbk_backend others[] = {LBK_BACKEND_FAKE, LBK_BACKEND_WGPU};
  for (int i = 0; i < 2; i++) {
    lbk_engine_options options;
    lbk_engine_options_init(&options, sizeof options);
    options.backend = others[i];
    lbk_engine *engine = 0;
    lbk_error *error = lbk_engine_new(LBK_ABI_VERSION, &options, &engine);
    int refused = lbk_error_code(error) == LBK_UNSUPPORTED && !engine;
    lbk_error_free(error);
    if (!refused) {
      return 1;
    }
  }
  return 0;
}
";

/// The tree; where there is none, says so.
fn tree() -> Option<PathBuf> {
    let tree = std::env::var_os("LIMBECK_DIST").map(PathBuf::from);
    if tree.is_none() {
        println!("skipped: LIMBECK_DIST names no tree of `cargo xtask dist`");
    }
    tree
}

/// Runs a command and gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// What compilers need to use the tree.
fn pkg_config(tree: &Path) -> String {
    run(Command::new("pkg-config")
        .args(["--cflags", "--libs", "limbeck"])
        .env("PKG_CONFIG_PATH", tree.join("lib/pkgconfig")))
}

/// Runs an example; `name` is its source, `input` its standard input.
fn example(program: &Path, args: &[&Path], folder: &Path, input: &str) -> String {
    let file = folder.join("stdin");
    std::fs::write(&file, input).expect("a file");
    let input = std::fs::File::open(&file).expect("a file");
    run(Command::new(program).args(args).stdin(Stdio::from(input)))
}

/// The real students that the examples run.
struct Students {
    encoder: Compiled,
    text: Compiled,
}

impl Students {
    fn new() -> Option<Students> {
        let (encoder, text) = (student(MINILM)?, student(SMOLLM2)?);
        let encoder = Compiled::new(&encoder, Quant::Q8, true);
        Some(Students { encoder, text: Compiled::new(&text, Quant::Keep, true) })
    }

    /// Runs the examples; `program` gives the program of a source.
    fn check(&self, folder: &Path, program: &dyn Fn(&str) -> PathBuf) {
        let sentences =
            "The stock market fell.\nA cheetah runs across the plain.\nBread is baked.\n";
        let args = [&*self.encoder.path(), Path::new("a fast animal")];
        let found = example(&program("search.c"), &args, folder, sentences);
        let best = found.lines().next().unwrap_or_default();
        assert!(best.ends_with("A cheetah runs across the plain."), "{found}");
        let found = example(&program("deadline.c"), &[&self.text.path()], folder, "");
        assert_eq!(found.lines().count(), 5, "{found}");
        let args = [&*self.text.path(), Path::new("The capital of France is")];
        let found = example(&program("stream.cpp"), &args, folder, "0.5\nfull\n");
        assert!(found.contains("Paris") && found.contains("tokens, fraction"), "{found}");
        // The second answer is to what was said before, too.
        let chat = program("chat.cpp");
        let ask = |lines| example(&chat, &[&self.text.path()], folder, lines);
        let found = ask("My name is Ada.\nWhat is my name?\n");
        let alone = ask("What is my name?\n");
        assert!(found.lines().count() >= 2 && !alone.trim().is_empty(), "{found}\n{alone}");
        assert!(!found.ends_with(&alone), "{found}");
    }
}

#[test]
fn pkg_config_builds_the_examples() {
    let (Some(tree), Some(students)) = (tree(), Students::new()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let flags = pkg_config(&tree);
    students.check(folder.path(), &|source| {
        let program = folder.path().join(source).with_extension("");
        let mut compiler = Command::new(if source.ends_with(".c") { "cc" } else { "c++" });
        compiler.args((!source.ends_with(".c")).then_some("-std=c++17"));
        compiler.arg(tree.join("share/doc/limbeck/examples").join(source));
        run(compiler.args(flags.split_whitespace()).args(["-pthread", "-o"]).arg(&program));
        program
    });
}

#[test]
fn cmake_finds_the_package_and_builds_the_examples_against_both_libraries() {
    let (Some(tree), Some(students)) = (tree(), Students::new()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let build = folder.path().join("build");
    std::fs::write(folder.path().join("CMakeLists.txt"), PROJECT).expect("a file");
    let cmake =
        || Command::new(std::env::var_os("LIMBECK_CMAKE").unwrap_or_else(|| "cmake".into()));
    let define = |name: &str, value: &Path| format!("-D{name}={}", value.display());
    run(cmake()
        .arg("-S")
        .arg(folder.path())
        .arg("-B")
        .arg(&build)
        .arg(define("CMAKE_PREFIX_PATH", &tree))
        .arg(define("SOURCES", &tree.join("share/doc/limbeck/examples"))));
    run(cmake().arg("--build").arg(&build));
    for kind in ["shared", "static"] {
        students.check(folder.path(), &|source| build.join(format!("{source}-{kind}")));
    }
}

#[test]
fn the_shared_library_has_the_backend_of_the_cpu_alone() {
    let Some(tree) = tree() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (source, program) = (folder.path().join("others.c"), folder.path().join("others"));
    std::fs::write(&source, OTHERS).expect("a file");
    let flags = pkg_config(&tree);
    run(Command::new("cc").arg(&source).args(flags.split_whitespace()).arg("-o").arg(&program));
    run(&mut Command::new(program));
}

#[test]
fn the_shared_library_is_small_and_needs_the_system_alone() {
    let Some(tree) = tree() else { return };
    let library = tree.join("lib/liblimbeck.so");
    let bytes = std::fs::metadata(&library).expect("the library").len();
    println!("the shared library has {bytes} bytes");
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
    let content = std::fs::read(&library).expect("the library");
    let home = std::env::home_dir().unwrap_or_default();
    for folder in
        [home.join(".cargo"), home.join(".rustup"), PathBuf::from(env!("CARGO_MANIFEST_DIR"))]
    {
        let folder = folder.to_str().expect("a path").as_bytes();
        let told = content.windows(folder.len()).any(|part| part == folder);
        assert!(!told, "it tells where it was built");
    }
    let needed = run(Command::new("readelf").arg("-d").arg(&library));
    let needed: Vec<&str> = needed.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(!needed.is_empty());
    for line in needed {
        let system = ["libc.so", "libm.so", "libgcc_s.so", "ld-linux", "libpthread.so", "libdl.so"];
        assert!(system.iter().any(|name| line.contains(name)), "{line}");
    }
    let symbols = run(Command::new("nm").args(["-D", "--defined-only"]).arg(&library));
    assert!(symbols.lines().count() > 50, "{symbols}");
    assert!(!symbols.contains("lbk_test_"), "{symbols}");
    for line in symbols.lines() {
        let name = line.split_whitespace().last().unwrap_or_default();
        assert!(name.starts_with("lbk_"), "{line}");
    }
}
