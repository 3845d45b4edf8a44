//! The report's tables.

use std::fs;

use serde_json::Value;

use super::rounds::Line;
use super::{PROMPT, TOKENS, llama, minilm};
use crate::table::Table;

/// All lines as one table.
pub fn markdown(lines: &[Line], rounds: u32) -> String {
    let mut table = Table::new([
        "student",
        "threads",
        "what",
        "unit",
        "limbeck",
        "peer",
        "fastest of",
        "ratio",
        "rounds' ratios",
        "of ceiling",
    ]);
    for line in lines {
        let [ratio, least, most] = line.ratio;
        let share = line.share.map(|(share, name)| format!("{:.0} % of {name}", 100.0 * share));
        table.row([
            line.case.clone(),
            line.threads.to_string(),
            line.what.clone(),
            line.unit.name().to_owned(),
            figure(line.ours),
            figure(line.theirs),
            line.peer.clone(),
            format!("{ratio:.2}"),
            format!("{least:.2}-{most:.2}"),
            share.unwrap_or_default(),
        ]);
    }
    format!(
        "Medians of {rounds} alternating rounds; a ratio above 1 says that Limbeck is faster, or takes \
         less memory. Text: prefill of {PROMPT} tokens, decode of {TOKENS} after them; MiniLM: a call of \
         batch x tokens; MiB: what a process has grown by at most since before it read the student. \
         Peers: llama.cpp as in llama-cpp-python {}, ONNX Runtime {}, each at its fastest of the ways \
         tried. Ceilings are measured beside: bytes read from memory, operations on f32 or 8 bits.\n\n{}",
        llama::VERSION,
        minilm::VERSION,
        table.markdown()
    )
}

/// Four digits or so.
fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Cosines of MiniLM's vectors.
pub fn cosines(all: &Value) -> String {
    let mut table = Table::new(["least cosine of a token", "limbeck", "ONNX Runtime"]);
    for (quant, sides) in all.as_object().into_iter().flatten() {
        let cell = |side: &str| format!("{:.5}", sides[side].as_f64().unwrap_or(f64::NAN));
        table.row([quant.clone(), cell("limbeck"), cell("onnxruntime")]);
    }
    format!("MiniLM's last hidden state against ONNX Runtime's in f32.\n\n{}", table.markdown())
}

/// The processor's name and how many threads it runs, as far as the system says.
pub fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    format!("{}, {threads} hardware threads", cpu.as_deref().unwrap_or("unnamed processor"))
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Series, Side, Unit, alternate};
    use super::*;

    #[test]
    fn a_line_becomes_a_row() {
        let side = |name: &str, figures: Vec<f64>| Side::new(name, move || Ok(figures.clone()));
        let sides = [side("ours", vec![300.0, 0.82]), side("Q4_0", vec![150.0])];
        let all: Vec<Series> = alternate("t", &sides, 1).unwrap();
        let share = Some((1, "read"));
        let unit = Unit::TokensPerSecond;
        let line = Line::new(["q4", "decode"], 2, unit, 0, &all[0], &[&all[1]], share);
        let text = markdown(&[line], 1);
        let row = text.lines().last().unwrap_or_default();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let expected =
            ["", "q4", "2", "decode", "tokens/s", "300", "150", "Q4_0", "2.00", "2.00-2.00"];
        assert_eq!(cells[..10], expected, "{text}");
        assert_eq!(cells[10], "82 % of read", "{text}");
        let text = cosines(&serde_json::json!({"q8": {"limbeck": 0.999, "onnxruntime": 0.98}}));
        assert!(text.contains("0.99900") && text.contains("0.98000"), "{text}");
    }
}
