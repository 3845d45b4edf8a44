//! Ops on tensors that goldens of ONNX have in few shapes: indices, memories, long elementwise programs.

use std::sync::Arc;

use limbeck_kernels::KvType;
use limbeck_plan::{
    Binary, DType, Dim, Embedding, Gather, GatherElements, Lstm, Map, MapStep, Op, PackFormat,
    Unary, broadcast,
};
use proptest::prelude::*;

use super::harness::{Ask, Builder, Given, Numbers, Random, Running, compare, gpu};
use crate::backend::PlanData;
use crate::backend::fake::FakeBackend;
use crate::error::ErrorKind;

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|size| Dim::from(*size)).collect()
}

fn floats(random: &mut Random, name: &'static str, shape: &[usize]) -> Given {
    let values = Numbers::Floats(random.numbers(shape.iter().product()));
    Given { name, shape: shape.to_vec(), values }
}

/// Indices of so many elements, of both signs.
fn indices(random: &mut Random, shape: &[usize], along: usize) -> Given {
    let count = shape.iter().product();
    let index = |_| random.below(2 * along) as i32 - along as i32;
    Given {
        name: "at",
        shape: shape.to_vec(),
        values: Numbers::Integers((0..count).map(index).collect()),
    }
}

fn ask(tensors: Vec<Given>) -> Ask {
    Ask { tensors, ..Ask::default() }
}

/// A plan of one op on a tensor and indices, whose result has this shape.
fn indexed(op: Op, x: &[usize], at: &[usize], out: &[usize]) -> Arc<PlanData> {
    let mut b = Builder::new(1);
    let inputs = vec![b.tensor("x", DType::F32, dims(x)), b.tensor("at", DType::I32, dims(at))];
    b.output("y", op, inputs, dims(out));
    b.plan()
}

fn check_gather(x: &[usize], axis: usize, at: &[usize], seed: u64) {
    let mut random = Random::new(seed);
    let out = [&x[..axis], at, &x[axis + 1..]].concat();
    let data = indexed(Op::Gather(Gather { axis }), x, at, &out);
    let given = vec![floats(&mut random, "x", x), indices(&mut random, at, x[axis])];
    let case = format!("{x:?} along {axis} by {at:?}");
    compare(&data, &[ask(given)], KvType::F32, 0.0, &case);
}

fn check_elements(x: &[usize], axis: usize, at: &[usize], seed: u64) {
    let mut random = Random::new(seed);
    let data = indexed(Op::GatherElements(GatherElements { axis }), x, at, at);
    let given = vec![floats(&mut random, "x", x), indices(&mut random, at, x[axis])];
    let case = format!("elements of {x:?} along {axis} by {at:?}");
    compare(&data, &[ask(given)], KvType::F32, 0.0, &case);
}

