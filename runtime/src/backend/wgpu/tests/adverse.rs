//! What a device cannot do is an error.

use limbeck_kernels::{KvType, Span};
use limbeck_plan::{Add, Binary, Dim, Map, MapStep, Op};

use super::harness::{Ask, Builder, Random, Running, gpu, tokens};
use crate::backend::wgpu::WgpuBackend;
use crate::backend::{Backend, Bounds, Call};
use crate::error::ErrorKind;
use crate::memory::Memory;

fn sum() -> std::sync::Arc<crate::backend::PlanData> {
    let mut b = Builder::new(1);
    let inputs = vec![b.activation(40), b.activation(40)];
    b.output("y", Op::Add(Add {}), inputs, vec![tokens(), Dim::from(40u64)]);
    b.plan()
}

#[test]
fn a_limit_on_memory_holds_and_ids_beyond_a_table_are_refused() {
    let Some(gpu) = gpu() else { return };
    let prepared = gpu.prepare(sum()).unwrap();
    let bounds = Bounds { tokens: 64, cache_tokens: 0, kv: KvType::F32 };
    let limited = Memory::new(0).account("session", 1000);
    let call = |ids: &[i32], limited| {
        let mut state = prepared.state(&bounds, limited).unwrap();
        let spans: [Span; 0] = [];
        let call = Call {
            entry: 0,
            inputs: &[("input_ids", ids)],
            floats: &[],
            tensors: &[],
            sizes: &[],
            tokens: ids.len(),
            spans: &spans,
            sequences: &[],
            output_rows: &[],
            price: 0.0,
            forced: None,
            control: None,
            pick: false,
        };
        state.run(&call).map(|_| ())
    };
    assert_eq!(call(&[1], &limited).unwrap_err().kind(), ErrorKind::Memory);
    assert_eq!(limited.used(), 0);
    let free = Memory::new(0).account("session", 0);
    call(&[1, 2], &free).unwrap();
    for ids in [&[1, 37][..], &[-1]] {
        assert_eq!(call(ids, &free).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_device_that_is_lost_is_an_error_of_every_call_and_another_one_opens() {
    if gpu().is_none() {
        return;
    }
    let backend = WgpuBackend::new().unwrap();
    let data = sum();
    let mut running = Running::new(&backend, &data, KvType::F32);
    running.run(&Ask::of(&mut Random::new(1), &[3]), false);
    backend.gpu.destroy();
    let ids = [1, 2];
    for _ in 0..2 {
        let call = Call {
            entry: 0,
            inputs: &[("input_ids", &ids)],
            floats: &[],
            tensors: &[],
            sizes: &[],
            tokens: 2,
            spans: &[],
            sequences: &[],
            output_rows: &[],
            price: 0.0,
            forced: None,
            control: None,
            pick: false,
        };
        let e = running.state.run(&call).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Backend, "{e}");
    }
    assert!(backend.prepare(data.clone()).is_err());
    Running::new(&WgpuBackend::new().unwrap(), &data, KvType::F32)
        .run(&Ask::of(&mut Random::new(1), &[3]), false);
}

#[test]
fn an_op_that_is_lacking_is_named_with_the_remedy() {
    let Some(gpu) = gpu() else { return };
    let mut b = Builder::new(1);
    let inputs: Vec<_> = (0..7).map(|_| b.activation(8)).collect();
    let mut steps: Vec<MapStep> = (0..7).map(MapStep::Input).collect();
    steps.extend((0..6).map(|i| {
        let sum = if i == 0 { 0 } else { 6 + i };
        MapStep::Binary(Binary::Add, sum, i + 1)
    }));
    b.output("y", Op::Map(Map { inputs: 7, steps }), inputs, vec![tokens(), Dim::from(8u64)]);
    let Err(e) = gpu.prepare(b.plan()) else { panic!("it is prepared") };
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    let message = e.to_string();
    for part in ["limbeck:map@1 of 7 inputs", "step 7", "use the backend cpu"] {
        assert!(message.contains(part), "{message}");
    }
}
