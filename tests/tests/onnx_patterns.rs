//! What exporters write out in ONNX models becomes one op, and what only looks like it does not. That the
//! values are right is in `onnx.rs`.

use std::collections::BTreeMap;

use limbeck::plan::{Activation, Norm, NormKind, Op, Plan};
use limbeck_compiler::{Options, Quant, compile};
use limbeck_tests::golden;

/// How often a plan has each op: activations within others count too, norms by their kind.
struct Ops(BTreeMap<String, usize>);

impl Ops {
    fn of(case: &str) -> Ops {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.lbk");
        let source = golden().join("onnx").join(case).with_extension("onnx");
        compile(&Options::new(source, &path, Quant::Keep), &mut |_, _, _| {})
            .unwrap_or_else(|e| panic!("{e}"));
        let bytes = std::fs::read(&path).expect("a plan file");
        let plan = Plan::parse(&bytes).expect("a plan");
        let mut found = BTreeMap::new();
        for step in plan.program().entries.iter().flat_map(|entry| entry.steps()) {
            let activation = match &step.op {
                Op::Activate(p) => p.activation,
                Op::Linear(p) => p.activation,
                Op::GroupNorm(p) => p.activation,
                _ => Activation::Identity,
            };
            let name = match &step.op {
                Op::Norm(Norm { kind: NormKind::Layer, .. }) => "layer norm",
                Op::Norm(_) => "rms norm",
                op => op.name().trim_start_matches("limbeck:").trim_end_matches("@1"),
            };
            for name in [name, &format!("{activation:?}")] {
                *found.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ops(found)
    }

    fn count(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn expect(&self, wanted: &[(&str, usize)]) {
        for (name, count) in wanted {
            assert_eq!(self.count(name), *count, "{name} in {:?}", self.0);
        }
    }
}

#[test]
fn attention_is_one_op() {
    Ops::of("attention").expect(&[("attend", 13), ("softmax", 0), ("mat_mul", 0)]);
}

#[test]
fn what_looks_like_attention_stays_apart() {
    let ops = Ops::of("not_attention");
    ops.expect(&[("attend", 0), ("softmax", 10), ("mat_mul", 22)]);
}

#[test]
fn norms_and_activations_are_ops() {
    Ops::of("written_out").expect(&[
        ("layer norm", 4),
        ("rms norm", 4),
        ("reduce", 0),
        ("Gelu", 3),
        ("GeluTanh", 1),
        ("Silu", 3),
        ("group_norm", 1),
        ("map", 0),
    ]);
}

#[test]
fn what_looks_like_norms_stays_apart() {
    let ops = Ops::of("not_norms");
    ops.expect(&[("layer norm", 0), ("rms norm", 0), ("Gelu", 0), ("Silu", 0), ("activate", 0)]);
    assert_eq!(ops.count("group_norm"), 2, "instance norms of rows in {:?}", ops.0);
}

#[test]
fn what_pytorch_exports_is_known() {
    Ops::of("exported").expect(&[
        ("attend", 7),
        ("softmax", 0),
        ("mat_mul", 0),
        ("layer norm", 1),
        ("rms norm", 1),
        ("group_norm", 3),
        // What masks, the sums of the residual connections, and nothing that scales.
        ("map", 6),
        ("reduce", 0),
        ("Gelu", 1),
        ("GeluTanh", 1),
        ("Silu", 2),
    ]);
}
