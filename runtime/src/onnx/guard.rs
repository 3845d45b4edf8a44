//! What a model in a plan may not do: read files, or anything but the plan's weights. A model of ONNX can
//! name files for its tensors and for compiled parts; here every message of one is looked at before ONNX
//! Runtime sees it.

use limbeck_plan::Onnx;

use crate::error::{Error, ErrorKind, Result};

/// Messages within messages.
const MAX_DEPTH: usize = 64;

/// The messages of `onnx.proto3` that lead to tensors.
#[derive(Clone, Copy, PartialEq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Sparse,
    /// A tensor; an initialiser of the outermost graph may lie in the plan's weights.
    Tensor {
        initialiser: bool,
    },
}

/// An initialiser that lies in the plan's weights.
#[derive(Debug, PartialEq)]
pub(super) struct Initialiser<'a> {
    pub name: &'a [u8],
    /// Its sizes, and its type by the number that ONNX gives it, as the model says.
    pub dims: Vec<i64>,
    pub data_type: u64,
    pub offset: usize,
    pub bytes: usize,
}

/// Checks a model whose initialisers may lie in `weights` bytes of weights; gives those that do.
///
/// # Errors
/// Bytes that are no model, or one that names files or lies outside of the weights.
pub(super) fn check(model: &[u8], weights: u64) -> Result<Vec<Initialiser<'_>>> {
    // ONNX Runtime's own format, which it would tell apart by this.
    if model.get(4..8) == Some(b"ORTM") {
        return Err(refuse("it is not a model of ONNX"));
    }
    let mut found = Vec::new();
    message(Message::Model, model, weights, 0, &mut found)?;
    Ok(found)
}

fn message<'a>(
    kind: Message,
    bytes: &'a [u8],
    weights: u64,
    depth: usize,
    found: &mut Vec<Initialiser<'a>>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(refuse("its messages nest too deep"));
    }
    if let Message::Tensor { initialiser } = kind {
        found.extend(tensor(bytes, initialiser, weights)?);
        return Ok(());
    }
    let outermost = depth == 1;
    let mut rest = Reader(bytes);
    while let Some((number, field)) = rest.next()? {
        let inner = match (kind, number) {
            (Message::Model, 7) => Message::Graph,
            (Message::Model, 25) => Message::Function,
            (Message::Model, 20) => return Err(refuse("it is to be trained")),
            (Message::Model, 14) => {
                settings(field)?;
                continue;
            }
            (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::Graph, 5) => Message::Tensor { initialiser: outermost },
            (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Message::Sparse,
            (Message::Node, 4) if field.bytes()? == b"EPContext" => {
                return Err(refuse("it holds compiled parts"));
            }
            (Message::Node, 5) | (Message::Function, 11) => Message::Attribute,
            (Message::Attribute, 5 | 10) | (Message::Sparse, 1 | 2) => {
                Message::Tensor { initialiser: false }
            }
            (Message::Attribute, 6 | 11) => Message::Graph,
            _ => continue,
        };
        message(inner, field.bytes()?, weights, depth + 1, found)?;
    }
    Ok(())
}

/// A key with a value of the model: none may change how it is run.
fn settings(field: Field<'_>) -> Result<()> {
    match pair(field.bytes()?)? {
        (b"ort_config", _) => Err(refuse("it changes settings of ONNX Runtime")),
        _ => Ok(()),
    }
}

/// A `StringStringEntryProto`.
fn pair(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (mut key, mut value) = (&b""[..], &b""[..]);
    let mut rest = Reader(bytes);
    while let Some((number, field)) = rest.next()? {
        match number {
            1 => key = field.bytes()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// An initialiser, where it lies in the weights.
fn tensor(bytes: &[u8], initialiser: bool, weights: u64) -> Result<Option<Initialiser<'_>>> {
    let (mut external, mut elsewhere) = (Vec::new(), false);
    let (mut name, mut dims, mut data_type) = (&b""[..], Vec::new(), 0);
    let mut rest = Reader(bytes);
    while let Some((number, field)) = rest.next()? {
        match number {
            1 => field.numbers(&mut dims)?,
            2 => data_type = field.number()?,
            8 => name = field.bytes()?,
            13 => external.push(pair(field.bytes()?)?),
            14 => elsewhere |= field.number()? != 0,
            _ => {}
        }
    }
    if external.is_empty() && !elsewhere {
        return Ok(None);
    }
    if !initialiser {
        return Err(refuse("a tensor within it has its data elsewhere"));
    }
    let mut known = external.iter().map(|(key, _)| *key);
    if known.any(|key| ![&b"location"[..], b"offset", b"length"].contains(&key)) {
        return Err(refuse("an initialiser says more than where its data lie"));
    }
    let one = |name: &[u8]| {
        let mut found = external.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value);
        found.next().filter(|_| found.next().is_none())
    };
    let number = |name: &[u8]| std::str::from_utf8(one(name)?).ok()?.parse::<usize>().ok();
    let within = |(offset, bytes): &(usize, usize)| {
        offset.checked_add(*bytes).is_some_and(|end| end as u64 <= weights)
    };
    let place = number(b"offset").zip(number(b"length")).filter(within);
    let place = place.filter(|_| elsewhere && one(b"location") == Some(Onnx::WEIGHTS.as_bytes()));
    let Some((offset, bytes)) = place else {
        return Err(refuse("an initialiser does not lie within the plan's weights"));
    };
    Ok(Some(Initialiser { name, dims, data_type, offset, bytes }))
}

fn refuse(message: &str) -> Error {
    Error::new(ErrorKind::Plan, format!("its model is refused: {message}"))
}

/// The fields of a message.
struct Reader<'a>(&'a [u8]);

