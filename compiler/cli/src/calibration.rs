//! The calibration table of a plan, for people.

use std::fmt::Write;

use limbeck::plan::Calibration;

/// The table with what it was measured on, lines indented by two.
pub fn table(calibration: &Calibration) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(calibration, &mut out);
    out
}

fn write_table(calibration: &Calibration, out: &mut String) -> std::fmt::Result {
    let Calibration { quality, data, tokens, machine, points } = calibration;
    writeln!(out, "  {} on {data:?}, {tokens} tokens", quality.name())?;
    if let Some(machine) = machine {
        writeln!(out, "  times on {machine}")?;
    }
    let quality = quality.name();
    writeln!(out, "  {:>12}  fraction  of sites  {quality:>10}  ms/token", "price")?;
    for p in points {
        let ms = p.ms_per_token.map_or("-".into(), |ms| format!("{ms:.4}"));
        writeln!(
            out,
            "  {:>12.6}  {:>8.4}  {:>8.4}  {:>10.4}  {ms:>8}",
            p.price, p.fraction, p.site_fraction, p.quality
        )?;
    }
    Ok(())
}
