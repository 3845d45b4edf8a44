//! Long short-term memories.

use limbeck_plan::Lstm;

use super::flag;
use super::tensors::{Operand, wrong};
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;

pub(super) fn lstm(
    rec: &mut Recorder<'_>,
    p: &Lstm,
    given: &[Operand<'_>],
    out: &Operand<'_>,
) -> Result<()> {
    let missing = || wrong("an operand is missing");
    let [x, w, r, rest @ ..] = given else { return Err(missing()) };
    let (&[time, batch, inputs], &[directions, _, hidden]) = (x.shape, r.shape) else {
        return Err(wrong("a memory is not of sequences"));
    };
    let mut rest = rest.iter().map(|operand| &operand.slice);
    let none = rec.none();
    let mut next = |there: bool| if there { rest.next().ok_or_else(missing) } else { Ok(&none) };
    let (bias, state, cells) = (next(p.bias)?, next(p.state)?, next(p.state)?);
    let reverse = p.reverse.iter().enumerate().map(|(d, set)| flag(*set, 1 << d));
    let [time, batch, inputs, hidden, directions] =
        [time, batch, inputs, hidden, directions].map(|size| size as u32);
    let flags = flag(p.bias, 1) | flag(p.state, 2);
    let words = [time, batch, inputs, hidden, directions, reverse.sum(), flags];
    let bindings = [&x.slice, &w.slice, &r.slice, bias, state, cells, &out.slice];
    let groups = if hidden == 0 { 0 } else { (directions * batch) as usize };
    rec.dispatch(Shader::Lstm, &words, &bindings, groups)
}