/// A field's value.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size, which nothing here asks for.
    Fixed,
}

impl<'a> Field<'a> {
    fn bytes(&self) -> Result<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(refuse("a field is of another type")),
        }
    }

    fn number(&self) -> Result<u64> {
        match self {
            Field::Number(n) => Ok(*n),
            _ => Err(refuse("a field is of another type")),
        }
    }

    /// One of a field's numbers, or all of them.
    fn numbers(&self, into: &mut Vec<i64>) -> Result<()> {
        let Field::Bytes(packed) = self else {
            into.push(self.number()?.cast_signed());
            return Ok(());
        };
        let mut rest = Reader(packed);
        while !rest.0.is_empty() {
            into.push(rest.varint()?.cast_signed());
        }
        Ok(())
    }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        // Parsers that keep 32 bits of a tag would see another field.
        if tag > u64::from(u32::MAX) {
            return Err(refuse("it is damaged"));
        }
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Field::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Field::Fixed)?,
            _ => return Err(refuse("it is damaged")),
        };
        Ok(Some((tag >> 3, field)))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or_else(|| refuse("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or(0);
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(refuse("it is damaged"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        let tag = u32::from(number) << 3 | 2;
        for value in [tag, bytes.len() as u32] {
            let mut value = value;
            while value > 0x7f {
                out.push(value as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
        }
        out.extend(bytes);
        out
    }

    fn external(pairs: &[(&str, &str)]) -> Vec<u8> {
        let entry = |(key, value): &(&str, &str)| {
            field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
        };
        let mut tensor: Vec<u8> = pairs.iter().flat_map(entry).collect();
        tensor.extend([14 << 3, 1]);
        tensor
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        field(7, graph)
    }

    #[test]
    fn initialisers_lie_within_the_weights() {
        let with =
            |pairs: &[(&str, &str)]| check(&model(&field(5, &external(pairs))), 100).map(drop);
        let good = [("location", "weights"), ("offset", "64"), ("length", "36")];
        with(&good).unwrap();
        let named = [external(&good), field(1, &[3, 0xac, 2]), field(8, b"w"), vec![2 << 3, 10]];
        let found =
            Initialiser { name: b"w", dims: vec![3, 300], data_type: 10, offset: 64, bytes: 36 };
        assert_eq!(check(&model(&field(5, &named.concat())), 100).unwrap(), [found]);
        let apart = [external(&good), vec![1 << 3, 3, 1 << 3, 4]].concat();
        assert_eq!(check(&model(&field(5, &apart)), 100).unwrap()[0].dims, [3, 4]);
        assert!(check(&model(&field(5, &field(1, &[0x80]))), 100).is_err());
        for bad in [
            &[("location", "/etc/passwd"), ("offset", "0"), ("length", "1")][..],
            &[("location", "../weights"), ("offset", "0"), ("length", "1")],
            &[("location", "weights"), ("offset", "64"), ("length", "37")],
            &[("location", "weights"), ("offset", "18446744073709551615"), ("length", "1")],
            &[("location", "weights"), ("offset", "-1"), ("length", "1")],
            &[("location", "weights"), ("offset", "0")],
            &[("location", "weights"), ("location", "x"), ("offset", "0"), ("length", "1")],
            &[("location", "weights"), ("offset", "0"), ("length", "1"), ("basepath", "/")],
            &[],
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tensors_within_nodes_and_graphs_have_their_own_data() {
        let tensor = external(&[("location", "weights"), ("offset", "0"), ("length", "1")]);
        let attribute = |number: u8, inner: &[u8]| field(5, &field(number, inner));
        let in_node = |attribute: &[u8]| model(&field(1, attribute));
        for number in [5, 10] {
            assert!(check(&in_node(&attribute(number, &tensor)), 100).is_err());
        }
        let inner = field(5, &tensor);
        for number in [6, 11] {
            assert!(check(&in_node(&attribute(number, &inner)), 100).is_err());
        }
        let function = field(25, &field(7, &attribute(5, &tensor)));
        assert!(check(&function, 100).is_err());
        assert!(check(&model(&field(15, &field(1, &tensor))), 100).is_err());
    }

    #[test]
    fn other_ways_out_and_damage_are_refused() {
        assert!(check(&model(&field(1, &field(4, b"Relu"))), 0).is_ok());
        assert!(check(&model(&field(1, &field(4, b"EPContext"))), 0).is_err());
        let config = [field(1, b"ort_config"), field(2, b"{}")].concat();
        assert!(check(&field(14, &config), 0).is_err());
        assert!(check(&field(20, b""), 0).is_err());
        assert!(check(b"\0\0\0\0ORTM", 0).is_err());
        // A graph, whose tag has a bit beyond the 32 that some parsers keep.
        assert!(check(&[0xba, 0x80, 0x80, 0x80, 0x10, 0], 0).is_err());
        let whole = model(&field(1, &field(4, b"Relu")));
        for end in 1..whole.len() {
            assert!(check(&whole[..end], 0).is_err(), "{end} bytes");
        }
        let mut deep = Vec::new();
        for _ in 0..200 {
            deep = field(1, &field(5, &field(6, &deep)));
        }
        assert!(check(&model(&deep), 0).is_err());
    }
}
