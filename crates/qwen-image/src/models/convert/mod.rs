//! Writes a component's weights in another form: fp8 as ComfyUI has it, or GGUF.
//!
//! One tensor is in memory at a time. All sizes are known before the first tensor is read, so the header is written
//! first. The file has another name until it is complete, and an interrupted conversion goes on after its last whole
//! tensor.

mod fp8;
mod gguf;
mod part;

use std::{
    fs,
    io::{self, Seek, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    str::FromStr,
};

use candle_core::{DType, quantized::GgmlDType};

use super::{
    LoadResult, ModelError,
    files::find_files,
    weight_files::{Component, Form, StoredTensor, WeightFiles},
};
use crate::{
    hub::human_bytes,
    nn::{float8, quantize_blocks},
};

/// The form to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvertTo {
    /// e4m3 with a scale per matrix.
    Fp8,
    /// A GGUF file, as city96's ComfyUI-GGUF reads it.
    Gguf(Mixture),
}

/// How many bits GGUF's matrices get. `M` gives more to those that matter most: values and modulations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixture {
    /// 16 bits: bfloat16, without loss.
    Bf16,
    /// 8.5 bits.
    Q8_0,
    /// 6.6 bits.
    Q6K,
    /// 5.5 bits, or 6.6 for those that matter most.
    Q5KM,
    /// 4.5 bits, or 6.6 for those that matter most.
    Q4KM,
    /// 4.5 bits, with one scale for 32 numbers.
    Q4_0,
}

/// The names of [`ConvertTo`]s.
pub const TARGETS: [(&str, ConvertTo); 7] = [
    ("fp8", ConvertTo::Fp8),
    ("q8_0", ConvertTo::Gguf(Mixture::Q8_0)),
    ("q6_k", ConvertTo::Gguf(Mixture::Q6K)),
    ("q5_k_m", ConvertTo::Gguf(Mixture::Q5KM)),
    ("q4_k_m", ConvertTo::Gguf(Mixture::Q4KM)),
    ("q4_0", ConvertTo::Gguf(Mixture::Q4_0)),
    ("bf16", ConvertTo::Gguf(Mixture::Bf16)),
];

impl FromStr for ConvertTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = TARGETS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, target)| *target).ok_or_else(|| {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is not a form that can be written; write one of {}", names.join(", "))
        })
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The number of its tensors.
    pub tensors: usize,
    /// How many tensors an earlier, interrupted conversion had written.
    pub resumed: usize,
}

/// Called with the bytes written and their total; may stop the conversion, which can go on later.
pub type OnWritten<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Converts the transformer or the text encoder of `source`: a checkpoint, a component's folder, or a file.
///
/// # Errors
/// If the source has other forms than numbers, `out` exists, or the disk is full; [`ModelError::Cancelled`] if it was
/// stopped.
pub fn convert(
    source: &Path,
    component: Component,
    target: ConvertTo,
    out: &Path,
    on_written: OnWritten<'_>,
) -> LoadResult<Converted> {
    let files = open(source, component)?;
    if let Some((name, stored)) =
        files.tensors.iter().find(|(_, stored)| !matches!(stored.form, Form::Numbers(dtype) if is_float(dtype)))
    {
        let reason = format!(
            "tensor `{name}` is {} already; rounding it again would only lose more, so convert a dense checkpoint \
             (bf16, f16 or f32)",
            stored.form.name()
        );
        return Err(ModelError::invalid(source, reason));
    }
    if component != Component::Transformer && target != ConvertTo::Fp8 {
        let reason = "only transformers are written as GGUF; a text encoder's GGUF has no vision part. Write fp8";
        return Err(ModelError::invalid(source, reason));
    }
    if let Some(reason) = wrong_ending(target, out) {
        return Err(ModelError::Output { path: out.to_owned(), reason });
    }
    if let Some(reason) = spoils_checkpoint(out) {
        return Err(ModelError::Output { path: out.to_owned(), reason });
    }
    if out.exists() {
        return Err(exists(out));
    }
    let layout = match target {
        ConvertTo::Fp8 => fp8::layout(&files, component),
        ConvertTo::Gguf(mixture) => gguf::layout(&files, mixture),
    };
    write(&files, &layout, out, on_written)
}

fn exists(out: &Path) -> ModelError {
    ModelError::Output { path: out.to_owned(), reason: "exists; give another name, or remove it".to_owned() }
}

fn cannot_write(path: &Path, error: &io::Error) -> ModelError {
    ModelError::Write { path: path.to_owned(), reason: error.to_string() }
}

fn check_space(out: &Path, needed: u64, free: u64) -> LoadResult<()> {
    if free >= needed {
        return Ok(());
    }
    let reason = format!(
        "needs {} more, but {} are free on the disk; make room and run the same command again, it continues",
        human_bytes(needed),
        human_bytes(free)
    );
    Err(ModelError::Write { path: out.to_owned(), reason })
}

/// A checkpoint whose folder has the weights in two forms is refused.
fn spoils_checkpoint(out: &Path) -> Option<String> {
    let folder = std::path::absolute(out).ok()?.parent()?.to_owned();
    let is_part = folder.join("config.json").is_file() && folder.parent()?.join("model_index.json").is_file();
    is_part
        .then(|| "is in the folder of a checkpoint, which may have its weights only once; give another folder".into())
}