#[test]
fn elements_by_their_indices_are_those_of_the_reference() {
    for (x, axis, at) in [
        (&[5][..], 0, &[][..]),
        (&[1], 0, &[1]),
        (&[7, 3], 0, &[4]),
        (&[7, 3], 1, &[2, 5]),
        (&[2, 6, 3], 1, &[2, 2, 2]),
        (&[3, 4, 5, 2], 3, &[70]),
        (&[2, 3, 0], 0, &[3]),
        (&[4, 2], 1, &[0]),
    ] {
        check_gather(x, axis, at, 3);
    }
    for (x, axis, at) in [
        (&[5][..], 0, &[9][..]),
        (&[4, 6], 0, &[7, 6]),
        (&[4, 6], 1, &[3, 2]),
        (&[2, 3, 4, 5], 2, &[2, 1, 70, 5]),
        (&[4, 6], 1, &[0, 2]),
    ] {
        check_elements(x, axis, at, 4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn elements_by_indices_of_random_shapes_are_those_of_the_reference(
        x in prop::collection::vec(1usize..7, 1..6),
        at in prop::collection::vec(1usize..7, 0..4),
        along in 0usize..6,
        seed in 0u64..1000,
    ) {
        let axis = along % x.len();
        if x.len() + at.len() <= 9 {
            check_gather(&x, axis, &at, seed);
        }
        let mut other: Vec<usize> = x.iter().map(|size| 1 + seed as usize % size).collect();
        other[axis] = 1 + along * 3;
        check_elements(&x, axis, &other, seed);
    }

    #[test]
    fn memories_of_random_shapes_match_the_reference(
        time in 0usize..9,
        batch in 1usize..4,
        inputs in 1usize..40,
        hidden in 1usize..150,
        reverse in prop::collection::vec(any::<bool>(), 1..3),
        bias in any::<bool>(),
        state in any::<bool>(),
    ) {
        check_lstm([time, batch, inputs, hidden], &Lstm { reverse, bias, state });
    }
}

fn check_lstm([time, batch, inputs, hidden]: [usize; 4], p: &Lstm) {
    let directions = p.reverse.len();
    let mut b = Builder::new(1);
    let mut random = Random::new(hidden as u64);
    let mut given = Vec::new();
    let mut operands = Vec::new();
    let mut add = |name, shape: &[usize], there: bool| {
        if there {
            given.push(floats(&mut random, name, shape));
            operands.push(b.tensor(name, DType::F32, dims(shape)));
        }
    };
    add("x", &[time, batch, inputs], true);
    add("w", &[directions, 4 * hidden, inputs], true);
    add("r", &[directions, 4 * hidden, hidden], true);
    add("b", &[directions, 8 * hidden], p.bias);
    add("h", &[directions, batch, hidden], p.state);
    add("c", &[directions, batch, hidden], p.state);
    let out = [time + 1, directions, batch, hidden];
    b.output("y", Op::Lstm(p.clone()), operands, dims(&out));
    let case = format!("{time} {batch} {inputs} {hidden} {p:?}");
    compare(&b.plan(), &[ask(given)], KvType::F32, 1e-5, &case);
}

#[test]
fn memories_match_the_reference() {
    for (i, reverse) in [vec![false], vec![true], vec![false, true]].into_iter().enumerate() {
        for sizes in [[1, 1, 1, 1], [7, 2, 5, 3], [20, 1, 64, 128], [3, 3, 33, 130], [0, 2, 3, 4]] {
            let p = Lstm { reverse: reverse.clone(), bias: i != 0, state: i != 1 };
            check_lstm(sizes, &p);
        }
    }
}

#[test]
fn elementwise_programs_of_many_inputs_match_the_reference() {
    for count in [6, 7, Map::MAX_INPUTS] {
        let mut b = Builder::new(count as u64);
        let mut random = Random::new(2);
        let (mut inputs, mut given) = (Vec::new(), Vec::new());
        const NAMES: [&str; Map::MAX_INPUTS] =
            ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
        for (i, name) in NAMES.into_iter().take(count).enumerate() {
            let shape = [&[3, 5, 70][..], &[70], &[5, 1], &[3, 1, 70], &[]][i % 5];
            if i % 6 == 5 {
                let values = (0..shape.iter().product()).map(|_| random.below(9) as i32).collect();
                let values = Numbers::Integers(values);
                given.push(Given { name, shape: shape.to_vec(), values });
                inputs.push(b.tensor(name, DType::I32, dims(shape)));
            } else {
                given.push(floats(&mut random, name, shape));
                inputs.push(b.tensor(name, DType::F32, dims(shape)));
            }
        }
        // Alternately sums and products of the inputs so far, from the last on.
        let mut steps = vec![MapStep::Input(count - 1)];
        let mut last = 0;
        for i in (0..count).rev() {
            steps.push(MapStep::Input(i));
            let mut here = steps.len() - 1;
            if i % 6 == 5 {
                steps.push(MapStep::Unary(Unary::ToFloat, here));
                here = steps.len() - 1;
            }
            if i == count - 1 && i % 6 == 5 {
                last = here;
            }
            let f = if i % 2 == 0 { Binary::Add } else { Binary::Mul };
            steps.push(MapStep::Binary(f, last, here));
            last = steps.len() - 1;
        }
        let op = Op::Map(Map { inputs: count, steps });
        b.output("y", op, inputs, dims(&[3, 5, 70]));
        compare(&b.plan(), &[ask(given)], KvType::F32, 1e-5, &format!("{count} inputs"));
    }
}

/// Rows of a table by indices that are computed: twice what is given.
fn computed() -> Arc<PlanData> {
    let mut b = Builder::new(1);
    let at = b.tensor("at", DType::I32, dims(&[2, 3]));
    let steps = vec![MapStep::Input(0), MapStep::Binary(Binary::Add, 0, 0)];
    let ids = b.integers(Op::Map(Map { inputs: 1, steps }), vec![at], dims(&[2, 3]));
    let table = b.matrix(PackFormat::linear(limbeck_plan::Values::Q8), 20, 70);
    b.output("y", Op::Embedding(Embedding { scale: 1.5 }), vec![ids, table], dims(&[2, 3, 70]));
    b.plan()
}

fn ids(values: [i32; 6]) -> Ask {
    ask(vec![Given { name: "at", shape: vec![2, 3], values: Numbers::Integers(values.into()) }])
}

#[test]
fn embeddings_of_computed_ids_match_the_reference() {
    compare(&computed(), &[ids([0, 9, 3, 1, 1, 8])], KvType::F32, 1e-6, "computed ids");
}

/// Both backends refuse a call, with these words in both errors, and take the next.
fn refused(data: &Arc<PlanData>, bad: &Ask, good: &Ask, words: &[&str]) {
    let Some(gpu) = gpu() else { return };
    let mut both = [
        Running::new(&FakeBackend::default(), data, KvType::F32),
        Running::new(gpu, data, KvType::F32),
    ];
    let errors = both.each_mut().map(|running| {
        let Err(e) = running.try_run(bad, false) else { panic!("it runs") };
        assert!(words.iter().all(|word| e.to_string().contains(word)), "{e}");
        e
    });
    assert_eq!(errors[1].kind(), ErrorKind::InvalidInput);
    assert!(both[1].state.tensor("y").is_none());
    for running in both.iter_mut() {
        running.run(good, false);
    }
    assert_eq!(both[0].output("y"), both[1].output("y"));
}

#[test]
fn indices_that_do_not_exist_are_errors_with_their_step() {
    let good = ids([0, 9, 3, 1, 1, 8]);
    refused(&computed(), &ids([0, 1, 10, 0, 0, 0]), &good, &["20", "step 1"]);
    refused(&computed(), &ids([0, -1, 0, 0, 0, 0]), &good, &["-2", "step 1"]);
    let x = |random: &mut Random| floats(random, "x", &[4, 5]);
    let mut random = Random::new(1);
    let mut call = |at: [i32; 6], shape: &[usize]| {
        let values = Numbers::Integers(at.into());
        ask(vec![x(&mut random), Given { name: "at", shape: shape.to_vec(), values }])
    };
    let data = indexed(Op::Gather(Gather { axis: 0 }), &[4, 5], &[6], &[6, 5]);
    let good = call([0, 1, -4, 3, -1, 2], &[6]);
    for (at, words) in [([0, 4, 0, 0, 0, 0], "4"), ([0, 0, 0, 0, 0, -5], "-5")] {
        refused(&data, &call(at, &[6]), &good, &[words, "step 0"]);
    }
    let op = Op::GatherElements(GatherElements { axis: 1 });
    let data = indexed(op, &[4, 5], &[2, 3], &[2, 3]);
    let good = call([0, 4, -5, 1, 2, 3], &[2, 3]);
    refused(&data, &call([0, 0, 0, 0, i32::MIN, 0], &[2, 3]), &good, &["-2147483648", "step 0"]);
}

#[test]
fn sizes_that_do_not_fit_each_other_are_errors() {
    let mut b = Builder::new(1);
    let symbols = ["n", "m"].map(Dim::symbol);
    let x = b.tensor("x", DType::F32, vec![symbols[0].clone()]);
    let y = b.tensor("z", DType::F32, vec![symbols[1].clone()]);
    let steps = vec![MapStep::Input(0), MapStep::Input(1), MapStep::Binary(Binary::Add, 0, 1)];
    let shape = broadcast(&[&symbols[..1], &symbols[1..]]).expect("a shape");
    b.output("y", Op::Map(Map { inputs: 2, steps }), vec![x, y], shape);
    let data = b.plan();
    let mut random = Random::new(1);
    let mut call = |n: usize, m: usize| {
        let tensors = vec![floats(&mut random, "x", &[n]), floats(&mut random, "z", &[m])];
        Ask { tensors, sizes: vec![("n", n as u64), ("m", m as u64)], ..Ask::default() }
    };
    let good = call(6, 6);
    refused(&data, &call(6, 5), &good, &[]);
    refused(&data, &call(2, 5), &good, &[]);
    compare(&data, &[call(6, 6), call(4, 1), call(1, 5)], KvType::F32, 0.0, "sizes");
}
