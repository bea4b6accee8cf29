//! Files with the weights of a component, as the model sees them: by the checkpoint's names, each tensor with its form.
//!
//! The files' own names and conventions end here: prefixes, markers, scales beside fp8 numbers, GGUF's types. A tensor
//! is read by its position, so that nothing else is read.

mod blocks;
mod gguf;
mod names;
mod safetensors;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use rayon::prelude::*;

use super::{LoadResult, ModelError};
use crate::nn::{QuantizedWeight, Weight, float8};

pub(super) use gguf::Types as GgmlTypes;
pub use names::Component;

/// The numbers of a tensor as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// One number after the other.
    Numbers(DType),
    /// fp8 (e4m3) with one scale, one per row, or none, which is 1.
    Fp8(Scales),
    /// fp8 (e5m2), in the same way.
    E5m2(Scales),
    /// Blocks of a GGUF type, which may cross rows.
    Blocks(GgmlDType),
}

/// The scales of an fp8 tensor.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scales {
    /// Where they are; none: the scale is 1.
    pub at: Option<TensorLocation>,
    /// The file asks for products in the compute format, not in fp8.
    pub full_precision: bool,
}

impl Form {
    /// The name that people know.
    pub fn name(&self) -> String {
        match self {
            Self::Numbers(dtype) => match dtype {
                DType::F8E4M3 => "F8_E4M3".to_owned(),
                other => format!("{other:?}"),
            },
            Self::Fp8(Scales { at: Some(_), .. }) => "F8_E4M3 with scales".to_owned(),
            Self::Fp8(_) => "F8_E4M3".to_owned(),
            Self::E5m2(Scales { at: Some(_), .. }) => "F8_E5M2 with scales".to_owned(),
            Self::E5m2(_) => "F8_E5M2".to_owned(),
            Self::Blocks(format) => gguf::name_of(*format),
        }
    }
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorLocation {
    /// The index of its file.
    pub file: usize,
    /// The position of the first byte in the file.
    pub offset: u64,
    /// The size in bytes.
    pub bytes: u64,
    /// The shape of what is there.
    pub shape: Vec<usize>,
    /// The number format of what is there; none if that is not one number after the other.
    pub dtype: Option<DType>,
}

/// A tensor of the files.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Where it is.
    pub place: TensorLocation,
    /// The shape as the model sees it.
    pub shape: Vec<usize>,
    /// The form of its numbers.
    pub form: Form,
}

impl StoredTensor {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|dim| *dim as u64).product()
    }

    /// Whether products read it as it is stored. Other tensors become numbers when they are loaded.
    pub fn stays(&self) -> bool {
        matches!(self.form, Form::Fp8(_) | Form::Blocks(_)) && self.shape.len() == 2
    }

    /// The memory that it takes once it is loaded for a number format, in bytes.
    pub fn memory(&self, dtype: DType) -> u64 {
        match &self.form {
            Form::Fp8(_) if self.stays() => self.elements() + 4 * self.shape[0] as u64,
            Form::Blocks(_) if self.stays() => self.place.bytes,
            _ => self.elements() * dtype.size_in_bytes() as u64,
        }
    }
}

/// What a file says about the model besides its tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// The marker of Qwen-Image-Edit-2511. Files without it may be 2511's, too: tools that quantize drop it.
    pub zero_cond_t: bool,
    /// GGUF's `general.architecture`.
    pub architecture: Option<String>,
    /// GGUF's `general.name`.
    pub name: Option<String>,
    /// The prefix of the component's names, in a file that holds several components.
    pub prefix: String,
    /// Tensors of other components in the same file.
    pub others: usize,
}

/// The tensors of some files.
#[derive(Debug)]
pub struct WeightFiles {
    paths: Vec<PathBuf>,
    open: Vec<Arc<File>>,
    /// By the checkpoint's names.
    pub tensors: BTreeMap<String, StoredTensor>,
    /// What else the files say.
    pub remarks: Remarks,
}

impl WeightFiles {
    /// The safetensors of a component's folder, under their own names.
    pub fn of_folder(paths: &[PathBuf]) -> LoadResult<Self> {
        let mut raw = Raw::default();
        for (index, path) in paths.iter().enumerate() {
            safetensors::read(path, index, &mut raw)?;
        }
        Self::new(paths.to_vec(), raw, None)
    }

