//! ONNX segments in a plan's program: which backend runs the rest does not matter to them.

use std::collections::HashSet;
use std::sync::Arc;

use limbeck_kernels::{Elements, TensorArg};
use limbeck_plan::{DType, Dim, Entry, Fact, Onnx, Op, OperandId, OperandKind, Symbol};

use super::{Call, PlanData};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::OnnxOptions;
#[cfg(feature = "ort")]
use crate::onnx::Session;

/// Takes an output of a segment: its number, sizes and elements.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(usize, &[usize], Elements<'_>) -> Result<()>;

/// The ONNX segments of a plan, ready to run, by number: in the order of entries and their steps.
pub(crate) struct Segments {
    #[cfg(feature = "ort")]
    sessions: Vec<(Session, bool)>,
}

impl Segments {
    /// Makes a plan's segments ready; without any, nothing is loaded.
    ///
    /// # Errors
    /// Those of ONNX Runtime, with the step.
    pub fn prepare(
        options: &OnnxOptions,
        threads: usize,
        data: &Arc<PlanData>,
    ) -> Result<Segments> {
        let program = data.plan.program();
        let mut steps = program.entries.iter().flat_map(|e| e.steps().map(move |s| (e, s)));
        #[cfg(not(feature = "ort"))]
        {
            let _ = (options, threads);
            match steps.find(|(_, step)| matches!(step.op, Op::Onnx(_))) {
                Some((entry, step)) => Err(crate::onnx::missing().at(entry.place(&step.name))),
                None => Ok(Segments {}),
            }
        }
        #[cfg(feature = "ort")]
        {
            let bytes = data.bytes.as_slice();
            let (models, weights) = (data.plan.models(bytes), data.plan.weights(bytes));
            let mut sessions = Vec::new();
            for (entry, step) in steps.by_ref() {
                let Op::Onnx(p) = &step.op else { continue };
                let first = usize::try_from(p.offset).unwrap_or(usize::MAX);
                let end = first.saturating_add(usize::try_from(p.bytes).unwrap_or(usize::MAX));
                let model = models.get(first..end).unwrap_or_default();
                let bytes = data.bytes.clone();
                let session = Session::new(options, threads, p, model, weights, bytes);
                sessions.push((session.map_err(|e| e.at(entry.place(&step.name)))?, p.rows));
            }
            // ONNX Runtime has read all of its weights, to copy them as it started.
            #[cfg(unix)]
            if !sessions.is_empty() {
                data.bytes.let_go();
            }
            Ok(Segments { sessions })
        }
    }

    /// Runs a segment; `sink` gets each output.
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn run(
        &self,
        segment: usize,
        inputs: &[TensorArg<'_>],
        call: &Call<'_>,
        sink: Sink<'_>,
    ) -> Result<()> {
        #[cfg(not(feature = "ort"))]
        {
            let _ = (segment, inputs, call, sink);
            Err(crate::onnx::missing())
        }
        #[cfg(feature = "ort")]
        {
            let found = self.sessions.get(segment);
            let (session, rows) =
                found.ok_or_else(|| Error::new(ErrorKind::Backend, "the segment is missing"))?;
            if !rows {
                return session.run(inputs, &[], sink);
            }
            let rows = CallRows::of(call);
            session.run(inputs, &rows.tensors(), sink)
        }
    }
}

#[cfg_attr(not(feature = "ort"), allow(dead_code, reason = "only segments ask how rows lie"))]
/// How the rows of a call belong to its sequences, as [`limbeck_plan::Onnx::rows`] has it.
struct CallRows {
    rows: Vec<i32>,
    places: Vec<i32>,
    seen: Vec<i32>,
    shape: [usize; 2],
    tokens: [usize; 1],
}

#[cfg_attr(not(feature = "ort"), allow(dead_code, reason = "only segments ask how rows lie"))]
impl CallRows {
    fn of(call: &Call<'_>) -> CallRows {
        let longest = call.spans.iter().map(|span| span.rows).max().unwrap_or(0);
        let shape = [call.spans.len(), longest];
        let (mut rows, mut seen) = (Vec::new(), Vec::new());
        let mut places = vec![0; call.tokens];
        for span in call.spans {
            for place in 0..longest {
                let row = span.first_row + place;
                let there = place < span.rows;
                if let Some(at) = places.get_mut(row).filter(|_| there) {
                    *at = rows.len() as i32;
                }
                rows.push(if there { row as i32 } else { 0 });
                seen.push(i32::from(place < span.keys));
            }
        }
        CallRows { rows, places, seen, shape, tokens: [call.tokens] }
    }

