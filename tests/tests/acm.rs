//! Adaptive Computation Modules against PyTorch, which computes every learner for every token and
//! takes the sum of the first that the gate chooses.
//!
//! Expected values: `golden/acm.py`. Numbers are compared under its routes; a choice that is left
//! free may be another only where its two best scores are nearly the same.

use limbeck::plan::{PackFormat, Values};
use limbeck::{
    BackendKind, Budget, Classifier, Control, Encoder, EncoderInput, Engine, EngineOptions,
    KvFormat, Limits, Model, SessionOptions, Wanted, Work,
};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::{Compiled, Npz, backends, golden, relative_error};

const BACKENDS: &[BackendKind] = &[BackendKind::Fake, BackendKind::Cpu];
/// Scores that are nearer to one another than this may change places.
const NEAR: f32 = 1e-3;

/// What PyTorch gives at one price.
struct Expected {
    price: f32,
    outputs: Vec<f32>,
    choices: Vec<i32>,
    margins: Vec<f32>,
}

/// Outputs and choices of one run.
struct Found {
    outputs: Vec<f32>,
    route: Vec<i32>,
}

fn npz(name: &str) -> Npz {
    Npz::open(&golden().join("acm").join(name).join("expected.npz"))
}

fn expected(name: &str) -> Vec<Expected> {
    let mut npz = npz(name);
    let (_, prices) = npz.floats("prices");
    let at_price = |(i, price): (usize, f32)| Expected {
        price,
        outputs: npz.floats(&format!("outputs_{i}")).1,
        choices: npz.ids(&format!("choices_{i}")).1.into_iter().map(|k| k as i32).collect(),
        margins: npz.floats(&format!("margins_{i}")).1,
    };
    prices.into_iter().enumerate().map(at_price).collect()
}

fn compiled(name: &str, quant: Quant, passes: bool) -> Compiled {
    Compiled::new(&golden().join("acm").join(name), quant, passes)
}

fn set_price(control: &Control, price: f32) {
    control.set_budget(Budget::Price(price.into()), Limits::default()).expect("a price");
}

fn decode(model: &Model, ids: &[u32], price: f32, route: Option<Vec<i32>>) -> Found {
    let options = SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() };
    let mut session = model.session(options).expect("a session");
    set_price(&session.control(), price);
    route.into_iter().for_each(|route| session.force_route(route));
    let sequence = session.sequence();
    let mut outputs = Vec::new();
    let work = [Work { sequence, tokens: ids, wanted: Wanted::All }];
    session.step(&work, |_, row| outputs.extend_from_slice(row)).expect("a step");
    Found { outputs, route: session.route().to_vec() }
}

fn encode(model: &Model, rows: &[Vec<u32>], price: f32, route: Option<Vec<i32>>) -> Found {
    let positions: Vec<u32> = (0..64).collect();
    let inputs: Vec<EncoderInput<'_>> = rows
        .iter()
        .map(|ids| EncoderInput { ids, positions: &positions[..ids.len()], keys: ids.len() })
        .collect();
    let mut encoder = Encoder::new(model).expect("an encoder");
    set_price(&encoder.control(), price);
    route.into_iter().for_each(|route| encoder.force_route(route));
    let mut outputs = Vec::new();
    encoder.encode(&inputs, |_, e| outputs.extend_from_slice(e.last_hidden_state)).expect("a call");
    Found { outputs, route: encoder.route().to_vec() }
}

/// Compares every backend, with and without the passes, at every price.
fn check(name: &str, run: impl Fn(&Model, f32, Option<Vec<i32>>) -> Found) {
    for passes in [false, true] {
        let plan = compiled(name, Quant::F32, passes);
        for backend in backends() {
            let model = plan.open(backend, 2);
            let (mut other, mut all) = (0, 0);
            for want in expected(name) {
                let case = format!("{name}, passes {passes}, {backend:?}, price {}", want.price);
                // The price is another one: only the route may decide.
                let forced = run(&model, want.price + 0.3, Some(want.choices.clone()));
                assert_eq!(forced.route, want.choices, "{case}");
                let error = relative_error(&forced.outputs, &want.outputs);
                assert!(error <= 1e-4, "{case}: relative error {error:.2e}");
                let free = run(&model, want.price, None);
                assert_eq!(free.route.len(), want.choices.len(), "{case}");
                for (i, k) in free.route.iter().enumerate() {
                    let near = want.margins[i] < NEAR;
                    assert!(*k == want.choices[i] || near, "{case}: choice {i} is {k}");
                    other += usize::from(*k != want.choices[i]);
                }
                all += free.route.len();
            }
            println!("{name}, passes {passes}, {backend:?}: {other} of {all} choices differ");
            assert!(other * 1000 <= all, "{name}: {other} of {all} choices differ");
        }
    }
}

