//! A LoRA's file in memory: read once, hashed, and with every entry of its header checked.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{LoraError, scale::Scale};

/// The longest header; that of a LoRA with 10,000 tensors has 2 MB.
const LONGEST_HEADER: u64 = 100 << 20;

/// How much of a file is read while the part before it is hashed.
const PART: u64 = 16 << 20;

/// The content is read as a whole, so that its hash is of what is used, even if someone replaces the file meanwhile.
pub struct LoraFile {
    path: PathBuf,
    sha256: String,
    bytes: Vec<u8>,
    entries: BTreeMap<String, AdapterTensor>,
    pub(super) scale: Scale,
}

#[derive(Debug)]
pub(super) struct AdapterTensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    range: Range<usize>,
}

impl fmt::Debug for LoraFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoraFile").field("path", &self.path).field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

impl LoraFile {
    /// Reads and checks a safetensors file.
    ///
    /// # Errors
    /// [`LoraError::Io`] if it cannot be read; [`LoraError::Invalid`] if it is not complete;
    /// [`LoraError::InvalidTensor`] if its header contradicts itself.
    pub fn read(path: &Path) -> Result<Self, LoraError> {
        let (bytes, sha256) = read_and_hash(path).map_err(|source| LoraError::Io { path: path.to_owned(), source })?;
        Self::parse(path, bytes, sha256)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the whole file, in lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// In bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn entries(&self) -> &BTreeMap<String, AdapterTensor> {
        &self.entries
    }

    /// A tensor in its own number format.
    pub(super) fn load(&self, key: &str, device: &Device) -> candle_core::Result<Tensor> {
        let Some(entry) = self.entries.get(key) else { candle_core::bail!("`{key}` is not in the LoRA") };
        Tensor::from_raw_buffer(&self.bytes[entry.range.clone()], entry.dtype, &entry.shape, device)
    }

    fn parse(path: &Path, bytes: Vec<u8>, sha256: String) -> Result<Self, LoraError> {
        let invalid = |reason: String| LoraError::Invalid { path: path.to_owned(), reason };
        let not_safetensors = || invalid("is not a safetensors file, or only a part of one".to_owned());
        let Some((length, rest)) = bytes.split_first_chunk() else { return Err(not_safetensors()) };
        let length = u64::from_le_bytes(*length);
        if length > LONGEST_HEADER {
            return Err(not_safetensors());
        }
        let length = length as usize;
        let Some((header, data)) = rest.split_at_checked(length) else {
            return Err(invalid("ends inside its header; the download is not complete".to_owned()));
        };
        let mut header: serde_json::Map<String, Value> =
            serde_json::from_slice(header).map_err(|_| not_safetensors())?;
        let metadata = header.remove("__metadata__");
        let start = 8 + length;
        let entries: BTreeMap<_, _> = header
            .into_iter()
            .map(|(key, value)| match AdapterTensor::parse(value, start, data.len()) {
                Ok(entry) => Ok((key, entry)),
                Err(reason) => Err(LoraError::InvalidTensor { path: path.to_owned(), key, reason }),
            })
            .collect::<Result<_, _>>()?;
        for (key, entry) in entries.iter().filter(|(_, entry)| entry.shape.len() > 1) {
            if let Some(at) = not_finite(&bytes[entry.range.clone()], entry.dtype) {
                let reason = format!("has NaN or infinity as its number {at}; the file is damaged");
                return Err(LoraError::InvalidTensor { path: path.to_owned(), key: key.clone(), reason });
            }
        }
        let scale = Scale::of(metadata.as_ref(), path).map_err(invalid)?;
        Ok(Self { path: path.to_owned(), sha256, bytes, entries, scale })
    }
}

/// The contents of a file and their SHA-256.
fn read_and_hash(path: &Path) -> io::Result<(Vec<u8>, String)> {
    let mut file = File::open(path)?;
    let (mut bytes, mut sha256) = (Vec::new(), Sha256::new());
    bytes.try_reserve_exact(file.metadata()?.len() as usize)?;
    let (mut part, mut next) = (Vec::new(), Vec::new());
    loop {
        let read = || file.by_ref().take(PART).read_to_end(&mut next);
        let (read, _) = rayon::join(read, || rayon::join(|| sha256.update(&part), || bytes.extend_from_slice(&part)));
        if read? == 0 {
            return Ok((bytes, hex::encode(sha256.finalize())));
        }
        std::mem::swap(&mut part, &mut next);
        next.clear();
    }
}

