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

use candle_core::{DType, Device, Shape, Tensor, safetensors::MmapedSafetensors};
use serde::de::DeserializeOwned;

use super::{
    files::{find_files, read_header, sources},
    lora::{LoraError, Overlays},
};
use crate::nn::{Linear, RmsNorm, Uploader};

/// Why a checkpoint is unusable. Every variant names the file or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{}: not found; a checkpoint is a folder in the diffusers layout, with a model_index.json", path.display())]
    NotFound { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error(
        "{}: holds the weights in several forms ({} and {}); keep one of them", path.display(), forms[0], forms[1]
    )]
    MixedForms { path: PathBuf, forms: [String; 2] },
    #[error("{}: tensor `{name}` is missing", path.display())]
    MissingTensor { path: PathBuf, name: String },
    #[error("{}: tensor `{name}` has shape {found:?}, but the config requires {expected:?}", path.display())]
    WrongShape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{}: {count} tensors that the model does not have, the first is `{name}`; is this another model's file?", path.display())]
    UnexpectedTensor { path: PathBuf, name: String, count: usize },
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// Loading was cancelled through the progress callback.
    #[error("cancelled while the model was loaded")]
    Cancelled,
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// The result of loading.
pub type LoadResult<T> = Result<T, ModelError>;

impl ModelError {
    pub fn invalid(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), reason: reason.into() }
    }
}

/// Reads a JSON file of a checkpoint into its typed form.
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
    pub device: &'a Device,
    pub dtype: DType,
    pub watch: Option<Watch<'a>>,
    /// Empty for all components except the one that they were made for.
    pub overlays: &'a Overlays,
}

static NO_OVERLAYS: Overlays = Overlays::new();

impl<'a> LoadContext<'a> {
    pub fn new(device: &'a Device, dtype: DType) -> Self {
        Self { device, dtype, watch: None, overlays: &NO_OVERLAYS }
    }
}

/// A view of the tensors under a prefix. Clones share the files and the record of the tensors that were read.
#[derive(Clone)]
pub struct Weights<'a> {
    files: Rc<Files<'a>>,
    prefix: String,
}

/// The source of tensors.
enum TensorSource {
    /// A component's memory-mapped files in diffusers' layout.
    Safetensors(MmapedSafetensors),
}

impl TensorSource {
    fn names(&self) -> BTreeSet<String> {
        match self {
            Self::Safetensors(files) => files.tensors().into_iter().map(|(name, _)| name).collect(),
        }
    }

    fn shapes(&self) -> Vec<(String, Shape)> {
        match self {
            Self::Safetensors(files) => {
                files.tensors().into_iter().map(|(name, view)| (name, Shape::from(view.shape().to_vec()))).collect()
            }
        }
    }

    fn load(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Self::Safetensors(files) => files.load(name, device),
        }
    }
}

struct Files<'a> {
    folder: PathBuf,
    source: TensorSource,
    overlays: &'a Overlays,
    names: BTreeSet<String>,
    read: RefCell<BTreeSet<String>>,
    /// A faster upload for some of the tensors, with their positions in it.
    upload: Option<(Uploader, BTreeMap<String, usize>)>,
    device: Device,
    dtype: DType,
    watch: Option<Watch<'a>>,
}

impl<'a> Weights<'a> {
    /// Opens the safetensors of a component folder, in one file or in shards with an index. On a GPU, this starts the
    /// upload of the first tensors.
    pub fn open(folder: &Path, loading: LoadContext<'a>) -> Result<Self, ModelError> {
        let LoadContext { device, dtype, watch, overlays } = loading;
        let paths = find_files(folder)?;
        for path in &paths {
            read_header(path)?;
        }
        // SAFETY: the files are mapped read-only; no reader of mapped files can guard against a checkpoint that is
        // rewritten while it is loaded.
        let tensors = unsafe { MmapedSafetensors::multi(&paths) }
            .map_err(|error| ModelError::invalid(folder, error.to_string()))?;
        let source = TensorSource::Safetensors(tensors);
        let files = Files {
            folder: folder.to_owned(),
            names: source.names(),
            source,
            overlays,
            read: RefCell::default(),
            upload: upload(&paths, device)?,
            device: device.clone(),
            dtype,
            watch,
        };
        Ok(Self { files: Rc::new(files), prefix: String::new() })
    }

