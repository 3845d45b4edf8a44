//! The shape rule of attention over tensors.

use super::floats;
use super::tensors::{broadcast, differ};
use crate::ops::Attend;
use crate::{DType, Dim, Fact};

pub(super) fn attend(p: &Attend, inputs: &[Fact]) -> Result<Fact, String> {
    inputs.iter().try_for_each(floats)?;
    if !p.scale.is_finite() {
        return Err(format!("scale {} is not finite", p.scale));
    }
    let [q, k, v, mask @ ..] = inputs else { return Err("operands are missing".into()) };
    let ([batch_q @ .., m, of_q], [batch_k @ .., k0, k1], [batch_v @ .., v0, v1]) =
        (q.shape.as_slice(), k.shape.as_slice(), v.shape.as_slice())
    else {
        return Err(format!("{q}, {k} and {v} are not matrices"));
    };
    let (n, of_k) = if p.keys_turned { (k1, k0) } else { (k0, k1) };
    let (of_v, width) = if p.values_turned { (v1, v0) } else { (v0, v1) };
    if differ(of_q, of_k) || differ(n, of_v) {
        return Err(format!("{q}, {k} and {v} do not go together"));
    }
    let mut shape = broadcast(&[batch_q, batch_k, batch_v])?;
    let scores = || shape.iter().chain([m, n]).rev();
    for mask in mask {
        let repeats = |(to, from): (&Dim, &Dim)| *from == Dim::Const(1) || !differ(to, from);
        if mask.shape.len() > shape.len() + 2 || !scores().zip(mask.shape.iter().rev()).all(repeats)
        {
            return Err(format!("the mask {mask} does not repeat to the scores of {q} and {k}"));
        }
    }
    shape.extend([m.clone(), width.clone()]);
    Ok(Fact::new(DType::F32, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(sizes: &[&str]) -> Fact {
        let dim = |size: &&str| size.parse().map_or_else(|_| Dim::symbol(size), Dim::Const);
        Fact::new(DType::F32, sizes.iter().map(dim).collect())
    }

    #[test]
    fn queries_keys_values_and_mask_have_to_go_together() {
        let (plain, masked) = (plain_op(), Attend { mask: true, ..plain_op() });
        let turned = Attend { keys_turned: true, values_turned: true, ..plain_op() };
        let (q, k, v) = (&["n", "2", "t", "8"], &["n", "1", "s", "8"], &["s", "5"]);
        let given = |mask: &[&[&str]]| -> Vec<Fact> {
            let all = [&q[..], &k[..], &v[..]].into_iter().chain(mask.iter().copied());
            all.map(fact).collect()
        };
        let want = fact(&["n", "2", "t", "5"]);
        assert_eq!(attend(&plain, &given(&[])), Ok(want.clone()));
        for mask in [&["s"][..], &["1"], &["t", "s"], &["n", "1", "1", "s"], &["n", "2", "t", "1"]]
        {
            assert_eq!(attend(&masked, &given(&[mask])), Ok(want.clone()), "{mask:?}");
        }
        for mask in [&["n", "3", "t", "s"][..], &["1", "1", "1", "t", "s"]] {
            assert!(attend(&masked, &given(&[mask])).is_err(), "{mask:?}");
        }
        let all = |shapes: [&[&str]; 3]| shapes.map(fact).to_vec();
        let found = attend(&turned, &all([&["t", "8"], &["8", "s"], &["5", "s"]]));
        assert_eq!(found, Ok(fact(&["t", "5"])));
        for shapes in [
            [&["t", "8"][..], &["s", "7"], &["s", "5"]],
            [&["t", "8"], &["4", "8"], &["3", "5"]],
            [&["2", "t", "8"], &["3", "s", "8"], &["s", "5"]],
            [&["8"], &["s", "8"], &["s", "5"]],
        ] {
            assert!(attend(&plain, &all(shapes)).is_err(), "{shapes:?}");
        }
        let unbounded = Attend { scale: f32::INFINITY, ..plain_op() };
        assert!(attend(&unbounded, &given(&[])).is_err());
    }

    fn plain_op() -> Attend {
        Attend {
            scale: 0.5,
            mask: false,
            keys_turned: false,
            values_turned: false,
            zero_nan: false,
        }
    }
}
