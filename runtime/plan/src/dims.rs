//! Dim expressions: sizes and costs that depend on a call, kept symbolic in the plan.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// A named size that is bound when an entry runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(String);

impl Symbol {
    /// Rows of the call: all its tokens, over all its sequences.
    pub const TOKENS: &'static str = "tokens";
    /// Rows whose outputs were asked for.
    pub const OUTPUTS: &'static str = "outputs";
    /// Sequences of the call.
    pub const SEQUENCES: &'static str = "sequences";
    /// The sum over the call's rows of the positions that each attends to.
    pub const ATTENDED: &'static str = "attended";

    /// Those that a call with tokens and sequences binds.
    pub const OF_CALLS: [&'static str; 4] =
        [Symbol::TOKENS, Symbol::OUTPUTS, Symbol::SEQUENCES, Symbol::ATTENDED];

    /// A symbol of this name.
    pub fn new(name: impl Into<String>) -> Symbol {
        Symbol(name.into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// An expression over constants and symbols. Arithmetic is checked: overflow and division by
/// zero evaluate to `None`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A known size.
    Const(u64),
    /// A size bound at run time.
    Symbol(Symbol),
    /// Sum.
    Add(Box<Dim>, Box<Dim>),
    /// Difference; none where it would be negative.
    Sub(Box<Dim>, Box<Dim>),
    /// Product.
    Mul(Box<Dim>, Box<Dim>),
    /// Quotient rounded down.
    FloorDiv(Box<Dim>, Box<Dim>),
    /// The smaller.
    Min(Box<Dim>, Box<Dim>),
    /// The larger.
    Max(Box<Dim>, Box<Dim>),
    /// What both repeat to: the one where the other is 1 or the same; none where they differ otherwise.
    Broadcast(Box<Dim>, Box<Dim>),
}

impl Dim {
    /// Nesting that an expression may have.
    pub const MAX_DEPTH: usize = 32;

    /// The symbol of this name.
    pub fn symbol(name: &str) -> Dim {
        Dim::Symbol(Symbol::new(name))
    }

    /// The value if it is known without bindings.
    pub fn as_const(&self) -> Option<u64> {
        self.eval(&|_| None)
    }

    /// Evaluates with `bind` giving each symbol's value; `None` when a symbol is unbound, a
    /// division is by zero or the arithmetic overflows.
    pub fn eval(&self, bind: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
        match self {
            Dim::Const(v) => Some(*v),
            Dim::Symbol(s) => bind(s.name()),
            Dim::Add(a, b) => a.eval(bind)?.checked_add(b.eval(bind)?),
            Dim::Sub(a, b) => a.eval(bind)?.checked_sub(b.eval(bind)?),
            Dim::Mul(a, b) => a.eval(bind)?.checked_mul(b.eval(bind)?),
            Dim::FloorDiv(a, b) => a.eval(bind)?.checked_div(b.eval(bind)?),
            Dim::Min(a, b) => Some(a.eval(bind)?.min(b.eval(bind)?)),
            Dim::Max(a, b) => Some(a.eval(bind)?.max(b.eval(bind)?)),
            Dim::Broadcast(a, b) => match (a.eval(bind)?, b.eval(bind)?) {
                (a, b) if a == b || b == 1 => Some(a),
                (1, b) => Some(b),
                _ => None,
            },
        }
    }

    /// `self * other`; known factors are folded to one, which comes last.
    pub fn times(self, other: impl Into<Dim>) -> Dim {
        match (self, other.into()) {
            (Dim::Const(1), d) | (d, Dim::Const(1)) => d,
            (Dim::Const(a), Dim::Const(b)) if a.checked_mul(b).is_some() => Dim::Const(a * b),
            (Dim::Const(c), d) if !matches!(d, Dim::Const(_)) => d.times(c),
            (Dim::Mul(a, b), Dim::Const(c)) => match b.as_const().and_then(|b| b.checked_mul(c)) {
                Some(known) => Dim::Mul(a, Box::new(Dim::Const(known))),
                None => Dim::Mul(Box::new(Dim::Mul(a, b)), Box::new(Dim::Const(c))),
            },
            (a, b) => Dim::Mul(Box::new(a), Box::new(b)),
        }
    }

    /// `self + other`, folded when both are known.
    pub fn plus(self, other: impl Into<Dim>) -> Dim {
        match (self, other.into()) {
            (Dim::Const(0), d) | (d, Dim::Const(0)) => d,
            (Dim::Const(a), Dim::Const(b)) if a.checked_add(b).is_some() => Dim::Const(a + b),
            (Dim::Sub(a, b), c) if *b == c => *a,
            (a @ (Dim::Add(..) | Dim::Sub(..)), Dim::Const(c)) => a.moved(i128::from(c)),
            (Dim::Const(c), b) if !matches!(b, Dim::Const(_)) => b.plus(c),
            (a, b) => Dim::Add(Box::new(a), Box::new(b)),
        }
    }

    /// A sum or difference with `by` added: known terms become one.
    fn moved(self, by: i128) -> Dim {
        let known = |dim: &Dim| match dim {
            Dim::Const(c) => Some(i128::from(*c)),
            _ => None,
        };
        let (rest, by) = match self {
            Dim::Add(a, b) if known(&b).is_some() => (*a, by + known(&b).unwrap_or(0)),
            Dim::Sub(a, b) if known(&b).is_some() => (*a, by - known(&b).unwrap_or(0)),
            dim => (dim, by),
        };
        let size = |n: i128| Box::new(Dim::Const(u64::try_from(n).unwrap_or(u64::MAX)));
        match by {
            0 => rest,
            1.. => Dim::Add(Box::new(rest), size(by)),
            _ => Dim::Sub(Box::new(rest), size(-by)),
        }
    }

    /// `self - other`, folded when both are known or one of two terms goes.
    pub fn minus(self, other: impl Into<Dim>) -> Dim {
        match (self, other.into()) {
            (d, Dim::Const(0)) => d,
            (Dim::Const(a), Dim::Const(b)) if a >= b => Dim::Const(a - b),
            (Dim::Add(a, b), c) if *b == c => *a,
            (Dim::Add(a, b), c) if *a == c => *b,
            (a @ (Dim::Add(..) | Dim::Sub(..)), Dim::Const(c)) => a.moved(-i128::from(c)),
            (a, b) if a == b => Dim::Const(0),
            (a, b) => Dim::Sub(Box::new(a), Box::new(b)),
        }
    }

    /// `self / other` rounded down, folded when both are known or a factor is the divisor.
    pub fn over(self, other: impl Into<Dim>) -> Dim {
        match (self, other.into()) {
            (d, Dim::Const(1)) => d,
            (Dim::Const(a), Dim::Const(b)) if b > 0 => Dim::Const(a / b),
            (Dim::Mul(a, b), c) if *b == c && c.as_const() != Some(0) => *a,
            (Dim::Mul(a, b), c) if *a == c && c.as_const() != Some(0) => *b,
            (Dim::Mul(a, b), Dim::Const(c)) => match b.as_const() {
                Some(b) if c > 0 && b.is_multiple_of(c) => a.times(b / c),
                _ => Dim::FloorDiv(Box::new(Dim::Mul(a, b)), Box::new(Dim::Const(c))),
            },
            (a, Dim::Const(c)) => match a.quotient(c) {
                // (x // m + b) // c is (x + b m) // (m c).
                Some((x, b, divisor)) => x.plus(b).over(divisor),
                None => Dim::FloorDiv(Box::new(a), Box::new(Dim::Const(c))),
            },
            (a, b) => Dim::FloorDiv(Box::new(a), Box::new(b)),
        }
    }

    /// `x`, `b m` and `m c` of an `x // m + b` that is divided by `c`.
    fn quotient(&self, c: u64) -> Option<(Dim, u64, u64)> {
        let (inner, b) = match self {
            Dim::FloorDiv(..) => (self, 0),
            Dim::Add(a, b) => (&**a, b.as_const()?),
            _ => return None,
        };
        let Dim::FloorDiv(x, m) = inner else { return None };
        let m = m.as_const().filter(|m| *m > 0)?;
        Some(((**x).clone(), b.checked_mul(m)?, m.checked_mul(c)?))
    }

    /// What sizes that are not known repeat to: one expression for the same sizes in any order.
    pub(crate) fn together(sizes: &[&Dim]) -> Option<Dim> {
        fn collect<'a>(dim: &'a Dim, found: &mut Vec<&'a Dim>) {
            match dim {
                Dim::Broadcast(a, b) => {
                    collect(a, found);
                    collect(b, found);
                }
                dim if found.contains(&dim) => {}
                dim => found.push(dim),
            }
        }
        let mut found = Vec::new();
        sizes.iter().for_each(|dim| collect(dim, &mut found));
        Dim::sort(&mut found);
        // To one that is never 1, all others do.
        if let Some(size) = found.iter().find(|dim| dim.is_many()) {
            return Some((*size).clone());
        }
        let mut all: Option<Dim> = None;
        for dim in found.iter().filter(|dim| !dim.is_cut_of(&found)) {
            let dim = (*dim).clone();
            all = Some(match all {
                Some(all) => Dim::Broadcast(Box::new(all), Box::new(dim)),
                None => dim,
            });
        }
        all
    }

    /// In the order of their text.
    #[inline(never)]
    fn sort(dims: &mut Vec<&Dim>) {
        dims.sort_by_cached_key(|dim| dim.to_string());
    }

    /// Whether it is 0, or 2 or more, by its form.
    fn is_many(&self) -> bool {
        let known = match self {
            Dim::Add(_, b) | Dim::Mul(_, b) => b.as_const(),
            _ => None,
        };
        known.is_some_and(|n| n > 1)
    }

    /// Whether it is the least of one of these sizes and a number, and so 1 where that is.
    fn is_cut_of(&self, sizes: &[&Dim]) -> bool {
        let Dim::Min(a, b) = self else { return false };
        let cuts = |number: &Dim, size: &Dim| {
            number.as_const().is_some_and(|n| n > 0) && sizes.contains(&size)
        };
        cuts(a, b) || cuts(b, a)
    }

    /// The operator and its two sides, as a plan stores them; `None` for a constant and a symbol.
    fn sides(&self) -> Option<(&'static str, &Dim, &Dim)> {
        let (name, a, b) = match self {
            Dim::Const(_) | Dim::Symbol(_) => return None,
            Dim::Add(a, b) => ("+", a, b),
            Dim::Sub(a, b) => ("-", a, b),
            Dim::Mul(a, b) => ("*", a, b),
            Dim::FloorDiv(a, b) => ("//", a, b),
            Dim::Min(a, b) => ("min", a, b),
            Dim::Max(a, b) => ("max", a, b),
            Dim::Broadcast(a, b) => ("broadcast", a, b),
        };
        Some((name, a, b))
    }

    /// How deep it nests. A plan's may be as deep as [`Dim::MAX_DEPTH`].
    pub fn depth(&self) -> usize {
        self.sides().map_or(0, |(_, a, b)| 1 + a.depth().max(b.depth()))
    }

    /// Whether it has at most so many constants and symbols.
    pub fn is_within(&self, most: usize) -> bool {
        fn left(dim: &Dim, most: usize) -> Option<usize> {
            match dim.sides() {
                None => most.checked_sub(1),
                Some((_, a, b)) => left(b, left(a, most)?),
            }
        }
        left(self, most).is_some()
    }

    /// The names of its symbols.
    pub fn symbols<'a>(&'a self, found: &mut Vec<&'a str>) {
        if let Dim::Symbol(s) = self {
            found.push(s.name());
        }
        if let Some((_, a, b)) = self.sides() {
            a.symbols(found);
            b.symbols(found);
        }
    }

    /// What is multiplied with the symbol of this name: 1 where it stands alone. `None` for any
    /// other expression.
    pub fn factor_of(&self, symbol: &str) -> Option<u64> {
        match self {
            Dim::Symbol(s) => (s.name() == symbol).then_some(1),
            Dim::Mul(a, b) => match (&**a, &**b) {
                (Dim::Symbol(s), Dim::Const(n)) if s.name() == symbol => Some(*n),
                _ => None,
            },
            _ => None,
        }
    }

    /// What is known of a product of sizes, and the other factors in the order of their text.
    pub fn factors<'a>(sizes: impl IntoIterator<Item = &'a Dim>) -> (u64, Vec<&'a Dim>) {
        fn collect<'a>(dim: &'a Dim, known: &mut u64, rest: &mut Vec<&'a Dim>) {
            match (dim.as_const(), dim) {
                (Some(n), _) => *known = known.saturating_mul(n),
                (None, Dim::Mul(a, b)) => {
                    collect(a, known, rest);
                    collect(b, known, rest);
                }
                (None, dim) => rest.push(dim),
            }
        }
        let (mut known, mut rest) = (1, Vec::new());
        sizes.into_iter().for_each(|dim| collect(dim, &mut known, &mut rest));
        Dim::sort(&mut rest);
        (known, rest)
    }

    fn to_json(&self) -> Value {
        match (self, self.sides()) {
            (_, Some((name, a, b))) => Value::from(vec![name.into(), a.to_json(), b.to_json()]),
            (Dim::Const(v), _) => (*v).into(),
            (Dim::Symbol(s), _) => s.name().into(),
            _ => Value::Null,
        }
    }

    fn from_json(value: &Value, depth: usize) -> Result<Dim, String> {
        if depth > Dim::MAX_DEPTH {
            return Err("dim expression nests too deep".into());
        }
        match value {
            Value::Number(n) => {
                n.as_u64().map(Dim::Const).ok_or_else(|| format!("dim {n} is not a whole number"))
            }
            Value::String(s) if !s.is_empty() => Ok(Dim::symbol(s)),
            Value::Array(items) => {
                let [Value::String(op), a, b] = items.as_slice() else {
                    return Err("a dim expression is [operator, left, right]".into());
                };
                let a = Box::new(Dim::from_json(a, depth + 1)?);
                let b = Box::new(Dim::from_json(b, depth + 1)?);
                Ok(match op.as_str() {
                    "+" => Dim::Add(a, b),
                    "-" => Dim::Sub(a, b),
                    "*" => Dim::Mul(a, b),
                    "//" => Dim::FloorDiv(a, b),
                    "min" => Dim::Min(a, b),
                    "max" => Dim::Max(a, b),
                    "broadcast" => Dim::Broadcast(a, b),
                    _ => return Err(format!("unknown dim operator {op:?}")),
                })
            }
            _ => Err(format!("{value} is not a dim")),
        }
    }
}

