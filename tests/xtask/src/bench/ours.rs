//! What `limbeck bench` says of a plan.

use std::path::Path;

use crate::limbeck::{self, Limbeck, number};
use crate::process::Result;

/// Prefill and decode in tokens a second, and decode's share of what memory gives: the figures of
/// a text student.
pub fn text(
    limbeck: &Limbeck,
    plan: &Path,
    [prompt, tokens, threads]: [u32; 3],
) -> Result<Vec<f64>> {
    let mut command = limbeck.command("bench");
    command.arg(plan).args(["-p", &prompt.to_string(), "-n", &tokens.to_string()]);
    command.args(["--threads", &threads.to_string(), "-r", "1", "--ceilings", "--json"]);
    let report = limbeck::json_of(&mut command)?;
    let read = number(&report, "decode.bytes_per_second")?;
    Ok(vec![
        number(&report, "prefill.tokens_per_second")?,
        number(&report, "decode.tokens_per_second")?,
        read / number(&report, "ceilings.read_bytes_per_second")?,
    ])
}

/// Milliseconds of a call of an encoder, and its share of the rate of multiply-adds named.
pub fn encoder(
    limbeck: &Limbeck,
    plan: &Path,
    ceiling: &str,
    [batch, tokens, repeats, threads]: [u32; 4],
) -> Result<[f64; 2]> {
    let mut command = limbeck.command("bench");
    command.arg(plan).args(["-p", &tokens.to_string(), "--batch", &batch.to_string()]);
    command.args(["-r", &repeats.to_string(), "--threads", &threads.to_string()]);
    let report = limbeck::json_of(command.args(["--ceilings", "--json"]))?;
    let ops = number(&report, "prefill.ops_per_second")?;
    let most = number(&report, &format!("ceilings.{ceiling}_ops_per_second"))?;
    Ok([number(&report, "prefill.median_ms")?, ops / most])
}
