//! A peer of the benchmarks: llama.cpp, built with native flags from the source that the pinned
//! llama-cpp-python package carries, and its programs' output read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::limbeck::{json_of, number};
use crate::process::{self, Doing, Failure, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

const PACKAGE: &str = "llama-cpp-python";
const FOLDER: &str = "llama_cpp_python";
/// The version of the package; a release of it fixes a commit of llama.cpp.
pub const VERSION: &str = "0.3.36";
/// scikit-build-core is the package's own build backend: pip asks it for metadata.
const REQUIREMENTS: &str = "cmake==4.4.4\nninja==1.13.2\nscikit-build-core==1.1.2\n";
const PROGRAMS: [&str; 3] = ["llama-bench", "llama-perplexity", "llama-quantize"];
const SETTINGS: [&str; 10] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
];
/// For this machine's processor.
const NATIVE: [&str; 1] = ["-DGGML_NATIVE=ON"];
/// The same for a processor with AMX but without using that: in this version prefill through AMX
/// ends in a segmentation fault.
const NATIVE_BUT_AMX: [&str; 5] = [
    "-DGGML_NATIVE=OFF",
    "-DGGML_AVX512=ON",
    "-DGGML_AVX512_VBMI=ON",
    "-DGGML_AVX512_VNNI=ON",
    "-DGGML_AVX512_BF16=ON",
];

/// A built llama.cpp.
pub struct Llama {
    programs: PathBuf,
}

impl Llama {
    /// Builds llama.cpp under `target/peers/llama.cpp` unless this version stands there already.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        let home = workspace.target("peers/llama.cpp");
        let build = home.join("build");
        let peer = Llama { programs: build.join("bin") };
        let stamp = home.join("built.txt");
        let built = fs::read_to_string(&stamp).is_ok_and(|version| version == VERSION);
        if built && PROGRAMS.iter().all(|name| peer.programs.join(name).is_file()) {
            return Ok(peer);
        }
        let venv = Venv::open(workspace)?;
        venv.require("bench", REQUIREMENTS)?;
        let source = source(&venv, &home)?;

        eprintln!("building llama.cpp of {PACKAGE} {VERSION} (some minutes, once)");
        let mut configure = venv.program("cmake");
        configure.args(["-G", "Ninja", "-S"]).arg(source.join("vendor/llama.cpp"));
        configure.arg("-B").arg(&build).args(SETTINGS);
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let amx = cpu.contains(" amx_int8");
        configure.args(if amx { &NATIVE_BUT_AMX[..] } else { &NATIVE });
        let ninja = venv.tool("ninja");
        configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", ninja.display()));
        process::quiet(&mut configure)?;
        process::run(
            venv.program("cmake").arg("--build").arg(&build).arg("--target").args(PROGRAMS),
        )?;
        fs::write(&stamp, VERSION).doing("write", &stamp)?;
        Ok(peer)
    }

    /// Writes `to` as `from` in another type, with the token embedding in `embedding` or what goes
    /// with the type.
    pub fn quantise(
        &self,
        from: &Path,
        to: &Path,
        kind: &str,
        embedding: Option<&str>,
    ) -> Result<()> {
        if to.is_file() {
            return Ok(());
        }
        let part = to.with_extension("part");
        let mut command = Command::new(self.programs.join("llama-quantize"));
        command.arg("--allow-requantize");
        command.args(embedding.map(|kind| ["--token-embedding-type", kind]).iter().flatten());
        process::quiet(command.arg(from).arg(&part).arg(kind))?;
        fs::rename(&part, to).doing("put in place", to)
    }

    /// Prefill of `prompt` tokens, and decode of `tokens` more after a prompt of that length, in
    /// tokens a second, as `llama-bench` measures them. By itself it would decode from an empty
    /// context, which is less work than decoding after a prompt: hence a run for each phase, the
    /// second one with a depth.
    pub fn speed(&self, gguf: &Path, prompt: u32, tokens: u32, threads: u32) -> Result<Vec<f64>> {
        let prefill = self.bench(gguf, [prompt, 0, 0], threads, &[])?;
        Ok(vec![prefill, self.bench(gguf, [0, tokens, prompt], threads, &[])?])
    }

    /// Decode of `tokens` after `depth` others, with flash attention or without.
    pub fn decode(
        &self,
        gguf: &Path,
        tokens: u32,
        depth: u32,
        threads: u32,
        flash: bool,
    ) -> Result<f64> {
        let flash = if flash { "1" } else { "0" };
        self.bench(gguf, [0, tokens, depth], threads, &["-fa", flash])
    }

    /// One test of a prompt, tokens to decode, and a depth.
    fn bench(&self, gguf: &Path, test: [u32; 3], threads: u32, more: &[&str]) -> Result<f64> {
        let [prompt, tokens, depth] = test;
        let mut command = Command::new(self.programs.join("llama-bench"));
        command.arg("-m").arg(gguf).args(["-o", "json", "-r", "1"]).args(more);
        for (option, value) in [("-p", prompt), ("-n", tokens), ("-d", depth), ("-t", threads)] {
            command.args([option, &value.to_string()]);
        }
        rate_of(&json_of(&mut command)?, prompt, tokens, depth)
    }

    /// The perplexity of a text: chunks of `context` tokens, the second half of each counted.
    pub fn perplexity(&self, gguf: &Path, text: &Path, context: u32, threads: u32) -> Result<f64> {
        let mut command = Command::new(self.programs.join("llama-perplexity"));
        command.arg("-m").arg(gguf).arg("-f").arg(text);
        command.args(["-c", &context.to_string(), "-t", &threads.to_string()]);
        let said = process::quiet(&mut command)?;
        perplexity_of(&said).ok_or_else(|| {
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Failure::new(format!("llama-perplexity gave no final estimate: {}", last.trim()))
        })
    }
}

