//! Ops on tensors of any rank.

use limbeck_plan::{DType, Lstm, Op, OperandId, Pad, Padding, Reduce, Reduction, Slice, Step};

use super::{Lowering, malformed, refusal};
use crate::error::{Error, Result};
use crate::onnx::builder::{int, text};

impl Lowering<'_> {
    /// The nodes of an op on tensors.
    pub(super) fn tensor(&mut self, op: &Op, step: &Step, x: Option<OperandId>) -> Result<String> {
        let names = step.inputs.iter().map(|id| self.plain(*id)).collect::<Result<Vec<_>>>()?;
        let get = |index: usize| names.get(index).map(String::as_str).ok_or_else(malformed);
        let rank = x.map_or(0, |id| self.shape(id).len());
        Ok(match op {
            Op::MatMul(p) => {
                let mut b = get(1)?.to_owned();
                if p.transposed {
                    let rank = step.inputs.get(1).map_or(0, |id| self.shape(*id).len()) as i64;
                    let order: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
                    b = self.turned(&b, &order);
                }
                let product = self.b.op("MatMul", &[get(0)?, &b], Vec::new());
                self.scaled(product, p.scale)
            }
            Op::Attend(p) => {
                let mut turned = |at: usize, wanted: bool| -> Result<String> {
                    if !wanted {
                        return Ok(get(at)?.to_owned());
                    }
                    let rank = step.inputs.get(at).map_or(0, |id| self.shape(*id).len()) as i64;
                    let order: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
                    Ok(self.turned(get(at)?, &order))
                };
                let (keys, values) = (turned(1, !p.keys_turned)?, turned(2, p.values_turned)?);
                let scores = self.b.op("MatMul", &[get(0)?, &keys], Vec::new());
                let mut scores = self.scaled(scores, p.scale);
                if p.mask {
                    scores = self.b.op("Add", &[&scores, get(3)?], Vec::new());
                }
                let mut weights = self.b.op("Softmax", &[&scores], vec![int("axis", -1)]);
                if p.zero_nan {
                    let (nan, zero) =
                        (self.b.op("IsNaN", &[&weights], Vec::new()), self.b.number(0.0));
                    weights = self.b.op("Where", &[&nan, &zero, &weights], Vec::new());
                }
                self.b.op("MatMul", &[&weights, &values], Vec::new())
            }
            Op::Reduce(p) => self.reduce(p, get(0)?),
            Op::Reshape(p) => {
                let shape = self.sizes(&p.shape)?;
                self.b.op("Reshape", &[get(0)?, &shape], vec![int("allowzero", 1)])
            }
            Op::Transpose(p) => {
                let order: Vec<i64> = p.order.iter().map(|n| *n as i64).collect();
                self.turned(get(0)?, &order)
            }
            Op::Expand(p) => {
                let shape = self.sizes(&p.shape)?;
                self.b.op("Expand", &[get(0)?, &shape], Vec::new())
            }
            Op::Slice(p) => self.slice(p, get(0)?)?,
            Op::Concat(p) => self.joined(&names, p.axis as i64),
            Op::Pad(p) => {
                let dtype = x.map_or(DType::F32, |id| self.dtype(id));
                self.pad(p, get(0)?, dtype)
            }
            Op::Gather(p) => {
                self.b.op("Gather", &[get(0)?, get(1)?], vec![int("axis", p.axis as i64)])
            }
            Op::GatherElements(p) => {
                self.b.op("GatherElements", &[get(0)?, get(1)?], vec![int("axis", p.axis as i64)])
            }
            Op::Softmax(p) => {
                let kind = if p.log { "LogSoftmax" } else { "Softmax" };
                self.b.op(kind, &[get(0)?], vec![int("axis", rank as i64 - 1)])
            }
            Op::Sizes(p) => {
                let sizes = self.sizes(&p.sizes)?;
                self.narrowed(&sizes)
            }
            Op::Range(p) => {
                let (start, step) = (i64::from(p.start), i64::from(p.step));
                let count = self.size(&p.count)?;
                let axes = self.b.integers(&[0]);
                let count = self.b.op("Squeeze", &[&count, &axes], Vec::new());
                let (start, step) = (self.b.integer(start), self.b.integer(step));
                let span = self.b.op("Mul", &[&count, &step], Vec::new());
                let end = self.b.op("Add", &[&start, &span], Vec::new());
                let range = self.b.op("Range", &[&start, &end, &step], Vec::new());
                self.narrowed(&range)
            }
            Op::Lstm(p) => {
                let hidden = step.inputs.get(2).map(|id| self.cols(*id)).transpose()?;
                self.lstm(p, &names, hidden.ok_or_else(malformed)?)?
            }
            op => {
                let reason = refusal(op).unwrap_or("it is not written as nodes of ONNX");
                return Err(Error::unsupported(format!("{}: {reason}", op.name())));
            }
        })
    }

    fn reduce(&mut self, p: &Reduce, x: &str) -> String {
        let kind = match p.reduction {
            Reduction::Sum => "ReduceSum",
            Reduction::Mean => "ReduceMean",
            Reduction::Prod => "ReduceProd",
            Reduction::Max => "ReduceMax",
            Reduction::Min => "ReduceMin",
            Reduction::L2 => "ReduceL2",
            Reduction::L1 => "ReduceL1",
            Reduction::SumSquares => "ReduceSumSquare",
            Reduction::ArgMax | Reduction::ArgMin => {
                let kind = if p.reduction == Reduction::ArgMax { "ArgMax" } else { "ArgMin" };
                let axis = p.axes.first().map_or(0, |axis| *axis as i64);
                let found = self.b.op(kind, &[x], vec![int("axis", axis), int("keepdims", 1)]);
                return self.narrowed(&found);
            }
        };
        let axes: Vec<i64> = p.axes.iter().map(|axis| *axis as i64).collect();
        let axes = self.b.integers(&axes);
        self.b.op(kind, &[x, &axes], vec![int("keepdims", 1), int("noop_with_empty_axes", 1)])
    }

    fn slice(&mut self, p: &Slice, x: &str) -> Result<String> {
        let axis = self.b.integers(&[p.axis as i64]);
        let stride = p.step.unsigned_abs();
        let span = p.count.clone().times(stride);
        // Backwards: the same elements forwards, and then from the last to the first, since an end before
        // the first would count from the last.
        let (start, end) = match p.step {
            1.. => (p.start.clone(), p.start.clone().plus(span)),
            _ => (p.start.clone().plus(stride).minus(span), p.start.clone().plus(1u64)),
        };
        let (start, end) = (self.size(&start)?, self.size(&end)?);
        let step = self.b.integers(&[i64::try_from(stride).map_err(|_| malformed())?]);
        let found = self.b.op("Slice", &[x, &start, &end, &axis, &step], Vec::new());
        if p.step > 0 {
            return Ok(found);
        }
        let (last, none) = (self.b.integers(&[-1]), self.b.integers(&[i64::MIN]));
        Ok(self.b.op("Slice", &[&found, &last, &none, &axis, &last], Vec::new()))
    }

    fn pad(&mut self, p: &Pad, x: &str, dtype: DType) -> String {
        let pads: Vec<i64> = p.before.iter().chain(&p.after).map(|n| *n as i64).collect();
        let pads = self.b.integers(&pads);
        let mode = match p.padding {
            Padding::Constant => {
                let value = match dtype {
                    DType::F32 => self.b.number(p.value),
                    DType::I32 => self.b.word(p.value.round() as i32),
                };
                return self.b.op("Pad", &[x, &pads, &value], Vec::new());
            }
            Padding::Edge => "edge",
            Padding::Reflect => "reflect",
            Padding::Wrap => "wrap",
        };
        self.b.op("Pad", &[x, &pads], vec![text("mode", mode)])
    }

    fn lstm(&mut self, p: &Lstm, names: &[String], hidden: i64) -> Result<String> {
        let direction = match p.reverse.as_slice() {
            [false] => "forward",
            [true] => "reverse",
            [false, true] => "bidirectional",
            _ => return Err(Error::unsupported("directions that ONNX has no word for")),
        };
        let mut given = names.iter().map(String::as_str);
        let mut next = |present: bool| if present { given.next().unwrap_or("") } else { "" };
        let inputs =
            [next(true), next(true), next(true), next(p.bias), "", next(p.state), next(p.state)];
        let used = if p.state { 7 } else { 3 + usize::from(p.bias) };
        let attributes = vec![text("direction", direction), int("hidden_size", hidden)];
        let found = self.b.ops("LSTM", &inputs[..used], attributes, 3);
        let axes = self.b.integers(&[0]);
        let cells = self.b.op("Unsqueeze", &[&found[2], &axes], Vec::new());
        Ok(self.joined(&[found[0].clone(), cells], 0))
    }
}
