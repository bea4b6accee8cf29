//! The tensors of one component of a checkpoint: memory-mapped safetensors, read by name and checked by shape.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    rc::Rc,
};

use candle_core::{DType, Device, Shape, Tensor};
use serde::de::DeserializeOwned;

use super::{
    files::find_files,
    lora::{LoraError, Overlays},
    weight_files::{Component, Form, Remarks, StoredTensor, WeightFiles},
};
use crate::nn::{Linear, LowRank, RmsNorm, Source, Uploader, Weight};

/// Why a checkpoint is unusable. Every variant names the file or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// There is no such folder or file.
    #[error("{}: not found; a checkpoint is a folder in diffusers' layout, with a model_index.json", path.display())]
    NotFound {
        /// Its path.
        path: PathBuf,
    },
    /// A file that cannot be used.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name of a file to write is wrong.
    #[error("{}: {reason}", path.display())]
    Output {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be written now, for instance because the disk is full.
    #[error("{}: {reason}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A folder with the same weights in two forms.
    #[error(
        "{}: holds the weights in several forms ({} and {}); keep one of them", path.display(), forms[0], forms[1]
    )]
    MixedForms {
        /// The folder.
        path: PathBuf,
        /// Both forms.
        forms: [String; 2],
    },
    /// A tensor that the model needs is not in the files.
    #[error("{}: tensor `{name}` is missing", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name of the tensor.
        name: String,
    },
    /// A tensor whose shape is not that of the configuration.
    #[error("{}: tensor `{name}` has shape {found:?}, but the config requires {expected:?}", path.display())]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// The name of the tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the configuration requires.
        expected: Vec<usize>,
    },
    /// Tensors that the model does not have.
    #[error("{}: {count} tensors that the model does not have, the first is `{name}`; is this another model's file?", path.display())]
    UnexpectedTensor {
        /// The file or folder.
        path: PathBuf,
        /// The first of them.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// A LoRA cannot be used, or does not fit.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A form of weights that is not read.
    #[error(
        "{}: tensor `{name}` is in {form}, which is not supported; use a bf16, an fp8 (e4m3, also scaled) or a GGUF file \
         (Q8_0, Q4_K_M and others) of the same model", path.display()
    )]
    UnsupportedForm {
        /// The file.
        path: PathBuf,
        /// The name of the tensor.
        name: String,
        /// Its form.
        form: String,
    },
    /// Loading was cancelled through the progress callback.
    #[error("cancelled while the model was loaded")]
    Cancelled,
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
    /// The same for the device of the negative branch.
    #[error("the device of the negative branch, {device}, failed: {source}")]
    NegativeBranch {
        /// Its name, such as `cuda:1`.
        device: String,
        /// The reason.
        source: Box<candle_core::Error>,
    },
}

/// The result of loading.
pub type LoadResult<T> = Result<T, ModelError>;

impl ModelError {
    /// [`ModelError::Invalid`] for a file or folder.
    pub fn invalid(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), reason: reason.into() }
    }
}

/// Reads a JSON file of a checkpoint into its typed form.
///
/// # Errors
/// [`ModelError::Invalid`] if it is missing, or not of this form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ModelError::invalid(path, "is missing; the checkpoint is not complete"),
        _ => ModelError::invalid(path, error.to_string()),
    })?;
    serde_json::from_str(&text).map_err(|error| ModelError::invalid(path, error.to_string()))
}

/// Called with the size of each loaded tensor in bytes; may stop the loading.
pub type Watch<'a> = &'a dyn Fn(u64) -> ControlFlow<()>;

/// The destination of a component, and the progress callback.
#[derive(Clone, Copy)]
pub struct LoadContext<'a> {
    /// Where the tensors go.
    pub device: &'a Device,
    /// The number format that they get.
    pub dtype: DType,
    /// Called for each loaded tensor.
    pub watch: Option<Watch<'a>>,
    /// Empty for all components except the one that they were made for.
    pub overlays: &'a Overlays,
    /// The component's weights in one file of any form, instead of those in its folder.
    pub file: Option<&'a Path>,
    /// Round the matrices of a language model's layers to fp8, with a scale per row.
    pub fp8_weights: bool,
}