impl From<u64> for Dim {
    fn from(v: u64) -> Dim {
        Dim::Const(v)
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Dim {
        Dim::Const(v as u64)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.sides()) {
            (_, Some(("*", a, b))) => write!(f, "{a}*{b}"),
            (_, Some((name @ ("+" | "-" | "//"), a, b))) => write!(f, "({a} {name} {b})"),
            (_, Some((name, a, b))) => write!(f, "{name}({a}, {b})"),
            (Dim::Const(v), _) => v.fmt(f),
            (Dim::Symbol(s), _) => f.write_str(s.name()),
            _ => Ok(()),
        }
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dim, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Dim::from_json(&value, 0).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_round_trip_and_evaluate() {
        let d = Dim::symbol("tokens").times(64u64).plus(Dim::symbol("outputs"));
        let json = serde_json::to_string(&d).unwrap();
        assert_eq!(json, r#"["+",["*","tokens",64],"outputs"]"#);
        let back: Dim = serde_json::from_str(&json).unwrap();
        assert_eq!(back, d);
        let bind = |s: &str| Some(if s == "tokens" { 3 } else { 2 });
        assert_eq!(back.eval(&bind), Some(194));
    }

    #[test]
    fn known_terms_and_factors_fold() {
        let n = || Dim::symbol("n");
        assert_eq!(n().plus(3u64).minus(3u64), n());
        assert_eq!(n().minus(3u64).plus(3u64), n());
        assert_eq!(n().times(6u64).over(3u64), n().times(2u64));
        assert_eq!(n().times(6u64).over(n()), Dim::Const(6));
        assert_eq!(n().minus(n()), Dim::Const(0));
        assert_eq!(n().plus(3u64).minus(5u64), n().minus(2u64));
        assert_eq!(n().minus(3u64).plus(5u64), n().plus(2u64));
        assert_eq!(n().plus(1u64).over(2u64).plus(1u64).over(2u64), n().plus(3u64).over(4u64));
        let sizes = [n().times(3u64), Dim::symbol("a").times(n()), Dim::Const(5)];
        assert_eq!(Dim::factors(&sizes), (15, vec![&Dim::symbol("a"), &n(), &n()]));
        for x in 0..40 {
            let folded = n().plus(5u64).over(3u64).plus(4u64).over(7u64);
            assert_eq!(folded.eval(&|_| Some(x)), Some(((x + 5) / 3 + 4) / 7), "{folded}");
        }
        let less = n().minus(3u64);
        let back: Dim = serde_json::from_str(&serde_json::to_string(&less).unwrap()).unwrap();
        assert_eq!(back, less);
        assert_eq!(back.eval(&|_| Some(5)), Some(2));
        assert_eq!(back.eval(&|_| Some(2)), None);
    }

    #[test]
    fn sizes_repeat_to_each_other() {
        let (a, b, c) = (&Dim::symbol("a"), &Dim::symbol("b"), &Dim::symbol("c"));
        let all = Dim::together(&[c, a, b, a]).unwrap();
        let apart = Dim::together(&[b, &Dim::together(&[a, c]).unwrap()]).unwrap();
        assert_eq!(all, apart);
        assert_eq!(Dim::together(&[a, a]).as_ref(), Some(a));
        let back: Dim = serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        assert_eq!(back, all);
        let (min, twice) =
            (Dim::Min(Box::new(a.clone()), Box::new(Dim::Const(5))), a.clone().times(2u64));
        assert_eq!(Dim::together(&[&min, a]).as_ref(), Some(a));
        assert_eq!(Dim::together(&[b, &twice, &min]), Some(twice));
        for (sizes, found) in [
            ([3, 3, 3], Some(3)),
            ([3, 1, 3], Some(3)),
            ([1, 1, 4], Some(4)),
            ([1, 1, 1], Some(1)),
            ([0, 1, 1], Some(0)),
            ([0, 3, 1], None),
            ([3, 1, 4], None),
        ] {
            let bind = |name: &str| sizes.get("abc".find(name)?).copied();
            assert_eq!(all.eval(&bind), found, "{sizes:?}");
        }
    }

    #[test]
    fn hostile_expressions_do_not_evaluate() {
        let zero: Dim = serde_json::from_str(r#"["//", 4, 0]"#).unwrap();
        assert_eq!(zero.as_const(), None);
        let big: Dim = serde_json::from_str(r#"["*", 9223372036854775807, 4]"#).unwrap();
        assert_eq!(big.as_const(), None);
        assert_eq!(Dim::Const(u64::MAX).plus(u64::MAX).as_const(), None);
        assert_eq!(Dim::Const(u64::MAX).times(u64::MAX).as_const(), None);
        for bad in ["-1", "1.5", "null", r#"["^",1,2]"#, r#"["+",1]"#, "\"\""] {
            assert!(serde_json::from_str::<Dim>(bad).is_err(), "{bad}");
        }
        let deep = "[\"+\",1,".repeat(40) + "1" + &"]".repeat(40);
        assert!(serde_json::from_str::<Dim>(&deep).is_err());
    }
}
