//! Ops on tensors against their references, for every instruction set; those that move elements against
//! a formula for the place of each.

mod common;

use common::{Random, all_kernels, assert_close, assert_same_bits, sampled};
use limbeck_kernels::{
    ConvTranspose2dArgs, Elements, ElementsMut, Kernels, LinearScratch, Packed, Pool, TensorArg,
    TensorOut, TensorScratch, conv_transpose2d, pack_rows, reference, tensor,
};
use limbeck_plan::{
    Activation, Attend, AveragePool2d, Binary, Concat, ConvTranspose2d, Coordinates, Dim, Expand,
    GroupNorm, Interpolation, Lstm, Map, MapStep, MatMul, Op, PackFormat, Pad, Padding, Reduce,
    Reduction, Resize, Slice, Softmax, Transpose, Unary, Values, Window,
};

type Shape<'a> = &'a [usize];

fn len(shape: Shape<'_>) -> usize {
    shape.iter().product()
}

fn arguments<'a>(inputs: &'a [(Vec<usize>, Vec<f32>)]) -> Vec<TensorArg<'a>> {
    let argument =
        |(shape, x): &'a (Vec<usize>, Vec<f32>)| TensorArg { shape, data: Elements::F32(x) };
    inputs.iter().map(argument).collect()
}

fn size(dim: &Dim) -> Option<usize> {
    dim.as_const().map(|n| n as usize)
}

/// The reference's result.
fn expected(op: &Op, inputs: &[(Vec<usize>, Vec<f32>)], shape: Shape<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; len(shape)];
    let data = ElementsMut::F32(&mut out);
    let target = TensorOut { shape, data };
    assert!(reference::tensor(op, &size, &arguments(inputs), target).expect("a reference"));
    out
}

fn computed(
    (kernels, pool): (&Kernels, &Pool),
    op: &Op,
    inputs: &[(Vec<usize>, Vec<f32>)],
    shape: Shape<'_>,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; len(shape)];
    let data = ElementsMut::F32(&mut out);
    let target = TensorOut { shape, data };
    let mut scratch = TensorScratch::default();
    let inputs = arguments(inputs);
    assert!(tensor(kernels, pool, &mut scratch, op, &size, &inputs, target).expect("an op"));
    out
}

/// Compares every instruction set with the reference, and numbers of threads to the bit.
fn compare(op: &Op, inputs: &[(Vec<usize>, Vec<f32>)], shape: Shape<'_>, tolerance: f32) {
    let want = expected(op, inputs, shape);
    for kernels in all_kernels() {
        let case = format!(
            "{} {op:?} of {:?}",
            kernels.isa(),
            inputs.iter().map(|i| &i.0).collect::<Vec<_>>()
        );
        let one = computed((&kernels, &Pool::new(1)), op, inputs, shape);
        assert_close(&one, &want, tolerance, &case);
        let three = computed((&kernels, &Pool::new(3)), op, inputs, shape);
        assert_same_bits(&three, &one, &case);
    }
}

fn random(random: &mut Random, shape: Shape<'_>) -> (Vec<usize>, Vec<f32>) {
    (shape.to_vec(), random.floats(len(shape)))
}

