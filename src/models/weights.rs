//! The tensors of one component of a checkpoint: memory-mapped safetensors, read by name and checked by shape.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Shape, Tensor, safetensors::MmapedSafetensors};
use serde::de::DeserializeOwned;

use crate::nn::{Linear, RmsNorm};

/// Why a checkpoint cannot be used. Every variant names the place.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{}: not found; a checkpoint is a folder in the diffusers layout, with a model_index.json", path.display())]
    NotFound { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error("{}: tensor `{name}` is missing", path.display())]
    MissingTensor { path: PathBuf, name: String },
    #[error("{}: tensor `{name}` has shape {found:?}, but the config asks for {expected:?}", path.display())]
    WrongShape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{}: {count} tensors that the model does not have, the first is `{name}`; is this another model's file?", path.display())]
    UnexpectedTensor { path: PathBuf, name: String, count: usize },
    /// Whoever watched the loading stopped it.
    #[error("cancelled while the model was loaded")]
    Cancelled,
    #[error("the device refused: {0}")]
    Device(#[from] candle_core::Error),
}

/// What loading gives.
pub type Loaded<T> = Result<T, ModelError>;

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

/// A view of the tensors under a prefix. Clones share the files and remember together which tensors were read.
#[derive(Clone)]
pub struct Weights {
    files: Arc<Files>,
    prefix: String,
}

struct Files {
    folder: PathBuf,
    tensors: MmapedSafetensors,
    names: BTreeSet<String>,
    read: Mutex<BTreeSet<String>>,
    device: Device,
    dtype: DType,
}

impl Weights {
    /// Opens the safetensors of a component folder, in one file or in shards with an index.
    pub fn open(folder: &Path, device: &Device, dtype: DType) -> Result<Self, ModelError> {
        let paths = find_files(folder)?;
        for path in &paths {
            read_header(path)?;
        }
        // SAFETY: the files are mapped read-only; a checkpoint that is rewritten while it is loaded is outside of
        // what any reader of mapped files can guard against.
        let tensors = unsafe { MmapedSafetensors::multi(&paths) }
            .map_err(|error| ModelError::invalid(folder, error.to_string()))?;
        let names = tensors.tensors().into_iter().map(|(name, _)| name).collect();
        let files =
            Files { folder: folder.to_owned(), tensors, names, read: Mutex::default(), device: device.clone(), dtype };
        Ok(Self { files: Arc::new(files), prefix: String::new() })
    }

    /// The tensors under `name.`.
    pub fn pp(&self, name: impl Display) -> Self {
        Self { files: self.files.clone(), prefix: self.path(&name.to_string()) }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.files.names.contains(&self.path(name))
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
        let Files { folder, tensors, names, read, device, .. } = &*self.files;
        if !names.contains(&name) {
            return Err(ModelError::MissingTensor { path: folder.clone(), name });
        }
        let tensor = tensors.load(&name, device)?;
        read.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Ok(tensor)
    }

    /// Notes tensors that belong to the model but are not needed: the temporal taps of the VAE for one frame, the
    /// language head of a text encoder that writes no captions.
    pub fn skip(&self, name: &str) {
        let path = self.path(name);
        let mut read = self.files.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.extend(self.files.names.range(path.clone()..).take_while(|name| name.starts_with(&path)).cloned());
    }

    /// Fails when the files hold tensors that nobody asked for.
    pub fn finish(&self) -> Result<(), ModelError> {
        let read = self.files.read.lock().unwrap_or_else(PoisonError::into_inner);
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
        let weight = self.get((out_features, in_features), "weight")?;
        let bias = bias.then(|| self.get(out_features, "bias")).transpose()?;
        Ok(Linear::new(&weight, bias)?)
    }

    pub fn rms_norm(&self, size: usize, eps: f64) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm::new(self.get(size, "weight")?, eps))
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

/// The files of a component, by the index when there is one. The stem differs between diffusers and transformers.
pub(super) fn find_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if !folder.is_dir() {
        return Err(ModelError::invalid(folder, "is missing; the checkpoint is not complete"));
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    for stem in ["diffusion_pytorch_model", "model"] {
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        if index.is_file() {
            let names: BTreeSet<String> = read_json::<Index>(&index)?.weight_map.into_values().collect();
            let paths: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
            return match paths.iter().find(|path| !path.is_file()) {
                None => Ok(paths),
                Some(path) => Err(ModelError::invalid(
                    path,
                    format!("is missing; the index names {} shards, so the download is not complete", names.len()),
                )),
            };
        }
        let single = folder.join(format!("{stem}.safetensors"));
        if single.is_file() {
            return Ok(vec![single]);
        }
    }
    let entries = fs::read_dir(folder).map_err(|error| ModelError::invalid(folder, error.to_string()))?;
    let pickle = entries.flatten().map(|entry| entry.path()).find(|path| {
        path.extension()
            .is_some_and(|extension| ["bin", "pt", "pth", "pkl", "ckpt"].iter().any(|kind| extension == *kind))
    });
    match pickle {
        Some(path) => Err(ModelError::invalid(
            path,
            "is a pickle, which can run code when it is opened; convert the checkpoint to safetensors",
        )),
        None => Err(ModelError::invalid(folder, "holds no safetensors; the checkpoint is not complete")),
    }
}

/// Bytes that a checkpoint's tensors take in this number format, all components together.
pub fn checkpoint_bytes(folder: &Path, dtype: DType) -> Loaded<u64> {
    let mut elements = 0;
    for component in ["text_encoder", "transformer", "vae"] {
        for path in find_files(&folder.join(component))? {
            elements += read_header(&path)?.values().filter_map(elements_of).sum::<u64>();
        }
    }
    Ok(elements * dtype.size_in_bytes() as u64)
}

pub(super) fn elements_of(tensor: &serde_json::Value) -> Option<u64> {
    tensor.get("shape")?.as_array()?.iter().map(serde_json::Value::as_u64).product()
}

/// Reads a file's header, and compares its length with what the header promises, so that half a download is told
/// as such.
pub(super) fn read_header(path: &Path) -> Loaded<serde_json::Map<String, serde_json::Value>> {
    use std::io::Read;
    let fail = |reason: String| ModelError::invalid(path, reason);
    let mut file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let length = file.metadata().map_err(|error| fail(error.to_string()))?.len();
    let mut size = [0; 8];
    let not_safetensors = || fail("is not a safetensors file; fetch it again".to_owned());
    file.read_exact(&mut size).map_err(|_| not_safetensors())?;
    let header_length = u64::from_le_bytes(size);
    if header_length > 100 << 20 {
        return Err(not_safetensors());
    }
    if header_length + 8 > length {
        return Err(fail("ends inside its header; the download is not complete".to_owned()));
    }
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header).map_err(|error| fail(error.to_string()))?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|_| not_safetensors())?;
    let end = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max().unwrap_or(0);
    let promised = 8 + header_length + end;
    if promised != length {
        return Err(fail(format!("has {length} bytes of {promised}; the download is not complete")));
    }
    Ok(header)
}
