//! Which versions of the plan format are read, and that committed plans go on being read.

use limbeck::plan::{ErrorKind, MAJOR, MINOR, Plan, SECTION_ALIGN};
use limbeck::{BackendKind, Engine, EngineOptions, KvFormat, Model, SessionOptions};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, FORMAT_PLANS, all_logits, golden, linears, relative_error};
use xxhash_rust::xxh3::xxh3_64;

/// Where the header has the version, the number of sections, the length, the checksum of the table,
/// and where the table begins.
const VERSION: usize = 4;
const COUNT: usize = 8;
const FILE_LEN: usize = 16;
const CHECKSUM: usize = 24;
const TABLE: usize = 64;
const ROW: usize = 32;

fn plan() -> Vec<u8> {
    let compiled = Compiled::new(&golden().join("tiny/qwen3"), Quant::Q8, true);
    std::fs::read(compiled.path()).expect("the plan")
}

/// The plan as another version would have written it.
fn of_version(major: u16, minor: u16) -> Vec<u8> {
    let mut bytes = plan();
    bytes[VERSION..VERSION + 2].copy_from_slice(&major.to_le_bytes());
    bytes[VERSION + 2..VERSION + 4].copy_from_slice(&minor.to_le_bytes());
    bytes
}

/// The plan with one more section, at its end.
fn with_section(mut bytes: Vec<u8>, kind: [u8; 4], flags: u32, section: &[u8]) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(SECTION_ALIGN as usize), 0);
    let count = u32::from_le_bytes(bytes[COUNT..][..4].try_into().expect("4 bytes"));
    let row = TABLE + count as usize * ROW;
    let mut new = [kind, flags.to_le_bytes()].concat();
    for number in [bytes.len(), section.len()] {
        new.extend((number as u64).to_le_bytes());
    }
    new.extend(xxh3_64(section).to_le_bytes());
    bytes[row..row + ROW].copy_from_slice(&new);
    bytes.extend(section);
    bytes[COUNT..COUNT + 4].copy_from_slice(&(count + 1).to_le_bytes());
    let len = bytes.len() as u64;
    bytes[FILE_LEN..FILE_LEN + 8].copy_from_slice(&len.to_le_bytes());
    let checksum = xxh3_64(&bytes[TABLE..row + ROW]);
    bytes[CHECKSUM..CHECKSUM + 8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A model whose linears take activations in as many parts as those of another, which is what a compiler may
/// choose otherwise as it becomes better; how it packs it may not.
fn as_precise_as(other: &Model, model: &Model) -> Model {
    let mut wanted = other.plan().program().clone();
    let mut program = model.plan().program().clone();
    let (wanted, found) = (linears(&mut wanted), linears(&mut program));
    assert_eq!(wanted.len(), found.len());
    for (linear, wanted) in found.into_iter().zip(wanted) {
        linear.precise = wanted.precise;
    }
    model.with_program(program).expect("the program")
}

#[test]
fn committed_plans_give_what_their_students_compiled_anew_give() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 200).collect();
    for plan in FORMAT_PLANS {
        for backend in [BackendKind::Cpu, BackendKind::Fake] {
            let engine =
                Engine::new(EngineOptions { backend, threads: 2, ..EngineOptions::default() })
                    .expect("an engine");
            let committed = engine.open(plan.path()).unwrap_or_else(|e| panic!("{plan:?}: {e}"));
            let formats = committed.plan().program().weights.iter().map(|w| w.format.to_string());
            assert!(formats.into_iter().any(|format| format == plan.format()), "{plan:?}");
            committed.verify().unwrap_or_else(|e| panic!("{plan:?}: {e}"));
            let anew = as_precise_as(&committed, &plan.compile().open(backend, 2));
            let [committed, anew] = [committed, anew].map(|model| {
                let options = SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() };
                all_logits(&model, &ids, options)
            });
            let error = relative_error(&committed, &anew);
            assert!(error <= 1e-6, "{plan:?}, {backend:?}: relative error {error:.2e}");
        }
    }
}

#[test]
fn plans_of_this_major_version_are_read_and_no_others() {
    for minor in [MINOR, MINOR + 1, u16::MAX] {
        let bytes = of_version(MAJOR, minor);
        let plan = Plan::parse(&bytes).unwrap_or_else(|e| panic!("{MAJOR}.{minor}: {e}"));
        assert_eq!(plan.version(), (MAJOR, minor));
    }
    for (major, remedy) in [
        (0, "compile the student again"),
        (MAJOR - 1, "compile the student again"),
        (MAJOR + 1, "update the library"),
        (u16::MAX, "update the library"),
    ] {
        let error = Plan::parse(&of_version(major, 3)).expect_err("another major version");
        assert_eq!(error.kind(), ErrorKind::Version, "{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("{major}.3")) && message.contains(remedy), "{message}");
    }
}

#[test]
fn a_section_of_a_later_version_is_left_out_where_its_writer_allows_that() {
    for (flags, readable) in [(1_u32, true), (0, false), (2, false), (3, true)] {
        let bytes = with_section(plan(), *b"NEW!", flags, b"what this version cannot know");
        match Plan::parse(&bytes) {
            Ok(_) => assert!(readable, "flags {flags}: read"),
            Err(error) => {
                assert!(!readable, "flags {flags}: {error}");
                assert_eq!(error.kind(), ErrorKind::Version, "{error}");
                assert!(error.to_string().contains("NEW!"), "{error}");
            }
        }
    }
}
