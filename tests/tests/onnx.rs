//! ONNX models of each family of operators against ONNX Runtime, on every backend, with passes and
//! without.
//!
//! Expected values: `golden/onnx_models.py`.

use limbeck::plan::{DType, OperandKind};
use limbeck::{BackendKind, Forward, SessionOptions, TensorData, TensorValues, TensorView};
use limbeck_compiler::{Prefer, Quant, export};
use limbeck_tests::onnx_cases::{Golden, Plan, Values, calls, compare, path, read_calls, run};
use limbeck_tests::{adapter, onnx_check, onnx_runtime, run_onnx_runtime};

const CASES: &[&str] = &[
    "attention",
    "casts",
    "contrib",
    "conv",
    "corners",
    "edges",
    "elementwise",
    "every_op",
    "exported",
    "gated",
    "gather",
    "images",
    "images_known",
    "integers",
    "layout",
    "long_sums",
    "norms",
    "norms_21",
    "not_attention",
    "not_norms",
    "open_sizes",
    "ordered",
    "outputs",
    "products",
    "quantised",
    "quantised_linear",
    "recurrent",
    "reductions",
    "reductions_11",
    "rotary",
    "written_out",
];

const BACKENDS: &[BackendKind] = &[BackendKind::Fake, BackendKind::Cpu];

#[test]
fn operators_give_what_onnx_runtime_does() {
    for case in CASES {
        for passes in [false, true] {
            let plan = Plan::new(case, passes, &[]);
            for &backend in BACKENDS {
                let model = plan.open(backend, 2);
                for (number, (inputs, outputs)) in calls(case).iter().enumerate() {
                    let case = format!("{case}, call {number}, passes {passes}, {backend:?}");
                    compare(&model, inputs, outputs, &case);
                }
            }
        }
    }
}

#[test]
fn operators_give_the_same_on_gpus() {
    if !adapter() {
        return;
    }
    for case in CASES {
        for passes in [false, true] {
            let model = Plan::new(case, passes, &[]).open(BackendKind::Wgpu, 0);
            for (number, (inputs, outputs)) in calls(case).iter().enumerate() {
                let case = format!("{case}, call {number}, passes {passes}, a GPU");
                compare(&model, inputs, outputs, &case);
            }
        }
    }
}

