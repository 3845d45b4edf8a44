//! Ops on rows: linears, norms, activations and weighted sums.

use limbeck_plan::{Activation, Linear, Mix, MixRule, Norm, NormKind, OperandId, Step};

use super::{Forms, Lowering, malformed};
use crate::error::Result;
use crate::onnx::builder::{float, int, text};

impl Lowering<'_> {
    pub(super) fn activate(&mut self, x: &str, activation: Activation) -> String {
        let gated = |this: &mut Self, inner: &str| {
            let gate = this.b.op("Sigmoid", &[inner], Vec::new());
            this.b.op("Mul", &[x, &gate], Vec::new())
        };
        match activation {
            Activation::Identity => x.to_owned(),
            Activation::Relu => self.b.op("Relu", &[x], Vec::new()),
            Activation::Silu => gated(self, x),
            Activation::Gelu => self.b.op("Gelu", &[x], Vec::new()),
            Activation::GeluTanh => self.b.op("Gelu", &[x], vec![text("approximate", "tanh")]),
            Activation::QuickGelu => {
                let inner = self.scaled(x.to_owned(), 1.702);
                gated(self, &inner)
            }
            Activation::Tanh => self.b.op("Tanh", &[x], Vec::new()),
            Activation::Sigmoid => self.b.op("Sigmoid", &[x], Vec::new()),
            Activation::Relu6 => {
                let (low, high) = (self.b.number(0.0), self.b.number(6.0));
                self.b.op("Clip", &[x, &low, &high], Vec::new())
            }
            Activation::HardSwish => self.b.op("HardSwish", &[x], Vec::new()),
        }
    }

    pub(super) fn capped(&mut self, x: &str, cap: f32) -> String {
        let by = self.b.number(cap);
        let within = self.b.op("Div", &[x, &by], Vec::new());
        let within = self.b.op("Tanh", &[&within], Vec::new());
        self.b.op("Mul", &[&within, &by], Vec::new())
    }

    pub(super) fn norm(&mut self, p: &Norm, step: &Step) -> Result<String> {
        let [x, weight, ..] = step.inputs[..] else { return Err(malformed()) };
        let (x, weight) = (self.plain(x)?, self.vector(weight, 0)?);
        let bias = match step.inputs.get(2).filter(|_| p.bias) {
            Some(bias) => Some(self.vector(*bias, 0)?),
            None => None,
        };
        match p.kind {
            NormKind::Layer => {
                let inputs: Vec<&str> =
                    [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
                let attributes = vec![int("axis", -1), float("epsilon", p.eps)];
                Ok(self.b.op("LayerNormalization", &inputs, attributes))
            }
            NormKind::Rms => {
                let scaled = self.rms(&x, &weight, p.eps);
                Ok(match bias {
                    Some(bias) => self.b.op("Add", &[&scaled, &bias], Vec::new()),
                    None => scaled,
                })
            }
        }
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last axis.
    pub(super) fn rms(&mut self, x: &str, weight: &str, eps: f32) -> String {
        let square = self.b.op("Mul", &[x, x], Vec::new());
        let axes = self.b.integers(&[-1]);
        let mean = self.b.op("ReduceMean", &[&square, &axes], vec![int("keepdims", 1)]);
        let eps = self.b.number(eps);
        let moved = self.b.op("Add", &[&mean, &eps], Vec::new());
        let root = self.b.op("Sqrt", &[&moved], Vec::new());
        let even = self.b.op("Div", &[x, &root], Vec::new());
        self.b.op("Mul", &[&even, weight], Vec::new())
    }

    pub(super) fn linear(&mut self, p: &Linear, step: &Step, out: OperandId) -> Result<Forms> {
        let mut inputs = step.inputs.iter().copied();
        let mut next = || inputs.next().ok_or_else(malformed);
        let (x, weight) = (next()?, next()?);
        let bias = if p.bias { Some(next()?) } else { None };
        let residual = if p.residual { Some(next()?) } else { None };
        let factors = if p.factors { Some(next()?) } else { None };
        if !p.gated && factors.is_none() && self.is_image(x) {
            return self.pointwise(p, (x, weight), (bias, residual));
        }
        let rank = self.shape(x).len();
        let (rows, cols) = (self.known(weight)?, self.cols(x)?);
        let mut x = self.plain(x)?;
        if let Some(factors) = factors {
            let factors = self.vector(factors, 0)?;
            x = self.b.op("Mul", &[&x, &factors], Vec::new());
        }
        let weight = self.weight(weight, &[rows[0], cols])?;
        let bias = bias.map(|bias| self.vector(bias, 0)).transpose()?;
        let mut y = if rank == 2 {
            let inputs: Vec<&str> =
                [x.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
            self.b.op("Gemm", &inputs, vec![int("transB", 1)])
        } else {
            let turned = self.turned(&weight, &[1, 0]);
            let product = self.b.op("MatMul", &[&x, &turned], Vec::new());
            match bias {
                Some(bias) => self.b.op("Add", &[&product, &bias], Vec::new()),
                None => product,
            }
        };
        y = if p.gated {
            self.gated(&y, p.activation, out)?
        } else {
            self.activate(&y, p.activation)
        };
        if let Some(residual) = residual {
            let residual = self.plain(residual)?;
            y = self.b.op("Add", &[&y, &residual], Vec::new());
        }
        Ok(Forms { plain: Some(y), image: None })
    }

    /// Groups of 8 gates and of the 8 units that they open, in turn, to the units.
    fn gated(&mut self, y: &str, activation: Activation, out: OperandId) -> Result<String> {
        let units = self.cols(out)?;
        let group = limbeck_plan::GATE_GROUP as i64;
        let apart = self.reshaped(y, &[-1, units / group, 2, group]);
        let halves = self.b.ops("Split", &[&apart], vec![int("axis", 2), int("num_outputs", 2)], 2);
        let gate = self.activate(&halves[0], activation);
        let both = self.b.op("Mul", &[&gate, &halves[1]], Vec::new());
        let shape = self.shape(out);
        if shape.len() == 2 {
            return Ok(self.reshaped(&both, &[-1, units]));
        }
        let shape = self.sizes(shape)?;
        Ok(self.b.op("Reshape", &[&both, &shape], Vec::new()))
    }

    pub(super) fn mix(&mut self, p: &Mix, step: &Step) -> Result<String> {
        let mut inputs = step.inputs.iter().copied();
        let mut next = || inputs.next().ok_or_else(malformed);
        let logits = next()?;
        let logits = self.plain(logits)?;
        let weights = match p.rule {
            MixRule::Sigmoid => self.b.op("Sigmoid", &[&logits], Vec::new()),
            MixRule::Softmax => self.b.op("Softmax", &[&logits], vec![int("axis", -1)]),
        };
        let mut sum: Option<String> = None;
        for index in 0..p.parts {
            let part = next()?;
            let part = self.plain(part)?;
            let weight = self.part(&weights, 1, index as i64, index as i64 + 1);
            let weighed = self.b.op("Mul", &[&part, &weight], Vec::new());
            sum = Some(match sum {
                Some(sum) => self.b.op("Add", &[&sum, &weighed], Vec::new()),
                None => weighed,
            });
        }
        let sum = sum.ok_or_else(malformed)?;
        if !p.residual {
            return Ok(sum);
        }
        let residual = next()?;
        let residual = self.plain(residual)?;
        Ok(self.b.op("Add", &[&sum, &residual], Vec::new()))
    }
}