static NO_OVERLAYS: Overlays = Overlays::new();

impl<'a> LoadContext<'a> {
    /// Loads onto a device in a number format, with nothing else changed.
    pub fn new(device: &'a Device, dtype: DType) -> Self {
        Self { device, dtype, watch: None, overlays: &NO_OVERLAYS, file: None, fp8_weights: false }
    }
}

/// A view of the tensors under a prefix. Clones share the files and the record of the tensors that were read.
#[derive(Clone)]
pub struct Weights<'a> {
    files: Rc<Files<'a>>,
    prefix: String,
}

struct Files<'a> {
    /// The folder, or the file.
    path: PathBuf,
    source: WeightFiles,
    overlays: &'a Overlays,
    read: RefCell<BTreeSet<String>>,
    /// A faster upload for some of the tensors, with their positions in it.
    upload: Option<(Uploader, BTreeMap<String, usize>)>,
    device: Device,
    dtype: DType,
    watch: Option<Watch<'a>>,
    fp8_weights: bool,
}

impl<'a> Weights<'a> {
    /// Opens the safetensors of a component folder, in one file or in shards with an index, or the file that replaces
    /// them. On a GPU, this starts the upload of the first tensors.
    ///
    /// # Errors
    /// [`ModelError::NotFound`], [`ModelError::Invalid`] and [`ModelError::MixedForms`] if the files cannot be used;
    /// [`ModelError::Device`].
    pub fn open(folder: &Path, component: Component, loading: LoadContext<'a>) -> Result<Self, ModelError> {
        let LoadContext { device, dtype, watch, overlays, file, fp8_weights } = loading;
        let source = weight_files(folder, component, file)?;
        let files = Files {
            path: file.unwrap_or(folder).to_owned(),
            upload: upload(&source, device)?,
            source,
            overlays,
            read: RefCell::default(),
            device: device.clone(),
            dtype,
            watch,
            fp8_weights,
        };
        Ok(Self { files: Rc::new(files), prefix: String::new() })
    }

    /// The folder or the file.
    pub fn source(&self) -> &Path {
        &self.files.path
    }

    /// What the file says about the model besides its tensors.
    pub fn remarks(&self) -> &Remarks {
        &self.files.source.remarks
    }

    /// The tensors under `name.`.
    pub fn pp(&self, name: impl Display) -> Self {
        Self { files: self.files.clone(), prefix: self.path(&name.to_string()) }
    }

    /// Whether there is a tensor with this name under the prefix.
    pub fn contains(&self, name: &str) -> bool {
        self.files.source.tensors.contains_key(&self.path(name))
    }

    /// All tensors of the files, regardless of the prefix, by name.
    pub fn names_and_shapes(&self) -> Vec<(String, Shape)> {
        let all = self.files.source.tensors.iter();
        all.map(|(name, stored)| (name.clone(), Shape::from(stored.shape.as_slice()))).collect()
    }

    /// Where the tensors go.
    pub fn device(&self) -> &Device {
        &self.files.device
    }

    /// The number format that they get.
    pub fn dtype(&self) -> DType {
        self.files.dtype
    }