#[test]
fn what_is_exported_and_imported_again_gives_the_same() {
    for case in CASES {
        let plan = Plan::new(case, true, &[]);
        let bytes = std::fs::read(plan.path()).expect("a plan file");
        let parsed = limbeck::plan::Plan::parse(&bytes).expect("a plan");
        let folder = tempfile::tempdir().expect("a temporary folder");
        export(&parsed, &bytes, folder.path()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let model = folder.path().join("model.onnx");
        onnx_check(&model);
        let again = Plan::of(&model, |options| options.quant = Quant::F32).0;
        let model = again.open(BackendKind::Cpu, 2);
        for (inputs, outputs) in &calls(case) {
            compare(&model, inputs, outputs, case);
        }
    }
}

#[test]
fn calls_of_other_sizes_follow_each_other() {
    for case in CASES {
        let model = Plan::new(case, true, &[]).open(BackendKind::Cpu, 2);
        let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
        let calls = calls(case);
        for (inputs, outputs) in calls.iter().chain(&calls) {
            let views: Vec<TensorView<'_>> = inputs.iter().map(Golden::view).collect();
            let (found, usage) = forward.run(&views).unwrap_or_else(|e| panic!("{case}: {e}"));
            for expected in outputs {
                let found = found.iter().find(|tensor| tensor.name == expected.name);
                expected.compare(found.expect("an output"), case);
            }
            assert_eq!(usage.fraction, 1.0);
        }
    }
}

/// A call of nothing gives nothing, of the shapes that a call of something gives.
#[test]
fn calls_of_no_rows_give_no_rows() {
    let mut backends = BACKENDS.to_vec();
    if adapter() {
        backends.push(BackendKind::Wgpu);
    }
    for case in ["elementwise", "conv", "norms", "products"] {
        let (inputs, outputs) = &calls(case)[0];
        let plan = Plan::new(case, true, &[]);
        for &backend in &backends {
            empty_call(&plan, backend, (inputs, outputs), case);
        }
    }
    if onnx_runtime().is_some() {
        let (inputs, outputs) = &calls("conv")[0];
        let (plan, _) = Plan::with("conv", |options| options.prefer = Prefer::Onnx);
        empty_call(&plan, BackendKind::Cpu, (inputs, outputs), "conv, --prefer onnx");
    }
}

#[test]
fn pools_of_no_images_give_no_images() {
    let (inputs, outputs) = &calls("images")[0];
    let plan = Plan::new("images", true, &[]);
    for &backend in BACKENDS {
        empty_call(&plan, backend, (inputs, outputs), "images");
    }
}

/// Calls a plan with 0 for the size `n`, which is the first of inputs and outputs.
fn empty_call(
    plan: &Plan,
    backend: BackendKind,
    (inputs, outputs): (&[Golden], &[Golden]),
    case: &str,
) {
    let case = format!("{case}, {backend:?}");
    let bytes = std::fs::read(plan.path()).expect("a plan file");
    let parsed = limbeck::plan::Plan::parse(&bytes).expect("a plan");
    let entry = &parsed.program().entries[0];
    let is_of_n = |name: &str| {
        let mut operands = entry.operands.iter().filter(|operand| operand.name == name);
        let first = operands.next().and_then(|operand| operand.fact.shape.first());
        first.is_some_and(|dim| *dim == limbeck::plan::Dim::symbol("n"))
    };
    let empty = |golden: &Golden| {
        let shape = [&[0], &golden.shape[1..]].concat();
        let values = match golden.values {
            Values::Floats(_) => Values::Floats(Vec::new()),
            Values::Integers(_) => Values::Integers(Vec::new()),
        };
        Golden { name: golden.name.clone(), shape, values }
    };
    let given: Vec<Golden> = inputs.iter().filter(|g| is_of_n(&g.name)).map(empty).collect();
    assert!(!given.is_empty(), "{case}");
    let others = inputs.iter().filter(|g| !is_of_n(&g.name));
    let views: Vec<TensorView<'_>> = given.iter().chain(others).map(Golden::view).collect();
    let model = plan.open(backend, 2);
    let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
    let (found, _) = forward.run(&views).unwrap_or_else(|e| panic!("{case}: {e}"));
    let mut compared = 0;
    for expected in outputs.iter().filter(|g| is_of_n(&g.name)) {
        let tensor = found.iter().find(|tensor| tensor.name == expected.name);
        empty(expected).compare(tensor.expect("an output"), &case);
        compared += 1;
    }
    assert!(compared > 0, "{case}");
}

#[test]
fn threads_change_no_bit() {
    for case in CASES {
        let plan = Plan::new(case, true, &[]);
        let (inputs, _) = &calls(case)[0];
        let alone = run(&plan.open(BackendKind::Cpu, 1), inputs);
        for threads in [2, 3] {
            let found = run(&plan.open(BackendKind::Cpu, threads), inputs);
            for (a, b) in alone.iter().zip(&found) {
                let same = match (&a.values, &b.values) {
                    (TensorValues::F32(a), TensorValues::F32(b)) => {
                        a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
                    }
                    (a, b) => a == b,
                };
                assert!(same, "{case}, {threads} threads, output {}", a.name);
            }
        }
    }
}

#[test]
fn a_fixed_input_chooses_a_branch() {
    for (number, rate) in [16.0, 8.0].into_iter().enumerate() {
        let model = Plan::new("branches", true, &[("rate", rate)]).open(BackendKind::Cpu, 1);
        let (inputs, outputs) = &calls("branches")[number];
        let views = inputs.iter().filter(|i| i.name != "rate").map(Golden::view);
        let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
        let (found, _) = forward.run(&views.collect::<Vec<_>>()).expect("a call");
        outputs[0].compare(&found[0], "branches");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    refused(BackendKind::Cpu, "id 11");
    if adapter() {
        refused(BackendKind::Wgpu, "index 11");
    }
}

/// `outside_table` are words of the message for an id that a table has not.
fn refused(backend: BackendKind, outside_table: &str) {
    let model = Plan::new("gather", true, &[]).open(backend, 1);
    let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
    let x = vec![0.5; 2 * 6 * 3];
    let ids = vec![1i64; 2 * 4];
    let view = |name, shape, data| TensorView { name, shape, data };
    let (good_x, good_ids) =
        (view("x", &[2, 6, 3], TensorData::F32(&x)), view("ids", &[2, 4], TensorData::I64(&ids)));
    assert!(forward.run(&[good_x, good_ids]).is_ok());
    let far = [i64::MAX; 8];
    let outside = [11i64; 8];
    for (message, inputs) in [
        ("no tensor \"ids\"", vec![good_x]),
        ("given twice", vec![good_x, good_x, good_ids]),
        ("takes no \"y\"", vec![good_x, good_ids, view("y", &[], TensorData::F32(&x[..1]))]),
        ("not that of f32[n, 6, 3]", vec![view("x", &[2, 3, 6], good_x.data), good_ids]),
        ("not that of f32[n, 6, 3]", vec![view("x", &[36], good_x.data), good_ids]),
        ("where", vec![good_x, view("ids", &[8, 1], good_ids.data)]),
        ("dtype f32", vec![good_x, view("ids", &[2, 4], TensorData::F32(&x[..8]))]),
        ("does not fit 32 bits", vec![good_x, view("ids", &[2, 4], TensorData::I64(&far))]),
        (outside_table, vec![good_x, view("ids", &[2, 4], TensorData::I64(&outside))]),
    ] {
        let error = forward.run(&inputs).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    // A call that failed leaves nothing behind.
    assert!(forward.run(&[good_x, good_ids]).is_ok());
}

/// Sizes that do not go together, or leave one below 0: the step and the sizes are named.
#[test]
fn sizes_that_no_call_has_are_refused_by_name() {
    let mut backends = BACKENDS.to_vec();
    if adapter() {
        backends.push(BackendKind::Wgpu);
    }
    type Sizes = &'static [(&'static str, u64)];
    let cases: [(&str, Sizes, &str); 3] = [
        ("open_sizes", &[("n", 4), ("m", 3)], "no size broadcast(m, n) where n is 4, m is 3"),
        (
            "corners",
            &[("k", 2), ("n", 2), ("depth", 4), ("channels", 3)],
            "no size (k - 3) where k is 2",
        ),
        ("corners", &[("k", 4), ("n", 2), ("depth", 5), ("channels", 3)], ""),
    ];
    for (case, sizes, message) in cases {
        let plan = Plan::new(case, true, &[]);
        let bytes = std::fs::read(plan.path()).expect("a plan file");
        let parsed = limbeck::plan::Plan::parse(&bytes).expect("a plan");
        let bind = |name: &str| sizes.iter().find(|(n, _)| *n == name).map(|(_, size)| *size);
        let inputs = parsed.program().entries[0].operands_of(OperandKind::Input);
        let given: Vec<Golden> = inputs
            .map(|(_, operand)| {
                let shape = operand.fact.shape.iter().map(|dim| dim.eval(&bind).expect("a size"));
                let shape: Vec<usize> = shape.map(|n| n as usize).collect();
                let count = shape.iter().product();
                let values = match operand.fact.dtype {
                    DType::F32 => Values::Floats(vec![0.5; count]),
                    DType::I32 => Values::Integers(vec![1; count]),
                };
                Golden { name: operand.name.clone(), shape, values }
            })
            .collect();
        let views: Vec<TensorView<'_>> = given.iter().map(Golden::view).collect();
        for &backend in &backends {
            let model = plan.open(backend, 2);
            let mut forward = Forward::new(&model, SessionOptions::default()).expect("a runner");
            let error = forward.run(&views).expect_err(case).to_string();
            assert!(error.contains("step \"n") && error.contains(message), "{backend:?}: {error}");
        }
    }
}

/// A model that passes as it is gives the bits that ONNX Runtime gives by itself.
#[test]
fn whole_models_in_onnx_runtime_give_its_bits() {
    if onnx_runtime().is_none() {
        return;
    }
    let others = [
        "branches",
        "integer_forms",
        "only_runtime",
        "runtimes_own",
        "said_sizes",
        "segments",
        "taken_names",
    ];
    for case in CASES.iter().chain(&others) {
        let (plan, segments) = Plan::with(case, |options| options.prefer = Prefer::Onnx);
        assert_eq!(segments.len(), 1, "{case}");
        let Some(expected) = run_onnx_runtime(&path(case, "onnx"), &path(case, "npz"), 2) else {
            return;
        };
        let model = plan.open(BackendKind::Cpu, 2);
        let expected = read_calls(&expected.path().join("out.npz"));
        for ((inputs, _), (_, outputs)) in calls(case).iter().zip(&expected) {
            let found = run(&model, inputs);
            assert_eq!(found.len(), outputs.len(), "{case}");
            for expected in outputs {
                let name = &expected.name;
                let found = found.iter().find(|tensor| tensor.name == *name);
                let found = found.unwrap_or_else(|| panic!("{case}: {name}"));
                assert_eq!(found.shape, expected.shape, "{case}, output {name}");
                match (&found.values, &expected.values) {
                    (TensorValues::F32(a), Values::Floats(b)) => {
                        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                        assert_eq!(bits(a), bits(b), "{case}, output {name}");
                    }
                    _ => expected.compare(found, case),
                }
            }
        }
    }
}
