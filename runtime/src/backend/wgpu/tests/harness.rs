//! Programs of a few steps, run on two backends and compared.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use limbeck_kernels::{Elements, KvType, Rows, SeqId, Span, TensorArg, pack_rows};
use limbeck_plan::{
    DType, Dim, Embedding, Entry, Fact, Manifest, Op, Operand, OperandId, OperandKind, PackFormat,
    Plan, PlanWriter, Program, Provenance, Segment, Site, State as PlanState, Step, Symbol, Task,
    Values, Weight,
};

use super::checks::{listen, nothing_heard};
use crate::backend::fake::FakeBackend;
use crate::backend::wgpu::WgpuBackend;
use crate::backend::wgpu::device::least;
use crate::backend::{Backend, Bounds, Call, PlanData, Spent, State};
use crate::bytes::PlanBytes;
use crate::error::Result;
use crate::memory::Memory;
use crate::text::shortlist::Pick;

/// The backend of this machine's adapter at the least limits, or `None`, with the reason printed, where there is none.
pub fn gpu() -> Option<&'static WgpuBackend> {
    static BACKEND: OnceLock<std::result::Result<WgpuBackend, String>> = OnceLock::new();
    let opened = BACKEND.get_or_init(|| {
        listen();
        WgpuBackend::with_limits(Some(least()), None).map_err(|e| e.to_string())
    });
    match opened {
        Ok(backend) => Some(backend),
        Err(reason) => {
            assert!(!required(), "{reason}");
            println!("skipped: {reason}");
            None
        }
    }
}

/// One that can bind 80 KiB of a weight at a time, where there is a device.
pub fn small_bindings() -> Option<WgpuBackend> {
    gpu()?;
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 80 << 10, ..least() };
    Some(WgpuBackend::with_limits(Some(limits), None).expect("a device"))
}

/// Whether a test must not do without what it needs.
pub fn required() -> bool {
    std::env::var("LIMBECK_REQUIRE").is_ok_and(|v| v == "1")
}

/// Numbers that look random, the same for a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In -1..1.
    pub fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 52) as f32 - 1.0
    }

    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

pub fn tokens() -> Dim {
    Dim::symbol(Symbol::TOKENS)
}

/// A plan of one entry in the making. Activations come from embeddings of the ids, each from a table of its
/// own.
pub struct Builder {
    pub random: Random,
    pub sites: Vec<Site>,
    pub states: Vec<PlanState>,
    operands: Vec<Operand>,
    steps: Vec<Step>,
    weights: Vec<(Weight, Vec<u8>)>,
}

/// Rows of the tables of [`Builder::activation`].
pub const VOCABULARY: usize = 37;

impl Builder {
    pub fn new(seed: u64) -> Builder {
        let mut builder = Builder {
            random: Random::new(seed),
            sites: Vec::new(),
            states: Vec::new(),
            operands: Vec::new(),
            steps: Vec::new(),
            weights: Vec::new(),
        };
        builder.operand("input_ids", OperandKind::Input, DType::I32, vec![tokens()]);
        builder
    }

    pub fn operand(
        &mut self,
        name: &str,
        kind: OperandKind,
        dtype: DType,
        shape: Vec<Dim>,
    ) -> OperandId {
        self.operands.push(Operand { name: name.into(), kind, fact: Fact::new(dtype, shape) });
        self.operands.len() - 1
    }

    /// A weight of these values.
    pub fn weight(
        &mut self,
        format: PackFormat,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> OperandId {
        let mut bytes = Vec::new();
        pack_rows(format, cols, values, &mut bytes).expect("packed rows");
        let id = self.weights.len();
        let name = format!("weight {id}");
        let len = bytes.len() as u64;
        let weight = Weight { name: name.clone(), format, rows, cols, offset: 0, bytes: len };
        self.weights.push((weight, bytes));
        let shape = vec![Dim::from(rows), Dim::from(cols)];
        self.operand(&name, OperandKind::Weight(id), DType::F32, shape)
    }

    /// A weight of random values.
    pub fn matrix(&mut self, format: PackFormat, rows: usize, cols: usize) -> OperandId {
        let values = self.random.numbers(rows * cols);
        self.weight(format, rows, cols, &values)
    }

    /// A vector of random values.
    pub fn vector(&mut self, len: usize) -> OperandId {
        self.matrix(PackFormat::F32_ROW, 1, len)
    }

    /// The input `images`, so many numbers each.
    pub fn images(&mut self, cols: usize) -> OperandId {
        let shape = vec![Dim::symbol(Symbol::SEQUENCES), Dim::from(cols)];
        self.operand("images", OperandKind::Input, DType::F32, shape)
    }

    /// A tensor that calls give.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: Vec<Dim>) -> OperandId {
        self.operand(name, OperandKind::Input, dtype, shape)
    }