/// Downloads and unpacks the package's source; gives its folder.
fn source(venv: &Venv, home: &Path) -> Result<PathBuf> {
    let name = format!("{FOLDER}-{VERSION}");
    let source = home.join("source").join(&name);
    if source.is_dir() {
        return Ok(source);
    }
    eprintln!("fetching {PACKAGE} {VERSION}");
    let part = home.join("part");
    let _ = fs::remove_dir_all(&part);
    process::make_dir(&part)?;
    let mut pip = venv.pip("download");
    pip.args(["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest"]).arg(&part);
    process::run(pip.arg(format!("{PACKAGE}=={VERSION}")))?;
    let mut unpack = venv.python();
    unpack.args(["-m", "tarfile", "-e"]).arg(part.join(format!("{name}.tar.gz"))).arg(&part);
    process::quiet(&mut unpack)?;
    process::make_dir(&home.join("source"))?;
    fs::rename(part.join(&name), &source).doing("put in place", &source)?;
    let _ = fs::remove_dir_all(&part);
    Ok(source)
}

/// Tokens per second of one test in what `llama-bench -o json` prints: a list with an object per
/// test.
fn rate_of(report: &Value, prompt: u32, tokens: u32, depth: u32) -> Result<f64> {
    let tests = report.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = |test: &&Value| {
        test["n_prompt"] == prompt && test["n_gen"] == tokens && test["n_depth"] == depth
    };
    let test = tests.iter().find(wanted).ok_or_else(|| {
        let asked = format!("{prompt} prompt tokens, {tokens} to decode, depth {depth}");
        Failure::new(format!("llama-bench did not run the test with {asked}"))
    })?;
    number(test, "avg_ts")
}

/// Finds `Final estimate: PPL = X +/- Y` in what `llama-perplexity` wrote.
fn perplexity_of(said: &str) -> Option<f64> {
    let (_, rest) = said.split_once("Final estimate: PPL = ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tests_of_llama_bench_are_told_apart() {
        let report = json!([
            {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 431.5},
            {"n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 130.0},
            {"n_prompt": 0, "n_gen": 64, "n_depth": 512, "avg_ts": 120.25},
        ]);
        assert_eq!(rate_of(&report, 512, 0, 0).unwrap(), 431.5);
        assert_eq!(rate_of(&report, 0, 64, 512).unwrap(), 120.25);
        let failure = rate_of(&json!([report[0]]), 0, 64, 512).unwrap_err().to_string();
        assert!(failure.ends_with("0 prompt tokens, 64 to decode, depth 512"), "{failure}");
        assert!(rate_of(&json!({}), 512, 0, 0).is_err());
    }

    #[test]
    fn the_final_estimate_is_found() {
        let said = "[1]12.3,[2]11.9,\nFinal estimate: PPL = 11.9034 +/- 0.42300\n\nllama_perf: x";
        assert_eq!(perplexity_of(said), Some(11.9034));
        assert_eq!(perplexity_of("you need at least 1024 tokens"), None);
    }
}
