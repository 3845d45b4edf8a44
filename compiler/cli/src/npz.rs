//! Reading and writing `.npz` files of named tensors.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::Path;

use limbeck::{Tensor, TensorValues};
use npyz::WriterBuilder;
use npyz::half::f16;
use npyz::npz::{NpzArchive, NpzWriter};

use crate::output::{Failure, at_file, write_result};

/// The bytes of a tensor in the archive.
type Entry<'a> = npyz::zip::read::ZipFile<'a>;

/// Most elements of a tensor that is read.
const MAX_ELEMENTS: u64 = 1 << 28;
/// Longest header of a tensor, and the deepest nesting of brackets in it: a parser's time grows
/// with both.
const MAX_HEADER: usize = 4096;
const MAX_NESTING: usize = 3;

/// A tensor of integers.
pub struct Integers {
    pub shape: Vec<usize>,
    pub values: Vec<i64>,
}

/// A tensor of f32.
pub struct Floats {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Named tensors of an `.npz` file.
pub struct Inputs {
    archive: NpzArchive<BufReader<File>>,
    path: String,
}

impl Inputs {
    pub fn open(path: &Path) -> Result<Inputs, Failure> {
        if at_file(path, std::fs::metadata(path))?.is_dir() {
            return Err(Failure::new(format!("{}: this is not a file", path.display())));
        }
        let archive = at_file(path, NpzArchive::open(path))?;
        Ok(Inputs { archive, path: path.display().to_string() })
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.archive.array_names().map(str::to_owned).collect()
    }

    /// Whether a tensor holds floats, of whatever width.
    pub fn is_float(&mut self, name: &str) -> Result<bool, Failure> {
        let Some(array) = self.array(name)? else { return Ok(false) };
        let float = |kind: &npyz::TypeStr| kind.type_char() == npyz::TypeChar::Float;
        Ok(matches!(array.dtype(), npyz::DType::Plain(kind) if float(&kind)))
    }

    /// A tensor of integers that i64 holds, or of truth values; `None` when there is none of that name.
    pub fn integers(&mut self, name: &str) -> Result<Option<Integers>, Failure> {
        let fail = failure(self.path.clone(), name);
        let Some(array) = self.array(name)? else { return Ok(None) };
        let shape = array.shape().iter().map(|d| *d as usize).collect();
        let values = widened::<i64, i64>(array)
            .or_else(widened::<i32, _>)
            .or_else(widened::<bool, _>)
            .or_else(widened::<u8, _>)
            .or_else(widened::<i8, _>)
            .or_else(widened::<u16, _>)
            .or_else(widened::<i16, _>)
            .or_else(widened::<u32, _>);
        let values = values.map_err(|array| {
            let dtype = array.dtype().descr();
            fail(format!("its dtype {dtype} is none of integers that i64 holds, nor bool"))
        })?;
        Ok(Some(Integers { shape, values: values.map_err(|e| fail(e.to_string()))? }))
    }

    /// A tensor of floats, as f32: wider ones are rounded to the nearest. `None` when there is none of that
    /// name.
    pub fn floats(&mut self, name: &str) -> Result<Option<Floats>, Failure> {
        let fail = failure(self.path.clone(), name);
        let Some(array) = self.array(name)? else { return Ok(None) };
        let shape = array.shape().iter().map(|d| *d as usize).collect();
        let values = widened::<f32, f32>(array).or_else(widened::<f16, _>).or_else(rounded);
        let values = values.map_err(|array| {
            let dtype = array.dtype().descr();
            fail(format!("its dtype {dtype} is none of f32, f16 and f64"))
        })?;
        Ok(Some(Floats { shape, values: values.map_err(|e| fail(e.to_string()))? }))
    }

    /// The images `[images, channels, height, width]` of the tensor `pixel_values`: at least one,
    /// and all numbers.
    pub fn images(&mut self, [c, h, w]: [usize; 3]) -> Result<Floats, Failure> {
        let name = "pixel_values";
        let fail = failure(self.path.clone(), name);
        let Some(images) = self.floats(name)? else {
            return Err(Failure::new(format!("{}: there is no tensor {name:?}", self.path)));
        };
        let Floats { shape, values } = &images;
        if shape.len() != 4 || shape[1..] != [c, h, w] {
            return Err(fail(format!("its shape {shape:?} is not [batch, {c}, {h}, {w}]")));
        }
        if values.is_empty() {
            return Err(fail("it holds no image".into()));
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let (image, value) = (at / (c * h * w), at % (c * h * w));
                Err(fail(format!("value {value} of image {image} is {}", values[at])))
            }
            None => Ok(images),
        }
    }

