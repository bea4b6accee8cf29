//! Checks a checkpoint folder. Small parts are loaded; for large ones the headers of their files are compared with
//! their configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    LoadResult, ModelError, Scheduler,
    files::find_files,
    model_index::{EDIT_PLUS, LAYERED, pipeline_class},
    read_json,
    text_encoder::{self, PictureProcessor, TextEncoder, Tokenizer, generation_config::GenerationConfig},
    transformer::{self, Transformer},
    vae::{self, Tiling, Vae},
    weight_files::{StoredTensor, WeightFiles},
};
use candle_core::{DType, Device};

/// Parts smaller than this, as float32, are loaded.
const SMALL: u64 = 1 << 30;

/// A checkpoint's description from its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The pipeline class of `model_index.json`.
    pub pipeline: String,
    /// Its folders, in the order of `model_index.json`.
    pub components: Vec<ComponentReport>,
}

/// One folder of a checkpoint. Those without weights have no tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComponentReport {
    /// The folder's name.
    pub name: &'static str,
    /// The number of its weight files.
    pub files: usize,
    /// The number of tensors in them.
    pub tensors: usize,
    /// The number of their elements.
    pub parameters: u64,
    /// The total size of the weight files.
    pub bytes: u64,
    /// The number formats, by safetensors' names: `F32`, `BF16`.
    pub dtypes: Vec<String>,
    /// Whether every tensor was loaded, as in a run; otherwise the part is too large for that.
    pub loaded: bool,
    /// Why it is unusable.
    pub error: Option<String>,
}

/// Checks all parts of a checkpoint. Broken parts are included in the report.
///
/// # Errors
/// [`ModelError::NotFound`] if the folder is not a checkpoint; [`ModelError::Invalid`] if it is one of another
/// architecture.
pub fn check(folder: &Path) -> LoadResult<CheckpointReport> {
    check_loading(folder, SMALL)
}

fn check_loading(folder: &Path, below: u64) -> LoadResult<CheckpointReport> {
    let pipeline = pipeline_of(folder)?;
    let parts = CheckedParts { folder, layered: pipeline == LAYERED, below };
    let components = vec![
        part("text_encoder", |part| parts.text_encoder(part)),
        part("tokenizer", |part| part.loaded(parts.tokenizer())),
        part("processor", |part| part.loaded(parts.processor())),
        part("transformer", |part| parts.transformer(part)),
        part("vae", |part| parts.vae(part)),
        part("scheduler", |part| part.loaded(Scheduler::load(&parts.folder.join("scheduler")))),
    ];
    Ok(CheckpointReport { pipeline, components })
}

fn pipeline_of(folder: &Path) -> LoadResult<String> {
    if !folder.exists() {
        return Err(ModelError::NotFound { path: folder.to_owned() });
    }
    if !folder.is_dir() {
        return Err(ModelError::invalid(
            folder,
            "is not a folder; give the folder that contains model_index.json, or a file with weights",
        ));
    }
    let index = folder.join("model_index.json");
    if !index.is_file() {
        let reason = "the folder has no model_index.json; give the folder of a whole checkpoint in diffusers' layout";
        return Err(ModelError::invalid(folder, reason));
    }
    let pipeline = pipeline_class(folder)?;
    if ![LAYERED, EDIT_PLUS].contains(&pipeline.as_str()) {
        return Err(ModelError::invalid(index, format!("is a {pipeline}; a {LAYERED} or a {EDIT_PLUS} is needed")));
    }
    Ok(pipeline)
}

fn part(name: &'static str, check: impl FnOnce(&mut ComponentReport) -> LoadResult<()>) -> ComponentReport {
    let mut component = ComponentReport { name, ..ComponentReport::default() };
    match check(&mut component) {
        Ok(()) => component,
        Err(error) => ComponentReport { name, error: Some(error.to_string()), ..ComponentReport::default() },
    }
}

impl ComponentReport {
    fn loaded<T>(&mut self, result: LoadResult<T>) -> LoadResult<()> {
        self.loaded = true;
        result.map(|_| ())
    }

    fn is_below(&self, bytes: u64) -> bool {
        self.parameters.saturating_mul(4) < bytes
    }
}

struct CheckedParts<'a> {
    folder: &'a Path,
    /// Whether it is a layered model, which writes captions and has alpha.
    layered: bool,
    below: u64,
}

