//! A reference to a LoRA: a file, or a file of a repository on the hub, with a strength.

use std::{
    fmt, fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::{Events, HubConfig, HubError, ModelRef, cache::RepoCache, from_hub};

/// The strengths that make sense; the usual ones are 0 to 1.5.
pub const LORA_STRENGTH: RangeInclusive<f64> = -100.0..=100.0;
/// The names that diffusers and PEFT give to a LoRA.
const USUAL_NAMES: [&str; 2] = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];
const ENDING: &str = ".safetensors";

/// A LoRA, and how strongly it applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// The file.
    pub source: LoraSource,
    /// 1: as trained; 0: not at all.
    pub strength: f64,
}

/// Where a LoRA comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LoraSource {
    /// A safetensors file, or a folder with one.
    File(PathBuf),
    /// A file of a repository. None: the one with the name that diffusers gives it.
    Hub {
        /// The hub id.
        id: String,
        /// A branch, a tag or a commit.
        revision: String,
        /// The file's path in the repository.
        file: Option<String>,
    },
}

impl Lora {
    /// The LoRA with the strength 1.
    pub fn new(source: LoraSource) -> Self {
        Self { source, strength: 1.0 }
    }

    /// Parses `FILE|ORG/NAME[@REVISION][:FILE][=STRENGTH]`.
    ///
    /// # Errors
    /// [`HubError::LoraReference`] if it is neither, or the strength is not in [`LORA_STRENGTH`].
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let (source, strength) = match text.rsplit_once('=') {
            // A file's name may have the sign, too.
            Some((source, number)) if !number.ends_with(ENDING) && !Path::new(text).exists() => {
                let strength = number.trim().parse().ok().filter(|strength| LORA_STRENGTH.contains(strength));
                let Some(strength) = strength else {
                    let (least, most) = LORA_STRENGTH.into_inner();
                    let reason = format!("{number:?} is not a strength, a number from {least} to {most}");
                    return Err(HubError::LoraReference { text: text.to_owned(), reason });
                };
                (source, strength)
            }
            _ => (text, 1.0),
        };
        Ok(Self { source: LoraSource::parse(source)?, strength })
    }
}

impl fmt::Display for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.source, self.strength)
    }
}

impl LoraSource {
    /// Parses `FILE|ORG/NAME[@REVISION][:FILE]`.
    ///
    /// # Errors
    /// [`HubError::LoraReference`] if it is neither.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let refuse = |reason: &str| HubError::LoraReference { text: text.to_owned(), reason: reason.to_owned() };
        if text.trim().is_empty() {
            return Err(refuse("it is empty"));
        }
        let (repository, file) = text.split_once(':').map_or((text, None), |(id, file)| (id, Some(file)));
        if file.is_none() && text.ends_with(ENDING) {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let inside = |file: &str| {
            file.ends_with(ENDING)
                && !file.contains('\\')
                && file.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        };
        match ModelRef::parse(repository) {
            Ok(ModelRef::Folder(_)) => Ok(Self::File(PathBuf::from(text))),
            Ok(ModelRef::Hub { id, revision }) if file.is_none_or(inside) => {
                Ok(Self::Hub { id, revision, file: file.map(str::to_owned) })
            }
            Ok(ModelRef::Hub { .. }) => Err(refuse("the part after : is not the path of a .safetensors file")),
            Ok(ModelRef::Small { .. }) | Err(_) => Err(refuse("there is no such file")),
        }
    }

    /// The name of the file or repository, in lower case.
    pub fn short_name(&self) -> String {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Hub { id, file, .. } => PathBuf::from(file.as_ref().unwrap_or(id)),
        };
        path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
    }

    /// Whether it is for few steps without guidance, by its name.
    pub fn is_lightning(&self) -> bool {
        let name = match self {
            Self::File(_) => self.short_name(),
            Self::Hub { id, .. } => format!("{id} {}", self.short_name()).to_lowercase(),
        };
        name.contains("lightning")
    }

    /// The number of steps in its name: `...-Lightning-8steps-...` is made for 8.
    pub fn steps(&self) -> Option<u32> {
        let name = self.short_name();
        let before = name.match_indices("step").map(|(at, _)| name[..at].trim_end_matches(['-', '_', ' ']));
        let mut numbers = before.map(|text| &text[text.trim_end_matches(|c: char| c.is_ascii_digit()).len()..]);
        numbers.find_map(|digits| digits.parse().ok()).filter(|steps| (1..=1000).contains(steps))
    }
}