#[test]
fn maps_repeat_their_inputs_and_follow_the_reference() {
    let mut r = Random::new(1);
    let shapes: &[(Shape<'_>, Shape<'_>, Shape<'_>)] = &[
        (&[3, 700], &[3, 700], &[3, 700]),
        (&[2, 5, 7], &[7], &[2, 5, 7]),
        (&[2, 5, 7], &[2, 1, 7], &[2, 5, 7]),
        (&[2, 5, 1], &[1, 5, 300], &[2, 5, 300]),
        (&[], &[1, 1], &[1, 1]),
        (&[4, 1, 6, 1], &[3, 1, 5], &[4, 3, 6, 5]),
        (&[0, 3], &[3], &[0, 3]),
        (&[40, 2000], &[1], &[40, 2000]),
    ];
    let unary = [
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Exp,
        Unary::Erf,
        Unary::Activation(Activation::Sigmoid),
        Unary::Activation(Activation::Relu6),
        Unary::Activation(Activation::HardSwish),
        Unary::Sin,
        Unary::Cos,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Activation(Activation::Gelu),
        Unary::Activation(Activation::Silu),
        Unary::Activation(Activation::Tanh),
        Unary::ToF16,
        Unary::ToBf16,
    ];
    for (case, (a, b, out)) in shapes.iter().enumerate().filter(|(i, _)| sampled(*i as u64)) {
        let inputs = [random(&mut r, a), random(&mut r, b)];
        let two = [MapStep::Input(0), MapStep::Input(1)];
        for f in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Min, Binary::Max] {
            let steps = two.iter().cloned().chain([MapStep::Binary(f, 0, 1)]).collect();
            compare(&Op::Map(Map { inputs: 2, steps }), &inputs, out, 0.0);
        }
        let f = unary[case % unary.len()];
        let steps = vec![
            MapStep::Input(0),
            MapStep::Input(1),
            MapStep::Unary(f, 0),
            MapStep::Binary(Binary::Lt, 1, 2),
            MapStep::Float(0.25),
            MapStep::Binary(Binary::Mul, 2, 4),
            MapStep::Select(3, 5, 1),
        ];
        compare(&Op::Map(Map { inputs: 2, steps }), &inputs, out, 1e-6);
    }
    for f in unary {
        let steps = vec![MapStep::Input(0), MapStep::Unary(f, 0)];
        let x = random(&mut r, &[1031]);
        compare(&Op::Map(Map { inputs: 1, steps }), &[x], &[1031], 1e-6);
    }
}

#[test]
fn values_that_are_no_numbers_stay_so() {
    let x = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-40, f32::MAX];
    let y = vec![1.0, f32::NAN, 2.0, 0.0, f32::INFINITY, f32::MIN];
    let inputs = [(vec![6], x), (vec![6], y)];
    for f in [Unary::Erf, Unary::ToF16, Unary::ToBf16, Unary::Sign, Unary::Neg] {
        let op = Op::Map(Map { inputs: 1, steps: vec![MapStep::Input(0), MapStep::Unary(f, 0)] });
        let want = expected(&op, &inputs[..1], &[6]);
        assert!(want[0].is_nan(), "{f:?}: {want:?}");
        for kernels in all_kernels() {
            let found = computed((&kernels, &Pool::new(1)), &op, &inputs[..1], &[6]);
            for (a, b) in found.iter().zip(&want) {
                let near = a == b || (a - b).abs() <= 1e-38 || a.is_nan() && b.is_nan();
                assert!(near, "{f:?}: {found:?}, not {want:?}");
            }
        }
    }
    for f in [Binary::Min, Binary::Max, Binary::Add, Binary::Mul, Binary::Div] {
        let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(f, 0, 1)];
        let op = Op::Map(Map { inputs: 2, steps });
        let want = expected(&op, &inputs, &[6]);
        for kernels in all_kernels() {
            let found = computed((&kernels, &Pool::new(1)), &op, &inputs, &[6]);
            for (a, b) in found.iter().zip(&want) {
                assert!(a == b || a.is_nan() && b.is_nan(), "{f:?}: {found:?}, not {want:?}");
            }
        }
    }
}

