//! Attention with and without a cache, and the cache's sequences.

use limbeck_kernels::KvType;
use limbeck_plan::{Attention, Dim, Op, Rope, RopeStyle, State, StateKind};

use super::harness::{Ask, Builder, Part, Random, Running, compare, gpu, relative_error, tokens};
use crate::backend::PlanData;
use crate::backend::fake::FakeBackend;
use std::sync::Arc;

fn plain() -> Attention {
    Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        scale: 0.25,
        softcap: None,
        causal: true,
        window: None,
        fused: true,
        qk_norm_eps: None,
        rope: Some(Rope { style: RopeStyle::Half, rotary_dim: 16, factor: 1.0 }),
        state: Some(0),
    }
}

fn plan(p: &Attention, seed: u64) -> Arc<PlanData> {
    let mut b = Builder::new(seed);
    let (q, kv) = (p.heads * p.head_dim, p.kv_heads * p.head_dim);
    let mut inputs = if p.fused {
        vec![b.activation(q + 2 * kv)]
    } else {
        vec![b.activation(q), b.activation(kv), b.activation(kv)]
    };
    if p.qk_norm_eps.is_some() {
        inputs.extend([b.vector(p.head_dim), b.vector(p.head_dim)]);
    }
    if let Some(rope) = &p.rope {
        let half = rope.rotary_dim / 2;
        let freq: Vec<f32> = (0..half).map(|i| 10000f32.powf(-(i as f32) / half as f32)).collect();
        inputs.push(b.weight(limbeck_plan::PackFormat::F32_ROW, 1, half, &freq));
    }
    if p.state.is_some() {
        let kind = StateKind::Append { kv_heads: p.kv_heads, head_dim: p.head_dim };
        b.states.push(State { name: "kv".into(), kind });
    }
    b.output("y", Op::Attention(p.clone()), inputs, vec![tokens(), Dim::from(q)]);
    b.plan()
}

#[test]
fn cached_attention_matches_the_reference_step_by_step() {
    let cases = [
        plain(),
        Attention { heads: 3, kv_heads: 1, head_dim: 5, rope: None, fused: false, ..plain() },
        Attention { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, ..plain() },
        Attention { heads: 2, kv_heads: 2, head_dim: 256, ..plain() },
        Attention { heads: 2, kv_heads: 1, head_dim: 257, scale: 0.1, rope: None, ..plain() },
        Attention { heads: 1, kv_heads: 1, head_dim: 1024, scale: 0.05, ..plain() },
        Attention { window: Some(1), ..plain() },
        Attention { window: Some(40), softcap: Some(2.0), ..plain() },
        Attention {
            qk_norm_eps: Some(1e-6),
            rope: Some(Rope { style: RopeStyle::Interleaved, rotary_dim: 8, factor: 1.2 }),
            ..plain()
        },
    ];
    for (i, p) in cases.iter().enumerate() {
        let data = plan(p, i as u64);
        let mut random = Random::new(i as u64);
        // Two sequences that grow past blocks of 32 and tiles of 64.
        let steps = [vec![5, 1], vec![70, 2], vec![1, 1], vec![1, 64], vec![3, 90], vec![1, 1]];
        let asks = steps.map(|rows| Ask::of(&mut random, &rows));
        for (kv, tolerance) in [(KvType::F32, 1e-5), (KvType::F16, 2e-3), (KvType::Q8, 1e-2)] {
            compare(&data, &asks, kv, tolerance, &format!("{p:?}, {kv:?}"));
        }
    }
}

