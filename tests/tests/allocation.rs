//! A decode step works in memory that its session has: it takes none, but a cache block every 32
//! tokens.

use limbeck::{BackendKind, SessionOptions, Usage, Wanted, Work};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, golden, memory};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

#[test]
fn a_decode_step_allocates_nothing_but_cache_blocks() {
    let students = [
        "tiny/llama",
        "moe/mixtral",
        "moe/qwen2_moe",
        "moe/llava_f",
        "acm/decoder",
        "acm/decoder_affine",
    ];
    for student in students {
        for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
            decode(&Compiled::new(&golden().join(student), quant, true), student, quant);
        }
    }
}

#[test]
fn a_decode_step_that_leaves_channels_out_allocates_nothing_either() {
    for quant in [Quant::F16, Quant::Q4] {
        let plan = Compiled::sparse(&golden().join("tiny/llama"), quant, &[0.05, 0.02]);
        decode(&plan, "tiny/llama", quant);
    }
}

fn decode(plan: &Compiled, student: &str, quant: Quant) {
    let ids = Npz::open(&golden().join(student).join("expected.npz")).ids("input_ids").1;
    // With one thread every allocation is this thread's, which is the one that is counted.
    let model = plan.open(BackendKind::Cpu, 1);
    let mut session = model.session(SessionOptions::default()).expect("a session");
    let sequence = session.sequence();
    let (mut most, mut usage) = (0.0f32, Usage::default());
    let mut step = |tokens: &[u32]| {
        let work = [Work { sequence, tokens, wanted: Wanted::Last }];
        let sink = |_, row: &[f32]| most = row.iter().copied().fold(most, f32::max);
        session.step_onto(&mut usage, &work, sink).expect("a step");
    };
    step(&ids[..20]);
    step(&ids[20..21]);
    for (at, id) in ids.iter().enumerate().take(60).skip(21) {
        let (_, peak) = memory::peak(|| step(std::slice::from_ref(id)));
        assert!(peak == 0 || at % 32 == 0, "{student} {quant}: {peak} bytes at position {at}");
    }
    assert!(most > 0.0, "the steps gave logits");
}
