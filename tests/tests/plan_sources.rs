//! Where plans come from: a part of an open file, and bytes of the app's.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use limbeck::{BackendKind, Engine, EngineOptions, ErrorKind, Model, SessionOptions};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, all_logits, golden};

fn tiny() -> (Compiled, Vec<u32>, Vec<f32>) {
    let folder = golden().join("tiny/llama");
    let ids = Npz::open(&folder.join("expected.npz")).ids("input_ids").1;
    let plan = Compiled::new(&folder, Quant::F32, true);
    let logits = logits(&plan.open(BackendKind::Cpu, 1), &ids);
    (plan, ids, logits)
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    all_logits(model, ids, SessionOptions::default())
}

fn engine() -> Engine {
    Engine::new(EngineOptions { threads: 1, ..EngineOptions::default() }).expect("an engine")
}

#[test]
fn a_plan_within_another_file_runs_where_it_lies() {
    let (plan, ids, expected) = tiny();
    let bytes = std::fs::read(plan.path()).expect("the plan");
    let len = bytes.len() as u64;
    for offset in [0u64, 64, 4096, 4096 + 64 * 3, 1 << 20] {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![0xa5; offset as usize]).expect("what comes before");
        file.write_all(&bytes).expect("the plan");
        file.write_all(&[0x5a; 100]).expect("what comes after");
        let model = engine().open_file(&file, offset, len).expect("a plan");
        model.verify().expect("every byte");
        let refused = |offset, len, kind| {
            let e = engine().open_file(&file, offset, len).expect_err("a bad range");
            assert_eq!(e.kind(), kind, "{offset} {len}: {e}");
        };
        for (offset, len) in [
            (offset + 1, len),
            (offset + 32, len),
            (offset, len + 101),
            (offset, u64::MAX),
            (u64::MAX - 63, len),
            (1 << 40, len),
        ] {
            refused(offset, len, ErrorKind::InvalidInput);
        }
        refused(offset, len - 1, ErrorKind::Plan);
        refused(offset, 0, ErrorKind::Plan);
        drop(file);
        assert_eq!(logits(&model, &ids), expected, "offset {offset}");
    }
    let folder = File::open(golden()).expect("a folder");
    assert_eq!(engine().open_file(&folder, 0, 64).unwrap_err().kind(), ErrorKind::Io);
}

/// Bytes whose letting go is counted.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn bytes_of_the_app_are_used_in_place_and_let_go_once_with_the_last_user() {
    let (plan, ids, expected) = tiny();
    let bytes = std::fs::read(plan.path()).expect("the plan");
    let released = Arc::new(AtomicUsize::new(0));
    let start = bytes.as_ptr();
    let model = engine().open_shared(Arc::new(Counted(bytes, released.clone()))).expect("a plan");
    assert_eq!(model.bytes().as_ptr(), start, "the bytes were copied");
    let session = model.session(SessionOptions::default()).expect("a session");
    assert_eq!(logits(&model, &ids), expected);
    drop(model);
    assert_eq!(released.load(Ordering::Relaxed), 0, "a session still needs them");
    drop(session);
    assert_eq!(released.load(Ordering::Relaxed), 1);
    // Also where they are no plan.
    let e = engine().open_shared(Arc::new(Counted(vec![0; 64], released.clone())));
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Plan);
    assert_eq!(released.load(Ordering::Relaxed), 2);
}
