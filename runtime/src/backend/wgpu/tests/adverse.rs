//! What a device cannot do is an error.

use limbeck_kernels::{KvType, Span};
use limbeck_plan::{
    Activation, AdaptiveMlp, Add, Attention, Choose, DType, Dim, GateTransform, Gather, Layout, Op,
    PackFormat, Site, SiteKind, Values,
};

use super::harness::{Ask, Builder, Random, Running, gpu, tokens};
use crate::backend::wgpu::WgpuBackend;
use crate::backend::{Backend, Bounds, Call};
use crate::error::ErrorKind;
use crate::memory::Memory;
use crate::text::shortlist::Pick;

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
            pick: Pick::default(),
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
    let backend = WgpuBackend::new(None).unwrap();
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
            pick: Pick::default(),
        };
        let e = running.state.run(&call).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Backend, "{e}");
    }
    assert!(backend.prepare(data.clone()).is_err());
    Running::new(&WgpuBackend::new(None).unwrap(), &data, KvType::F32)
        .run(&Ask::of(&mut Random::new(1), &[3]), false);
}

/// What is refused when a plan is loaded says all of these.
fn refused(b: Builder, parts: &[&str]) {
    let Some(gpu) = gpu() else { return };
    let Err(e) = gpu.prepare(b.plan()) else { panic!("it is prepared") };
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    let message = e.to_string();
    for part in parts.iter().chain(&["use the backend cpu"]) {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_lacking_is_named_with_the_remedy() {
    let mut b = Builder::new(1);
    let inputs: Vec<_> = (0..3).map(|_| b.activation(1025)).collect();
    let attention = Attention {
        heads: 1,
        kv_heads: 1,
        head_dim: 1025,
        scale: 1.0,
        softcap: None,
        causal: true,
        window: None,
        fused: false,
        qk_norm_eps: None,
        rope: None,
        state: None,
    };
    b.output("y", Op::Attention(attention), inputs, vec![tokens(), Dim::from(1025u64)]);
    refused(b, &["attention heads of 1025 elements", "step 3"]);
}

#[test]
fn weights_that_are_not_read_are_named_when_a_plan_is_loaded() {
    let halves = PackFormat { values: Values::F16, layout: Layout::Row };
    let mut b = Builder::new(1);
    let kind = SiteKind::Acm;
    b.sites.push(Site { name: "s".into(), kind, first: 0, costs: vec![0.0, 1.0], weight: 1.0 });
    let x = b.activation(32);
    let choose = Choose { site: 0, transform: GateTransform::Identity, first: 0 };
    let gate = vec![x, b.matrix(PackFormat::F32_ROW, 2, 32), b.vector(2)];
    let choice = b.choice(Op::Choose(choose), gate);
    let panels = PackFormat::linear(Values::F32);
    let inputs =
        vec![x, choice, b.matrix(panels, 32, 32), b.matrix(panels, 8, 32), b.matrix(halves, 2, 8)];
    let mlp = AdaptiveMlp {
        learners: 1,
        activation: Activation::Relu,
        gated: false,
        bias: false,
        out_bias: true,
        residual: false,
    };
    b.output("y", Op::AdaptiveMlp(mlp), inputs, vec![tokens(), Dim::from(8u64)]);
    refused(b, &["weights in f16/row", "operand 4", "limbeck:adaptive_mlp", "step 2"]);

    // A table that one binding does not hold, where several are no use.
    let mut b = Builder::new(1);
    let x = b.matrix(PackFormat::F32_ROW, 33 << 10, 1 << 10);
    let at = b.tensor("at", DType::I32, vec![Dim::from(2u64)]);
    let shape = vec![Dim::from(2u64), Dim::from(1024u64)];
    b.output("y", Op::Gather(Gather { axis: 0 }), vec![x, at], shape);
    refused(b, &["138412032 bytes", "limbeck:gather"]);
}
