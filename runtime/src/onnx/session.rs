//! One ONNX segment, ready to run.

use std::sync::{Mutex, PoisonError};

use limbeck_kernels::{Elements, TensorArg};
use limbeck_plan::Onnx;
use ort::session::builder::SessionBuilder;
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef};

use super::library::{self, Loaded};
use super::weights::Views;
use super::{OnnxOptions, guard, providers};
use crate::backend::onnx::Sink;
use crate::bytes::PlanBytes;
use crate::error::{Error, ErrorKind, Result};

/// A session of ONNX Runtime over the bytes of a plan.
pub(crate) struct Session {
    /// Goes before the bytes, into which it looks.
    session: Mutex<OrtSession>,
    outputs: usize,
    _views: Views,
    _bytes: PlanBytes,
}

impl Session {
    /// Makes a segment's model ready; `weights` is a part of `bytes`.
    ///
    /// # Errors
    /// Those of loading the library; a provider that is not there; a model that would read elsewhere, or
    /// that ONNX Runtime does not take.
    pub fn new(
        options: &OnnxOptions,
        threads: usize,
        params: &Onnx,
        model: &[u8],
        weights: &[u8],
        bytes: PlanBytes,
    ) -> Result<Session> {
        let initialisers = guard::check(model, weights.len() as u64)?;
        let loaded = library::load(options)?;
        let mut builder = builder(loaded, options, threads)?;
        let views = Views::new(&initialisers, weights)?;
        views.give(&mut builder)?;
        // A provider of another device has copies of its own.
        if options.providers.is_empty() {
            views.keep(&mut builder)?;
        }
        let session = builder.commit_from_memory(model).map_err(refused)?;
        check_interface(params, &session)?;
        let session = Mutex::new(session);
        Ok(Session { session, outputs: params.outputs.len(), _views: views, _bytes: bytes })
    }

    /// Runs it on its inputs in order, then on what says how rows belong to sequences, by name.
    pub fn run(
        &self,
        inputs: &[TensorArg<'_>],
        rows: &[(&'static str, TensorArg<'_>)],
        sink: Sink<'_>,
    ) -> Result<()> {
        let mut given: Vec<(String, SessionInputValue<'_>)> = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            given.push((Onnx::input(index), value(input)?));
        }
        for (name, input) in rows {
            given.push(((*name).to_owned(), value(input)?));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(given).map_err(failed)?;
        for index in 0..self.outputs {
            let name = Onnx::output(index);
            let found = outputs.get(&name);
            let found = found.ok_or_else(|| failed(format!("it gives no {name:?}")))?;
            give(index, found, sink)?;
        }
        Ok(())
    }
}

fn builder(loaded: &Loaded, options: &OnnxOptions, threads: usize) -> Result<SessionBuilder> {
    let providers = providers::chosen(&options.providers)?;
    // As many threads as the engine has, which wait while its own work: they sleep as they wait.
    OrtSession::builder(&loaded.environment)
        .map_err(failed)?
        .with_intra_threads(threads)
        .map_err(failed)?
        .with_inter_threads(1)
        .map_err(failed)?
        .with_intra_op_spinning(false)
        .map_err(failed)?
        .with_execution_providers(providers)
        .map_err(|e| failed(format!("an execution provider is not started: {e}")))
}

/// A model takes and gives what its step says, as far as ONNX Runtime does not compare it.
fn check_interface(params: &Onnx, session: &OrtSession) -> Result<()> {
    let more = if params.rows { 3 } else { 0 };
    if session.inputs().len() > params.inputs.len() + more {
        return Err(refused(format!("it takes {} inputs", session.inputs().len())));
    }
    let named = |name: &str| session.outputs().iter().any(|output| output.name() == name);
    match (0..params.outputs.len()).map(Onnx::output).find(|name| !named(name)) {
        Some(name) => Err(refused(format!("it gives no {name:?}"))),
        None => Ok(()),
    }
}

fn value<'a>(tensor: &TensorArg<'a>) -> Result<SessionInputValue<'a>> {
    let shape = tensor.shape.to_vec();
    Ok(match tensor.data {
        Elements::F32(values) => {
            TensorRef::from_array_view((shape, values)).map_err(failed)?.into()
        }
        Elements::I32(values) => {
            TensorRef::from_array_view((shape, values)).map_err(failed)?.into()
        }
    })
}

fn give(index: usize, found: &DynValue, sink: Sink<'_>) -> Result<()> {
    let sizes = |shape: &[i64]| -> Vec<usize> {
        shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect()
    };
    match found.dtype().tensor_type() {
        Some(TensorElementType::Float32) => {
            let (shape, values) = found.try_extract_tensor::<f32>().map_err(failed)?;
            sink(index, &sizes(shape), Elements::F32(values))
        }
        Some(TensorElementType::Int32) => {
            let (shape, values) = found.try_extract_tensor::<i32>().map_err(failed)?;
            sink(index, &sizes(shape), Elements::I32(values))
        }
        _ => Err(failed(format!("output {index} is neither f32 nor i32"))),
    }
}

pub(super) fn failed(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Backend, format!("ONNX Runtime: {}", one_line(e)))
}

pub(super) fn refused(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Plan, format!("ONNX Runtime refuses its model: {}", one_line(e)))
}

/// ONNX Runtime's messages may have several lines.
fn one_line(e: impl std::fmt::Display) -> String {
    let text = e.to_string();
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.truncate(60);
    words.join(" ")
}
