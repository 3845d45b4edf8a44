//! A student with sites: the tiny BERT with each MLP as an ACM of two learners, whose full width is
//! the original MLP.

use std::path::PathBuf;

use limbeck::{
    BackendKind, Budget, Encoder, EncoderInput, Engine, EngineOptions, ErrorKind, Limits, Model,
    Usage,
};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::checkpoint::{Tensors, read, write};
use limbeck_tests::{Compiled, golden, relative_error};

const HIDDEN: usize = 32;
const INNER: usize = 64;
const LEARNERS: usize = 2;

fn source() -> PathBuf {
    golden().join("tiny/bert")
}

/// ACMs of the original MLPs, under gates that tell rows apart.
fn overlay() -> Tensors {
    let original = read(&source().join("model.safetensors"));
    let mut tensors = Tensors::new();
    for layer in 0..2 {
        let of = |part: &str| {
            let name = format!("encoder.layer.{layer}.{part}");
            original.get(&name).unwrap_or_else(|| panic!("{name}")).1.clone()
        };
        let (down, bias) = (of("output.dense.weight"), of("output.dense.bias"));
        let w2 = (0..INNER * HIDDEN).map(|i| down[i % HIDDEN * INNER + i / HIDDEN]).collect();
        let mut bk = vec![0.0; HIDDEN];
        bk.extend(bias.iter().map(|b| b * 0.5));
        bk.extend(bias);
        let gate: Vec<f32> =
            (0..(LEARNERS + 1) * HIDDEN).map(|i| ((i * 37 % 101) as f32 - 50.0) / 150.0).collect();
        let mut add = |name: &str, shape: &[usize], values: Vec<f32>| {
            tensors.insert(format!("layers.{layer}.{name}"), (shape.to_vec(), values));
        };
        add("acm.w1", &[INNER, HIDDEN], of("intermediate.dense.weight"));
        add("acm.b1", &[INNER], of("intermediate.dense.bias"));
        add("acm.w2", &[INNER, HIDDEN], w2);
        add("acm.bk", &[LEARNERS + 1, HIDDEN], bk);
        add("gate.weight", &[LEARNERS + 1, HIDDEN], gate);
        add("gate.bias", &[LEARNERS + 1], vec![0.0, -0.2, -0.4]);
    }
    tensors
}

struct Student {
    folder: tempfile::TempDir,
}