#[test]
fn decoders_give_the_logits_of_the_sum() {
    for name in ["decoder", "decoder_affine"] {
        let (_, ids) = npz(name).ids("input_ids");
        check(name, |model, price, route| decode(model, &ids, price, route));
    }
}

#[test]
fn encoders_give_the_hidden_states_of_the_sum() {
    let (shape, ids) = npz("bert").ids("input_ids");
    let rows: Vec<Vec<u32>> = ids.chunks(shape[1]).map(<[u32]>::to_vec).collect();
    check("bert", |model, price, route| encode(model, &rows, price, route));
}

fn classify(model: &Model, pixels: &[f32], price: f32, route: Option<Vec<i32>>) -> Found {
    let mut classifier = Classifier::new(model).expect("a classifier");
    set_price(&classifier.control(), price);
    route.into_iter().for_each(|route| classifier.force_route(route));
    let (outputs, _) = classifier.classify(pixels).expect("a call");
    Found { outputs, route: classifier.route().to_vec() }
}

#[test]
fn classifiers_give_the_logits_of_the_sum() {
    for name in ["vit", "vit_gelu"] {
        let (_, pixels) = npz(name).floats("pixel_values");
        check(name, |model, price, route| classify(model, &pixels, price, route));
    }
}

#[test]
fn a_dense_vision_transformer_gives_its_logits() {
    let mut npz = npz("vit_dense");
    let (_, pixels) = npz.floats("pixel_values");
    let (_, logits) = npz.floats("logits");
    for passes in [false, true] {
        let plan = compiled("vit_dense", Quant::F32, passes);
        for &backend in BACKENDS {
            let found = classify(&plan.open(backend, 2), &pixels, 0.0, None);
            let error = relative_error(&found.outputs, &logits);
            assert!(error <= 1e-4, "passes {passes}, {backend:?}: relative error {error:.2e}");
            assert!(found.route.is_empty());
        }
    }
}

#[test]
fn quantised_plans_follow_the_same_routes() {
    for (name, q8, q4) in [("decoder", 0.15, 0.9), ("decoder_affine", 0.15, 0.9)] {
        let (_, ids) = npz(name).ids("input_ids");
        for (quant, most) in [(Quant::Q8, q8), (Quant::Q4, q4)] {
            let plan = compiled(name, quant, true);
            let [fake, cpu] = [BackendKind::Fake, BackendKind::Cpu].map(|b| plan.open(b, 2));
            for want in expected(name) {
                let [fake, cpu] = [&fake, &cpu]
                    .map(|model| decode(model, &ids, want.price, Some(want.choices.clone())));
                let error = relative_error(&cpu.outputs, &want.outputs);
                println!("{name} {quant}, price {}: relative error {error:.3}", want.price);
                assert!(error < most, "{name} {quant}: relative error {error:.3}");
                // Sums in another order round some activations to the other neighbour of 127 steps.
                let apart = relative_error(&cpu.outputs, &fake.outputs);
                assert!(apart < 2e-2, "{name} {quant}: backends are {apart:.4} apart");
            }
        }
    }
}

/// The formats of the weights of a decoder's gates: inner layers and last ones.
fn gate_formats(plan: &Compiled) -> Vec<PackFormat> {
    let model = plan.open(BackendKind::Cpu, 1);
    let program = model.plan().program();
    let weights = program.weights.iter().filter(|w| w.name.contains("acm.gate"));
    weights.map(|w| w.format).collect()
}

#[test]
fn gates_stay_f32_and_fold_to_one_when_asked() {
    let source = golden().join("acm/decoder");
    let plan = compiled("decoder", Quant::Q4, true);
    let formats = gate_formats(&plan);
    // Seven gates of three linears, weights and biases.
    assert_eq!(formats.len(), 42);
    assert!(formats.iter().all(|f| f.values == Values::F32));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("folded.lbk");
    let options = Options { fold_gates: true, ..Options::new(source, &path, Quant::F32) };
    compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
    let model = Engine::new(EngineOptions::default()).expect("an engine").open(&path);
    let model = model.unwrap_or_else(|e| panic!("{e}"));
    let folded = model.plan().program().weights.iter().filter(|w| w.name.contains("acm.gate"));
    assert_eq!(folded.clone().count(), 14);
    assert!(folded.clone().all(|w| w.format.values == Values::F32));
    let (_, ids) = npz("decoder").ids("input_ids");
    for want in expected("decoder") {
        let found = decode(&model, &ids, want.price, None);
        let same = |i: usize| found.route[i] == want.choices[i] || want.margins[i] < NEAR;
        assert!((0..found.route.len()).all(same), "price {}", want.price);
        assert!(relative_error(&found.outputs, &want.outputs) <= 1e-4);
    }
}
