//! Attention on every instruction set against a naive softmax in f64, and its independence of
//! chunks, batches and threads.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, poison, sampled};
use limbeck_kernels::{
    AttentionArgs, AttentionScratch, ErrorKind, Isa, Kernels, KvCache, KvConfig, KvLayer, KvType,
    Pool, Qkv, SeqId, Span, attention, reference,
};
use limbeck_plan::{Attention, Rope, RopeStyle};

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];

fn params(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    Attention {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        softcap: None,
        causal: true,
        window: None,
        fused: true,
        qk_norm_eps: None,
        rope: None,
        state: None,
    }
}

fn rope(style: RopeStyle, rotary_dim: usize) -> Option<Rope> {
    Some(Rope { style, rotary_dim, factor: 1.25 })
}

/// Every parameter at least once, with odd head sizes and groups.
fn all_params() -> Vec<Attention> {
    let plain = params(6, 2, 32);
    vec![
        plain.clone(),
        Attention { window: Some(5), ..params(3, 3, 8) },
        Attention { window: Some(40), rope: rope(RopeStyle::Half, 64), ..params(9, 3, 64) },
        Attention {
            softcap: Some(2.0),
            rope: rope(RopeStyle::Interleaved, 16),
            ..params(4, 1, 20)
        },
        Attention { qk_norm_eps: Some(1e-6), rope: rope(RopeStyle::Half, 6), ..params(5, 1, 7) },
        Attention { qk_norm_eps: Some(1e-6), softcap: Some(1.0), ..params(2, 2, 1) },
        Attention { scale: 3.0, rope: rope(RopeStyle::Half, 128), ..params(2, 1, 128) },
        params(100, 2, 4),
    ]
}

/// Weights that go with parameters.
struct Weights {
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    inv_freq: Vec<f32>,
}

impl Weights {
    fn new(p: &Attention) -> Weights {
        let mut random = Random::new(9);
        let pairs = p.rope.as_ref().map_or(0, |r| r.rotary_dim / 2);
        Weights {
            q_norm: random.floats(p.head_dim),
            k_norm: random.floats(p.head_dim),
            inv_freq: (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect(),
        }
    }
}

struct Call<'a> {
    p: &'a Attention,
    weights: &'a Weights,
    qkv: &'a [f32],
    spans: &'a [Span],
    rough: bool,
}