    /// Values `[tokens, cols]` that depend on the ids.
    pub fn activation(&mut self, cols: usize) -> OperandId {
        let values = self.random.numbers(VOCABULARY * cols);
        let table = self.weight(PackFormat::F32_ROW, VOCABULARY, cols, &values);
        let op = Op::Embedding(Embedding { scale: 1.0 });
        self.step(op, vec![0, table], vec![tokens(), Dim::from(cols)])
    }

    fn push(&mut self, op: Op, inputs: Vec<OperandId>, output: OperandId) -> OperandId {
        let name = format!("step {}", self.steps.len());
        self.steps.push(Step { name, op, inputs, outputs: vec![output], macs: Dim::from(0u64) });
        output
    }

    /// A step whose result is for others.
    pub fn step(&mut self, op: Op, inputs: Vec<OperandId>, shape: Vec<Dim>) -> OperandId {
        let output = self.operand("scratch", OperandKind::Scratch, DType::F32, shape);
        self.push(op, inputs, output)
    }

    /// [`Builder::step`], of integers.
    pub fn integers(&mut self, op: Op, inputs: Vec<OperandId>, shape: Vec<Dim>) -> OperandId {
        let output = self.operand("scratch", OperandKind::Scratch, DType::I32, shape);
        self.push(op, inputs, output)
    }

    /// A step that makes choices.
    pub fn choice(&mut self, op: Op, inputs: Vec<OperandId>) -> OperandId {
        let output = self.operand("choice", OperandKind::Scratch, DType::I32, vec![tokens()]);
        self.push(op, inputs, output)
    }

    /// A step whose result is the output of this name.
    pub fn output(&mut self, name: &str, op: Op, inputs: Vec<OperandId>, shape: Vec<Dim>) {
        let output = self.operand(name, OperandKind::Output, DType::F32, shape);
        self.push(op, inputs, output);
    }

    pub fn plan(self) -> Arc<PlanData> {
        let mut writer = PlanWriter::new(Cursor::new(Vec::new())).expect("a writer");
        let mut weights = Vec::new();
        for (weight, bytes) in self.weights {
            let offset = writer.begin_weight().expect("a weight");
            writer.append(&bytes).expect("a weight");
            weights.push(Weight { offset, ..weight });
        }
        let entry = Entry {
            name: "test".into(),
            operands: self.operands,
            segments: vec![Segment { steps: self.steps }],
        };
        let program = Program {
            entries: vec![entry],
            states: self.states,
            weights,
            sites: self.sites,
            ..Program::default()
        };
        let manifest = Manifest {
            student: "test".into(),
            architecture: "test".into(),
            task: Task::Text,
            context_length: 1024,
            vocab_size: VOCABULARY,
            embedding_size: 0,
            special: Default::default(),
            add_bos: false,
            chat_template: None,
            generation: Default::default(),
            licence: None,
            provenance: Provenance::default(),
        };
        let bytes = writer.finish(&manifest, &program, None).expect("a plan").into_inner();
        let plan = Plan::parse(&bytes).expect("a plan");
        Arc::new(PlanData { plan, bytes: PlanBytes::Owned(bytes.into()) })
    }
}

/// Rows of a call that belong to one sequence: how many, and how many of them are keys.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub rows: usize,
    pub keys: usize,
}

/// A call in the making.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub ids: Vec<i32>,
    pub parts: Vec<Part>,
    pub outputs: Vec<usize>,
    pub price: f32,
    pub forced: Option<Vec<i32>>,
    /// What is to be found of logits.
    pub pick: Pick,
    /// What the input `images` is given.
    pub images: Vec<f32>,
    pub tensors: Vec<Given>,
    /// Values of symbols.
    pub sizes: Vec<(&'static str, u64)>,
}

/// A tensor of a call.
#[derive(Clone, Debug)]
pub struct Given {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub values: Numbers,
}

#[derive(Clone, Debug)]
pub enum Numbers {
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

impl Given {
    fn arg(&self) -> (&str, TensorArg<'_>) {
        let data = match &self.values {
            Numbers::Floats(values) => Elements::F32(values),
            Numbers::Integers(values) => Elements::I32(values),
        };
        (self.name, TensorArg { shape: &self.shape, data })
    }
}

impl Ask {
    /// Random ids for sequences of so many rows, all of them keys.
    pub fn of(random: &mut Random, rows: &[usize]) -> Ask {
        let tokens = rows.iter().sum();
        Ask {
            ids: (0..tokens).map(|_| random.below(VOCABULARY) as i32).collect(),
            parts: rows.iter().map(|rows| Part { rows: *rows, keys: *rows }).collect(),
            ..Ask::default()
        }
    }
}

/// A state with the sequences that its calls advance.
pub struct Running {
    pub state: Box<dyn State>,
    pub sequences: Vec<SeqId>,
}

impl Running {
    pub fn new(backend: &dyn Backend, data: &Arc<PlanData>, kv: KvType) -> Running {
        let prepared = backend.prepare(data.clone()).unwrap_or_else(|e| panic!("{e}"));
        let bounds = Bounds { tokens: 4096, cache_tokens: 4096, kv };
        let account = Memory::new(0).account("test", 0);
        let state = prepared.state(&bounds, &account).unwrap_or_else(|e| panic!("{e}"));
        Running { state, sequences: Vec::new() }
    }

