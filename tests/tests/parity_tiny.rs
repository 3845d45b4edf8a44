//! Tiny seeded checkpoints against PyTorch, on every backend, with and without the passes.
//!
//! Expected values: `golden/tiny_text.py` (transformers, eager attention).

use limbeck::plan::{Op, OperandKind, Values};
use limbeck::{BackendKind, Encoder, EncoderInput, KvFormat, SessionOptions};
use limbeck_compiler::Quant;
use limbeck_tests::{Compiled, Npz, all_logits, backends, golden, linears, relative_error};

const DECODERS: &[&str] = &["llama", "llama_bias", "llama_linear", "llama_yarn", "qwen2", "qwen3"];
const ENCODERS: &[&str] = &["bert", "bert_cls"];
/// Those that quantise activations alike.
const BACKENDS: [BackendKind; 2] = [BackendKind::Fake, BackendKind::Cpu];

fn each_plan(name: &str, check: impl Fn(&str, limbeck::Model)) {
    let source = golden().join("tiny").join(name);
    for passes in [false, true] {
        let plan = Compiled::new(&source, Quant::F32, passes);
        for backend in backends() {
            check(&format!("{name}, passes {passes}, {backend:?}"), plan.open(backend, 2));
        }
    }
}

#[test]
fn decoders_give_the_logits_of_transformers() {
    for name in DECODERS {
        let mut expected = Npz::open(&golden().join("tiny").join(name).join("expected.npz"));
        let (_, ids) = expected.ids("input_ids");
        let (_, logits) = expected.floats("logits");
        each_plan(name, |case, model| {
            let options = SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() };
            let error = relative_error(&all_logits(&model, &ids, options), &logits);
            assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
        });
    }
}

/// An encoder's golden: what it takes, and what it gives.
struct Encodings {
    ids: Vec<u32>,
    mask: Vec<u32>,
    positions: Vec<u32>,
    hidden: Vec<f32>,
    embedding: Vec<f32>,
}

impl Encodings {
    fn open(name: &str) -> Encodings {
        let mut expected = Npz::open(&golden().join("tiny").join(name).join("expected.npz"));
        let (shape, ids) = expected.ids("input_ids");
        let (_, mask) = expected.ids("attention_mask");
        let (_, hidden) = expected.floats("last_hidden_state");
        let (_, embedding) = expected.floats("embedding");
        Encodings { ids, mask, positions: (0..shape[1] as u32).collect(), hidden, embedding }
    }

    /// Hidden states and embeddings that a model gives. As the golden, they have zeros where the mask
    /// has.
    fn of(&self, model: &limbeck::Model) -> (Vec<f32>, Vec<f32>) {
        let tokens = self.positions.len();
        let inputs: Vec<EncoderInput<'_>> = (self.ids.chunks(tokens).zip(self.mask.chunks(tokens)))
            .map(|(ids, mask)| EncoderInput {
                ids,
                positions: &self.positions,
                keys: mask.iter().filter(|m| **m == 1).count(),
            })
            .collect();
        let (mut hidden, mut embedding) = (Vec::new(), Vec::new());
        let mut encoder = Encoder::new(model).expect("an encoder");
        let usage = encoder.encode(&inputs, |i, e| {
            let cols = e.last_hidden_state.len() / tokens;
            let mut rows = e.last_hidden_state.to_vec();
            rows[inputs[i].keys * cols..].fill(0.0);
            hidden.extend(rows);
            embedding.extend_from_slice(e.embedding);
        });
        usage.expect("an encoding");
        (hidden, embedding)
    }
}

#[test]
fn encoders_give_the_hidden_states_and_embeddings_of_transformers() {
    for name in ENCODERS {
        let expected = Encodings::open(name);
        each_plan(name, |case, model| {
            let (hidden, embedding) = expected.of(&model);
            for (what, found, expected) in [
                ("hidden", &hidden, &expected.hidden),
                ("embedding", &embedding, &expected.embedding),
            ] {
                let error = relative_error(found, expected);
                assert!(error <= 1e-4, "{case}: {what}: relative error {error:.2e}");
            }
        });
    }
}

#[test]
fn precise_plans_take_every_activation_in_two_parts() {
    let (expected, source) = (Encodings::open("bert"), golden().join("tiny/bert"));
    // Weights in 4 bits lose much more than activations in 8.
    for (quant, most) in [(Quant::Q8, 0.9), (Quant::Q4, 1.05)] {
        let of = |plan: &Compiled| {
            let models = BACKENDS.map(|backend| plan.open(backend, 2));
            let [a, b] = models.each_ref().map(|model| expected.of(model).0);
            let apart = relative_error(&a, &b);
            assert!(apart <= 1e-4, "{quant}: backends are {apart:.2e} apart");
            let program = models[0].plan().program().clone();
            (relative_error(&a, &expected.hidden), program)
        };
        let (error, mut program) = of(&Compiled::precise(&source, quant));
        assert!(linears(&mut program).iter().all(|linear| linear.precise), "{quant}");
        let (in_one, mut program) = of(&Compiled::new(&source, quant, true));
        assert!(linears(&mut program).iter().any(|linear| !linear.precise), "{quant}");
        assert!(error < most * in_one, "{quant}: {error:.2e} in two parts, {in_one:.2e} in one");
    }
}

#[test]
fn encoders_in_8_bits_are_equalised_and_stay_near_on_every_backend() {
    let expected = Encodings::open("bert");
    let plan = Compiled::new(&golden().join("tiny/bert"), Quant::Q8, true);
    let models = BACKENDS.iter().map(|backend| plan.open(*backend, 2));
    let found: Vec<_> = models.map(|model| (expected.of(&model).0, model)).collect();
    for (hidden, _) in &found {
        let error = relative_error(hidden, &expected.hidden);
        assert!((1e-4..0.02).contains(&error), "relative error {error:.2e}");
    }
    let apart = relative_error(&found[0].0, &found[1].0);
    assert!(apart < 2e-3, "backends are {apart:.2e} apart");
    let program = found[0].1.plan().program();
    let entry = &program.entries[0];
    let mut seen = [0; 2];
    for step in entry.steps() {
        let Op::Linear(linear) = &step.op else { continue };
        let stream = entry.steps().any(|other| {
            matches!(other.op, Op::Norm(_)) && other.outputs.first() == step.inputs.first()
        });
        assert_eq!((linear.factors, linear.precise), (stream, false), "{}", step.name);
        let OperandKind::Weight(weight) = entry.operands[step.inputs[1]].kind else { panic!() };
        let weight = &program.weights[weight];
        let wide = weight.cols == 64;
        assert_eq!(weight.format.values, if wide { Values::Q8w } else { Values::Q8 });
        seen[usize::from(wide)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