impl Student {
    fn new(quant: Quant, passes: bool) -> Student {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(&folder.path().join("acm"), &overlay());
        let plan = folder.path().join("student.lbk");
        let overlays = vec![folder.path().join("acm")];
        let options = Options { passes, overlays, ..Options::new(source(), plan, quant) };
        compile(&options, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{e}"));
        Student { folder }
    }

    fn open(&self, backend: BackendKind, threads: usize) -> Model {
        let engine = Engine::new(EngineOptions { backend, threads, ..EngineOptions::default() })
            .expect("an engine");
        engine.open(self.folder.path().join("student.lbk")).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Three sequences of different lengths.
fn sentences() -> [Vec<u32>; 3] {
    [9, 1, 17].map(|n| (0..n).map(|i| (i * 53 + n * 7) % 200).collect())
}

struct Found {
    usage: Usage,
    hidden: Vec<f32>,
    embeddings: Vec<f32>,
    route: Vec<i32>,
}

fn encode(
    model: &Model,
    sentences: &[Vec<u32>],
    price: f32,
    route: Option<Vec<i32>>,
) -> limbeck::Result<Found> {
    let positions: Vec<u32> = (0..40).collect();
    let inputs: Vec<EncoderInput<'_>> = sentences
        .iter()
        .map(|ids| EncoderInput { ids, positions: &positions[..ids.len()], keys: ids.len() })
        .collect();
    let mut encoder = Encoder::new(model)?;
    encoder.control().set_budget(Budget::Price(price.into()), Limits::default())?;
    route.into_iter().for_each(|route| encoder.force_route(route));
    let (mut hidden, mut embeddings) = (Vec::new(), Vec::new());
    let usage = encoder.encode(&inputs, |_, encoded| {
        hidden.extend_from_slice(encoded.last_hidden_state);
        embeddings.extend_from_slice(encoded.embedding);
    })?;
    Ok(Found { usage, hidden, embeddings, route: encoder.route().to_vec() })
}

const PRICES: [f32; 4] = [0.0, 0.05, 0.3, 1e9];
const TOKENS: usize = 27;

#[test]
fn backends_and_passes_agree_on_choices_and_results() {
    let (plain, fused) = (Student::new(Quant::F32, false), Student::new(Quant::F32, true));
    let truth = plain.open(BackendKind::Fake, 1);
    for model in [fused.open(BackendKind::Fake, 1), fused.open(BackendKind::Cpu, 2)] {
        for price in PRICES {
            let want = encode(&truth, &sentences(), price, None).unwrap();
            let found = encode(&model, &sentences(), price, None).unwrap();
            assert_eq!(found.route, want.route, "price {price}");
            assert!(relative_error(&found.hidden, &want.hidden) < 1e-5, "price {price}");
            assert_eq!(found.usage.site_fraction, want.usage.site_fraction);
        }
    }
}

#[test]
fn a_higher_price_spends_less_and_an_endless_one_nothing() {
    let model = Student::new(Quant::F32, true).open(BackendKind::Cpu, 1);
    let mut last = 1.0;
    for price in PRICES {
        let found = encode(&model, &sentences(), price, None).unwrap();
        let usage = found.usage;
        let chosen: i32 = found.route.iter().sum();
        let share = f64::from(chosen) / (2 * TOKENS * LEARNERS) as f64;
        assert!((usage.site_fraction.unwrap() - share).abs() < 1e-12);
        assert!(share <= last && usage.fraction <= 1.0);
        for (site, route) in usage.sites.iter().zip(found.route.chunks_exact(TOKENS)) {
            for (k, count) in site.histogram.iter().enumerate() {
                let chose = route.iter().filter(|c| **c == k as i32).count();
                assert_eq!(*count, chose as u64, "{} choice {k}", site.name);
            }
        }
        last = share;
    }
    assert_eq!(last, 0.0);
    let dear = encode(&model, &sentences(), 1e9, None).unwrap().usage;
    let full = encode(&model, &sentences(), 0.0, Some(vec![2; 2 * TOKENS])).unwrap().usage;
    assert_eq!((full.fraction, full.site_fraction), (1.0, Some(1.0)));
    assert_eq!(full.macs - dear.macs, full.site_full_macs);
    // Both matrices of both layers, in f32.
    assert!(full.bytes - dear.bytes >= (2 * 2 * INNER * HIDDEN * 4) as u64);
}

#[test]
fn the_largest_choices_are_the_original_student() {
    for quant in [Quant::F32, Quant::F16] {
        let plain = Compiled::new(&source(), quant, true).open(BackendKind::Cpu, 1);
        let acm = Student::new(quant, true).open(BackendKind::Cpu, 1);
        let want = encode(&plain, &sentences(), 0.0, None).unwrap();
        let found = encode(&acm, &sentences(), 0.3, Some(vec![2; 2 * TOKENS])).unwrap();
        assert!(want.route.is_empty() && want.usage.site_fraction.is_none());
        assert_eq!(found.hidden, want.hidden, "{quant}");
    }
}

#[test]
fn neighbours_and_threads_change_no_choice_and_no_bit() {
    for quant in [Quant::F32, Quant::F16, Quant::Q8, Quant::Q4] {
        let student = Student::new(quant, true);
        let model = student.open(BackendKind::Cpu, 1);
        let all = encode(&model, &sentences(), 0.1, None).unwrap();
        let threads = encode(&student.open(BackendKind::Cpu, 3), &sentences(), 0.1, None).unwrap();
        assert_eq!((&threads.route, &threads.hidden), (&all.route, &all.hidden), "{quant}");
        let mut first = 0;
        for sentence in sentences() {
            let rows = first..first + sentence.len();
            let one = encode(&model, &[sentence], 0.1, None).unwrap();
            let values = rows.start * HIDDEN..rows.end * HIDDEN;
            assert_eq!(one.hidden, all.hidden[values], "{quant}");
            for (one, all) in one.route.chunks_exact(rows.len()).zip(all.route.chunks_exact(TOKENS))
            {
                assert_eq!(one, &all[rows.clone()], "{quant}");
            }
            first = rows.end;
        }
    }
}

#[test]
fn a_route_can_be_replayed_and_a_wrong_one_is_refused() {
    let student = Student::new(Quant::Q8, true);
    for backend in [BackendKind::Cpu, BackendKind::Fake] {
        let model = student.open(backend, 1);
        let made = encode(&model, &sentences(), 0.1, None).unwrap();
        let again = encode(&model, &sentences(), 0.0, Some(made.route.clone())).unwrap();
        assert_eq!((&again.route, &again.embeddings), (&made.route, &made.embeddings));
        // What is left free is chosen by the gate.
        let free = encode(&model, &sentences(), 0.1, Some(vec![-1; 2 * TOKENS])).unwrap();
        assert_eq!(free.route, made.route);
        let refuse = |route: Vec<i32>| {
            let error = encode(&model, &sentences(), 0.1, Some(route)).err().expect("an error");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            error.to_string()
        };
        let mut bad = made.route.clone();
        bad[TOKENS + 3] = 3;
        let message = refuse(bad.clone());
        assert!(message.contains("layers.1.acm") && message.contains('3'), "{message}");
        bad[TOKENS + 3] = -2;
        assert!(refuse(bad).contains("-2"));
        assert!(refuse(vec![0; 5]).contains("5 choices"));
        for price in [f32::NAN, -1.0, f32::INFINITY] {
            assert!(encode(&model, &sentences(), price, None).is_err());
        }
    }
}

#[test]
fn overlays_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refuse = |name: &str, tensors: Option<Tensors>| {
        let overlay = folder.path().join(name);
        std::fs::create_dir_all(&overlay).expect("a folder");
        tensors.into_iter().for_each(|tensors| write(&overlay, &tensors));
        let plan = folder.path().join("student.lbk");
        let options =
            Options { overlays: vec![overlay], ..Options::new(source(), plan.clone(), Quant::F32) };
        let error = compile(&options, &mut |_, _, _| {}).expect_err(name).to_string();
        assert!(!plan.exists());
        error
    };
    let change = |edit: &dyn Fn(&mut Tensors)| {
        let mut tensors = overlay();
        edit(&mut tensors);
        Some(tensors)
    };
    let empty = refuse("empty", None);
    assert!(empty.contains("empty") && empty.contains("no model.safetensors"), "{empty}");
    let name = "encoder.layer.0.output.dense.bias";
    let both = refuse("both", change(&|t| drop(t.insert(name.into(), (vec![1], vec![0.0])))));
    assert!(both.contains("both") && both.contains(name), "{both}");
    let missing = refuse("missing", change(&|t| drop(t.remove("layers.1.acm.bk"))));
    assert!(missing.contains("layers.1.acm.bk"), "{missing}");
    let unknown = refuse(
        "unknown",
        change(&|t| drop(t.insert("layers.0.lora".into(), (vec![1], vec![0.0])))),
    );
    assert!(unknown.contains("layers.0.lora"), "{unknown}");
    let few = refuse(
        "few",
        change(&|t| drop(t.insert("layers.0.acm.bk".into(), (vec![4, HIDDEN], vec![0.0; 128])))),
    );
    assert!(few.contains("gate.weight"), "{few}");
}