    /// One file in any of the known forms, with the tensors of this component.
    ///
    /// # Errors
    /// If it has another component, or a form that is not supported.
    pub fn of_file(path: &Path, component: Component) -> LoadResult<Self> {
        Self::new(vec![path.to_owned()], Raw::read(path)?, Some(component))
    }

    fn new(paths: Vec<PathBuf>, raw: Raw, component: Option<Component>) -> LoadResult<Self> {
        let path = match paths.as_slice() {
            [one] => one.clone(),
            all => all.first().and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned(),
        };
        let open = paths
            .iter()
            .map(|path| File::open(path).map(Arc::new).map_err(|error| ModelError::invalid(path, error.to_string())))
            .collect::<LoadResult<Vec<_>>>()?;
        let (tensors, remarks) = names::resolve(&path, raw, component, &open)?;
        Ok(Self { paths, open, tensors, remarks })
    }

    /// The files, by their indices.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The path of the file that has this.
    pub fn path(&self, place: &TensorLocation) -> &Path {
        &self.paths[place.file]
    }

    /// The open file that has this.
    pub fn file(&self, place: &TensorLocation) -> &Arc<File> {
        &self.open[place.file]
    }

    /// The bytes of a tensor as they are stored.
    pub fn bytes(&self, place: &TensorLocation) -> LoadResult<Vec<u8>> {
        read_at(&self.open[place.file], self.path(place), place)
    }

    /// A tensor's numbers on the CPU, in their own number format, or in float32 if they are stored in another form.
    pub fn numbers(&self, stored: &StoredTensor) -> LoadResult<Tensor> {
        let bytes = self.bytes(&stored.place)?;
        let tensor = match &stored.form {
            Form::Numbers(dtype) => Tensor::from_raw_buffer(&bytes, *dtype, &stored.shape, &Device::Cpu)?,
            Form::Fp8(scales) => self.widen(&bytes, float8::table(float8::e4m3), stored, scales)?,
            Form::E5m2(scales) => self.widen(&bytes, float8::table(float8::e5m2), stored, scales)?,
            Form::Blocks(format) => {
                self.check_blocks(&bytes, stored, *format)?;
                let all: usize = stored.shape.iter().product();
                let blocks = Tensor::from_slice(&bytes, bytes.len(), &Device::Cpu)?;
                let matrix = QuantizedWeight::new(blocks, *format, (1, all))?.dequantize(DType::F32)?;
                matrix.reshape(stored.shape.as_slice())?
            }
        };
        Ok(tensor)
    }

