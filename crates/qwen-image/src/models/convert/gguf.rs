//! GGUF as ComfyUI-GGUF writes it: the checkpoint's names, and `comfy.gguf.orig_shape` where blocks cross rows.

use candle_core::quantized::GgmlDType;

use super::{Component, DType, FileLayout, Mixture, TensorFormat, TensorToWrite, WeightFiles, is_in_block};
use crate::models::weight_files::{GgmlTypes, StoredTensor};

const ALIGNMENT: u64 = 32;
/// ggml's version of its quantized formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Types of keys.
const U32: u32 = 4;
const I32: u32 = 5;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Mixture {
    /// The format of most matrices, and of values and modulations.
    fn formats(self) -> [GgmlDType; 2] {
        match self {
            Self::Bf16 => [GgmlDType::BF16; 2],
            Self::Q8_0 => [GgmlDType::Q8_0; 2],
            Self::Q6K => [GgmlDType::Q6K; 2],
            Self::Q5KM => [GgmlDType::Q5K, GgmlDType::Q6K],
            Self::Q4KM => [GgmlDType::Q4K, GgmlDType::Q6K],
            Self::Q4_0 => [GgmlDType::Q4_0; 2],
        }
    }

    /// llama.cpp's number for `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
            Self::Q6K => 18,
            Self::Q5KM => 17,
            Self::Q4KM => 15,
            Self::Q4_0 => 2,
        }
    }

    /// The kind of a tensor: a format whose blocks divide it, the wanted one if possible.
    fn kind(self, name: &str, stored: &StoredTensor) -> TensorFormat {
        if stored.shape.len() < 2 {
            return TensorFormat::Numbers(DType::F32);
        }
        if !is_in_block(name, stored, Component::Transformer) {
            return TensorFormat::Numbers(DType::BF16);
        }
        let matters = name.contains("_mod.") || name.contains("to_v.") || name.contains("add_v_proj.");
        let wanted = self.formats()[usize::from(matters)];
        if wanted == GgmlDType::BF16 {
            return TensorFormat::Numbers(DType::BF16);
        }
        let fitting = [wanted, GgmlDType::Q8_0];
        let fitting = fitting.into_iter().find(|format| stored.elements().is_multiple_of(format.block_size() as u64));
        fitting.map_or(TensorFormat::Numbers(DType::BF16), TensorFormat::Blocks)
    }
}

pub fn layout(files: &WeightFiles, mixture: Mixture) -> FileLayout {
    let mut keys = GgufMetadata::default();
    keys.text("general.architecture", "qwen_image");
    keys.number("general.quantization_version", QUANTIZATION_VERSION);
    keys.number("general.file_type", mixture.file_type());
    keys.number("general.alignment", ALIGNMENT as u32);
    let (mut infos, mut items, mut offset) = (Vec::new(), Vec::new(), 0_u64);
    for (name, stored) in &files.tensors {
        let kind = mixture.kind(name, stored);
        let elements = stored.elements();
        let (number, bytes, block) = match kind {
            TensorFormat::Blocks(format) => {
                let block = format.block_size();
                (GgmlTypes::number(format), elements / block as u64 * format.type_size() as u64, block)
            }
            TensorFormat::Numbers(DType::F32) | TensorFormat::Fp8 => {
                (GgmlTypes::number(GgmlDType::F32), elements * 4, 1)
            }
            TensorFormat::Numbers(_) => (GgmlTypes::number(GgmlDType::BF16), elements * 2, 1),
        };
        let mut shape = stored.shape.clone();
        if shape.last().is_some_and(|width| !width.is_multiple_of(block)) {
            keys.numbers(&format!("comfy.gguf.orig_shape.{name}"), &shape);
            shape = vec![elements as usize / block, block];
        }
        text(&mut infos, name);
        infos.extend((shape.len() as u32).to_le_bytes());
        // The fastest dimension comes first.
        for dim in shape.iter().rev() {
            infos.extend((*dim as u64).to_le_bytes());
        }
        infos.extend(number.to_le_bytes());
        infos.extend(offset.to_le_bytes());
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        offset += bytes;
        items.push(TensorToWrite { name: name.clone(), kind, bytes });
    }
    let mut header = b"GGUF".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((items.len() as u64).to_le_bytes());
    header.extend(keys.count.to_le_bytes());
    header.extend(keys.bytes);
    header.extend(infos);
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    FileLayout { header, items }
}

#[derive(Default)]
struct GgufMetadata {
    bytes: Vec<u8>,
    count: u64,
}

impl GgufMetadata {
    fn key(&mut self, name: &str, kind: u32) {
        self.count += 1;
        text(&mut self.bytes, name);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, TEXT);
        text(&mut self.bytes, value);
    }

    fn number(&mut self, name: &str, value: u32) {
        self.key(name, U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn numbers(&mut self, name: &str, values: &[usize]) {
        self.key(name, ARRAY);
        self.bytes.extend(I32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            self.bytes.extend((*value as i32).to_le_bytes());
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