    /// A tensor of exactly this shape, on the component's device and in its number format.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] and [`ModelError::WrongShape`]; [`ModelError::Cancelled`] by the callback.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, ModelError> {
        let tensor = self.get_stored(shape, name)?;
        Ok(tensor.to_dtype(self.dtype())?)
    }

    /// Like [`Self::get`], but in the file's number format: for tables of which a pass reads few rows.
    ///
    /// # Errors
    /// Those of [`Self::get`].
    pub fn get_stored(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, ModelError> {
        let (name, stored) = self.find(shape, name)?;
        let Files { source, upload, device, dtype, .. } = &*self.files;
        let place = upload.as_ref().and_then(|(uploader, places)| Some((uploader, *places.get(&name)?)));
        // What the kernels do not know is converted at once.
        let numbers = matches!(stored.form, Form::Numbers(DType::F32 | DType::BF16 | DType::U8 | DType::U32));
        let tensor = match place {
            Some((uploader, place)) if numbers => uploader.take(place)?,
            _ if numbers => source.numbers(stored)?.to_device(device)?,
            place => {
                if let Some((uploader, place)) = place {
                    uploader.skip(place)?;
                }
                source.numbers(stored)?.to_dtype(*dtype)?.to_device(device)?
            }
        };
        self.took(name, stored)?;
        Ok(tensor)
    }

    /// A matrix `(out, in)` in the form in which products read it.
    fn matrix(&self, (out_features, in_features): (usize, usize), name: &str) -> Result<Weight, ModelError> {
        let (path, stored) = self.find((out_features, in_features), name)?;
        if !stored.stays() {
            return Ok(Weight::dense(&self.get((out_features, in_features), name)?)?);
        }
        let Files { source, upload, device, .. } = &*self.files;
        let uploaded = match upload.as_ref().and_then(|(uploader, places)| Some((uploader, *places.get(&path)?))) {
            Some((uploader, place)) => Some(uploader.take(place)?),
            None => None,
        };
        let weight = source.weight(stored, uploaded, device)?;
        self.took(path, stored)?;
        Ok(weight)
    }

    /// A tensor of exactly this shape.
    fn find(&self, shape: impl Into<Shape>, name: &str) -> Result<(String, &StoredTensor), ModelError> {
        let (name, path) = (self.path(name), self.files.path.clone());
        let Some(stored) = self.files.source.tensors.get(&name) else {
            return Err(ModelError::MissingTensor { path, name });
        };
        let shape = shape.into();
        if stored.shape != shape.dims() {
            let (found, expected) = (stored.shape.clone(), shape.dims().to_vec());
            return Err(ModelError::WrongShape { path, name, found, expected });
        }
        Ok((name, stored))
    }

    fn took(&self, name: String, stored: &StoredTensor) -> Result<(), ModelError> {
        if let Some(watch) = self.files.watch
            && watch(stored.memory(self.dtype())).is_break()
        {
            return Err(ModelError::Cancelled);
        }
        self.files.read.borrow_mut().insert(name);
        Ok(())
    }

    /// Records tensors that belong to the model but are not needed: the temporal taps of the VAE for one frame, the
    /// language head of a text encoder without captions.
    pub fn skip(&self, name: &str) {
        let path = self.path(name);
        let tensors = &self.files.source.tensors;
        let skipped = || tensors.range(path.clone()..).map(|(name, _)| name).take_while(|name| name.starts_with(&path));
        if let Some((uploader, places)) = &self.files.upload {
            for place in skipped().filter_map(|name| places.get(name)) {
                if let Err(error) = uploader.skip(*place) {
                    // The next request for a tensor returns the error.
                    tracing::debug!(%error, "a tensor that is not needed");
                }
            }
        }
        let mut read = self.files.read.borrow_mut();
        read.extend(skipped().cloned());
    }

    /// Fails if the files have tensors that were not requested.
    ///
    /// # Errors
    /// [`ModelError::UnexpectedTensor`] with the first of them.
    pub fn finish(&self) -> Result<(), ModelError> {
        let read = self.files.read.borrow();
        let mut left = self.files.source.tensors.keys().filter(|name| !read.contains(*name));
        match left.next() {
            None => Ok(()),
            Some(name) => Err(ModelError::UnexpectedTensor {
                path: self.files.path.clone(),
                name: name.clone(),
                count: left.count() + 1,
            }),
        }
    }

    /// A linear layer from `weight`, `(out, in)`, and `bias`, `(out)`, with the changes of LoRAs.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] and [`ModelError::WrongShape`].
    pub fn linear(&self, in_features: usize, out_features: usize, bias: bool) -> Result<Linear, ModelError> {
        let shape = (out_features, in_features);
        let (_, stored) = self.find(shape, "weight")?;
        let stays = stored.stays();
        let precise = matches!(&stored.form, Form::Fp8(scales) if scales.full_precision);
        let changes = self.files.overlays.of_layer(&self.prefix, self.device())?;
        let (mut weight, adapters) = if stays || changes.is_empty() {
            // Rounding the sum again would lose most of a change, so it is added to the outputs.
            let adapters = changes.iter().map(|change| change.to(self.dtype(), self.device()));
            (self.matrix(shape, "weight")?, adapters.collect::<candle_core::Result<Vec<_>>>()?)
        } else {
            let weight = with_changes(&self.get_stored(shape, "weight")?, &changes)?;
            (Weight::dense(&weight.to_dtype(self.dtype())?)?, Vec::new())
        };
        if self.files.fp8_weights && self.prefix.contains(".layers.") {
            weight = weight.rounded_to_fp8()?;
        }
        let bias = bias.then(|| self.get(out_features, "bias")).transpose()?;
        let linear = Linear::from_weight(weight, bias).with_adapters(adapters);
        Ok(if precise { linear.in_full_precision() } else { linear })
    }

    /// An RMS norm from `weight`, `(size)`.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] and [`ModelError::WrongShape`].
    pub fn rms_norm(&self, size: usize, eps: f64) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm::new(self.get(size, "weight")?, eps))
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

