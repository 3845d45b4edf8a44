//! Programs in C and C++, compiled by the system's compilers against the library and run.
//!
//! For another kind of machine: `LIMBECK_C_TOOLS` is how the names of its tools begin
//! (`aarch64-linux-gnu-`), `LIMBECK_C_LIBRARY` the folder of a library for it, and `LIMBECK_C_RUNNER` what
//! runs its programs, with arguments.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a program that hangs is given.
const TIME: Duration = Duration::from_secs(240);

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Build {
    Plain,
    /// Linked against the static library.
    Static,
    /// Under AddressSanitizer and UndefinedBehaviorSanitizer.
    Sanitised,
    /// Run under valgrind, which sees the library's own memory too.
    Valgrind,
    /// Run under valgrind's race detector, which the library's own locks and atomics talk to.
    Helgrind,
}

impl Build {
    /// Whether this machine has what it takes; where it has not, says so. Programs for another one are
    /// run as they are.
    pub fn is_there(self) -> bool {
        match self {
            Build::Plain | Build::Static => true,
            Build::Sanitised | Build::Valgrind | Build::Helgrind if runner().is_some() => false,
            Build::Sanitised => sanitisers(),
            Build::Valgrind => valgrind(),
            Build::Helgrind => {
                there(cfg!(target_arch = "x86_64"), "locks tell valgrind nothing on this machine")
                    && valgrind()
            }
        }
    }
}

/// Says that something is missing, or fails where all is required.
fn there(found: bool, missing: &str) -> bool {
    let required = std::env::var("LIMBECK_REQUIRE").is_ok_and(|v| v == "1");
    assert!(found || !required, "{missing}");
    if !found {
        println!("skipped: {missing}");
    }
    found
}

fn valgrind() -> bool {
    let found = Command::new("valgrind").arg("--version").output();
    there(found.is_ok_and(|o| o.status.success()), "there is no valgrind")
}

/// The widest instructions that valgrind knows.
fn valgrind_isa() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        return "avx2";
    }
    "portable"
}

/// What runs programs, where they are for another machine.
fn runner() -> Option<Command> {
    let words = std::env::var("LIMBECK_C_RUNNER").ok()?;
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next()?);
    command.args(words);
    Some(command)
}

/// Where the library lies, with the hooks for tests: cargo puts it beside this program.
pub fn library() -> PathBuf {
    if let Some(folder) = std::env::var_os("LIMBECK_C_LIBRARY") {
        return folder.into();
    }
    let exe = std::env::current_exe().expect("this program");
    exe.parent().expect("its folder").to_owned()
}

/// Whether the compiler can build programs under sanitizers.
fn sanitisers() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| {
        let place = tempfile::tempdir().expect("a folder");
        let (source, program) = (place.path().join("a.c"), place.path().join("a"));
        std::fs::write(&source, "int main(void) { return 0; }\n").expect("a source");
        let mut compiler = compiler("c");
        compiler.arg("-fsanitize=address,undefined").arg(&source).arg("-o").arg(&program);
        let built = compiler.output().is_ok_and(|o| o.status.success());
        built && Command::new(&program).status().is_ok_and(|s| s.success())
    });
    there(found, "the C compiler has no sanitizers")
}

fn compiler(extension: &str) -> Command {
    let (variable, default, other) =
        if extension == "c" { ("CC", "cc", "gcc") } else { ("CXX", "c++", "g++") };
    match std::env::var("LIMBECK_C_TOOLS") {
        Ok(begin) => Command::new(begin + other),
        Err(_) => Command::new(std::env::var_os(variable).unwrap_or_else(|| default.into())),
    }
}

/// What lists the symbols of a library.
pub fn nm() -> Command {
    Command::new(std::env::var("LIMBECK_C_TOOLS").unwrap_or_default() + "nm")
}

/// A compiled program in a folder of its own.
pub struct Program {
    folder: tempfile::TempDir,
    name: String,
    build: Build,
}