    fn tensors(&self) -> [(&'static str, TensorArg<'_>); 3] {
        let tensor = |shape, values| TensorArg { shape, data: Elements::I32(values) };
        [
            ("rows", tensor(&self.shape[..], &self.rows[..])),
            ("places", tensor(&self.tokens[..], &self.places[..])),
            ("seen", tensor(&self.shape[..], &self.seen[..])),
        ]
    }
}

/// Values of the last run whose sizes its segments gave.
#[derive(Default)]
pub(crate) struct Open(Vec<(OperandId, Vec<usize>, DType, Vec<f32>)>);

impl Open {
    /// Forgets them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps one.
    pub fn set(&mut self, id: OperandId, shape: &[usize], data: Elements<'_>) {
        self.0.push((id, shape.to_vec(), data.dtype(), data.buffer().to_vec()));
    }

    /// One of them.
    pub fn get(&self, id: OperandId) -> Option<TensorArg<'_>> {
        let (_, shape, dtype, words) = self.0.iter().find(|value| value.0 == id)?;
        Some(TensorArg { shape, data: Elements::of(*dtype, words) })
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|value| value.3.capacity() * size_of::<f32>()).sum()
    }
}

/// The number of an ONNX step of a program.
#[cfg(any(feature = "fake", all(test, feature = "wgpu")))]
pub(crate) fn number(program: &limbeck_plan::Program, step: &limbeck_plan::Step) -> usize {
    let steps = program.entries.iter().flat_map(Entry::steps);
    let mut segments = steps.filter(|step| matches!(step.op, Op::Onnx(_)));
    segments.position(|other| std::ptr::eq(other, step)).unwrap_or(usize::MAX)
}

/// By operand, whether its sizes are known only when the segment that gives it has run: a symbol in them
/// is none that the entry's inputs bind.
///
/// # Errors
/// Another step that reads such a value.
pub(crate) fn open(entry: &Entry) -> Result<Vec<bool>> {
    let mut bound: HashSet<&str> = Symbol::OF_CALLS.into_iter().collect();
    for (_, operand) in entry.operands_of(OperandKind::Input) {
        for dim in &operand.fact.shape {
            if let Dim::Symbol(s) = dim {
                bound.insert(s.name());
            }
        }
    }
    let mut open = vec![false; entry.operands.len()];
    for step in entry.steps() {
        if !matches!(step.op, Op::Onnx(_)) {
            if step.inputs.iter().any(|id| open[*id]) {
                let message = "it reads a value whose sizes only a segment of ONNX Runtime knows";
                return Err(Error::new(ErrorKind::Plan, message).at(entry.place(&step.name)));
            }
            continue;
        }
        for id in &step.outputs {
            let mut symbols = Vec::new();
            entry.operands[*id].fact.shape.iter().for_each(|dim| dim.symbols(&mut symbols));
            open[*id] = symbols.iter().any(|name| !bound.contains(name));
        }
    }
    Ok(open)
}

/// Compares what a segment gives with what its step says, where that is known.
///
/// # Errors
/// Other sizes.
pub(crate) fn check(fact: &Fact, shape: &[usize], call: &Call<'_>) -> Result<()> {
    let fits = |(dim, size): (&Dim, &usize)| call.size(dim).is_none_or(|n| n == *size as u64);
    if fact.shape == [Dim::symbol(Onnx::ANY)] {
        return Ok(());
    }
    if fact.shape.len() == shape.len() && fact.shape.iter().zip(shape).all(fits) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Backend, format!("ONNX Runtime gives {shape:?}, not {fact}")))
}
