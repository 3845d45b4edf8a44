//! Writing a plan: weights stream first, metadata follows, the header comes last.

use std::io::{Seek, SeekFrom, Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::check::WEIGHT_ALIGN;
use crate::error::{Error, ErrorKind};
use crate::file::{HEADER_BYTES, MAGIC, MAJOR, MINOR, ROW_BYTES, SECTION_ALIGN, SectionKind};
use crate::{Calibration, Manifest, Program};

struct Row {
    kind: SectionKind,
    offset: u64,
    len: u64,
    checksum: u64,
}

/// Writes one plan to a seekable sink. The header is written last, so that an unfinished file is
/// not a plan.
pub struct PlanWriter<W> {
    out: W,
    position: u64,
    weights: Xxh3,
    weights_start: u64,
    calibration: Option<Calibration>,
    models: Vec<u8>,
}

impl<W: Write + Seek> PlanWriter<W> {
    /// Starts a plan at the sink's beginning.
    ///
    /// # Errors
    /// The sink's.
    pub fn new(mut out: W) -> Result<PlanWriter<W>, Error> {
        out.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut writer = PlanWriter {
            out,
            position: 0,
            weights: Xxh3::new(),
            weights_start: SECTION_ALIGN,
            calibration: None,
            models: Vec::new(),
        };
        writer.pad_to(SECTION_ALIGN)?;
        Ok(writer)
    }

    /// Begins the next weight and gives its offset within the weights section.
    ///
    /// # Errors
    /// The sink's.
    pub fn begin_weight(&mut self) -> Result<u64, Error> {
        let used = self.position - self.weights_start;
        let padding = used.next_multiple_of(WEIGHT_ALIGN) - used;
        self.append(&[0; WEIGHT_ALIGN as usize][..padding as usize])?;
        Ok(used + padding)
    }

    /// Appends bytes to the weight that was begun last.
    ///
    /// # Errors
    /// The sink's.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.weights.update(bytes);
        self.write(bytes)
    }

    /// Gives the plan a calibration.
    pub fn set_calibration(&mut self, calibration: Option<&Calibration>) {
        self.calibration = calibration.cloned();
    }

    /// Gives the plan the models of its ONNX segments.
    pub fn set_models(&mut self, models: &[u8]) {
        self.models = models.to_vec();
    }

    /// Checks the program and the calibration, writes the metadata and the header, and gives the sink back, flushed.
    ///
    /// # Errors
    /// A program or a calibration that a reader would refuse, or the sink's.
    pub fn finish(
        mut self,
        manifest: &Manifest,
        program: &Program,
        tokenizer: Option<&[u8]>,
    ) -> Result<W, Error> {
        let len = self.position - self.weights_start;
        program.check(len)?;
        program.check_models(self.models.len() as u64)?;
        let calibration = self.calibration.take();
        calibration.iter().try_for_each(Calibration::check)?;
        let mut rows = vec![Row {
            kind: SectionKind::Weights,
            offset: self.weights_start,
            len,
            checksum: self.weights.digest(),
        }];
        rows.push(self.section(SectionKind::Manifest, &to_json("manifest", manifest)?)?);
        rows.push(self.section(SectionKind::Program, &to_json("program", program)?)?);
        if let Some(bytes) = tokenizer {
            rows.push(self.section(SectionKind::Tokenizer, bytes)?);
        }
        if !self.models.is_empty() {
            let models = std::mem::take(&mut self.models);
            rows.push(self.section(SectionKind::Onnx, &models)?);
        }
        if let Some(calibration) = calibration {
            let json = to_json("calibration", &calibration)?;
            rows.push(self.section(SectionKind::Calibration, &json)?);
        }
        self.header(&rows)?;
        self.out.flush().map_err(io)?;
        Ok(self.out)
    }

    fn section(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<Row, Error> {
        self.pad_to(self.position.next_multiple_of(SECTION_ALIGN))?;
        let offset = self.position;
        self.write(bytes)?;
        Ok(Row { kind, offset, len: bytes.len() as u64, checksum: xxh3_64(bytes) })
    }

    fn header(&mut self, rows: &[Row]) -> Result<(), Error> {
        let mut table = Vec::with_capacity(rows.len() * ROW_BYTES);
        for row in rows {
            table.extend(row.kind.code());
            table.extend(row.kind.flags().to_le_bytes());
            table.extend(row.offset.to_le_bytes());
            table.extend(row.len.to_le_bytes());
            table.extend(row.checksum.to_le_bytes());
        }
        let mut header = Vec::with_capacity(HEADER_BYTES + table.len());
        header.extend(MAGIC);
        header.extend(MAJOR.to_le_bytes());
        header.extend(MINOR.to_le_bytes());
        header.extend((rows.len() as u32).to_le_bytes());
        header.extend(0u32.to_le_bytes());
        header.extend(self.position.to_le_bytes());
        header.extend(xxh3_64(&table).to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        header.extend(table);
        self.out.seek(SeekFrom::Start(0)).map_err(io)?;
        self.out.write_all(&header).map_err(io)
    }

    fn pad_to(&mut self, position: u64) -> Result<(), Error> {
        let zeros = vec![0; (position - self.position) as usize];
        self.write(&zeros)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(io)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

fn io(e: std::io::Error) -> Error {
    Error::io("writing the plan", e)
}

fn to_json<T: serde::Serialize>(place: &str, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::new(ErrorKind::Invalid, place, e.to_string()))
}