impl Program {
    /// Compiles a source of `ffi/` with every warning an error.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn new(source: &str, build: Build) -> Program {
        Program::with(source, build, None)
    }

    /// [`Program::new`] with a header of its own in the place of that of today.
    fn with(source: &str, build: Build, header: Option<&Path>) -> Program {
        let path = folder().join(source);
        let extension = path.extension().and_then(|e| e.to_str()).expect("a source").to_owned();
        let library = library();
        let place = tempfile::tempdir().expect("a folder");
        let mut compiler = compiler(&extension);
        let standard = if extension == "c" { "-std=c11" } else { "-std=c++17" };
        compiler.args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"]);
        compiler.arg("-DLBK_TEST_HOOKS").arg("-D_DEFAULT_SOURCE");
        compiler.arg("-I").arg(folder().join("include")).arg("-I").arg(folder().join("tests/c"));
        if let Some(header) = header {
            // What guards it makes another `#include <limbeck.h>` empty.
            compiler.arg("-include").arg(header);
        }
        if build == Build::Sanitised {
            compiler.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
        }
        compiler.arg(&path).arg("-o").arg(place.path().join("program"));
        if build == Build::Static {
            compiler.arg("-DLBK_STATIC").arg(library.join("liblimbeck_ffi.a"));
            compiler.args(["-lpthread", "-ldl", "-lm"]);
        } else {
            compiler.arg("-L").arg(&library).arg("-llimbeck_ffi");
            compiler.arg(format!("-Wl,-rpath,{}", library.display())).arg("-lpthread");
            compiler.arg("-lm");
        }
        let output = compiler.output().expect("a C compiler");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{source}, {build:?}: {errors}");
        Program { folder: place, name: source.to_owned(), build }
    }

    /// Runs it and gives what it printed.
    ///
    /// # Panics
    /// When it fails or does not end.
    pub fn run(&self, args: &[&Path], stdin: &str) -> String {
        let output = self.output(args, stdin);
        let (out, errors) = (text(&output.stdout), text(&output.stderr));
        let Program { name, build, .. } = self;
        assert!(output.status.success(), "{name}, {build:?}: {}\n{out}\n{errors}", output.status);
        out
    }

    /// Runs it, whether it fails or not.
    ///
    /// # Panics
    /// When it does not end.
    pub fn output(&self, args: &[&Path], stdin: &str) -> Output {
        let input = self.folder.path().join("stdin");
        std::fs::write(&input, stdin).expect("the input");
        let program = self.folder.path().join("program");
        let mut command = match self.build {
            Build::Valgrind => {
                let mut command = Command::new("valgrind");
                command.args(["-q", "--error-exitcode=9", "--leak-check=full"]);
                command.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]);
                let known = folder().join("tests/valgrind.supp");
                command.arg(format!("--suppressions={}", known.display()));
                command.arg(program).env("LIMBECK_ISA", valgrind_isa());
                command
            }
            Build::Helgrind => {
                let mut command = Command::new("valgrind");
                command.args(["-q", "--error-exitcode=9", "--tool=helgrind", "--fair-sched=try"]);
                command.arg(program).env("LIMBECK_ISA", valgrind_isa());
                command
            }
            _ => match runner() {
                Some(mut command) => {
                    command.arg(program);
                    command
                }
                None => Command::new(program),
            },
        };
        // A leak is an error too.
        command.env("ASAN_OPTIONS", "detect_leaks=1").args(args);
        // What cargo puts there comes before the folder that the program was linked with.
        command.env_remove("LD_LIBRARY_PATH");
        command.stdin(std::fs::File::open(&input).expect("the input"));
        within(command.stdout(Stdio::piped()).stderr(Stdio::piped()), &self.name)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a program, but not for ever.
fn within(command: &mut Command, name: &str) -> Output {
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > TIME {
            let _ = child.kill();
            let output = child.wait_with_output().expect("its output");
            panic!("{name} hangs: {}\n{}", text(&output.stdout), text(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

/// Builds a program in each of the ways, and runs it with these arguments.
pub fn everywhere(source: &str, builds: &[Build], args: &[&Path], stdin: &str) -> Vec<String> {
    let builds = builds.iter().filter(|build| build.is_there());
    builds.map(|build| Program::new(source, *build).run(args, stdin)).collect()
}

/// [`everywhere`] for a program that is built against another header than that of today.
pub fn against(header: &Path, source: &str, builds: &[Build], args: &[&Path]) {
    for build in builds.iter().filter(|build| build.is_there()) {
        Program::with(source, *build, Some(header)).run(args, "");
    }
}
