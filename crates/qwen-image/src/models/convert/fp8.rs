//! fp8 in ComfyUI's newer convention: `NAME.weight` in e4m3, `NAME.weight_scale`, and the formats of all layers in the
//! header.

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{Component, DType, FileLayout, LARGEST, TensorFormat, TensorToWrite, WeightFiles, is_in_block};
use crate::{models::weight_files::StoredTensor, nn::float8};

/// Matrices of blocks in fp8, everything else in bfloat16.
pub fn layout(files: &WeightFiles, component: Component) -> FileLayout {
    let is_fp8 = |name: &str, stored: &StoredTensor| {
        // What follows a matrix stays aligned.
        is_in_block(name, stored, component) && stored.elements().is_multiple_of(4)
    };
    let mut header = Map::new();
    let mut items = Vec::new();
    let mut layers = Map::new();
    let mut end = 0;
    let mut entry = |name: String, dtype: &str, shape: &[usize], bytes: u64| {
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes] }));
        end += bytes;
    };
    for (name, stored) in &files.tensors {
        let elements = stored.elements();
        if is_fp8(name, stored) {
            let layer = name.trim_end_matches(".weight");
            entry(name.clone(), "F8_E4M3", &stored.shape, elements);
            entry(format!("{layer}.weight_scale"), "F32", &[], 4);
            layers.insert(layer.to_owned(), json!({ "format": "float8_e4m3fn" }));
            items.push(TensorToWrite { name: name.clone(), kind: TensorFormat::Fp8, bytes: elements + 4 });
        } else {
            entry(name.clone(), "BF16", &stored.shape, elements * 2);
            items.push(TensorToWrite {
                name: name.clone(),
                kind: TensorFormat::Numbers(DType::BF16),
                bytes: elements * 2,
            });
        }
    }
    let formats = json!({ "format_version": "1.0", "layers": layers }).to_string();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt", "_quantization_metadata": formats }));
    let mut text = Value::Object(header).to_string().into_bytes();
    // Numbers start at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    let header = [(text.len() as u64).to_le_bytes().as_slice(), &text].concat();
    FileLayout { header, items }
}

/// The nearest e4m3 numbers of a matrix, and its scale.
pub fn round(numbers: &[f32]) -> (Vec<u8>, f32) {
    let top = numbers.par_iter().copied().map(f32::abs).reduce(|| 0.0, f32::max).max(1e-12);
    let scale = top / LARGEST;
    (numbers.par_iter().map(|number| float8::to_e4m3(number / scale)).collect(), scale)
}
