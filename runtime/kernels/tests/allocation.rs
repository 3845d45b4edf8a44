//! After scratch memory is reserved, a call allocates nothing.

mod common;

use common::{Random, poison};
use limbeck_kernels::{
    AdaptiveMlpArgs, AdaptiveScratch, AttentionArgs, AttentionScratch, ChooseArgs, Kernels,
    KvCache, KvConfig, KvLayer, KvType, LinearArgs, LinearScratch, MixArgs, MoeMlpArgs, MoeScratch,
    NormArgs, Packed, Pool, Qkv, Span, adaptive_mlp, attention, choose, linear, mix, moe_mlp,
    pack_rows,
};
use limbeck_plan::{
    Activation, Attention, ExpertWeights, GateTransform, Mix, MixRule, MoeMlp, NormKind,
    PackFormat, Rope, RopeStyle, Values,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decode_step_allocates_nothing_after_reserving() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    let mut random = Random::new(1);
    let params = Attention {
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        scale: 0.2,
        softcap: None,
        causal: true,
        window: None,
        fused: true,
        qk_norm_eps: None,
        rope: Some(Rope { style: RopeStyle::Half, rotary_dim: 32, factor: 1.0 }),
        state: Some(0),
    };
    let layer = KvLayer { kv_heads: 2, head_dim: 32 };
    let config = KvConfig { layers: vec![layer; 2], dtype: KvType::F16, max_blocks: 8 };
    let mut cache = KvCache::new(config).unwrap();
    let seq = cache.create();
    cache.reserve(seq, 70).unwrap();
    let format = PackFormat::linear(Values::Q4);
    let mut weight = Vec::new();
    pack_rows(format, 256, &random.floats(384 * 256), &mut weight).unwrap();
    let (norm_weight, inv_freq) = (random.floats(256), random.floats(16));
    let (x, mut qkv, mut out) = (random.floats(3 * 256), poison(3 * 384), poison(3 * 256));
    let (mut linears, mut attentions) = (LinearScratch::default(), AttentionScratch::default());
    // A precise row counts twice.
    linears.reserve(6, 256);
    attentions.reserve(&params, 3, 1, true);
    let (mut down, mut gate) = (Vec::new(), Vec::<u8>::new());
    pack_rows(format, 384, &random.floats(256 * 384), &mut down).unwrap();
    gate.extend(random.floats(5 * 256).into_iter().flat_map(f32::to_le_bytes));
    let w1 = Packed::new(format, 384, 256, &weight).unwrap();
    let w2 = Packed::new(format, 256, 384, &down).unwrap();
    let gate = Packed::new(PackFormat::F32_ROW, 5, 256, &gate).unwrap();
    let (mut adaptive, mut choice) = (AdaptiveScratch::default(), [0; 3]);
    adaptive.reserve_gate(3, &gate);
    adaptive.reserve_mlp(3, &w1, &w2, 4);
    let moe = MoeMlp {
        site: 0,
        experts: 4,
        top_k: 2,
        activation: Activation::Silu,
        gated: false,
        weights: ExpertWeights::Renormalised,
        capacity: None,
        residual: false,
    };
    let (mut experts, mut ups, mut logits) = (MoeScratch::default(), Vec::new(), [0.0; 12]);
    pack_rows(format, 256, &random.floats(4 * 96 * 256), &mut ups).unwrap();
    let ups = Packed::new(format, 4 * 96, 256, &ups).unwrap();
    let mut downs = Vec::new();
    pack_rows(format, 96, &random.floats(4 * 256 * 96), &mut downs).unwrap();
    let downs = Packed::new(format, 4 * 256, 96, &downs).unwrap();
    experts.reserve(3, &moe, &ups, &downs);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for step in 0..20 {
        for layer in 0..2 {
            let norm =
                NormArgs { kind: NormKind::Rms, weight: &norm_weight, bias: None, eps: 1e-5 };
            let args = LinearArgs {
                x: &x,
                norm: Some(norm),
                factors: None,
                w: Packed::new(format, 384, 256, &weight).unwrap(),
                bias: None,
                activation: Activation::Identity,
                gated: false,
                residual: None,
                precise: true,
                out: &mut qkv,
            };
            linear(&kernels, &pool, &mut linears, args).unwrap();
            let spans =
                [Span { first_row: 0, rows: 3, sequence: Some(seq), start: 3 * step, keys: 3 }];
            let args = AttentionArgs {
                params: &params,
                qkv: Qkv::Fused(&qkv),
                q_norm: None,
                k_norm: None,
                inv_freq: Some(&inv_freq),
                spans: &spans,
                cache: Some((&mut cache, layer)),
                rough: false,
                out: &mut out,
            };
            attention(&kernels, &pool, &mut attentions, args).unwrap();
            let args = ChooseArgs {
                x: &x,
                gate,
                bias: &[0.0; 5],
                transform: GateTransform::NegExp2,
                first: 0,
                costs: &[0.0, 0.25, 0.5, 0.75, 1.0],
                weight: 1.0,
                price: step as f32 / 40.0,
                out: &mut choice,
            };
            choose(&kernels, &pool, &mut adaptive, args).unwrap();
            logits.iter_mut().enumerate().for_each(|(i, l)| *l = ((i + step) % 5) as f32);
            let args = MoeMlpArgs {
                params: &moe,
                x: &x,
                logits: &logits,
                w1: ups,
                w2: downs,
                residual: None,
                weight: 1.0,
                price: step as f32 / 10.0,
                forced: None,
                choice: &mut choice,
                out: &mut out,
            };
            moe_mlp(&kernels, &pool, &mut experts, args).unwrap();
            let args = MixArgs {
                params: &Mix { parts: 1, rule: MixRule::Sigmoid, residual: false },
                logits: &logits[..3],
                parts: &[&x],
                residual: None,
                out: &mut out,
            };
            mix(&pool, args).unwrap();
            for choice in [[1, 4, 2], [3, 0, 3], [4, 4, 4]] {
                let args = AdaptiveMlpArgs {
                    x: &x,
                    choice: &choice,
                    w1,
                    b1: None,
                    w2,
                    out_bias: None,
                    residual: None,
                    learners: 4,
                    activation: Activation::Gelu,
                    gated: false,
                    out: &mut out,
                };
                adaptive_mlp(&kernels, &pool, &mut adaptive, args).unwrap();
            }
        }
        cache.reserve(seq, 3).unwrap();
        cache.commit(seq, 3).unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
}
