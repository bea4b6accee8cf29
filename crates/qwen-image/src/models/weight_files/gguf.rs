//! GGUF headers (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! candle has a reader, too, but its errors name neither tensor nor key, and a tensor of a type that it does not know
//! hides all others.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use candle_core::{DType, quantized::GgmlDType};

use super::{Raw, RawTensor, TensorLocation};
use crate::models::{LoadResult, ModelError};

/// ggml's types by number: the name, and candle's format if it has one.
pub struct Types;

const TYPES: [(u32, &str, Option<GgmlDType>); 34] = [
    (0, "F32", Some(GgmlDType::F32)),
    (1, "F16", Some(GgmlDType::F16)),
    (2, "Q4_0", Some(GgmlDType::Q4_0)),
    (3, "Q4_1", Some(GgmlDType::Q4_1)),
    (6, "Q5_0", Some(GgmlDType::Q5_0)),
    (7, "Q5_1", Some(GgmlDType::Q5_1)),
    (8, "Q8_0", Some(GgmlDType::Q8_0)),
    (9, "Q8_1", Some(GgmlDType::Q8_1)),
    (10, "Q2_K", Some(GgmlDType::Q2K)),
    (11, "Q3_K", Some(GgmlDType::Q3K)),
    (12, "Q4_K", Some(GgmlDType::Q4K)),
    (13, "Q5_K", Some(GgmlDType::Q5K)),
    (14, "Q6_K", Some(GgmlDType::Q6K)),
    (15, "Q8_K", Some(GgmlDType::Q8K)),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(GgmlDType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
];

impl Types {
    /// The number of a format in a file.
    pub fn number(format: GgmlDType) -> u32 {
        TYPES.iter().find(|(_, _, known)| *known == Some(format)).map_or(u32::MAX, |(number, _, _)| *number)
    }
}

/// `Q4_K`.
pub fn name_of(format: GgmlDType) -> String {
    let known = TYPES.iter().find(|(_, _, known)| *known == Some(format));
    known.map_or_else(|| format!("{format:?}"), |(_, name, _)| (*name).to_owned())
}

/// The largest number of dimensions.
const MOST_DIMS: u32 = 4;
/// Arrays of more numbers than this are not kept.
const MOST_KEPT: u64 = 8;
const SHAPES: &str = "comfy.gguf.orig_shape.";

/// Reads a header. Every length is compared with what is left of the file before anything is allocated for it.
pub fn read(path: &Path, raw: &mut Raw) -> LoadResult<()> {
    let fail = |reason: String| ModelError::invalid(path, reason);
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let length = file.metadata().map_err(|error| fail(error.to_string()))?.len();
    let mut header = GgufHeader { path, reader: BufReader::new(file), length, left: length };
    header.skip(4, "the magic")?;
    let version = header.u32("the version")?;
    if !(2..=3).contains(&version) {
        let is_big_endian = version.swap_bytes() <= 3;
        let version = if is_big_endian { version.swap_bytes() } else { version };
        let why = if is_big_endian { "is big-endian" } else { "is not supported" };
        return Err(fail(format!("GGUF version {version} {why}; convert it to version 3, little-endian")));
    }
    let (tensors, keys) = (header.u64("the number of tensors")?, header.u64("the number of keys")?);
    // The smallest entry of each: a key has a length, a type and a value; a tensor has a length, dimensions, a type and
    // an offset.
    if keys > header.left / 13 {
        return Err(fail(format!("promises {keys} keys, but has only {} bytes left; it is damaged", header.left)));
    }
    let mut alignment = 32;
    for index in 0..keys {
        let key = header.string(&format!("key {index}"))?;
        let kind = header.u32(&format!("key `{key}`"))?;
        let value = header.value(&key, kind, 0)?;
        match value {
            GgufValue::Text(text) => {
                raw.metadata.insert(key, text);
            }
            GgufValue::Number(number) if key == "general.alignment" => alignment = number,
            GgufValue::Numbers(numbers) => {
                if let Some(name) = key.strip_prefix(SHAPES) {
                    raw.shapes.insert(name.to_owned(), numbers.iter().map(|number| *number as usize).collect());
                }
            }
            GgufValue::Number(_) | GgufValue::Other => {}
        }
    }
    if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
        return Err(fail(format!("key `general.alignment` is {alignment}; it is a power of two, usually 32")));
    }
    if tensors > header.left / 24 {
        return Err(fail(format!(
            "promises {tensors} tensors, but has only {} bytes left; it is damaged",
            header.left
        )));
    }
    let mut infos = Vec::new();
    for index in 0..tensors {
        infos.push(header.tensor(index)?);
    }
    let start = (length - header.left).next_multiple_of(alignment);
    for Info { name, shape, kind, offset } in infos {
        let fail = |reason: String| ModelError::invalid(path, format!("tensor `{name}`: {reason}"));
        let known = TYPES.iter().find(|(number, _, _)| *number == kind);
        let format = known.and_then(|(_, _, format)| *format);
        let type_name = known.map_or_else(|| format!("type {kind}"), |(_, name, _)| (*name).to_owned());
        let elements = shape.iter().try_fold(1_u64, |all, dim| all.checked_mul(*dim as u64));
        let Some(elements) = elements.filter(|elements| *elements <= length.saturating_mul(16)) else {
            return Err(fail(format!("{shape:?} is more than the file can hold; it is damaged")));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(fail(format!("starts at {offset}, which is not a multiple of {alignment}")));
        }
        // Types that cannot be read have no size here.
        let bytes = match format {
            Some(format) => {
                let block = format.block_size() as u64;
                if !elements.is_multiple_of(block) {
                    return Err(fail(format!("{shape:?} is not a whole number of {type_name} blocks of {block}")));
                }
                elements / block * format.type_size() as u64
            }
            None => 0,
        };
        let offset = start.checked_add(offset);
        let Some(offset) = offset.filter(|at| at.checked_add(bytes).is_some_and(|end| end <= length)) else {
            return Err(fail("ends after the end of the file; the download is not complete".to_owned()));
        };
        let dtype = match format {
            Some(GgmlDType::F32) => Some(DType::F32),
            Some(GgmlDType::F16) => Some(DType::F16),
            Some(GgmlDType::BF16) => Some(DType::BF16),
            _ => None,
        };
        let blocks = format.filter(|_| dtype.is_none());
        let place = TensorLocation { file: 0, offset, bytes, shape, dtype };
        if raw.tensors.insert(name.clone(), RawTensor { place, type_name, blocks }).is_some() {
            return Err(fail("is there twice; the file is damaged".to_owned()));
        }
    }
    raw.gguf = true;
    Ok(())
}

