//! safetensors headers.

use std::{collections::BTreeMap, path::Path};

use candle_core::DType;
use serde::Deserialize;

use super::{Raw, RawTensor, TensorLocation};
use crate::models::{LoadResult, ModelError, files::read_header_and_start};

/// Adds the tensors of the file at `index` to `raw`. Every tensor lies inside of the file and has the size of its
/// shape.
pub fn read(path: &Path, index: usize, raw: &mut Raw) -> LoadResult<()> {
    #[derive(Deserialize)]
    struct Entry {
        dtype: String,
        shape: Vec<usize>,
        data_offsets: [u64; 2],
    }
    let (header, start) = read_header_and_start(path)?;
    let length = std::fs::metadata(path).map_err(|error| ModelError::invalid(path, error.to_string()))?.len();
    for (name, value) in header {
        let fail = |reason: String| ModelError::invalid(path, format!("tensor `{name}`: {reason}"));
        if name == "__metadata__" {
            if let Ok(metadata) = serde_json::from_value::<BTreeMap<String, String>>(value) {
                raw.metadata.extend(metadata);
            }
            continue;
        }
        let entry: Entry = serde_json::from_value(value).map_err(|error| fail(error.to_string()))?;
        let [first, end] = entry.data_offsets;
        let bytes = end.checked_sub(first).ok_or_else(|| fail(format!("ends at {end}, before its start {first}")))?;
        if start.checked_add(end).is_none_or(|end| end > length) {
            return Err(fail(format!("ends at byte {end} of the data, after the end of the file")));
        }
        let elements = entry.shape.iter().try_fold(1_u64, |all, dim| all.checked_mul(*dim as u64));
        if elements.is_none_or(|elements| elements > length.saturating_mul(16)) {
            return Err(fail(format!("{:?} is more than the file can hold; it is damaged", entry.shape)));
        }
        if let Some(bits) = bits_of(&entry.dtype)
            && elements.and_then(|all| all.checked_mul(bits)) != bytes.checked_mul(8)
        {
            let shape = &entry.shape;
            return Err(fail(format!("has {bytes} bytes, which is not the size of {shape:?} in {}", entry.dtype)));
        }
        let dtype = dtype_of(&entry.dtype);
        let place = TensorLocation { file: index, offset: start + first, bytes, shape: entry.shape, dtype };
        raw.tensors.insert(name, RawTensor { place, type_name: entry.dtype, blocks: None });
    }
    Ok(())
}

/// The size of an element; none for types that we do not know.
fn bits_of(name: &str) -> Option<u64> {
    Some(match name {
        "F4" => 4,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "F32" | "I32" | "U32" => 32,
        "F64" | "I64" | "U64" => 64,
        _ => return None,
    })
}

/// candle's number format; none for those that candle does not read.
fn dtype_of(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F64" => DType::F64,
        "U8" => DType::U8,
        "U32" => DType::U32,
        "I64" => DType::I64,
        "F8_E4M3" => DType::F8E4M3,
        _ => return None,
    })
}