    /// Runs a call; where the plan keeps keys, part `i` continues sequence `i`.
    pub fn run(&mut self, ask: &Ask, keeps: bool) -> Spent {
        self.try_run(ask, keeps).unwrap_or_else(|e| panic!("{e}"))
    }

    /// [`Running::run`], with its error.
    pub fn try_run(&mut self, ask: &Ask, keeps: bool) -> Result<Spent> {
        let (mut spans, mut rows) = (Vec::new(), Vec::new());
        let mut first = 0;
        while keeps && self.sequences.len() < ask.parts.len() {
            self.sequences.push(self.state.sequences_mut().create());
        }
        for (i, part) in ask.parts.iter().enumerate() {
            let sequence = self.sequences.get(i).copied();
            let start = sequence.map_or(0, |s| self.state.sequences().len(s).expect("a length"));
            spans.push(Span {
                first_row: first,
                rows: part.rows,
                sequence,
                start,
                keys: part.keys,
            });
            rows.push(Rows { first, count: part.keys });
            first += part.rows;
            if let Some(sequence) = sequence {
                self.state.sequences_mut().reserve(sequence, part.rows).expect("room");
            }
        }
        let tensors: Vec<_> = ask.tensors.iter().map(Given::arg).collect();
        let call = Call {
            entry: 0,
            inputs: &[("input_ids", &ask.ids)],
            floats: &[("images", &ask.images)],
            tensors: &tensors,
            sizes: &ask.sizes,
            tokens: ask.ids.len(),
            spans: &spans,
            sequences: &rows,
            output_rows: &ask.outputs,
            price: ask.price,
            forced: ask.forced.as_deref(),
            control: None,
            pick: ask.pick,
        };
        let spent = self.state.run(&call)?;
        nothing_heard();
        for span in &spans {
            if let Some(sequence) = span.sequence {
                self.state.sequences_mut().commit(sequence, span.rows).expect("a commit");
            }
        }
        Ok(spent)
    }

    pub fn output(&self, name: &str) -> Vec<f32> {
        match self.state.output(name) {
            Some(output) => output.values.to_vec(),
            // Of a tensor without axes of a call.
            None => self.state.tensor(name).expect("an output").data.buffer().to_vec(),
        }
    }
}

/// Norm of the difference over norm of what is expected; 0 for two that are all zeros.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|v| v.is_finite()), "a value is not finite");
    let difference: f64 =
        found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let norm: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

/// Of ops in which a linear follows another: a value between them at the edge of an 8-bit step may fall to either
/// side of it.
pub fn tolerance(values: Values) -> f64 {
    if values.is_quantised() { 5e-3 } else { 1e-5 }
}

/// Runs calls in turn on both backends and compares the output `y`.
pub fn compare(data: &Arc<PlanData>, asks: &[Ask], kv: KvType, tolerance: f64, case: &str) {
    if let Some(gpu) = gpu() {
        compare_on(gpu, data, asks, kv, tolerance, case);
    }
}

/// [`compare`] on this backend.
pub fn compare_on(
    gpu: &WgpuBackend,
    data: &Arc<PlanData>,
    asks: &[Ask],
    kv: KvType,
    tolerance: f64,
    case: &str,
) {
    let keeps = !data.plan.program().states.is_empty();
    let mut expected = Running::new(&FakeBackend::default(), data, kv);
    let mut found = Running::new(gpu, data, kv);
    for (i, ask) in asks.iter().enumerate() {
        let spent = expected.run(ask, keeps);
        let used = found.run(ask, keeps);
        let error = relative_error(&found.output("y"), &expected.output("y"));
        assert!(error <= tolerance, "{case}, call {i}: relative error {error:.2e}");
        assert_eq!(found.state.choices(), expected.state.choices(), "{case}, call {i}");
        let macs = [&used, &spent].map(|s| (s.macs, s.full_macs, s.site_macs, s.site_full_macs));
        assert_eq!(macs[0], macs[1], "{case}, call {i}");
    }
}