    /// The tensors under `name.`.
    pub fn pp(&self, name: impl Display) -> Self {
        Self { files: self.files.clone(), prefix: self.path(&name.to_string()) }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.files.names.contains(&self.path(name))
    }

    /// All tensors of the files, regardless of the prefix.
    pub fn names_and_shapes(&self) -> Vec<(String, Shape)> {
        let mut all = self.files.source.shapes();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    pub fn device(&self) -> &Device {
        &self.files.device
    }

    pub fn dtype(&self) -> DType {
        self.files.dtype
    }

    /// A tensor of exactly this shape, on the component's device and in its number format.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, ModelError> {
        let tensor = self.get_stored(shape, name)?;
        Ok(tensor.to_dtype(self.dtype())?)
    }

    /// Like [`Self::get`], but in the file's number format: for tables of which a pass reads few rows.
    pub fn get_stored(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, ModelError> {
        let tensor = self.get_any(name)?;
        let shape = shape.into();
        if tensor.shape() != &shape {
            return Err(ModelError::WrongShape {
                path: self.files.folder.clone(),
                name: self.path(name),
                found: tensor.dims().to_vec(),
                expected: shape.dims().to_vec(),
            });
        }
        Ok(tensor)
    }

    fn get_any(&self, name: &str) -> Result<Tensor, ModelError> {
        let name = self.path(name);
        let Files { folder, source, names, read, upload, device, watch, .. } = &*self.files;
        if !names.contains(&name) {
            return Err(ModelError::MissingTensor { path: folder.clone(), name });
        }
        let uploaded = upload.as_ref().and_then(|(uploader, places)| Some((uploader, *places.get(&name)?)));
        let tensor = match uploaded {
            Some((uploader, place)) => uploader.take(place)?,
            None => source.load(&name, device)?,
        };
        if let Some(watch) = watch
            && watch((tensor.elem_count() * self.dtype().size_in_bytes()) as u64).is_break()
        {
            return Err(ModelError::Cancelled);
        }
        read.borrow_mut().insert(name);
        Ok(tensor)
    }

    /// Records tensors that belong to the model but are not needed: the temporal taps of the VAE for one frame, the
    /// language head of a text encoder without captions.
    pub fn skip(&self, name: &str) {
        let path = self.path(name);
        let skipped = || self.files.names.range(path.clone()..).take_while(|name| name.starts_with(&path));
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
    pub fn finish(&self) -> Result<(), ModelError> {
        let read = self.files.read.borrow();
        let mut left = self.files.names.difference(&read);
        match left.next() {
            None => Ok(()),
            Some(name) => Err(ModelError::UnexpectedTensor {
                path: self.files.folder.clone(),
                name: name.clone(),
                count: left.count() + 1,
            }),
        }
    }

    pub fn linear(&self, in_features: usize, out_features: usize, bias: bool) -> Result<Linear, ModelError> {
        let weight = self.get_stored((out_features, in_features), "weight")?;
        let weight = self.with_changes(weight)?.to_dtype(self.dtype())?;
        let bias = bias.then(|| self.get(out_features, "bias")).transpose()?;
        Ok(Linear::new(&weight, bias)?)
    }

    /// A layer's weight with all its changes, which are added in float32 and rounded once.
    fn with_changes(&self, weight: Tensor) -> candle_core::Result<Tensor> {
        let changes = self.files.overlays.of_layer(&self.prefix, self.device())?;
        let Some((first, rest)) = changes.split_first() else { return Ok(weight) };
        let first = first.merge_into(&weight.to_dtype(DType::F32)?)?;
        rest.iter().try_fold(first, |weight, change| change.merge_into(&weight))
    }

    pub fn rms_norm(&self, size: usize, eps: f64) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm::new(self.get(size, "weight")?, eps))
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

/// The faster upload of a component's tensors, if the device has one.
fn upload(paths: &[PathBuf], device: &Device) -> LoadResult<Option<(Uploader, BTreeMap<String, usize>)>> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let (names, sources): (Vec<_>, Vec<_>) = sources(paths)?.into_iter().unzip();
    let places = names.into_iter().enumerate().map(|(place, name)| (name, place)).collect();
    Ok(Uploader::start(sources, device)?.map(|uploader| (uploader, places)))
}
