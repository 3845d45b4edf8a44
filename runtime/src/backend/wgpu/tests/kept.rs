//! Pipelines that are kept from one run to the next.

use std::fs;
use std::path::PathBuf;

use limbeck_kernels::KvType;
use limbeck_plan::{Add, Dim, Op};

use super::harness::{Ask, Builder, Random, Running, gpu, tokens};
use crate::backend::wgpu::WgpuBackend;

/// Runs a plan over a folder; gives what it computes.
fn run(folder: &tempfile::TempDir) -> Vec<f32> {
    let mut b = Builder::new(1);
    let inputs = vec![b.activation(40), b.activation(40)];
    b.output("y", Op::Add(Add {}), inputs, vec![tokens(), Dim::from(40u64)]);
    let backend = WgpuBackend::new(Some(folder.path())).unwrap_or_else(|e| panic!("{e}"));
    let mut running = Running::new(&backend, &b.plan(), KvType::F32);
    running.run(&Ask::of(&mut Random::new(1), &[3]), false);
    running.output("y")
}

/// The file that a run leaves, and nothing beside it.
fn file(folder: &tempfile::TempDir) -> PathBuf {
    let mut found =
        fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("an entry").path());
    let file = found.next().expect("a file");
    assert_eq!(found.next(), None);
    file
}

#[test]
fn pipelines_are_kept_in_a_file_which_may_be_damaged() {
    let Some(gpu) = gpu() else { return };
    let vulkan = gpu.gpu.info.backend == wgpu::Backend::Vulkan;
    let folder = tempfile::tempdir().expect("a folder");
    let first = run(&folder);
    if !vulkan {
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        return;
    }
    let path = file(&folder);
    let whole = fs::read(&path).expect("a file");
    assert!(whole.len() > 16, "{} bytes", whole.len());
    assert_eq!(run(&folder), first);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let other = [b"LBKPIPE0".as_slice(), &whole[8..]].concat();
    for damaged in [&[][..], &whole[..7], &whole[..whole.len() - 1], &flipped, &other, &[7; 5000]] {
        fs::write(&path, damaged).expect("a file");
        assert_eq!(run(&folder), first);
        let again = fs::read(file(&folder)).expect("a file");
        assert!(again.starts_with(&whole[..8]) && again != damaged);
    }
}

#[test]
fn a_folder_that_is_not_there_or_cannot_be_written_changes_nothing() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let first = run(&folder);
    let gone = tempfile::tempdir().expect("a folder");
    fs::remove_dir(gone.path()).expect("an empty folder");
    assert_eq!(run(&gone), first);
    assert!(!gone.path().exists());
    // A folder lies where the file would be.
    let path = folder.path().join(
        fs::read_dir(folder.path())
            .expect("a folder")
            .next()
            .map_or_else(|| "pipelines".into(), |entry| entry.expect("an entry").file_name()),
    );
    let _ = fs::remove_file(&path);
    fs::create_dir_all(path.join("within")).expect("a folder");
    assert_eq!(run(&folder), first);
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}