impl CheckedParts<'_> {
    fn text_encoder(&self, part: &mut ComponentReport) -> LoadResult<()> {
        let folder = self.folder.join("text_encoder");
        let config = self.text_config()?;
        if self.layered {
            GenerationConfig::load(&folder, &config)?;
        }
        let shapes = read_headers(&folder, part)?;
        // The load context also reads these two; their errors are reported in their own lines.
        if part.is_below(self.below) && self.tokenizer().and_then(|()| self.processor()).is_ok() {
            return part.loaded(TextEncoder::load(self.folder, &Device::Cpu, DType::F32, self.layered));
        }
        let nested = shapes.tensors.contains_key("model.language_model.embed_tokens.weight");
        let (language, vision) = if nested { ("model.language_model", "model.visual") } else { ("model", "visual") };
        let text = &config.text;
        shapes.has(&format!("{language}.embed_tokens.weight"), &[text.vocab_size, text.hidden_size])?;
        let keys = text.num_key_value_heads * text.head_dim();
        shapes.has(&format!("{language}.layers.0.self_attn.k_proj.weight"), &[keys, text.hidden_size])?;
        let wide = [text.intermediate_size, text.hidden_size];
        shapes.has(&format!("{language}.layers.0.mlp.gate_proj.weight"), &wide)?;
        shapes.has_layers(&format!("{language}.layers"), text.num_hidden_layers)?;
        shapes.has_layers(&format!("{vision}.blocks"), config.vision.depth)
    }

    fn tokenizer(&self) -> LoadResult<()> {
        let folder = self.folder.join("tokenizer");
        let tokens = Tokenizer::load(&folder)?.len();
        match self.text_config() {
            Ok(config) if tokens > config.text.vocab_size => {
                let rows = config.text.vocab_size;
                let reason = format!("has {tokens} tokens, but the text encoder knows {rows}; is it another model's?");
                Err(ModelError::invalid(folder, reason))
            }
            _ => Ok(()),
        }
    }

    fn processor(&self) -> LoadResult<()> {
        match self.text_config() {
            Ok(config) => PictureProcessor::load(&self.folder.join("processor"), &config.vision).map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    fn transformer(&self, part: &mut ComponentReport) -> LoadResult<()> {
        let folder = self.folder.join("transformer");
        let path = folder.join("config.json");
        let config: transformer::config::TransformerConfig = read_json(&path)?;
        config.check(&path)?;
        config.check_is(self.layered, &path)?;
        let (reads, takes) = (config.joint_attention_dim, config.in_channels);
        if let Ok(text) = self.text_config()
            && text.text.hidden_size != reads
        {
            let writes = text.text.hidden_size;
            let reason =
                format!("`joint_attention_dim` is {reads}, but the text encoder's states have {writes} values");
            return Err(ModelError::invalid(path, reason));
        }
        if let Ok(vae) = self.vae_config()
            && 4 * vae.z_dim != takes
        {
            let reason = format!("`in_channels` is {takes}, but the VAE's latents pack to {}", 4 * vae.z_dim);
            return Err(ModelError::invalid(path, reason));
        }
        let shapes = read_headers(&folder, part)?;
        if part.is_below(self.below) {
            return part.loaded(Transformer::load(&folder, &Device::Cpu, DType::F32));
        }
        config.check_tensors(shapes.folder, &shapes.tensors)
    }

    fn vae(&self, part: &mut ComponentReport) -> LoadResult<()> {
        let folder = self.folder.join("vae");
        let config = self.vae_config()?;
        let (channels, wanted) = (config.input_channels, if self.layered { 4 } else { 3 });
        if channels != wanted {
            let reason = format!("`input_channels` is {channels}, but this pipeline's pictures have {wanted}");
            return Err(ModelError::invalid(folder.join("config.json"), reason));
        }
        read_headers(&folder, part)?;
        if part.is_below(self.below) {
            return part.loaded(Vae::load(&folder, &Device::Cpu, DType::F32, Tiling::default()));
        }
        Ok(())
    }

    fn text_config(&self) -> LoadResult<text_encoder::config::TextEncoderConfig> {
        text_encoder::config::TextEncoderConfig::load(&self.folder.join("text_encoder"))
    }

    fn vae_config(&self) -> LoadResult<vae::config::VaeConfig> {
        let path = self.folder.join("vae/config.json");
        let config: vae::config::VaeConfig = read_json(&path)?;
        config.check(&path)?;
        Ok(config)
    }
}

/// The tensors of a part by name, with their shapes.
struct Shapes<'a> {
    folder: &'a Path,
    tensors: BTreeMap<String, StoredTensor>,
}