/// Of a few rows that see many positions, groups share the positions.
#[test]
fn long_caches_match_the_reference() {
    let cases = [
        plain(),
        Attention { heads: 3, kv_heads: 1, head_dim: 5, rope: None, fused: false, ..plain() },
        Attention { window: Some(300), softcap: Some(2.0), ..plain() },
    ];
    for (i, p) in cases.iter().enumerate() {
        let data = plan(p, i as u64);
        let mut random = Random::new(i as u64);
        // The second sequence sees less than a tile when the first has two parts, then four.
        let steps = [vec![1020, 1], vec![1, 1], vec![4, 1], vec![1, 1], vec![700, 1], vec![1, 7]];
        let asks = steps.map(|rows| Ask::of(&mut random, &rows));
        for (kv, tolerance) in [(KvType::F32, 1e-5), (KvType::F16, 2e-3), (KvType::Q8, 1e-2)] {
            compare(&data, &asks, kv, tolerance, &format!("{p:?}, {kv:?}"));
        }
    }
}

#[test]
fn attention_within_a_call_matches_the_reference() {
    for causal in [false, true] {
        for p in [
            Attention { causal, state: None, rope: None, fused: false, kv_heads: 4, ..plain() },
            Attention { causal, state: None, head_dim: 33, rope: None, ..plain() },
            Attention { causal, state: None, window: causal.then_some(9), ..plain() },
        ] {
            let data = plan(&p, 3);
            let mut asks =
                [&[1][..], &[70, 3, 33], &[2, 2]].map(|rows| Ask::of(&mut Random::new(7), rows));
            if !causal {
                asks[1].parts[0] = Part { rows: 70, keys: 65 };
                asks[1].parts[2] = Part { rows: 33, keys: 1 };
            }
            compare(&data, &asks, KvType::F32, 1e-5, &format!("{p:?}"));
        }
    }
}

#[test]
fn sequences_fork_truncate_save_and_load_as_those_of_the_reference() {
    let Some(gpu) = gpu() else { return };
    let data = plan(&plain(), 11);
    for (kv, tolerance) in [(KvType::F32, 1e-5), (KvType::F16, 2e-3), (KvType::Q8, 1e-2)] {
        let mut random = Random::new(5);
        let mut both =
            [Running::new(&FakeBackend::default(), &data, kv), Running::new(gpu, &data, kv)];
        let mut step = |both: &mut [Running; 2], rows: &[usize], what: &str| {
            let ask = Ask::of(&mut random, rows);
            for running in both.iter_mut() {
                running.run(&ask, true);
            }
            let error = relative_error(&both[1].output("y"), &both[0].output("y"));
            assert!(error <= tolerance, "{kv:?}, {what}: relative error {error:.2e}");
        };
        step(&mut both, &[50], "a prompt");
        for running in &mut both {
            let first = running.sequences[0];
            running.sequences.push(running.state.sequences_mut().fork(first).unwrap());
        }
        // The fork shares its last block until one of the two writes.
        step(&mut both, &[3, 1], "a fork");
        step(&mut both, &[1, 20], "a fork that goes on");
        for running in &mut both {
            let first = running.sequences[0];
            running.state.sequences_mut().truncate(first, 33).unwrap();
        }
        step(&mut both, &[2, 1], "a rewound sequence");
        let mut saved = both.each_ref().map(|running| {
            let mut bytes = Vec::new();
            running.state.sequences().save(running.sequences[0], &mut bytes).unwrap();
            bytes
        });
        assert_eq!(saved[0].len(), saved[1].len());
        // Each loads what the other saved.
        saved.swap(0, 1);
        for (running, bytes) in both.iter_mut().zip(&saved) {
            let used = running.state.sequences().bytes();
            let loaded = running.state.sequences_mut().load(bytes).unwrap();
            assert_eq!(running.state.sequences().len(loaded).unwrap(), 35);
            assert!(running.state.sequences().bytes() > used);
            running.sequences[0] = loaded;
        }
        step(&mut both, &[4, 1], "a sequence of the other's");
        let bytes: Vec<usize> = both.iter().map(|r| r.state.sequences().bytes()).collect();
        assert!(bytes.iter().all(|b| *b > 0), "{bytes:?}");
        for running in &mut both {
            for sequence in running.sequences.clone() {
                running.state.sequences_mut().free(sequence).unwrap();
            }
            assert!(running.state.sequences_mut().load(&saved[0][..40]).is_err());
        }
    }
}
