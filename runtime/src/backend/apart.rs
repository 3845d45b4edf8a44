//! Attention of tensors as products and a softmax, for a backend that has only those: scores are then
//! operands of their own.

use limbeck_plan::{
    Attend, Binary, DType, Dim, Entry, Fact, Map, MapStep, MatMul, Op, Operand, OperandId,
    OperandKind, Softmax, Step, Unary,
};

/// An entry without [`Op::Attend`]. Operands that it had keep their ids.
pub(crate) fn without_attend(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    let Entry { operands, segments, .. } = &mut entry;
    for segment in segments {
        let steps = std::mem::take(&mut segment.steps);
        segment.steps = steps.into_iter().flat_map(|step| apart(operands, step)).collect();
    }
    entry
}

fn apart(operands: &mut Vec<Operand>, step: Step) -> Vec<Step> {
    let (Op::Attend(p), [q, k, v, mask @ ..], [out]) =
        (step.op.clone(), step.inputs.as_slice(), step.outputs.as_slice())
    else {
        return vec![step];
    };
    let Some(fact) = scores(operands, &p, [*q, *k], *out) else { return vec![step] };
    let mut scratch = |part: &str| {
        let name = format!("{}.{part}", step.name);
        operands.push(Operand { name, kind: OperandKind::Scratch, fact: fact.clone() });
        operands.len() - 1
    };
    let named = |op: Op, inputs: Vec<OperandId>, output: OperandId| Step {
        name: step.name.clone(),
        op,
        inputs,
        outputs: vec![output],
        macs: Dim::Const(0),
    };
    let mut last = scratch("scores");
    let scores = MatMul { transposed: !p.keys_turned, scale: p.scale };
    let mut steps = vec![named(Op::MatMul(scores), vec![*q, *k], last)];
    for mask in mask {
        let masked = scratch("masked");
        steps.push(named(Op::Map(sum()), vec![last, *mask], masked));
        last = masked;
    }
    let weights = scratch("weights");
    steps.push(named(Op::Softmax(Softmax { log: false }), vec![last], weights));
    last = weights;
    if p.zero_nan {
        last = scratch("numbers");
        steps.push(named(Op::Map(numbers()), vec![weights], last));
    }
    let mixed = MatMul { transposed: p.values_turned, scale: 1.0 };
    steps.push(Step { macs: step.macs.clone(), ..named(Op::MatMul(mixed), vec![last, *v], *out) });
    steps
}

/// The type and the sizes of scores: what comes out has their axes but for the last.
fn scores(
    operands: &[Operand],
    p: &Attend,
    [q, k]: [OperandId; 2],
    out: OperandId,
) -> Option<Fact> {
    let shape = |id: OperandId| operands.get(id).map(|operand| operand.fact.shape.as_slice());
    let rows = shape(q)?.iter().nth_back(1)?;
    let keys = shape(k)?.iter().nth_back(usize::from(!p.keys_turned))?;
    let (_, batch) = shape(out)?.split_last()?;
    let (_, batch) = batch.split_last()?;
    let shape = batch.iter().chain([rows, keys]).cloned().collect();
    Some(Fact::new(DType::F32, shape))
}

fn sum() -> Map {
    let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Add, 0, 1)];
    Map { inputs: 2, steps }
}

/// What is NaN as 0.
fn numbers() -> Map {
    let steps = vec![
        MapStep::Input(0),
        MapStep::Unary(Unary::IsNan, 0),
        MapStep::Float(0.0),
        MapStep::Select(1, 2, 0),
    ];
    Map { inputs: 1, steps }
}