/// A weight with all its changes in float32, so that it is rounded once.
fn with_changes(weight: &Tensor, changes: &[LowRank]) -> candle_core::Result<Tensor> {
    changes.iter().try_fold(weight.to_dtype(DType::F32)?, |weight, change| change.merge_into(&weight))
}

/// The weights of a checkpoint's components, where they are not as in its folders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightOptions {
    /// The file with the transformer's weights.
    pub transformer: Option<PathBuf>,
    /// The file with the text encoder's weights.
    pub text_encoder: Option<PathBuf>,
    /// Round the matrices of the text encoder's layers to fp8, with a scale per row. Products stay in the compute
    /// format.
    pub text_encoder_fp8: bool,
}

impl WeightOptions {
    /// The file that replaces a component's weights.
    pub fn of(&self, component: Component) -> Option<&Path> {
        match component {
            Component::Transformer => self.transformer.as_deref(),
            Component::TextEncoder => self.text_encoder.as_deref(),
            Component::Vae => None,
        }
    }
}

/// The files of a component: those in its folder, or the one that replaces them.
pub(super) fn weight_files(folder: &Path, component: Component, file: Option<&Path>) -> LoadResult<WeightFiles> {
    match file {
        Some(file) => WeightFiles::of_file(file, component),
        None => WeightFiles::of_folder(&find_files(folder)?),
    }
}

/// The faster upload of a component's tensors, if the device has one.
fn upload(files: &WeightFiles, device: &Device) -> LoadResult<Option<(Uploader, BTreeMap<String, usize>)>> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let mut found: Vec<(&String, Source)> = Vec::new();
    for (name, stored) in &files.tensors {
        let place = &stored.place;
        let (dtype, shape) = match &stored.form {
            Form::Numbers(dtype) => (*dtype, stored.shape.clone()),
            Form::Fp8(_) if stored.stays() => (DType::F8E4M3, stored.shape.clone()),
            Form::Blocks(_) if stored.stays() => (DType::U8, vec![place.bytes as usize]),
            Form::Fp8(_) | Form::E5m2(_) | Form::Blocks(_) => continue,
        };
        if Uploader::takes(dtype) {
            let (file, path) = (files.file(place).clone(), files.path(place).to_owned());
            let source = Source { file, path, offset: place.offset, shape: Shape::from(shape), dtype };
            found.push((name, source));
        }
    }
    found.sort_by_cached_key(|(name, _)| natural_key(name));
    let (names, sources): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let places = names.into_iter().enumerate().map(|(place, name)| (name.clone(), place)).collect();
    Ok(Uploader::start(sources, device)?.map(|uploader| (uploader, places)))
}

/// The order in which a model is built: `blocks.9` before `blocks.10`.
fn natural_key(name: &str) -> Vec<(usize, String)> {
    let part = |part: &str| (part.parse().unwrap_or(usize::MAX), part.to_owned());
    name.split('.').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_the_order_of_their_numbers() {
        let mut names = ["b.10.x", "b.9.y", "a", "b.9.x"];
        names.sort_by_key(|name| natural_key(name));
        assert_eq!(names, ["a", "b.9.x", "b.9.y", "b.10.x"]);
    }
}
