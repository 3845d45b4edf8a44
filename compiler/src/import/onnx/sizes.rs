//! Integers that are known as expressions over the sizes of a call: what exported models compute
//! shapes with.

use limbeck_plan::Dim;

use super::constant::Constant;

/// An integer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Size {
    Known(i64),
    Dim(Dim),
}

/// A scalar or a vector of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sizes {
    pub scalar: bool,
    pub values: Vec<Size>,
}

impl From<&Dim> for Size {
    fn from(dim: &Dim) -> Size {
        match dim.as_const().and_then(|n| i64::try_from(n).ok()) {
            Some(n) => Size::Known(n),
            None => Size::Dim(dim.clone()),
        }
    }
}

impl Size {
    /// As the size of an axis; `None` where it is negative.
    pub fn dim(&self) -> Option<Dim> {
        match self {
            Size::Known(n) => u64::try_from(*n).ok().map(Dim::Const),
            Size::Dim(dim) => Some(dim.clone()),
        }
    }

    /// The expression, where it is one.
    pub fn as_dim(&self) -> Option<&Dim> {
        match self {
            Size::Known(_) => None,
            Size::Dim(dim) => Some(dim),
        }
    }

    pub fn plus(&self, other: &Size) -> Option<Size> {
        Some(match (self, other) {
            (Size::Known(a), Size::Known(b)) => Size::Known(a.checked_add(*b)?),
            (Size::Dim(d), Size::Known(n)) | (Size::Known(n), Size::Dim(d)) => {
                let by = n.unsigned_abs();
                let d = d.clone();
                Size::from(&if *n < 0 { d.minus(by) } else { d.plus(by) })
            }
            (Size::Dim(a), Size::Dim(b)) => Size::from(&a.clone().plus(b.clone())),
        })
    }

    pub fn minus(&self, other: &Size) -> Option<Size> {
        Some(match (self, other) {
            (_, Size::Known(n)) => self.plus(&Size::Known(n.checked_neg()?))?,
            (a, Size::Dim(b)) => Size::from(&a.dim()?.minus(b.clone())),
        })
    }

    pub fn times(&self, other: &Size) -> Option<Size> {
        Some(match (self, other) {
            (Size::Known(a), Size::Known(b)) => Size::Known(a.checked_mul(*b)?),
            (a, b) => Size::from(&a.dim()?.times(b.dim()?)),
        })
    }

    /// Rounded towards 0, as sizes are not negative.
    pub fn over(&self, other: &Size) -> Option<Size> {
        Some(match (self, other) {
            (Size::Known(a), Size::Known(b)) => Size::Known(a.checked_div(*b)?),
            (a, b) => Size::from(&a.dim()?.over(b.dim()?)),
        })
    }

    /// Of known numbers, the exponent not negative.
    pub fn power(&self, other: &Size) -> Option<Size> {
        let exponent = u32::try_from(other.known()?).ok()?;
        Some(Size::Known(self.known()?.checked_pow(exponent)?))
    }

    fn known(&self) -> Option<i64> {
        match self {
            Size::Known(n) => Some(*n),
            Size::Dim(_) => None,
        }
    }

    pub fn least(&self, other: &Size) -> Option<Size> {
        Some(match (self.known().zip(other.known()), self == other) {
            (Some((a, b)), _) => Size::Known(a.min(b)),
            (None, true) => self.clone(),
            (None, false) => Size::Dim(Dim::Min(Box::new(self.dim()?), Box::new(other.dim()?))),
        })
    }

    pub fn most(&self, other: &Size) -> Option<Size> {
        Some(match (self.known().zip(other.known()), self == other) {
            (Some((a, b)), _) => Size::Known(a.max(b)),
            (None, true) => self.clone(),
            (None, false) => Size::Dim(Dim::Max(Box::new(self.dim()?), Box::new(other.dim()?))),
        })
    }

    /// Whether they are equal, where that is the same in every call.
    pub fn equals(&self, other: &Size) -> Option<Size> {
        let equal = match (self, other) {
            (Size::Known(a), Size::Known(b)) => a == b,
            (Size::Dim(_), Size::Known(n)) | (Size::Known(n), Size::Dim(_)) if *n < 0 => false,
            (a, b) if a == b => true,
            _ => return None,
        };
        Some(Size::Known(i64::from(equal)))
    }
}

impl Sizes {
    /// Constant integers as sizes; `None` for floats and more than one axis.
    pub fn of(constant: &Constant) -> Option<Sizes> {
        let values = constant.as_integers().ok()?;
        let values = values.iter().map(|v| Size::Known(*v)).collect();
        (constant.shape.len() < 2).then_some(Sizes { scalar: constant.shape.is_empty(), values })
    }

    /// The constant, where all are known.
    pub fn known(&self) -> Option<Constant> {
        let values: Option<Vec<i64>> = self.values.iter().map(Size::known).collect();
        let values = values?;
        let shape = if self.scalar { Vec::new() } else { vec![values.len()] };
        Some(Constant::integers(shape, values))
    }

    /// Elementwise with another, where one of the two may repeat.
    pub fn with(&self, other: &Sizes, f: impl Fn(&Size, &Size) -> Option<Size>) -> Option<Sizes> {
        let count = match (self.values.len(), other.values.len()) {
            (a, b) if a == b => a,
            (1, b) => b,
            (a, 1) => a,
            _ => return None,
        };
        let of = |sizes: &Sizes, i: usize| {
            sizes.values.get(if sizes.values.len() == 1 { 0 } else { i }).cloned()
        };
        let value = |i: usize| f(&of(self, i)?, &of(other, i)?);
        let values = (0..count).map(value).collect::<Option<Vec<_>>>()?;
        Some(Sizes { scalar: self.scalar && other.scalar, values })
    }
}