impl Call<'_> {
    fn width(&self) -> usize {
        self.p.heads.saturating_add(2 * self.p.kv_heads).saturating_mul(self.p.head_dim)
    }

    fn with<R>(
        &self,
        cache: Option<(&mut KvCache, usize)>,
        body: impl FnOnce(AttentionArgs<'_>) -> R,
    ) -> (R, Vec<f32>) {
        let rows = self.qkv.len().checked_div(self.width()).unwrap_or(0);
        let mut out = poison(rows.saturating_mul(self.p.heads) * self.p.head_dim);
        let result = body(AttentionArgs {
            params: self.p,
            qkv: Qkv::Fused(self.qkv),
            q_norm: self.p.qk_norm_eps.map(|_| self.weights.q_norm.as_slice()),
            k_norm: self.p.qk_norm_eps.map(|_| self.weights.k_norm.as_slice()),
            inv_freq: self.p.rope.as_ref().map(|_| self.weights.inv_freq.as_slice()),
            spans: self.spans,
            cache,
            rough: self.rough,
            out: &mut out,
        });
        (result, out)
    }

    fn run(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Vec<f32> {
        self.run_in(&mut AttentionScratch::default(), kernels, pool, cache)
    }

    fn run_in(
        &self,
        scratch: &mut AttentionScratch,
        kernels: &Kernels,
        pool: &Pool,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Vec<f32> {
        let (result, out) = self.with(cache, |args| attention(kernels, pool, scratch, args));
        result.unwrap();
        out
    }

    fn reference(&self, cache: Option<(&mut KvCache, usize)>) -> Vec<f32> {
        let (result, out) = self.with(cache, reference::attention);
        result.unwrap();
        out
    }
}

fn cache(p: &Attention, dtype: KvType, max_blocks: usize) -> KvCache {
    let other = KvLayer { kv_heads: 1, head_dim: 3 };
    let layer = KvLayer { kv_heads: p.kv_heads, head_dim: p.head_dim };
    KvCache::new(KvConfig { layers: vec![other, layer], dtype, max_blocks }).unwrap()
}

fn span(first_row: usize, rows: usize, sequence: Option<SeqId>, start: usize) -> Span {
    Span { first_row, rows, sequence, start, keys: rows }
}

/// Runs `qkv` through a new sequence in the given chunks.
fn in_chunks(
    p: &Attention,
    weights: &Weights,
    qkv: &[f32],
    chunks: &[usize],
    dtype: KvType,
    run: &mut dyn FnMut(&Call<'_>, &mut KvCache) -> Vec<f32>,
) -> Vec<f32> {
    let mut cache = cache(p, dtype, 16);
    let seq = cache.create();
    let width = (p.heads + 2 * p.kv_heads) * p.head_dim;
    let (mut out, mut start) = (Vec::new(), 0);
    for rows in chunks {
        cache.reserve(seq, *rows).unwrap();
        let spans = [span(0, *rows, Some(seq), start)];
        let qkv = &qkv[start * width..][..rows * width];
        out.extend(run(&Call { p, weights, qkv, spans: &spans, rough: false }, &mut cache));
        cache.commit(seq, *rows).unwrap();
        start += rows;
    }
    out
}

#[test]
fn cached_attention_matches_a_naive_softmax_in_any_chunks_and_threads() {
    // More than a group of blocks of any head.
    let rows = 205;
    let pools: Vec<Pool> = (1..=3).map(Pool::new).collect();
    for p in all_params() {
        let weights = Weights::new(&p);
        let qkv = Random::new(4).floats(rows * (p.heads + 2 * p.kv_heads) * p.head_dim);
        for dtype in TYPES {
            let want = in_chunks(&p, &weights, &qkv, &[rows], dtype, &mut |call, cache| {
                call.reference(Some((cache, 1)))
            });
            for kernels in all_kernels() {
                let what = format!("{} {dtype:?} {p:?}", kernels.isa());
                let run = |chunks: &[usize], pool: &Pool| {
                    in_chunks(&p, &weights, &qkv, chunks, dtype, &mut |call, cache| {
                        call.run(&kernels, pool, Some((cache, 1)))
                    })
                };
                let whole = run(&[rows], &pools[0]);
                assert_close(&whole, &want, 2e-5, &what);
                assert_same_bits(&run(&[rows], &pools[1]), &whole, &what);
                assert_same_bits(&run(&[rows], &pools[2]), &whole, &what);
                assert_same_bits(&run(&[31, 2, 99, 64, 9], &pools[1]), &whole, &what);
                assert_same_bits(&run(&[1; 205], &pools[2]), &whole, &what);
            }
        }
    }
}

#[test]
fn without_a_cache_spans_attend_within_themselves() {
    for mut p in all_params() {
        for causal in [true, false] {
            p.causal = causal;
            attend_within_spans(&p, false, 2e-5);
        }
    }
}

/// What is rough may be bf16, which has 8 bits, where sizes allow it; the rest stays as it is.
#[test]
fn rough_operands_attend_like_others_within_their_roundings() {
    let wide = Attention { causal: false, ..params(3, 3, 96) };
    for p in all_params().into_iter().chain([wide.clone()]) {
        let scale = 1.0 / (p.head_dim as f32).sqrt();
        let p = Attention { causal: false, scale, ..p };
        let may = p.head_dim.is_multiple_of(32);
        attend_within_spans(&p, true, if may { 1e-2 } else { 2e-5 });
    }
    attend_within_spans(&Attention { causal: true, ..wide }, true, 2e-5);
}

/// Where the CPU has the instruction, and sizes and the kind of attention allow it, rough operands give
/// other bits; everywhere else the same.
#[test]
fn only_what_may_be_rough_has_other_bits() {
    let open = |head_dim| Attention { causal: false, ..params(4, 2, head_dim) };
    let cases = [
        (open(32), true),
        (open(96), true),
        (open(128), true),
        (open(48), false),
        (open(160), false),
        (Attention { causal: true, ..open(32) }, false),
        (Attention { softcap: Some(2.0), ..open(32) }, false),
    ];
    let pool = Pool::new(2);
    for (p, may) in cases {
        let weights = Weights::new(&p);
        let qkv = Random::new(13).floats(40 * 8 * p.head_dim);
        let spans = [span(0, 40, None, 0)];
        let exact = Call { p: &p, weights: &weights, qkv: &qkv, spans: &spans, rough: false };
        let rough = Call { rough: true, ..exact };
        for kernels in all_kernels() {
            let what = format!("{} {p:?}", kernels.isa());
            let [a, b] = [&exact, &rough].map(|call| call.run(&kernels, &pool, None));
            if may && kernels.isa() == Isa::Avx512Bf16 {
                assert_ne!(a, b, "{what}");
            } else {
                assert_same_bits(&b, &a, &what);
            }
            let [a, b] = [&exact, &rough].map(|call| {
                let mut cache = cache(&p, KvType::F16, 2);
                let seq = cache.create();
                cache.reserve(seq, 40).unwrap();
                let spans = [span(0, 40, Some(seq), 0)];
                Call { spans: &spans, ..*call }.run(&kernels, &pool, Some((&mut cache, 1)))
            });
            assert_same_bits(&b, &a, &what);
        }
    }
}

/// Spans of any lengths have the bits that each has alone, on any threads, in memory where calls before
/// left NaN or infinity.
#[test]
fn batches_have_the_bits_of_lone_spans_in_memory_used_before() {
    const LENGTHS: [usize; 12] = [1, 2, 15, 16, 17, 31, 32, 33, 65, 127, 128, 129];
    let pools: Vec<Pool> = (1..=4).map(Pool::new).collect();
    let shapes = [(12, 12, 32), (4, 2, 64), (2, 2, 96), (3, 1, 128)];
    for case in (0..32).filter(|case| sampled(*case)) {
        let mut random = Random::new(case);
        let (heads, kv_heads, head_dim) = shapes[random.below(shapes.len())];
        let p = Attention { causal: false, ..params(heads, kv_heads, head_dim) };
        let (weights, width) = (Weights::new(&p), (heads + 2 * kv_heads) * head_dim);
        let (mut spans, mut total) = (Vec::new(), 0);
        for _ in 0..1 + random.below(5) {
            let rows = LENGTHS[random.below(LENGTHS.len())];
            let keys = if random.below(2) == 0 { rows } else { random.below(rows + 1) };
            spans.push(Span { keys, ..span(total, rows, None, 0) });
            total += rows;
        }
        let all: Vec<Span> = spans.iter().map(|s| Span { keys: s.rows, ..*s }).collect();
        let qkv = random.floats(total * width);
        let rough = random.below(3) > 0;
        let call = Call { p: &p, weights: &weights, qkv: &qkv, spans: &spans, rough };
        for kernels in all_kernels() {
            let alone = spans.iter().flat_map(|s| {
                let qkv = &qkv[s.first_row * width..][..s.rows * width];
                let spans = [Span { first_row: 0, ..*s }];
                Call { qkv, spans: &spans, ..call }.run(&kernels, &pools[0], None)
            });
            let alone: Vec<f32> = alone.collect();
            let mut scratch = AttentionScratch::default();
            for pool in &pools {
                let what = format!("{} case {case} on {} threads", kernels.isa(), pool.threads());
                for (bad, rough) in [(f32::NAN, true), (f32::INFINITY, false)] {
                    let qkv = vec![bad; qkv.len()];
                    let before = Call { qkv: &qkv, spans: &all, rough, ..call };
                    before.run_in(&mut scratch, &kernels, pool, None);
                    let got = call.run_in(&mut scratch, &kernels, pool, None);
                    assert_same_bits(&got, &alone, &what);
                }
            }
        }
    }
}

fn attend_within_spans(p: &Attention, rough: bool, tolerance: f32) {
    let weights = Weights::new(p);
    let width = (p.heads + 2 * p.kv_heads) * p.head_dim;
    // Rows 3 and 4 belong to no span, and two rows of the first and all but one of the last are
    // padding.
    let spans = [
        Span { keys: 1, ..span(0, 3, None, 0) },
        span(5, 170, None, 2),
        Span { keys: 32, ..span(175, 33, None, 0) },
        Span { keys: 0, ..span(208, 2, None, 0) },
    ];
    let qkv = Random::new(8).floats(210 * width);
    let call = Call { p, weights: &weights, qkv: &qkv, spans: &spans, rough };
    let want = call.reference(None);
    for kernels in all_kernels() {
        let what = format!("{} {p:?}", kernels.isa());
        let got = call.run(&kernels, &Pool::new(1), None);
        assert_close(&got, &want, tolerance, &what);
        assert_same_bits(&call.run(&kernels, &Pool::new(3), None), &got, &what);
        for s in spans {
            let alone = [Span { first_row: 0, ..s }];
            let qkv = &qkv[s.first_row * width..][..s.rows * width];
            let call = Call { qkv, spans: &alone, ..call };
            let width = p.heads * p.head_dim;
            let part = &got[s.first_row * width..][..s.rows * width];
            assert_same_bits(&call.run(&kernels, &Pool::new(2), None), part, &what);
        }
    }
}

#[test]
fn separate_operands_have_the_bits_of_the_fused_one() {
    let p = Attention { rope: rope(RopeStyle::Half, 16), ..params(6, 2, 16) };
    let weights = Weights::new(&p);
    let qkv = Random::new(3).floats(20 * 160);
    let cut = |from: usize, to: usize| -> Vec<f32> {
        qkv.chunks(160).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let (q, k, v) = (cut(0, 96), cut(96, 128), cut(128, 160));
    let spans = [span(0, 20, None, 0)];
    let call = Call { p: &p, weights: &weights, qkv: &qkv, spans: &spans, rough: false };
    for kernels in all_kernels() {
        let pool = Pool::new(2);
        let fused = call.run(&kernels, &pool, None);
        let (result, apart) = call.with(None, |args| {
            let qkv = Qkv::Separate { q: &q, k: &k, v: &v };
            let args = AttentionArgs { qkv, ..args };
            attention(&kernels, &pool, &mut AttentionScratch::default(), args)
        });
        result.unwrap();
        assert_same_bits(&apart, &fused, &kernels.isa());
    }
}

/// A prefix shared by three forks that go on as one batch gives the bits of three sequences that
/// each ran alone; then one is cut back and goes on differently.
#[test]
fn forks_decode_as_a_batch_with_the_bits_of_lone_sequences() {
    // Forks that part within the first group of blocks, and after it.
    forks_of(41);
    forks_of(141);
}

fn forks_of(common: usize) {
    let shared = common / 32;
    let p = Attention { rope: rope(RopeStyle::Half, 32), ..params(6, 2, 32) };
    let weights = Weights::new(&p);
    let width = 10 * 32;
    let mut random = Random::new(6);
    let prefix = random.floats(common * width);
    let rest: Vec<Vec<f32>> = (0..3).map(|_| random.floats(30 * width)).collect();
    for dtype in TYPES {
        for kernels in all_kernels() {
            let pool = Pool::new(2);
            let alone: Vec<Vec<f32>> = rest
                .iter()
                .map(|rest| {
                    let qkv = [prefix.as_slice(), rest].concat();
                    let out =
                        in_chunks(&p, &weights, &qkv, &[common + 30], dtype, &mut |call, cache| {
                            call.run(&kernels, &pool, Some((cache, 1)))
                        });
                    out[common * 192..].to_vec()
                })
                .collect();

            let mut cache = cache(&p, dtype, shared + 8);
            let first = cache.create();
            cache.reserve(first, common).unwrap();
            let spans = [span(0, common, Some(first), 0)];
            let call = Call { p: &p, weights: &weights, qkv: &prefix, spans: &spans, rough: false };
            call.run(&kernels, &pool, Some((&mut cache, 1)));
            cache.commit(first, common).unwrap();
            let seqs = [first, cache.fork(first).unwrap(), cache.fork(first).unwrap()];
            assert_eq!(cache.blocks_used(), shared + 1);
            let step = |cache: &mut KvCache, t: usize| {
                let mut qkv = Vec::new();
                let mut spans = Vec::new();
                for (i, seq) in seqs.iter().enumerate() {
                    cache.reserve(*seq, 1).unwrap();
                    qkv.extend_from_slice(&rest[i][t * width..][..width]);
                    spans.push(span(i, 1, Some(*seq), common + t));
                }
                let call =
                    Call { p: &p, weights: &weights, qkv: &qkv, spans: &spans, rough: false };
                let out = call.run(&kernels, &pool, Some((cache, 1)));
                for (i, seq) in seqs.iter().enumerate() {
                    cache.commit(*seq, 1).unwrap();
                    let want = &alone[i][t * 192..][..192];
                    assert_same_bits(&out[i * 192..][..192], want, &format!("{dtype:?} {i} {t}"));
                }
            };
            for t in 0..30 {
                step(&mut cache, t);
            }
            // Whole blocks of what is common are shared; the two after them are each sequence's own.
            assert_eq!(cache.blocks_used(), shared + 6);
            for seq in seqs {
                cache.truncate(seq, common + 4).unwrap();
            }
            assert_eq!(cache.blocks_used(), shared + 3);
            for t in 4..12 {
                step(&mut cache, t);
            }
        }
    }
}

#[test]
fn a_snapshot_goes_on_with_the_same_bits() {
    let p = params(4, 2, 16);
    let weights = Weights::new(&p);
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    let qkv = Random::new(12).floats(50 * 128);
    for dtype in TYPES {
        let mut original = cache(&p, dtype, 4);
        let mut other = cache(&p, dtype, 4);
        let seq = original.create();
        original.reserve(seq, 49).unwrap();
        let spans = [span(0, 49, Some(seq), 0)];
        let call =
            Call { p: &p, weights: &weights, qkv: &qkv[..49 * 128], spans: &spans, rough: false };
        call.run(&kernels, &pool, Some((&mut original, 1)));
        original.commit(seq, 49).unwrap();
        let mut bytes = Vec::new();
        original.save(seq, &mut bytes).unwrap();
        let loaded = other.load(&bytes).unwrap();
        assert_eq!(other.len(loaded).unwrap(), 49);
        let mut again = Vec::new();
        other.save(loaded, &mut again).unwrap();
        assert_eq!(again, bytes);
        let last = |cache: &mut KvCache, seq: SeqId| {
            cache.reserve(seq, 1).unwrap();
            let spans = [span(0, 1, Some(seq), 49)];
            let call = Call {
                p: &p,
                weights: &weights,
                qkv: &qkv[49 * 128..],
                spans: &spans,
                rough: false,
            };
            call.run(&kernels, &pool, Some((cache, 1)))
        };
        let want = last(&mut original, seq);
        assert_same_bits(&last(&mut other, loaded), &want, &"after loading");
    }
}

/// Stale numbers in reused blocks and values that are not finite do not reach rows that do not
/// see them.
#[test]
fn positions_that_a_row_does_not_see_do_not_touch_it() {
    let p = params(3, 1, 16);
    let weights = Weights::new(&p);
    let pool = Pool::new(2);
    let clean = Random::new(5).floats(40 * 80);
    let mut bad = clean.clone();
    bad[37 * 80..].fill(f32::NAN);
    for kernels in all_kernels() {
        for dtype in TYPES {
            let mut cache = cache(&p, dtype, 2);
            let mut run = |qkv: &[f32]| {
                let seq = cache.create();
                cache.reserve(seq, 40).unwrap();
                let spans = [span(0, 40, Some(seq), 0)];
                let call = Call { p: &p, weights: &weights, qkv, spans: &spans, rough: false };
                let out = call.run(&kernels, &pool, Some((&mut cache, 1)));
                cache.free(seq).unwrap();
                out
            };
            let want = run(&clean);
            let got = run(&bad);
            assert_same_bits(&got[..37 * 48], &want[..37 * 48], &kernels.isa());
            assert!(got[37 * 48..].iter().all(|v| v.is_nan()));
            assert_same_bits(&run(&clean), &want, &kernels.isa());
            run(&vec![f32::INFINITY; 40 * 80]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let p = params(2, 1, 8);
    let weights = Weights::new(&p);
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let qkv = vec![0.5; 4 * 32];
    let mut cache = cache(&p, KvType::F16, 2);
    let (a, b) = (cache.create(), cache.create());
    cache.reserve(a, 4).unwrap();
    let mut refuse = |p: &Attention, layer: Option<usize>, spans: &[Span]| {
        let call = Call { p, weights: &weights, qkv: &qkv, spans, rough: false };
        let cache = layer.map(|layer| (&mut cache, layer));
        let (result, out) = call
            .with(cache, |args| attention(&kernels, &pool, &mut AttentionScratch::default(), args));
        assert!(out.iter().all(|v| v.is_nan()));
        result.unwrap_err().kind()
    };
    use ErrorKind::{Range, Sequence, Shape};
    assert_eq!(refuse(&p, None, &[span(0, 5, None, 0)]), Range);
    assert_eq!(refuse(&p, None, &[span(usize::MAX, 2, None, 0)]), Range);
    assert_eq!(refuse(&p, None, &[span(0, 2, None, usize::MAX)]), Range);
    assert_eq!(refuse(&p, None, &[span(0, 2, None, 0), span(1, 2, None, 0)]), Range);
    assert_eq!(refuse(&p, None, &[Span { keys: 3, ..span(0, 2, None, 0) }]), Range);
    assert_eq!(refuse(&p, Some(1), &[span(0, 2, None, 0)]), Sequence);
    assert_eq!(refuse(&p, Some(1), &[span(0, 2, Some(b), 0)]), Range);
    assert_eq!(refuse(&p, Some(1), &[span(0, 2, Some(a), 1)]), Range);
    assert_eq!(refuse(&p, Some(1), &[span(0, 1, Some(a), 0), span(1, 1, Some(a), 0)]), Range);
    assert_eq!(refuse(&p, Some(0), &[span(0, 2, Some(a), 0)]), Shape);
    assert_eq!(refuse(&p, Some(2), &[span(0, 2, Some(a), 0)]), Range);
    let odd = Attention { rope: rope(RopeStyle::Half, 3), ..p.clone() };
    assert_eq!(refuse(&odd, None, &[]), Shape);
    assert_eq!(refuse(&params(3, 2, 8), None, &[]), Shape);
    assert_eq!(refuse(&params(0, 0, 0), None, &[]), Shape);
    assert_eq!(refuse(&Attention { heads: usize::MAX, ..p.clone() }, None, &[]), Shape);
}

#[test]
fn no_rows_of_the_largest_heads_are_nothing_to_do() {
    let p = params(usize::MAX / 2 + 1, 1, 1);
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    for spans in [&[][..], &[span(0, 0, None, 0)]] {
        let args = AttentionArgs {
            params: &p,
            qkv: Qkv::Fused(&[]),
            q_norm: None,
            k_norm: None,
            inv_freq: None,
            spans,
            cache: None,
            rough: false,
            out: &mut [],
        };
        attention(&kernels, &pool, &mut AttentionScratch::default(), args).unwrap();
    }
}

/// Scores that are all -inf weigh nothing: there is no mean, as in the reference. Rows that see no key have
/// zeros.
#[test]
fn a_row_whose_scores_are_all_infinitely_low_is_nan() {
    for rough in [false, true] {
        let p = Attention { causal: false, ..params(1, 1, 32) };
        let weights = Weights::new(&p);
        let mut qkv = Random::new(5).floats(4 * 96);
        for row in qkv.chunks_mut(96) {
            row[..32].fill(1.0);
            row[32..64].fill(f32::NEG_INFINITY);
        }
        let spans = [span(0, 3, None, 0), Span { keys: 0, ..span(3, 1, None, 0) }];
        let call = Call { p: &p, weights: &weights, qkv: &qkv, spans: &spans, rough };
        assert!(call.reference(None)[..96].iter().all(|v| v.is_nan()));
        for kernels in all_kernels() {
            let out = call.run(&kernels, &Pool::new(1), None);
            assert!(out[..96].iter().all(|v| v.is_nan()), "{}", kernels.isa());
            assert_eq!(out[96..], [0.0; 32], "{}", kernels.isa());
        }
    }
}