fn read_headers<'a>(folder: &'a Path, part: &mut ComponentReport) -> LoadResult<Shapes<'a>> {
    let paths = find_files(folder)?;
    part.files = paths.len();
    part.bytes = paths.iter().map(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len())).sum();
    let tensors = WeightFiles::of_folder(&paths)?.tensors;
    part.tensors = tensors.len();
    part.parameters = tensors.values().map(StoredTensor::elements).sum();
    part.dtypes = tensors.values().map(|stored| stored.form.name()).collect::<BTreeSet<_>>().into_iter().collect();
    Ok(Shapes { folder, tensors })
}

impl Shapes<'_> {
    fn has(&self, name: &str, expected: &[usize]) -> LoadResult<()> {
        let (path, name) = (self.folder.to_owned(), name.to_owned());
        let Some(found) = self.tensors.get(&name).map(|stored| stored.shape.clone()) else {
            return Err(ModelError::MissingTensor { path, name });
        };
        if found == expected {
            return Ok(());
        }
        Err(ModelError::WrongShape { path, name, found, expected: expected.to_vec() })
    }

    /// Checks that exactly the layers below `count` have tensors.
    fn has_layers(&self, prefix: &str, count: usize) -> LoadResult<()> {
        let index_of = |name: &str| name.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse().ok();
        let layers: BTreeSet<usize> = self.tensors.keys().filter_map(|name| index_of(name)).collect();
        let path = self.folder.to_owned();
        if let Some(missing) = (0..count).find(|index| !layers.contains(index)) {
            return Err(ModelError::MissingTensor { path, name: format!("{prefix}.{missing}") });
        }
        let mut more = self.tensors.keys().filter(|name| index_of(name).is_some_and(|index| index >= count));
        match more.next() {
            Some(name) => Err(ModelError::UnexpectedTensor { path, name: name.clone(), count: more.count() + 1 }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use serde_json::Value;

    use super::*;

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints/layered")
    }

    /// The error for a part whose configuration has a changed value, found by the headers of its files alone.
    fn error(name: &str, key: &str, value: usize) -> Option<String> {
        let copy = tempfile::tempdir().unwrap();
        for folder in fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()) {
            let to = copy.path().join(folder.file_name().unwrap());
            std::os::unix::fs::symlink(&folder, to).unwrap();
        }
        let folder = copy.path().join(name);
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        for file in fs::read_dir(golden().join(name)).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
        let path = folder.join("config.json");
        let mut config: Value = read_json(&path).unwrap();
        *config.pointer_mut(key).unwrap() = value.into();
        fs::write(&path, config.to_string()).unwrap();
        let report = check_loading(copy.path(), 0).unwrap();
        let part = report.components.into_iter().find(|part| part.name == name).unwrap();
        assert!(!part.loaded);
        part.error.map(|error| error.replace(&copy.path().display().to_string(), "CHECKPOINT"))
    }

    #[test]
    fn headers_of_large_parts_are_held_against_their_configuration() {
        let sound = check_loading(&golden(), 0).unwrap();
        assert!(sound.components.iter().all(|part| part.error.is_none()), "{sound:?}");
        assert!(sound.components.iter().all(|part| part.loaded == (part.tensors == 0)), "{sound:?}");

        let transformer = |key, value| error("transformer", key, value).unwrap();
        assert_eq!(
            transformer("/num_layers", 9),
            "CHECKPOINT/transformer: tensor `transformer_blocks.3.attn.add_k_proj.bias` is missing"
        );
        assert!(transformer("/num_layers", 2).contains("tensors that the model does not have"));
        assert!(transformer("/num_attention_heads", 7).contains("tensor `img_in.weight` has shape"));
        let text = |key, value| error("text_encoder", key, value).unwrap();
        assert!(text("/vision_config/depth", 40).contains("visual.blocks."));
    }
}
