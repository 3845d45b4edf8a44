//! Reading a plan from bytes.

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::file::{Section, SectionKind, Table};
use crate::{Calibration, Manifest, Program, Weight};

/// What a parsed JSON value takes at most beside its text, growing lists included.
const VALUE_BYTES: usize = 160;
/// What parsing may take beyond the file's own size.
const SPARE_BYTES: usize = 64 << 20;

/// A parsed and validated plan. It holds the metadata; weights and tokenizer stay in the bytes it
/// was parsed from.
#[derive(Clone, Debug)]
pub struct Plan {
    manifest: Manifest,
    program: Program,
    table: Table,
    weights: Section,
    models: Option<Section>,
    calibration: Option<Calibration>,
}

impl Plan {
    /// Parses and checks a plan at the start of `bytes` (bytes past the plan's own length are
    /// ignored). Metadata is verified against its checksums, weights are not: see
    /// [`Plan::verify`].
    ///
    /// # Errors
    /// What is wrong and in which section or step.
    pub fn parse(bytes: &[u8]) -> Result<Plan, Error> {
        let table = Table::parse(bytes)?;
        let manifest: Manifest = json(bytes, &table, SectionKind::Manifest)?;
        let program: Program = json(bytes, &table, SectionKind::Program)?;
        let weights = section(&table, SectionKind::Weights)?;
        for tokenizer in table.sections.iter().filter(|s| s.kind == SectionKind::Tokenizer) {
            tokenizer.verify(bytes)?;
        }
        program.check(weights.len as u64)?;
        let models = models(bytes, &table)?;
        program.check_models(models.map_or(0, |s| s.len as u64))?;
        let calibration = calibration(bytes, &table)?;
        Ok(Plan { manifest, program, table, weights, models, calibration })
    }

    /// The same plan with another program over its weights, to try one without writing it.
    ///
    /// # Errors
    /// A program that a reader would refuse.
    pub fn with_program(&self, program: Program) -> Result<Plan, Error> {
        program.check(self.weights.len as u64)?;
        program.check_models(self.models.map_or(0, |s| s.len as u64))?;
        Ok(Plan { program, ..self.clone() })
    }

    /// What the student is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What prices lead to, where it was measured.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    /// The sections, in file order.
    pub fn sections(&self) -> &[Section] {
        &self.table.sections
    }

    /// A hash that names this plan: it covers every section's checksum.
    pub fn hash(&self) -> u64 {
        self.table.hash
    }

    /// Format version of the file.
    pub fn version(&self) -> (u16, u16) {
        self.table.version
    }

    /// Bytes of the plan.
    pub fn file_len(&self) -> usize {
        self.table.file_len
    }

    /// The tokenizer, if the plan carries one.
    pub fn tokenizer<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let found = self.table.sections.iter().find(|s| s.kind == SectionKind::Tokenizer);
        found.map(|s| s.bytes(bytes))
    }

    /// The models of ONNX segments, in which each has its offset; none where there are no such.
    pub fn models<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.models.map_or(&[], |s| s.bytes(bytes))
    }

    /// The bytes of all weights, in which each has its offset.
    pub fn weights<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.weights.bytes(bytes)
    }

    /// The bytes of a weight of this plan's program.
    pub fn weight_bytes<'a>(&self, bytes: &'a [u8], weight: &Weight) -> &'a [u8] {
        let start = weight.offset as usize;
        let end = start.saturating_add(weight.bytes as usize);
        self.weights.bytes(bytes).get(start..end).unwrap_or_default()
    }

    /// Compares every section, weights included, with its checksum; reads the whole file.
    ///
    /// # Errors
    /// The first section that does not match.
    pub fn verify(&self, bytes: &[u8]) -> Result<(), Error> {
        self.table.sections.iter().try_for_each(|s| s.verify(bytes))
    }
}

fn section(table: &Table, kind: SectionKind) -> Result<Section, Error> {
    let mut found = table.sections.iter().filter(|s| s.kind == kind);
    match (found.next(), found.next()) {
        (Some(section), None) => Ok(*section),
        (None, _) => Err(Error::new(ErrorKind::Corrupt, kind.name(), "the section is missing")),
        _ => Err(Error::new(ErrorKind::Corrupt, kind.name(), "the section is there twice")),
    }
}

fn models(bytes: &[u8], table: &Table) -> Result<Option<Section>, Error> {
    if table.sections.iter().all(|s| s.kind != SectionKind::Onnx) {
        return Ok(None);
    }
    let models = section(table, SectionKind::Onnx)?;
    models.verify(bytes)?;
    Ok(Some(models))
}

fn calibration(bytes: &[u8], table: &Table) -> Result<Option<Calibration>, Error> {
    if table.sections.iter().all(|s| s.kind != SectionKind::Calibration) {
        return Ok(None);
    }
    let calibration: Calibration = json(bytes, table, SectionKind::Calibration)?;
    calibration.check()?;
    Ok(Some(calibration))
}

fn json<T: DeserializeOwned>(bytes: &[u8], table: &Table, kind: SectionKind) -> Result<T, Error> {
    let section = section(table, kind)?;
    section.verify(bytes)?;
    let invalid = |message: String| {
        Error::new(ErrorKind::Invalid, format!("section {}", kind.name()), message)
    };
    let text = section.bytes(bytes);
    let (count, most) = (count_values(text), (table.file_len + SPARE_BYTES) / VALUE_BYTES);
    if count > most {
        return Err(invalid(format!(
            "{count} values are more than the {most} that the file justifies"
        )));
    }
    serde_json::from_slice(text).map_err(|e| invalid(e.to_string()))
}

/// At least as many as the JSON values of a text, without parsing it.
fn count_values(text: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings_only() {
        for (text, at_least, at_most) in [
            ("1", 1, 1),
            (r#"[1,2,{"a":3}]"#, 5, 6),
            (r#"{"a,[{":"\"],,[","b":[]}"#, 3, 4),
            (r#""\\",[1]"#, 3, 3),
        ] {
            let found = count_values(text.as_bytes());
            assert!((at_least..=at_most).contains(&found), "{text}: {found} values");
        }
    }
}