    /// A matrix `(out, in)` that stays in its form, with its bytes on a device (`uploaded` if they are there already).
    pub fn weight(&self, stored: &StoredTensor, uploaded: Option<Tensor>, device: &Device) -> LoadResult<Weight> {
        let raw = match uploaded {
            Some(tensor) => tensor,
            None => {
                let bytes = self.bytes(&stored.place)?;
                match &stored.form {
                    Form::Fp8(_) => Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &stored.shape, device)?,
                    Form::Blocks(format) => {
                        self.check_blocks(&bytes, stored, *format)?;
                        Tensor::from_raw_buffer(&bytes, DType::U8, &[bytes.len()], device)?
                    }
                    _ => Tensor::from_raw_buffer(&bytes, DType::U8, &[bytes.len()], device)?,
                }
            }
        };
        match &stored.form {
            Form::Fp8(scales) => {
                let scales = Tensor::new(self.scales(scales)?, &Device::Cpu)?.to_device(device)?;
                Ok(Weight::fp8(raw, &scales)?)
            }
            Form::Blocks(format) => {
                Ok(Weight::Quantized(QuantizedWeight::new(raw, *format, (stored.shape[0], stored.shape[1]))?))
            }
            Form::Numbers(_) | Form::E5m2(_) => Ok(Weight::dense(&raw)?),
        }
    }

    /// One scale, or one per row.
    pub fn scales(&self, scales: &Scales) -> LoadResult<Vec<f32>> {
        let Some(place) = &scales.at else { return Ok(vec![1.0]) };
        let dtype = place.dtype.unwrap_or(DType::F32);
        let scales = Tensor::from_raw_buffer(&self.bytes(place)?, dtype, &place.shape, &Device::Cpu)?;
        let scales: Vec<f32> = scales.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        match scales.iter().find(|scale| !scale.is_finite() || **scale < 0.0) {
            None => Ok(scales),
            Some(scale) => {
                let reason = format!(
                    "the scale of tensor `{}` is {scale}, but must be a finite number from 0; the file is damaged",
                    self.name_by_scale(place)
                );
                Err(ModelError::invalid(self.path(place), reason))
            }
        }
    }

    fn name_by_scale(&self, place: &TensorLocation) -> &str {
        let mut named = self.tensors.iter().filter(|(_, stored)| match &stored.form {
            Form::Fp8(scales) | Form::E5m2(scales) => scales.at.as_ref() == Some(place),
            Form::Numbers(_) | Form::Blocks(_) => false,
        });
        named.next().map_or("", |(name, _)| name)
    }

    /// Refuses blocks whose scales are not numbers.
    fn check_blocks(&self, bytes: &[u8], stored: &StoredTensor, format: GgmlDType) -> LoadResult<()> {
        let Some(block) = blocks::not_finite(bytes, format) else { return Ok(()) };
        let name = self.tensors.iter().find(|(_, other)| other.place == stored.place).map_or("", |(name, _)| name);
        let reason = format!("tensor `{name}`: the scale of block {block} is not a number; the file is damaged");
        Err(ModelError::invalid(self.path(&stored.place), reason))
    }

    fn widen(&self, bytes: &[u8], table: [f32; 256], stored: &StoredTensor, scales: &Scales) -> LoadResult<Tensor> {
        let scales = self.scales(scales)?;
        let row = (bytes.len() / scales.len().max(1)).max(1);
        let mut out = vec![0.0_f32; bytes.len()];
        out.par_chunks_mut(row).zip(bytes.par_chunks(row)).zip(&scales).for_each(|((out, bytes), scale)| {
            for (out, bits) in out.iter_mut().zip(bytes) {
                *out = table[usize::from(*bits)] * scale;
            }
        });
        Ok(Tensor::from_vec(out, stored.shape.as_slice(), &Device::Cpu)?)
    }
}

fn read_at(file: &File, path: &Path, place: &TensorLocation) -> LoadResult<Vec<u8>> {
    let mut bytes = vec![0; place.bytes as usize];
    read_exact_at(file, &mut bytes, place.offset).map_err(|error| ModelError::invalid(path, error.to_string()))?;
    Ok(bytes)
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    // The position belongs to the handle, so each read has its own.
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

/// A file's header as it is, before anything is understood.
#[derive(Debug, Default)]
pub struct Raw {
    pub tensors: BTreeMap<String, RawTensor>,
    /// safetensors' `__metadata__`, and GGUF's strings.
    pub metadata: BTreeMap<String, String>,
    /// GGUF's `comfy.gguf.orig_shape.NAME`.
    pub shapes: BTreeMap<String, Vec<usize>>,
    pub gguf: bool,
}

#[derive(Debug, Clone)]
pub struct RawTensor {
    pub place: TensorLocation,
    /// The type by its name in the file's format.
    pub type_name: String,
    /// For GGUF's types in blocks.
    pub blocks: Option<GgmlDType>,
}

impl Raw {
    /// Reads the header of a file in either format.
    pub fn read(path: &Path) -> LoadResult<Self> {
        if path.is_dir() {
            return Err(ModelError::invalid(path, "is a folder; give a file (.gguf or .safetensors)"));
        }
        let mut magic = [0; 4];
        let file = File::open(path).map_err(|error| ModelError::invalid(path, error.to_string()))?;
        if read_exact_at(&file, &mut magic, 0).is_err() {
            return Err(ModelError::invalid(path, "is neither safetensors nor GGUF: it has fewer than 4 bytes"));
        }
        let mut raw = Self::default();
        if &magic == b"GGUF" {
            gguf::read(path, &mut raw)?;
        } else if path.extension().is_some_and(|extension| extension == "gguf") {
            let reason = "is not a GGUF file: it does not begin with GGUF; download it again";
            return Err(ModelError::invalid(path, reason));
        } else {
            safetensors::read(path, 0, &mut raw)?;
        }
        Ok(raw)
    }
}