impl AdapterTensor {
    /// `start` is where the tensors begin, `length` their bytes in the file.
    fn parse(value: Value, start: usize, length: usize) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Stored {
            dtype: String,
            shape: Vec<u64>,
            data_offsets: [u64; 2],
        }
        let Stored { dtype: name, shape, data_offsets: [from, to] } =
            serde_json::from_value(value).map_err(|error| format!("the header's entry is not valid: {error}"))?;
        let Some(dtype) = dtype_of(&name) else {
            return Err(format!("is in {name}; a LoRA has floating-point numbers: F32, F16 or BF16"));
        };
        if from > to {
            return Err(format!("begins at byte {from} and ends at byte {to}"));
        }
        let elements = shape.iter().try_fold(1_u64, |all, size| all.checked_mul(*size));
        let expected = elements.and_then(|elements| elements.checked_mul(dtype.size_in_bytes() as u64));
        if expected != Some(to - from) {
            return Err(format!("has shape {shape:?} in {name}, but {} bytes", to - from));
        }
        if to > length as u64 {
            return Err(format!("ends at byte {to}, but the file has {length}; the download is not complete"));
        }
        let shape = shape.into_iter().map(|size| size as usize).collect();
        Ok(Self { dtype, shape, range: start + from as usize..start + to as usize })
    }
}

fn dtype_of(name: &str) -> Option<DType> {
    Some(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F8_E4M3" => DType::F8E4M3,
        _ => return None,
    })
}

/// The index of the first number that is not finite: all bits of its exponent are 1.
fn not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    fn find<const N: usize>(bytes: &[u8], mask: [u8; N]) -> Option<usize> {
        let numbers = bytes.as_chunks::<N>().0;
        numbers.par_iter().position_first(|number| number.iter().zip(&mask).all(|(byte, mask)| byte & mask == *mask))
    }
    match dtype {
        DType::F64 => find(bytes, 0x7ff0_0000_0000_0000_u64.to_le_bytes()),
        DType::F32 => find(bytes, 0x7f80_0000_u32.to_le_bytes()),
        DType::F16 => find(bytes, 0x7c00_u16.to_le_bytes()),
        DType::BF16 => find(bytes, 0x7f80_u16.to_le_bytes()),
        // Without infinity; only this one is not a number.
        DType::F8E4M3 => find(bytes, [0x7f]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: Vec<u8>) -> Result<LoraFile, LoraError> {
        LoraFile::parse(Path::new("style.safetensors"), bytes, String::new())
    }

    #[test]
    fn a_file_is_hashed_while_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for len in [0, 1, PART - 1, PART, PART + 1, 2 * PART + 7] {
            let content: Vec<u8> = (0..len).map(|index| (index / 3) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            let (bytes, sha256) = read_and_hash(&path).unwrap();
            assert!(bytes == content && sha256 == hex::encode(Sha256::digest(&content)), "{len}");
        }
    }

    #[test]
    fn matrices_with_nan_or_infinity_are_refused_by_key() {
        for (dtype, size, number) in [
            ("F64", 8, f64::NAN.to_le_bytes().to_vec()),
            ("F32", 4, f32::INFINITY.to_le_bytes().to_vec()),
            ("F32", 4, f32::NAN.to_le_bytes().to_vec()),
            ("F16", 2, 0xfc00_u16.to_le_bytes().to_vec()),
            ("BF16", 2, 0x7fc0_u16.to_le_bytes().to_vec()),
            ("F8_E4M3", 1, vec![0xff]),
        ] {
            let end = 6 * size;
            let header =
                format!(r#"{{"a.lora_A.weight":{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,{end}]}}}}"#);
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            let start = bytes.len();
            bytes.resize(start + end, 1);
            assert!(parse(bytes.clone()).is_ok(), "{dtype}");
            bytes[start + 4 * size..start + 5 * size].copy_from_slice(&number);
            let error = parse(bytes).unwrap_err().to_string();
            let wanted = "style.safetensors: tensor `a.lora_A.weight`: has NaN or infinity as its number 4";
            assert!(error.starts_with(wanted), "{dtype}: {error}");
        }
    }

    fn read(header: &str, data: usize) -> Result<LoraFile, LoraError> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        parse(bytes)
    }

    #[test]
    fn hostile_headers_end_in_errors_that_name_file_and_key() {
        let fine = r#"{"a.lora_A.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
        assert!(read(fine, 8).is_ok());
        for (header, data, told) in [
            (fine, 7, "ends at byte 8, but the file has 7"),
            (
                r#"{"a":{"dtype":"F32","shape":[1152921504606846976,1152921504606846976],"data_offsets":[0,8]}}"#,
                8,
                "has shape",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}"#,
                8,
                "ends at",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}}"#,
                8,
                "has shape",
            ),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8, "begins at byte 8"),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 8, "but 4 bytes"),
            (r#"{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#, 8, "is in I8"),
            (r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8, "is not valid"),
            (r#"{"a":7}"#, 8, "is not valid"),
        ] {
            let error = read(header, data).unwrap_err().to_string();
            assert!(error.starts_with("style.safetensors: tensor `a") && error.contains(told), "{error}");
        }
        for bytes in
            [&b""[..], b"abc", &u64::MAX.to_le_bytes(), &[9, 0, 0, 0, 0, 0, 0, 0, b'{'], b"\x02\0\0\0\0\0\0\0[]"]
        {
            let error = parse(bytes.to_vec()).unwrap_err();
            assert!(matches!(&error, LoraError::Invalid { .. }), "{error}");
        }
    }
}
