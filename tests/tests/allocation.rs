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
        decode(student);
    }
}

fn decode(student: &str) {
    let folder = golden().join(student);
    let ids = Npz::open(&folder.join("expected.npz")).ids("input_ids").1;
    for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
        let plan = Compiled::new(&folder, quant, true);
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
}
