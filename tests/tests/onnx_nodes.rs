//! Nodes of ONNX models that have no native form: ONNX Runtime computes them within a plan.
//!
//! Expected values: `golden/onnx_models.py`.

use limbeck::BackendKind;
use limbeck_tests::onnx_cases::{Plan, calls, compare};
use limbeck_tests::onnx_runtime;

/// Compiles a case, holds the reasons of its segments to these words, and compares its calls.
fn check(case: &str, wanted: &[&str], native: &[&str]) {
    if onnx_runtime().is_none() {
        return;
    }
    for passes in [false, true] {
        let (plan, segments) = Plan::with(case, |options| options.passes = passes);
        let reasons: Vec<&str> = segments.iter().map(|s| s.reason.as_str()).collect();
        let reasons = reasons.join("; ");
        for words in wanted {
            assert!(reasons.contains(words), "{case}: {words:?} is not in {reasons}");
        }
        for words in native {
            assert!(!reasons.contains(words), "{case}: {words:?} is in {reasons}");
        }
        for backend in [BackendKind::Fake, BackendKind::Cpu] {
            let model = plan.open(backend, 2);
            for (number, (inputs, outputs)) in calls(case).iter().enumerate() {
                let case = format!("{case}, call {number}, passes {passes}, {backend:?}");
                compare(&model, inputs, outputs, &case);
            }
        }
    }
}

#[test]
fn nodes_without_a_native_form_are_segments() {
    let wanted = [
        "no native operator Celu",
        "(Tan)",
        "(BitwiseAnd)",
        "condition is not known",
        "(NonZero)",
        "of which only ONNX Runtime knows the sizes",
        "(ReduceSum)",
    ];
    check("segments", &wanted, &["(Relu)", "(MatMul)", "(Where)"]);
}

/// Operators that only ONNX Runtime has, which no shape rule is known for.
#[test]
fn attention_over_a_cache_and_mixtures_are_segments() {
    let wanted = ["com.microsoft.GroupQueryAttention", "com.microsoft.MoE"];
    check("runtimes_own", &wanted, &["(Tanh)", "(MatMul)"]);
}

#[test]
fn forms_that_only_onnx_runtime_has_are_segments() {
    let wanted =
        ["(TopK)", "(ScatterND)", "(Resize)", "(Conv)", "(Loop)", "(Scan)", "(com.microsoft.QMoE)"];
    check("only_runtime", &wanted, &["(Tanh)", "(MatMul)"]);
}

/// Values that a model calls as its segments call what goes in and out.
#[test]
fn names_of_values_do_not_meet_those_of_segments() {
    check("taken_names", &["(Celu)", "(If)"], &["(Relu)", "(Less)"]);
}
