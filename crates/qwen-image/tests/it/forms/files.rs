//! Writes files in these forms, and runs the golden transformer with them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use qwen_image::{
    models::{
        BlockPlacement, LoadContext, ModelError,
        transformer::{Frame, Transformer},
    },
    nn::float8,
};
use serde_json::{Map, Value, json};

use crate::parity::bars::{golden, tensors};

pub fn forms(name: &str) -> PathBuf {
    golden("forms").join(name)
}

/// The tensors of a golden transformer in float32, by name.
pub fn dense(kind: &str) -> Vec<(String, Tensor)> {
    let folder = golden("checkpoints").join(kind).join("transformer");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            all.extend(candle_core::safetensors::load(path, &Device::Cpu).unwrap());
        }
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap())).collect()
}

/// A tensor of a safetensors file.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Entry {
    pub fn new(name: impl Into<String>, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec(), bytes }
    }

    pub fn f32(name: impl Into<String>, tensor: &Tensor) -> Self {
        Self::new(name, "F32", tensor.dims(), bytes(tensor))
    }

    /// e4m3 numbers of a matrix divided by a scale.
    pub fn e4m3(name: impl Into<String>, tensor: &Tensor, scale: f32) -> Self {
        let bits = numbers(tensor).iter().map(|number| float8::to_e4m3(number / scale)).collect();
        Self::new(name, "F8_E4M3", tensor.dims(), bits)
    }
}

pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn bytes(tensor: &Tensor) -> Vec<u8> {
    numbers(tensor).iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The scale that makes the largest number of a matrix the largest of e4m3.
pub fn scale_of(tensor: &Tensor) -> f32 {
    numbers(tensor).iter().fold(0.0_f32, |top, number| top.max(number.abs())) / float8::E4M3_MAX
}

pub fn is_matrix(name: &str, tensor: &Tensor) -> bool {
    tensor.rank() == 2 && name.starts_with("transformer_blocks.")
}

pub fn write_safetensors(path: &Path, metadata: &Value, entries: &[Entry]) {
    let mut header = Map::new();
    header.insert("__metadata__".into(), metadata.clone());
    let mut data = Vec::new();
    for entry in entries {
        let start = data.len();
        data.extend(&entry.bytes);
        header.insert(
            entry.name.clone(),
            json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = Value::Object(header).to_string().into_bytes();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()).unwrap();
}

/// A GGUF file, written by hand so that it can be wrong.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    /// Names, types and values, as bytes.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<GgufTensor>,
}

#[derive(Clone)]
pub struct GgufTensor {
    pub name: String,
    /// As in the file: the fastest dimension first.
    pub dims: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
    /// Instead of the right one.
    pub offset: Option<u64>,
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    /// All tensors in float32, under a prefix.
    pub fn dense(kind: &str, prefix: &str) -> Self {
        let tensors = dense(kind).into_iter().map(|(name, tensor)| GgufTensor {
            name: format!("{prefix}{name}"),
            dims: tensor.dims().iter().rev().map(|dim| *dim as u64).collect(),
            kind: 0,
            bytes: bytes(&tensor),
            offset: None,
        });
        let keys = vec![("general.architecture".to_owned(), 8, text("qwen_image"))];
        Self { version: 3, tensor_count: None, key_count: None, keys, tensors: tensors.collect() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (name, kind, value) in &self.keys {
            out.extend(text(name));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

/// Loads the golden transformer of a checkpoint with a file.
pub fn load(folder: &Path, file: Option<&Path>, place: BlockPlacement) -> Result<Transformer, ModelError> {
    let context = LoadContext { file, ..LoadContext::new(&Device::Cpu, DType::F32) };
    Transformer::load_with(&folder.join("transformer"), context, place, false)
}

/// What it predicts for the golden inputs.
pub fn predict(model: &Transformer, inputs: &str) -> Tensor {
    let stored = tensors(inputs);
    let shapes = stored["img_shapes"].to_vec2::<i64>().unwrap();
    let frames: Vec<Frame> =
        shapes.iter().map(|shape| Frame { height: shape[1] as usize, width: shape[2] as usize }).collect();
    let text = model.project_text(&stored["encoder_hidden_states"]).unwrap();
    let rotations = model.rotations(&frames, text.dim(1).unwrap(), &Device::Cpu).unwrap();
    let timestep = stored["timestep"].to_vec1::<f32>().unwrap()[0];
    let modulations = model.modulations(timestep, &Device::Cpu).unwrap();
    let hidden = &stored["hidden_states"];
    model.forward(hidden, &text, &modulations, &rotations, hidden.dim(1).unwrap()).unwrap()
}

/// What the golden layered transformer predicts with the weights of a file.
pub fn predict_layered(file: Option<&Path>) -> Tensor {
    let model = load(&golden("checkpoints/layered"), file, BlockPlacement::OnDevice).unwrap();
    predict(&model, "transformer_layered")
}

/// The error of loading a file over a golden checkpoint, with FILE for its path.
pub fn refusal(kind: &str, file: &Path) -> String {
    let error = load(&golden("checkpoints").join(kind), Some(file), BlockPlacement::OnDevice);
    let message = error.expect_err("a wrong file was loaded").to_string();
    assert!(message.starts_with(&file.display().to_string()), "{message} does not name the file");
    message.replace(&file.display().to_string(), "FILE")
}
