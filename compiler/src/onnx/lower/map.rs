//! Elementwise programs: a node or a few for each of their steps.

use limbeck_plan::{Binary, DType, Map, MapStep, Unary};

use super::Lowering;
use crate::onnx::builder::{element_type, int};
use crate::onnx::proto::dtype;

/// Floats that an integer of 32 bits holds lie between these.
const LEAST: f32 = -2_147_483_648.0;
const MOST: f32 = 2_147_483_520.0;

impl Lowering<'_> {
    /// The last step's value. Truth values are integers, as in the plan.
    pub(super) fn map(&mut self, p: &Map, inputs: &[String], types: &[DType]) -> String {
        let mut found: Vec<(String, DType)> = Vec::with_capacity(p.steps.len());
        for step in &p.steps {
            let at = |index: usize| {
                found.get(index).cloned().unwrap_or_else(|| (String::new(), DType::F32))
            };
            let value = match step {
                MapStep::Input(index) => {
                    let of = types.get(*index).copied().unwrap_or(DType::F32);
                    (inputs.get(*index).cloned().unwrap_or_default(), of)
                }
                MapStep::Float(v) => (self.b.number(*v), DType::F32),
                MapStep::Integer(v) => (self.b.word(*v), DType::I32),
                MapStep::Unary(f, x) => self.unary(*f, at(*x)),
                MapStep::Binary(f, a, b) => self.binary(*f, at(*a), at(*b)),
                MapStep::Select(c, a, b) => {
                    let ((c, _), (a, of), (b, _)) = (at(*c), at(*a), at(*b));
                    let c = self.b.cast(&c, dtype::BOOL);
                    (self.b.op("Where", &[&c, &a, &b], Vec::new()), of)
                }
            };
            found.push(value);
        }
        found.pop().map_or_else(String::new, |(name, _)| name)
    }

    fn unary(&mut self, f: Unary, (x, of): (String, DType)) -> (String, DType) {
        let kind = match f {
            Unary::Neg => "Neg",
            Unary::Abs => "Abs",
            Unary::Sign => "Sign",
            Unary::Sqrt => "Sqrt",
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Reciprocal => "Reciprocal",
            Unary::Erf => "Erf",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Floor => "Floor",
            Unary::Ceil => "Ceil",
            Unary::Round => "Round",
            Unary::IsNan => return (self.truth("IsNaN", &[&x]), DType::I32),
            Unary::Not => {
                let zero = self.b.word(0);
                return (self.truth("Equal", &[&x, &zero]), DType::I32);
            }
            Unary::ToFloat => return (self.b.cast(&x, dtype::FLOAT), DType::F32),
            Unary::ToInteger => return (self.whole(&x), DType::I32),
            Unary::ToTruth => {
                let zero = if of == DType::F32 { self.b.number(0.0) } else { self.b.word(0) };
                let equal = self.b.op("Equal", &[&x, &zero], Vec::new());
                return (self.truth("Not", &[&equal]), DType::I32);
            }
            Unary::ToF16 | Unary::ToBf16 => {
                let of = if f == Unary::ToF16 { dtype::FLOAT16 } else { dtype::BFLOAT16 };
                let narrow = self.b.cast(&x, of);
                return (self.b.cast(&narrow, dtype::FLOAT), DType::F32);
            }
            Unary::Activation(activation) => return (self.activate(&x, activation), of),
        };
        (self.b.op(kind, &[&x], Vec::new()), of)
    }

    /// A node that gives truth values, as integers.
    fn truth(&mut self, kind: &str, inputs: &[&str]) -> String {
        let found = self.b.op(kind, inputs, Vec::new());
        self.b.cast(&found, dtype::INT32)
    }

    /// A float as an integer: rounded towards 0, within 32 bits, 0 for NaN.
    fn whole(&mut self, x: &str) -> String {
        let nan = self.b.op("IsNaN", &[x], Vec::new());
        let (zero, least, most) = (self.b.number(0.0), self.b.number(LEAST), self.b.number(MOST));
        let known = self.b.op("Where", &[&nan, &zero, x], Vec::new());
        let within = self.b.op("Clip", &[&known, &least, &most], Vec::new());
        self.b.cast(&within, dtype::INT32)
    }

    fn binary(
        &mut self,
        f: Binary,
        (a, of): (String, DType),
        (b, _): (String, DType),
    ) -> (String, DType) {
        let plain = |this: &mut Self, kind: &str| (this.b.op(kind, &[&a, &b], Vec::new()), of);
        match f {
            Binary::Add => plain(self, "Add"),
            Binary::Sub => plain(self, "Sub"),
            Binary::Mul => plain(self, "Mul"),
            Binary::Pow => plain(self, "Pow"),
            Binary::Min => plain(self, "Min"),
            Binary::Max => plain(self, "Max"),
            Binary::Div | Binary::Mod | Binary::Rem if of == DType::I32 => {
                (self.divided(f, &a, &b), of)
            }
            Binary::Div => plain(self, "Div"),
            Binary::Mod => {
                let quotient = self.b.op("Div", &[&a, &b], Vec::new());
                let whole = self.b.op("Floor", &[&quotient], Vec::new());
                let taken = self.b.op("Mul", &[&b, &whole], Vec::new());
                (self.b.op("Sub", &[&a, &taken], Vec::new()), of)
            }
            Binary::Rem => (self.b.op("Mod", &[&a, &b], vec![int("fmod", 1)]), of),
            Binary::Eq => (self.truth("Equal", &[&a, &b]), DType::I32),
            Binary::Lt => (self.truth("Less", &[&a, &b]), DType::I32),
            Binary::Le => (self.truth("LessOrEqual", &[&a, &b]), DType::I32),
            Binary::And | Binary::Or | Binary::Xor => {
                let kind = match f {
                    Binary::And => "And",
                    Binary::Or => "Or",
                    _ => "Xor",
                };
                let (a, b) = (self.b.cast(&a, dtype::BOOL), self.b.cast(&b, dtype::BOOL));
                (self.truth(kind, &[&a, &b]), DType::I32)
            }
        }
    }

    /// Integers divided, with 0 where the divisor is.
    fn divided(&mut self, f: Binary, a: &str, b: &str) -> String {
        let (zero, one) = (self.b.word(0), self.b.word(1));
        let none = self.b.op("Equal", &[b, &zero], Vec::new());
        let by = self.b.op("Where", &[&none, &one, b], Vec::new());
        let (kind, attributes) = match f {
            Binary::Div => ("Div", Vec::new()),
            Binary::Mod => ("Mod", vec![int("fmod", 0)]),
            _ => ("Mod", vec![int("fmod", 1)]),
        };
        let found = self.b.op(kind, &[a, &by], attributes);
        self.b.op("Where", &[&none, &zero, &found], Vec::new())
    }

    /// A value of 64 bits as the plan has integers.
    pub(super) fn narrowed(&mut self, x: &str) -> String {
        self.b.cast(x, element_type(DType::I32))
    }
}