struct Info {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

enum GgufValue {
    Text(String),
    Number(u64),
    Numbers(Vec<u64>),
    Other,
}

struct GgufHeader<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    length: u64,
    left: u64,
}

impl GgufHeader<'_> {
    fn fail(&self, reason: String) -> ModelError {
        ModelError::invalid(self.path, reason)
    }

    fn take<const N: usize>(&mut self, what: &str) -> LoadResult<[u8; N]> {
        let mut bytes = [0; N];
        if self.left < N as u64 || self.reader.read_exact(&mut bytes).is_err() {
            let length = self.length;
            return Err(self.fail(format!("ends inside its header, in {what}, after {length} bytes")));
        }
        self.left -= N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> LoadResult<u32> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> LoadResult<u64> {
        self.take(what).map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: u64, what: &str) -> LoadResult<()> {
        if bytes > self.left {
            let left = self.left;
            return Err(
                self.fail(format!("{what} has {bytes} bytes, but the file has only {left} left; it is damaged"))
            );
        }
        let skipped = self.reader.seek_relative(bytes as i64);
        skipped.map_err(|error| self.fail(error.to_string()))?;
        self.left -= bytes;
        Ok(())
    }

    fn string(&mut self, what: &str) -> LoadResult<String> {
        let length = self.u64(what)?;
        if length > self.left.min(1 << 24) {
            let left = self.left;
            return Err(self.fail(format!(
                "{what} is a text of {length} bytes, but the file has only {left} left; it is damaged"
            )));
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(|error| self.fail(error.to_string()))?;
        self.left -= length;
        String::from_utf8(bytes).map_err(|_| self.fail(format!("{what} is not UTF-8; it is damaged")))
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> LoadResult<GgufValue> {
        let what = format!("key `{key}`");
        Ok(match kind {
            0 => GgufValue::Number(self.take::<1>(&what)?[0].into()),
            1 | 7 => {
                self.skip(1, &what)?;
                GgufValue::Other
            }
            2 => GgufValue::Number(u16::from_le_bytes(self.take(&what)?).into()),
            3 => {
                self.skip(2, &what)?;
                GgufValue::Other
            }
            // Signed numbers are shapes here; negative ones fit no tensor.
            4 | 5 => GgufValue::Number(self.u32(&what)?.into()),
            6 => {
                self.skip(4, &what)?;
                GgufValue::Other
            }
            8 => GgufValue::Text(self.string(&what)?),
            9 => self.array(key, depth)?,
            10 | 11 => GgufValue::Number(self.u64(&what)?),
            12 => {
                self.skip(8, &what)?;
                GgufValue::Other
            }
            other => return Err(self.fail(format!("{what} has type {other}, which GGUF does not have; it is damaged"))),
        })
    }

    fn array(&mut self, key: &str, depth: u32) -> LoadResult<GgufValue> {
        let what = format!("key `{key}`");
        let (kind, count) = (self.u32(&what)?, self.u64(&what)?);
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8..=12 => 8,
            other => return Err(self.fail(format!("{what} is an array of type {other}, which GGUF does not have"))),
        };
        if count > self.left / size {
            let left = self.left;
            return Err(self.fail(format!(
                "{what} is an array of {count} values, but the file has only {left} bytes left; it is damaged"
            )));
        }
        if depth > 8 {
            return Err(self.fail(format!("{what} has arrays in arrays in arrays; it is damaged")));
        }
        let mut numbers = Vec::new();
        for _ in 0..count {
            if let GgufValue::Number(number) = self.value(key, kind, depth + 1)?
                && count <= MOST_KEPT
            {
                numbers.push(number);
            }
        }
        Ok(if numbers.is_empty() { GgufValue::Other } else { GgufValue::Numbers(numbers) })
    }

    fn tensor(&mut self, index: u64) -> LoadResult<Info> {
        let name = self.string(&format!("the name of tensor {index}"))?;
        let what = format!("tensor `{name}`");
        let dims = self.u32(&what)?;
        if dims > MOST_DIMS {
            return Err(self.fail(format!("{what} has {dims} dimensions; {MOST_DIMS} are possible")));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let dim = self.u64(&what)?;
            shape.push(usize::try_from(dim).map_err(|_| self.fail(format!("{what} has a side of {dim}")))?);
        }
        // The fastest dimension comes first in the file.
        shape.reverse();
        Ok(Info { kind: self.u32(&what)?, offset: self.u64(&what)?, name, shape })
    }
}