impl fmt::Display for LoraSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Hub { id, revision, file } => {
                let model = ModelRef::Hub { id: id.clone(), revision: revision.clone() };
                write!(f, "{model}")?;
                file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
            }
        }
    }
}

/// Finds a LoRA's file, and downloads it if needed, as [`super::resolve`] does for models.
///
/// # Errors
/// See [`HubError`].
pub fn resolve_lora(config: &HubConfig, source: &LoraSource, events: &mut Events<'_>) -> Result<PathBuf, HubError> {
    match source {
        LoraSource::File(path) if path.is_dir() => lora_in_folder(path),
        LoraSource::File(path) => Ok(path.clone()),
        LoraSource::Hub { id, revision, file } => {
            let file = file.as_deref().unwrap_or(USUAL_NAMES[0]);
            // Python's programs leave no list of the repository's files, but one file needs none.
            let cache = RepoCache::new(&config.cache_dir, id);
            let here = cache.commit_of(revision).map(|commit| cache.snapshot(&commit).join(file));
            if config.offline
                && let Some(path) = here.filter(|path| path.is_file())
            {
                return Ok(path);
            }
            let snapshot = from_hub(config, id, revision, &|path| path == file, true, events)?;
            Ok(snapshot.folder.join(file))
        }
    }
}

/// The LoRA of a folder: the file with a usual name, or the only one.
///
/// # Errors
/// [`HubError::LoraReference`] if there is none, or several.
pub fn lora_in_folder(folder: &Path) -> Result<PathBuf, HubError> {
    let entries = fs::read_dir(folder).map_err(HubError::io(folder))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> = names.filter(|name| name.ends_with(ENDING)).collect();
    files.sort();
    let usual = USUAL_NAMES.iter().find(|name| files.iter().any(|file| file == *name));
    match (usual, files.as_slice()) {
        (Some(name), _) => Ok(folder.join(name)),
        (None, [one]) => Ok(folder.join(one)),
        (None, several) => {
            let reason = match several.len() {
                0 => "the folder has no .safetensors file".to_owned(),
                count => format!("the folder has {count} .safetensors files; name one of them"),
            };
            Err(HubError::LoraReference { text: folder.display().to_string(), reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_parsed() {
        let hub = |id: &str, revision: &str, file: Option<&str>| LoraSource::Hub {
            id: id.to_owned(),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        };
        for (text, source, strength) in [
            ("style.safetensors", LoraSource::File("style.safetensors".into()), 1.0),
            ("./style.safetensors=0.8", LoraSource::File("./style.safetensors".into()), 0.8),
            ("/loras/a=b.safetensors", LoraSource::File("/loras/a=b.safetensors".into()), 1.0),
            ("/loras/a=b.safetensors=-1", LoraSource::File("/loras/a=b.safetensors".into()), -1.0),
            ("../folder=0", LoraSource::File("../folder".into()), 0.0),
            ("Org/Name", hub("Org/Name", "main", None), 1.0),
            ("Org/Name@v1:a/b.safetensors=0.5", hub("Org/Name", "v1", Some("a/b.safetensors")), 0.5),
        ] {
            let found = Lora::parse(text).unwrap();
            assert_eq!(found, Lora { source, strength }, "{text}");
            assert_eq!(Lora::parse(&found.to_string()).unwrap(), found, "{text}");
        }
        for (text, told) in [
            ("", "it is empty"),
            ("nowhere", "no such file"),
            ("a.safetensors=much", "not a strength"),
            ("a.safetensors=NaN", "not a strength"),
            ("a.safetensors=1e9", "not a strength"),
            ("Org/Name:../b.safetensors", "after :"),
            ("Org/Name:weights.bin", "after :"),
        ] {
            let error = Lora::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_says_how_many_steps_it_is_for() {
        for (name, steps, lightning) in [
            ("Qwen-Image-Edit-2509-Lightning-8steps-V1.0-bf16.safetensors", Some(8), true),
            ("Qwen-Image-Edit-2511-Lightning-4steps-V1.0-fp32.safetensors", Some(4), true),
            ("lightning_8_step.safetensors", Some(8), true),
            ("stepwise.safetensors", None, false),
            ("style.safetensors", None, false),
        ] {
            let source = LoraSource::File(name.into());
            assert_eq!((source.steps(), source.is_lightning()), (steps, lightning), "{name}");
        }
    }
}