    /// The array of a tensor, of a size and an order that are read.
    fn array(&mut self, name: &str) -> Result<Option<npyz::NpyFile<Entry<'_>>>, Failure> {
        let fail = failure(self.path.clone(), name);
        if !self.has_sound_header(name) {
            return Err(fail("its header is not that of an array".into()));
        }
        let Some(array) = self.archive.by_name(name).map_err(|e| fail(e.to_string()))? else {
            return Ok(None);
        };
        // A size of 0 does not make the others small.
        let mut sizes = array.shape().iter().map(|d| (*d).max(1));
        if sizes.try_fold(1u64, |n, d| n.checked_mul(d)).is_none_or(|n| n > MAX_ELEMENTS) {
            return Err(fail(format!("its shape {:?} is too large", array.shape())));
        }
        if array.order() != npyz::Order::C && array.shape().len() > 1 {
            return Err(fail("it is in Fortran order; save a C-contiguous array".into()));
        }
        Ok(Some(array))
    }

    /// Whether a tensor's header is short and flat enough to be parsed; so is one that is missing.
    fn has_sound_header(&mut self, name: &str) -> bool {
        let Ok(mut entry) = self.archive.zip_archive().by_name(&format!("{name}.npy")) else {
            return true;
        };
        // Magic, version, the header's length in 2 or 4 bytes, the header.
        let mut bytes = Vec::new();
        if entry.by_ref().take(12 + MAX_HEADER as u64).read_to_end(&mut bytes).is_err() {
            return false;
        }
        let (long, len) = match bytes.get(6..12) {
            Some([1, _, a, b, ..]) => (0, u32::from_le_bytes([*a, *b, 0, 0])),
            Some([_, _, a, b, c, d]) => (2, u32::from_le_bytes([*a, *b, *c, *d])),
            _ => return false,
        };
        let start = 10usize + long;
        let Some(header) = bytes.get(start..start.saturating_add(len as usize)) else {
            return false;
        };
        let mut depth = 0usize;
        let deepest = header.iter().map(|b| {
            match b {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth
        });
        deepest.max().unwrap_or(0) <= MAX_NESTING
    }
}

/// The elements of an array as those of a wider type; the array where they are not of this one.
#[allow(clippy::result_large_err, reason = "npyz gives back an array of another type as it is")]
fn widened<T: npyz::Deserialize + Into<V>, V>(
    array: npyz::NpyFile<Entry<'_>>,
) -> Result<io::Result<Vec<V>>, npyz::NpyFile<Entry<'_>>> {
    Ok(array.try_data::<T>()?.map(|v| v.map(Into::into)).collect())
}

/// The f64 of an array as the nearest f32; the array where they are of another type.
#[allow(clippy::result_large_err, reason = "npyz gives back an array of another type as it is")]
fn rounded(
    array: npyz::NpyFile<Entry<'_>>,
) -> Result<io::Result<Vec<f32>>, npyz::NpyFile<Entry<'_>>> {
    Ok(array.try_data::<f64>()?.map(|v| v.map(|v| v as f32)).collect())
}

fn failure(path: String, name: &str) -> impl Fn(String) -> Failure {
    move |m| Failure::new(format!("{path}: tensor {name:?}: {m}"))
}

/// Writes tensors to a file, all or none: one that cannot be written whole is an error.
pub fn write(path: &Path, tensors: &[Tensor]) -> Result<(), Failure> {
    let bytes = at_file(path, encode(tensors))?;
    write_result(path, bytes)
}

fn encode(tensors: &[Tensor]) -> io::Result<Vec<u8>> {
    let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
    for Tensor { name, shape, values } in tensors {
        let shape: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
        match values {
            TensorValues::F32(values) => array(&mut writer, name, &shape, values)?,
            TensorValues::I32(values) => array(&mut writer, name, &shape, values)?,
        }
    }
    Ok(writer.zip_writer().finish()?.into_inner())
}

fn array<T: npyz::AutoSerialize + Copy>(
    writer: &mut NpzWriter<Cursor<Vec<u8>>>,
    name: &str,
    shape: &[u64],
    values: &[T],
) -> io::Result<()> {
    // The archive compresses what it is given at once, and an array gives element by element.
    let mut bytes = Vec::new();
    let array = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes);
    let mut array = array.begin_nd()?;
    array.extend(values.iter().copied())?;
    array.finish()?;
    let zip = writer.zip_writer();
    zip.start_file(format!("{name}.npy"), npyz::zip::write::FileOptions::default())?;
    zip.write_all(&bytes)
}
