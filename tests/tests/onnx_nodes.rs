//! Nodes of ONNX models that have no native form: ONNX Runtime computes them within a plan.
//!
//! Expected values: `golden/onnx_models.py`.

use limbeck::BackendKind;
use limbeck_compiler::{Options, Reason};
use limbeck_tests::onnx_cases::{Plan, calls, compare};
use limbeck_tests::onnx_runtime;

/// Compiles a case, holds the reasons of its segments to these words, and compares its calls.
fn check(case: &str, wanted: &[&str], native: &[&str]) {
    if onnx_runtime().is_none() {
        return;
    }
    for passes in [false, true] {
        let (plan, segments) = Plan::with(case, |options| options.passes = passes);
        let told = |r: &Reason| format!("{}: {}", r.reason, r.nodes.join(", "));
        let reasons: Vec<String> = segments.iter().flat_map(|s| &s.reasons).map(told).collect();
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

#[test]
fn forms_of_integers_that_only_onnx_runtime_has_are_segments() {
    let wanted = ["(ReduceMean)", "(MaxPool)", "(Pow)", "with this exponent"];
    check("integer_forms", &wanted, &["(Add)", "(Neg)"]);
}

#[test]
fn integers_that_wrap_at_8_bits_and_norms_over_no_axes_are_segments() {
    let wanted =
        ["(ReduceL1)", "(ReduceL2)", "(ReduceSumSquare)", "(Add)", "(Sub)", "(Mul)", "wrap"];
    check("alone", &wanted, &["(Where)", "(Pow)"]);
}

/// Values that a model calls as its segments call what goes in and out.
#[test]
fn names_of_values_do_not_meet_those_of_segments() {
    check("taken_names", &["(Celu)", "(If)"], &["(Relu)", "(Less)"]);
}

/// Integers that 32 bits hold and 24 do not, such as only move, and what does not fit.
#[test]
fn wide_integers_are_right_or_left_to_onnx_runtime() {
    check("wide_integers", &["may not fit 32 bits", "(Mul)"], &["(Add)", "(Slice)"]);
}

/// A node that is asked for gives what its native form would: what reads it stays native.
#[test]
fn what_reads_nodes_that_are_asked_for_stays_native() {
    if onnx_runtime().is_none() {
        return;
    }
    let cases = [
        ("images", "*_Conv"),
        ("conv", "*_Conv"),
        ("exported", "*MatMul*"),
        ("conv", "*_BatchNormalization"),
        ("norms", "*_BatchNormalization"),
        ("written_out", "*_InstanceNormalization"),
        ("norms", "*_Reshape"),
        ("attention", "*_MatMul"),
        ("attention", "*_Reshape"),
        ("attention", "*_Shape"),
        ("written_out", "*_Div"),
        ("layout", "*_Transpose"),
        ("gather", "*_Gather"),
    ];
    for (case, pattern) in cases {
        let of = |options: &mut Options| options.onnx_for = vec![pattern.to_owned()];
        let (plan, segments) = Plan::with(case, of);
        let reasons: Vec<&Reason> = segments.iter().flat_map(|s| &s.reasons).collect();
        let wanted = format!("--onnx-for {pattern}");
        assert!(reasons.iter().all(|r| r.reason == wanted), "{case}, {pattern}: {reasons:?}");
        assert!(!segments.is_empty() || pattern == "*_Shape", "{case}, {pattern}");
        let model = plan.open(BackendKind::Cpu, 2);
        for (number, (inputs, outputs)) in calls(case).iter().enumerate() {
            compare(&model, inputs, outputs, &format!("{case}, {pattern}, call {number}"));
        }
    }
}