/// Programs choose the reader by a file's ending.
fn wrong_ending(target: ConvertTo, out: &Path) -> Option<String> {
    let (form, right, wrong) = match target {
        ConvertTo::Fp8 => ("fp8", "safetensors", "gguf"),
        ConvertTo::Gguf(_) => ("GGUF", "gguf", "safetensors"),
    };
    let ending = out.extension()?.to_str()?;
    ending.eq_ignore_ascii_case(wrong).then(|| {
        let name = out.with_extension(right);
        format!("ends in .{wrong}, but {form} is written as .{right}; give the name {}", name.display())
    })
}

/// A file to write: its header, and the tensors in their order.
struct FileLayout {
    header: Vec<u8>,
    items: Vec<TensorToWrite>,
}

impl FileLayout {
    fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.items.iter().map(|item| item.bytes).sum::<u64>()
    }
}

struct TensorToWrite {
    name: String,
    kind: TensorFormat,
    /// With padding.
    bytes: u64,
}

#[derive(Clone, Copy)]
enum TensorFormat {
    Numbers(DType),
    /// e4m3, then the scale in float32.
    Fp8,
    Blocks(GgmlDType),
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
}

fn open(source: &Path, component: Component) -> LoadResult<WeightFiles> {
    if source.is_file() {
        return WeightFiles::of_file(source, component);
    }
    if !source.exists() {
        return Err(ModelError::NotFound { path: source.to_owned() });
    }
    let folder = if source.join("model_index.json").is_file() {
        source.join(match component {
            Component::Transformer => "transformer",
            Component::TextEncoder => "text_encoder",
            Component::Vae => "vae",
        })
    } else {
        source.to_owned()
    };
    let paths = find_files(&folder)?;
    let files = WeightFiles::of_folder(&paths)?;
    let anchors = component.anchors();
    if !anchors.iter().any(|anchor| files.tensors.contains_key(*anchor)) {
        let reason = format!("has no {} of Qwen-Image: there is no tensor `{}`", component.name(), anchors[0]);
        return Err(ModelError::invalid(folder, reason));
    }
    Ok(files)
}

fn write(files: &WeightFiles, layout: &FileLayout, out: &Path, on_written: OnWritten<'_>) -> LoadResult<Converted> {
    let fail = |path: &Path, error: &io::Error| cannot_write(path, error);
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let total = layout.bytes();
    let folder = part.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let reason = format!("the folder {} does not exist", folder.display());
        return Err(ModelError::Output { path: out.to_owned(), reason });
    }
    // Before any file is made.
    if let Ok(free) = fs4::available_space(folder) {
        let there = fs::metadata(&part).map_or(0, |part| part.len());
        check_space(out, total.saturating_sub(there), free)?;
    }
    let mut begun = part::open(&part)?;
    // Another conversion may have finished since.
    if out.exists() {
        return Err(exists(out));
    }
    let first = begun.resume(files, layout).map_err(|error| fail(&part, &error))?;
    let file = &mut begun.file;
    let mut done = file.stream_position().map_err(|error| fail(&part, &error))?;
    for item in &layout.items[first..] {
        if on_written(done, total).is_break() {
            return Err(ModelError::Cancelled);
        }
        let mut bytes = encode(files, &files.tensors[&item.name], item.kind)?;
        bytes.resize(item.bytes as usize, 0);
        file.write_all(&bytes).map_err(|error| fail(&part, &error))?;
        done += item.bytes;
    }
    let _ = on_written(done, total);
    file.sync_all().map_err(|error| fail(&part, &error))?;
    fs::rename(&part, out).map_err(|error| fail(out, &error))?;
    begun.remove_source();
    Ok(Converted { path: out.to_owned(), bytes: total, tensors: layout.items.len(), resumed: first })
}

fn encode(files: &WeightFiles, stored: &StoredTensor, kind: TensorFormat) -> LoadResult<Vec<u8>> {
    let numbers = files.numbers(stored)?;
    let mut bytes = Vec::new();
    match kind {
        TensorFormat::Numbers(dtype) => numbers.to_dtype(dtype)?.write_bytes(&mut bytes)?,
        TensorFormat::Fp8 => {
            let numbers: Vec<f32> = numbers.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let (rounded, scale) = fp8::round(&numbers);
            bytes = rounded;
            bytes.extend(scale.to_le_bytes());
        }
        TensorFormat::Blocks(format) => {
            let numbers: Vec<f32> = numbers.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            bytes = quantize_blocks(&numbers, format)?;
        }
    }
    Ok(bytes)
}

/// Whether a tensor is a matrix of a repeated block, which is what products over tokens read.
fn is_in_block(name: &str, stored: &StoredTensor, component: Component) -> bool {
    let prefixes: &[&str] = match component {
        Component::Transformer => &["transformer_blocks."],
        Component::TextEncoder | Component::Vae => &["model.layers.", "model.language_model.layers."],
    };
    stored.shape.len() == 2 && name.ends_with(".weight") && prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The largest e4m3 number, by which a matrix is scaled.
const LARGEST: f32 = float8::E4M3_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_by_its_missing_space() {
        assert!(check_space(Path::new("x.gguf"), 5, 5).is_ok());
        let error = check_space(Path::new("x.gguf"), 14_200_000, 4_200_000).unwrap_err();
        assert!(matches!(error, ModelError::Write { .. }));
        let told = "x.gguf: needs 14.2 MB more, but 4.2 MB are free on the disk; make room and run the same command \
                    again, it continues";
        assert_eq!(error.to_string(), told);
    }
}
