//! The largest logits of each row, and the masses beside them.

use super::LOGITS;
use crate::backend::wgpu::buffers::Slice;
use crate::backend::wgpu::record::Recorder;
use crate::backend::wgpu::shaders::Shader;
use crate::error::Result;
use crate::text::shortlist::{Logit, Pick, Shortlist};

/// Logits of a slice, of which each has a group; see `shaders/pick.wgsl`.
pub(in crate::backend::wgpu) const SLICE: usize = 1024;

/// The id that stands where there is no other logit; see `shaders/pick.wgsl`.
const NONE: u32 = u32::MAX;

/// Records the search for the largest of each row of logits, and for masses where they are asked for.
///
/// # Errors
/// Those of the device.
pub(in crate::backend::wgpu) fn pick(rec: &mut Recorder<'_>, pick: Pick) -> Result<()> {
    let outputs = &rec.entry.lowered.outputs;
    let Some(logits) = outputs.iter().find(|output| output.name == LOGITS) else { return Ok(()) };
    let (value, rows) = (logits.value, rec.sizes.len(logits.value) / logits.value.cols.max(1));
    let (logits, picked) = (rec.value(value)?, Slice::whole(rec.buffers.picked));
    let (slices, lists) = (value.cols.div_ceil(SLICE), Slice::whole(rec.buffers.slices));
    let words = picked_words(1, value.cols, pick);
    let temperature = rec.layout.temperature;
    let params = [rows, value.cols, pick.count, slices, words, temperature].map(|n| n as u32);
    rec.dispatch(Shader::PickSlices, &params, &[&logits, &lists], rows * slices)?;
    rec.dispatch(Shader::PickRows, &params, &[&lists, &picked], rows)?;
    if pick.temperature == 0.0 {
        return Ok(());
    }
    rec.dispatch(Shader::PickMasses, &params, &[&logits, &rec.call(), &picked], rows * slices)
}

/// Words of what is found of so many rows of so many logits: of each row the sum and the list, then, where masses are
/// asked for, those of its slices, and of each logit of the list that of its slice before it.
pub(in crate::backend::wgpu) fn picked_words(rows: usize, cols: usize, pick: Pick) -> usize {
    let Pick { count, temperature } = pick;
    let masses = if temperature == 0.0 { 0 } else { cols.div_ceil(SLICE) + count };
    if count == 0 { 0 } else { rows.saturating_mul(2 * count + 1 + masses) }
}

/// What the words of a row say of so many of its largest logits.
pub(in crate::backend::wgpu) fn shortlist(words: &[f32], count: usize) -> Option<Shortlist> {
    let (sum, rest) = words.split_first()?;
    let (pairs, masses) = rest.split_at_checked(2 * count)?;
    let logit = |[token, value]: &[f32; 2]| {
        (token.to_bits() != NONE).then(|| Logit { token: token.to_bits(), value: *value })
    };
    let largest: Vec<Logit> = pairs.as_chunks::<2>().0.iter().map_while(logit).collect();
    let (slices, before) = masses.split_at(masses.len().saturating_sub(count));
    let mut total = 0.0;
    let mut starts = Vec::with_capacity(slices.len());
    for mass in slices {
        starts.push(total);
        total += f64::from(*mass);
    }
    let start = |logit: &Logit| starts.get(logit.token as usize / SLICE);
    let before = largest.iter().zip(before);
    let before = before.filter_map(|(logit, mass)| Some(start(logit)? + f64::from(*mass)));
    Some(Shortlist { sum: *sum, total, before: before.collect(), largest })
}
