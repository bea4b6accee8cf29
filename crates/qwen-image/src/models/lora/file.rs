//! A LoRA's file in memory: read once, hashed, and with every entry of its header checked.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{LoraError, keys::is_of_adapter, scale::Scale};

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
    /// [`LoraError::Io`] if it cannot be read; [`LoraError::Invalid`] if it is not complete, or no LoRA;
    /// [`LoraError::InvalidTensor`] if its header contradicts itself.
    pub fn read(path: &Path) -> Result<Self, LoraError> {
        let (mut file, length) = open(path)?;
        Self::read_from(path, &mut file, length)
    }

    /// Checks the header of a safetensors file, without reading its numbers.
    ///
    /// # Errors
    /// Like [`LoraFile::read`].
    pub fn check(path: &Path) -> Result<(), LoraError> {
        let (mut file, length) = open(path)?;
        Header::read(path, &mut file, length).map(drop)
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

    /// `length` is that of the file. The header is checked before anything else is read.
    fn read_from(path: &Path, file: &mut (impl Read + Send), length: u64) -> Result<Self, LoraError> {
        let Header { bytes, entries, scale } = Header::read(path, file, length)?;
        let (bytes, sha256) =
            read_and_hash(file, bytes, length).map_err(|source| LoraError::Io { path: path.to_owned(), source })?;
        if bytes.len() as u64 != length {
            let reason = format!("has {} of {length} bytes now; it was changed while it was read", bytes.len());
            return Err(LoraError::Invalid { path: path.to_owned(), reason });
        }
        for (key, entry) in entries.iter().filter(|(_, entry)| entry.shape.len() > 1) {
            if let Some(at) = not_finite(&bytes[entry.range.clone()], entry.dtype) {
                let reason = format!("has NaN or infinity as its number {at}; the file is damaged");
                return Err(LoraError::InvalidTensor { path: path.to_owned(), key: key.clone(), reason });
            }
        }
        Ok(Self { path: path.to_owned(), sha256, bytes, entries, scale })
    }
}

/// Opens a regular file, and returns its length. Reading a device or a pipe may never end.
fn open(path: &Path) -> Result<(File, u64), LoraError> {
    let failed = |source| LoraError::Io { path: path.to_owned(), source };
    // Checked before opening, because opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "a device, a pipe or a socket" };
        let reason = format!("is {what}; give a .safetensors file");
        return Err(LoraError::Invalid { path: path.to_owned(), reason });
    }
    Ok((File::open(path).map_err(failed)?, metadata.len()))
}

/// What a file says about its numbers.
struct Header {
    /// The beginning of the file, up to the numbers.
    bytes: Vec<u8>,
    entries: BTreeMap<String, AdapterTensor>,
    scale: Scale,
}

impl Header {
    fn read(path: &Path, file: &mut impl Read, file_length: u64) -> Result<Self, LoraError> {
        let invalid = |reason: String| LoraError::Invalid { path: path.to_owned(), reason };
        let failed = |source| LoraError::Io { path: path.to_owned(), source };
        let not_safetensors = || invalid("is not a safetensors file, or only a part of one".to_owned());
        let mut bytes = Vec::new();
        file.by_ref().take(8).read_to_end(&mut bytes).map_err(failed)?;
        let Some(length) = bytes.first_chunk() else { return Err(not_safetensors()) };
        let length = u64::from_le_bytes(*length);
        if length > LONGEST_HEADER {
            return Err(not_safetensors());
        }
        let ends_early = || invalid("ends inside its header; the download is not complete".to_owned());
        let start = 8 + length;
        let Some(data) = file_length.checked_sub(start) else { return Err(ends_early()) };
        file.by_ref().take(length).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != start {
            return Err(ends_early());
        }
        let mut header: serde_json::Map<String, Value> =
            serde_json::from_slice(&bytes[8..]).map_err(|_| not_safetensors())?;
        let metadata = header.remove("__metadata__");
        let entries: BTreeMap<_, _> = header
            .into_iter()
            .map(|(key, value)| match AdapterTensor::parse(value, start as usize, data as usize) {
                Ok(entry) => Ok((key, entry)),
                Err(reason) => Err(LoraError::InvalidTensor { path: path.to_owned(), key, reason }),
            })
            .collect::<Result<_, _>>()?;
        if let Some(first) = entries.keys().next()
            && !entries.keys().any(|key| is_of_adapter(key))
        {
            let reason = format!(
                "is no LoRA: none of its {} tensors is one of an adapter, such as `...lora_A.weight`; the first is \
                 `{first}`",
                entries.len()
            );
            return Err(invalid(reason));
        }
        let scale = Scale::of(metadata.as_ref(), path).map_err(invalid)?;
        Ok(Self { bytes, entries, scale })
    }
}

/// The contents of a file of this length and their SHA-256; its beginning was read already.
fn read_and_hash(file: &mut (impl Read + Send), begun: Vec<u8>, length: u64) -> io::Result<(Vec<u8>, String)> {
    let mut left = file.take(length - begun.len() as u64);
    let (mut bytes, mut sha256) = (Vec::new(), Sha256::new());
    bytes.try_reserve_exact(length as usize)?;
    let (mut part, mut next) = (begun, Vec::new());
    loop {
        let read = || left.by_ref().take(PART).read_to_end(&mut next);
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
        LoraFile::read_from(Path::new("style.safetensors"), &mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn a_file_is_hashed_while_it_is_read() {
        for len in [0, 1, PART - 1, PART, PART + 1, 2 * PART + 7] {
            let content: Vec<u8> = (0..len).map(|index| (index / 3) as u8).collect();
            for begun in [0, content.len() / 3] {
                let (begun, mut rest) = (content[..begun].to_vec(), &content[begun..]);
                let (bytes, sha256) = read_and_hash(&mut rest, begun, len).unwrap();
                assert!(bytes == content && sha256 == hex::encode(Sha256::digest(&content)), "{len}");
            }
        }
    }

    /// Reads at most the header, and panics when more is read.
    struct OnlyHeader(Vec<u8>);

    impl Read for OnlyHeader {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.0.is_empty(), "the numbers were read");
            let count = self.0.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn what_is_no_lora_is_refused_by_its_header() {
        let header = r#"{"model.w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        let length = bytes.len() as u64 + 4_000_000_000;
        let error = LoraFile::read_from(Path::new("x.safetensors"), &mut OnlyHeader(bytes), length).unwrap_err();
        let told = "x.safetensors: is no LoRA: none of its 1 tensors is one of an adapter";
        assert!(error.to_string().starts_with(told), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = LoraFile::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(": is a folder; give a .safetensors file"), "{error}");
        #[cfg(unix)]
        {
            let error = LoraFile::read(Path::new("/dev/zero")).unwrap_err().to_string();
            assert_eq!(error, "/dev/zero: is a device, a pipe or a socket; give a .safetensors file");
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