#[test]
fn products_follow_the_reference() {
    let mut r = Random::new(2);
    let cases: &[(Shape<'_>, Shape<'_>, Shape<'_>, bool)] = &[
        (&[5, 7], &[7, 9], &[5, 9], false),
        (&[2, 3, 33, 40], &[2, 3, 17, 40], &[2, 3, 33, 17], true),
        (&[4, 1, 6, 8], &[3, 8, 5], &[4, 3, 6, 5], false),
        (&[1, 64], &[64, 100], &[1, 100], false),
        (&[3, 2, 4], &[4, 1], &[3, 2, 1], false),
        (&[2, 0, 4], &[2, 4, 3], &[2, 0, 3], false),
        (&[2, 3, 0], &[0, 4], &[2, 3, 4], false),
        (&[150, 90], &[90, 130], &[150, 130], false),
    ];
    for (a, b, out, transposed) in cases {
        let inputs = [random(&mut r, a), random(&mut r, b)];
        let op = Op::MatMul(MatMul { transposed: *transposed, scale: 0.75 });
        compare(&op, &inputs, out, 1e-5);
    }
}

#[test]
fn attention_follows_the_reference() {
    let mut r = Random::new(12);
    // Queries, keys, values and mask.
    let cases: &[[Shape<'_>; 4]] = &[
        [&[5, 7], &[9, 7], &[9, 4], &[9]],
        [&[2, 3, 33, 40], &[2, 3, 17, 40], &[2, 3, 17, 20], &[2, 1, 1, 17]],
        [&[4, 1, 6, 8], &[3, 5, 8], &[1, 5, 30], &[6, 1]],
        [&[1, 64], &[1, 64], &[1, 1], &[1, 1]],
        [&[1, 150, 16], &[1, 1100, 16], &[1, 1100, 16], &[150, 1100]],
        [&[2, 0, 4], &[2, 4, 4], &[2, 4, 3], &[4]],
        [&[2, 3, 4], &[2, 0, 4], &[2, 0, 3], &[1]],
        [&[2, 3, 0], &[2, 5, 0], &[2, 5, 3], &[2, 3, 5]],
    ];
    for [q, k, v, mask] in cases {
        let mut out = q.to_vec();
        if q.len() == 4 {
            out[1] = 3;
        }
        out[q.len() - 1] = v[v.len() - 1];
        let mut inputs = [q, k, v, mask].map(|shape| random(&mut r, shape));
        for (masked, zero_nan) in [(false, false), (true, false), (true, true)] {
            if zero_nan {
                // Of some masks whole rows, whose weights are not numbers.
                inputs[3].1.iter_mut().step_by(2).for_each(|v| *v = f32::NEG_INFINITY);
            }
            for (keys_turned, values_turned) in [(false, false), (true, false), (false, true)] {
                let mut inputs = inputs.clone();
                for (at, turned) in [(1, keys_turned), (2, values_turned)] {
                    // Other values in the sizes of the turned matrix.
                    let last = inputs[at].0.len() - 1;
                    if turned {
                        inputs[at].0.swap(last, last - 1);
                    }
                }
                let attend =
                    Attend { scale: 0.3, mask: masked, keys_turned, values_turned, zero_nan };
                compare(&Op::Attend(attend), &inputs[..3 + usize::from(masked)], &out, 1e-5);
            }
        }
    }
}

#[test]
fn reductions_follow_the_reference() {
    let mut r = Random::new(3);
    let cases: &[(Shape<'_>, &[usize])] = &[
        (&[3, 4, 50], &[2]),
        (&[3, 40, 50], &[1]),
        (&[3, 40, 50], &[0, 1]),
        (&[3, 4, 5], &[0, 1, 2]),
        (&[2, 30, 20, 37], &[1, 2]),
        (&[2, 3, 4, 5], &[0, 2]),
        (&[300, 700], &[1]),
        (&[2, 0, 3], &[0]),
    ];
    use Reduction::*;
    for (shape, axes) in cases {
        let x = random(&mut r, shape);
        let mut out = shape.to_vec();
        axes.iter().for_each(|axis| out[*axis] = 1);
        for reduction in [Sum, Mean, Prod, Max, Min, L1, L2, SumSquares] {
            let op = Op::Reduce(Reduce { reduction, axes: axes.to_vec() });
            compare(&op, std::slice::from_ref(&x), &out, 1e-5);
        }
    }
}

#[test]
fn rows_images_and_memories_follow_the_reference() {
    let mut r = Random::new(4);
    for shape in [&[3, 1][..], &[2, 3, 17], &[5, 700]] {
        for log in [false, true] {
            let x = random(&mut r, shape);
            compare(&Op::Softmax(Softmax { log }), &[x], shape, 1e-5);
        }
    }
    for (shape, groups) in [(&[2, 7, 5, 12][..], 3), (&[1, 300, 8], 8), (&[3, 1, 5], 1)] {
        let channels = shape[shape.len() - 1];
        let inputs =
            [random(&mut r, shape), random(&mut r, &[1, channels]), random(&mut r, &[1, channels])];
        let op = Op::GroupNorm(GroupNorm {
            groups,
            eps: 1e-5,
            bias: true,
            activation: Activation::Silu,
        });
        compare(&op, &inputs, shape, 1e-4);
    }
    let window = Window {
        image: [0, 0],
        kernel: [3, 2],
        stride: [2, 1],
        padding: [1, 0, 1, 1],
        dilation: [1, 2],
    };
    for count_padding in [false, true] {
        let x = random(&mut r, &[2, 9, 7, 5]);
        let op = Op::AveragePool2d(AveragePool2d { window: window.clone(), count_padding });
        compare(&op, &[x], &[2, 5, 6, 5], 1e-6);
    }
    for interpolation in [Interpolation::Linear, Interpolation::NearestFloorHalf] {
        for coordinates in [Coordinates::HalfPixel, Coordinates::AlignCorners] {
            let sides = [Dim::Const(11), Dim::Const(4)];
            let op = Resize { sides, scales: None, interpolation, coordinates };
            let x = random(&mut r, &[2, 5, 6, 3]);
            compare(&Op::Resize(op), &[x], &[2, 11, 4, 3], 1e-5);
        }
    }
    let (t, n, k, h) = (4, 3, 5, 19);
    let shapes: [Shape<'_>; 6] =
        [&[t, n, k], &[2, 4 * h, k], &[2, 4 * h, h], &[2, 8 * h], &[2, n, h], &[2, n, h]];
    let inputs: Vec<_> = shapes.iter().map(|shape| random(&mut r, shape)).collect();
    let op = Op::Lstm(Lstm { reverse: vec![false, true], bias: true, state: true });
    compare(&op, &inputs, &[t + 1, 2, n, h], 1e-5);
}

#[test]
fn transposed_convolutions_follow_the_reference() {
    let mut r = Random::new(5);
    let params = ConvTranspose2d {
        kernel: [3, 2],
        stride: [2, 3],
        padding: [1, 0, 0, 1],
        dilation: [1, 2],
        output_padding: [1, 0],
        bias: true,
    };
    let (shape, out_shape) = ([2, 4, 5, 6], [2, 9, 14, 7]);
    let (x, weight) = (r.floats(len(&shape)), r.floats(6 * 7 * 6));
    let bias = r.floats(7);
    let format = PackFormat::linear(Values::F32);
    let mut bytes = Vec::new();
    pack_rows(format, 6, &weight, &mut bytes).unwrap();
    let w = Packed::new(format, 42, 6, &bytes).unwrap();
    macro_rules! args {
        ($out:expr) => {
            ConvTranspose2dArgs {
                params: &params,
                x: &x,
                shape: &shape,
                w,
                bias: Some(&bias),
                out: $out,
                out_shape: &out_shape,
            }
        };
    }
    let mut want = vec![f32::NAN; len(&out_shape)];
    reference::conv_transpose2d(args!(&mut want)).unwrap();
    for kernels in all_kernels() {
        let mut out = vec![f32::NAN; len(&out_shape)];
        let (mut linear, mut tensors) = (LinearScratch::default(), TensorScratch::default());
        conv_transpose2d(&kernels, &Pool::new(2), &mut linear, &mut tensors, args!(&mut out))
            .unwrap();
        assert_close(&out, &want, 1e-5, &kernels.isa());
    }
}

/// The index of an element in each axis.
fn index(mut at: usize, shape: Shape<'_>) -> Vec<usize> {
    let mut found = vec![0; shape.len()];
    for (axis, size) in shape.iter().enumerate().rev() {
        (found[axis], at) = (at % size, at / size);
    }
    found
}

fn place(index: &[usize], shape: Shape<'_>) -> usize {
    index.iter().zip(shape).fold(0, |at, (i, size)| at * size + i)
}

/// Compares an op that moves elements with the place of each.
fn moved(op: &Op, from: Shape<'_>, to: Shape<'_>, source: impl Fn(&[usize]) -> Option<Vec<usize>>) {
    let x: Vec<f32> = (0..len(from)).map(|i| i as f32 + 1.0).collect();
    let kernels = Kernels::detect();
    let found = computed((&kernels, &Pool::new(2)), op, &[(from.to_vec(), x.clone())], to);
    for (at, v) in found.iter().enumerate() {
        let want = source(&index(at, to)).map_or(0.5, |i| x[place(&i, from)]);
        assert_eq!(*v, want, "{op:?} of {from:?}, element {at}");
    }
}

#[test]
fn moved_elements_come_from_their_places() {
    for (from, order) in [
        (&[3, 5][..], &[1, 0][..]),
        (&[2, 3, 40, 50], &[0, 2, 3, 1]),
        (&[2, 40, 50, 3], &[0, 3, 1, 2]),
        (&[4, 33, 2, 35], &[2, 3, 0, 1]),
        (&[5, 1, 7], &[2, 1, 0]),
        (&[100, 200], &[1, 0]),
        (&[2, 3, 4, 5, 6], &[4, 2, 0, 3, 1]),
    ] {
        let to: Vec<usize> = order.iter().map(|a| from[*a]).collect();
        let op = Op::Transpose(Transpose { order: order.to_vec() });
        moved(&op, from, &to, |i| {
            let mut source = vec![0; from.len()];
            order.iter().zip(i).for_each(|(axis, i)| source[*axis] = *i);
            Some(source)
        });
    }
    let expand =
        |to: Shape<'_>| Op::Expand(Expand { shape: to.iter().map(|n| Dim::from(*n)).collect() });
    moved(&expand(&[4, 3, 5]), &[3, 1], &[4, 3, 5], |i| Some(vec![i[1], 0]));
    moved(&expand(&[2, 3]), &[], &[2, 3], |_| Some(Vec::new()));
    for (start, count, step) in [(1, 3, 2), (6, 3, -3), (0, 0, 1), (6, 7, -1)] {
        let slice = Slice { axis: 1, start: Dim::Const(start), count: Dim::Const(count), step };
        let to = [2, count as usize, 5];
        moved(&Op::Slice(slice), &[2, 7, 5], &to, |i| {
            Some(vec![i[0], (start as i64 + i[1] as i64 * step) as usize, i[2]])
        });
    }
    let pad = |padding, value| {
        Op::Pad(Pad { padding, before: vec![1, 0, 2], after: vec![0, 1, 3], value })
    };
    let within =
        |i: &[usize]| -> [isize; 3] { [i[0] as isize - 1, i[1] as isize, i[2] as isize - 2] };
    let sizes = [2isize, 3, 4];
    let (from, to) = ([2, 3, 4], [3, 4, 9]);
    moved(&pad(Padding::Constant, 0.5), &from, &to, |i| {
        let at = within(i);
        let inside = at.iter().zip(sizes).all(|(i, n)| (0..n).contains(i));
        inside.then(|| at.iter().map(|i| *i as usize).collect())
    });
    moved(&pad(Padding::Edge, 0.0), &from, &to, |i| {
        Some(within(i).iter().zip(sizes).map(|(i, n)| (*i).clamp(0, n - 1) as usize).collect())
    });
    moved(&pad(Padding::Wrap, 0.0), &from, &to, |i| {
        Some(within(i).iter().zip(sizes).map(|(i, n)| i.rem_euclid(n) as usize).collect())
    });
    moved(&pad(Padding::Reflect, 0.0), &from, &to, |i| {
        let mirror = |i: isize, n: isize| {
            let mut i = i;
            while !(0..n).contains(&i) {
                i = if i < 0 { -i } else { 2 * (n - 1) - i };
            }
            i as usize
        };
        Some(within(i).iter().zip(sizes).map(|(i, n)| mirror(*i, n)).collect())
    });
}

#[test]
fn a_column_has_the_same_sum_alone_as_beside_others() {
    let (kernels, pool) = (Kernels::detect(), Pool::new(1));
    let (rows, cols) = (101, 7);
    let x = Random::new(8).floats(rows * cols);
    for reduction in [Reduction::Sum, Reduction::Mean, Reduction::L2, Reduction::Prod] {
        let op = Op::Reduce(Reduce { reduction, axes: vec![0] });
        let all = computed((&kernels, &pool), &op, &[(vec![rows, cols], x.clone())], &[1, cols]);
        for (column, want) in all.iter().enumerate() {
            let alone = x.iter().skip(column).step_by(cols).copied().collect();
            let alone = computed((&kernels, &pool), &op, &[(vec![rows, 1], alone)], &[1, 1]);
            assert_eq!(alone[0].to_bits(), want.to_bits(), "{reduction:?} of column {column}");
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let kernels = Kernels::detect();
    let x = [1.0f32; 12];
    let run = |op: &Op, shapes: &[Shape<'_>], out: Shape<'_>| {
        let inputs: Vec<TensorArg<'_>> = shapes
            .iter()
            .map(|shape| TensorArg { shape, data: Elements::F32(&x[..len(shape).min(12)]) })
            .collect();
        let mut target = vec![0.0; len(out)];
        let out = TensorOut { shape: out, data: ElementsMut::F32(&mut target) };
        let mut scratch = TensorScratch::default();
        tensor(&kernels, &Pool::new(1), &mut scratch, op, &size, &inputs, out)
    };
    let add = Op::Map(Map {
        inputs: 2,
        steps: vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Add, 0, 1)],
    });
    let product = Op::MatMul(MatMul { transposed: false, scale: 1.0 });
    let attend = Attend {
        scale: 1.0,
        mask: false,
        keys_turned: false,
        values_turned: false,
        zero_nan: false,
    };
    let masked = Op::Attend(Attend { mask: true, ..attend.clone() });
    let attend = Op::Attend(attend);
    let turn = |order: &[usize]| Op::Transpose(Transpose { order: order.to_vec() });
    let slice = |start, count, step| {
        Op::Slice(Slice { axis: 0, start: Dim::Const(start), count: Dim::Const(count), step })
    };
    let reduce = Op::Reduce(Reduce { reduction: Reduction::Sum, axes: vec![5] });
    let join = Op::Concat(Concat { inputs: 2, axis: 0 });
    let cases: Vec<(&Op, Vec<Shape<'_>>, Shape<'_>)> = vec![
        (&add, vec![&[3, 4], &[3]], &[3, 4]),
        (&add, vec![&[3, 4], &[4]], &[4, 4]),
        (&add, vec![&[3, 5], &[5]], &[3, 5]),
        (&product, vec![&[3, 4], &[3, 4]], &[3, 4]),
        (&product, vec![&[4], &[4, 3]], &[3]),
        (&attend, vec![&[3, 4], &[2, 3], &[2, 4]], &[3, 4]),
        (&attend, vec![&[3, 4], &[2, 4], &[3, 4]], &[3, 4]),
        (&attend, vec![&[3, 4], &[2, 4], &[2, 4]], &[3, 3]),
        (&masked, vec![&[3, 4], &[2, 4], &[2, 4], &[3]], &[3, 4]),
        (&masked, vec![&[3, 4], &[2, 4], &[2, 4]], &[3, 4]),
        (&reduce, vec![&[3, 4]], &[3, 1]),
        (&join, vec![&[1, 4], &[1, 3]], &[2, 4]),
        (&join, vec![&[1, 4], &[2, 4]], &[2, 4]),
    ];
    for (op, inputs, out) in cases {
        assert!(run(op, &inputs, out).is_err(), "{op:?} {inputs:?}");
    }
    for (op, out) in [
        (turn(&[0, 2]), [3, 4]),
        (turn(&[1, 0]), [3, 4]),
        (slice(1, 3, 1), [3, 4]),
        (slice(0, 3, -1), [3, 4]),
        (slice(u64::MAX, 3, 1), [3, 4]),
    ] {
        assert!(run(&op, &[&[3, 4]], &out).is_err(), "{op:?}");
    }
}
