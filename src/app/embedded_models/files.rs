//! The files of the small checkpoints in release builds.

use qwen_image::hub::Small;

#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// The path in its checkpoint, with `/`.
    pub path: &'a str,
    pub bytes: &'a [u8],
}

/// `NAME` has the listed files of one folder below `models/`. Builds with debug assertions contain none of them,
/// because they are linked often and run in a checkout that has the files.
macro_rules! files {
    ($name:ident in $folder:literal: $($path:literal)+) => {
        #[cfg(all(feature = "embed-models", not(debug_assertions)))]
        const $name: &[File<'static>] = &[$(File {
            path: $path,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $folder, "/", $path)),
        }),+];
        #[cfg(not(all(feature = "embed-models", not(debug_assertions))))]
        const $name: &[File<'static>] = &[];
        #[cfg(test)]
        #[allow(non_snake_case, reason = "called like the constant whose files it lists")]
        mod $name {
            pub const FOLDER: &str = $folder;
            pub const PATHS: &[&str] = &[$($path),+];
        }
    };
}

files! { LAYERED in "layered-nano":
    "acetate.json"
    "model_index.json"
    "transformer/config.json"
    "transformer/diffusion_pytorch_model.safetensors"
    "vae/config.json"
    "vae/diffusion_pytorch_model.safetensors"
}
files! { EDIT in "edit-nano":
    "acetate.json"
    "model_index.json"
    "transformer/config.json"
    "transformer/diffusion_pytorch_model.safetensors"
    "vae/config.json"
    "vae/diffusion_pytorch_model.safetensors"
}
// The same in both, and included once.
files! { SHARED in "layered-nano":
    "processor/preprocessor_config.json"
    "processor/tokenizer.json"
    "processor/tokenizer_config.json"
    "scheduler/scheduler_config.json"
    "text_encoder/config.json"
    "text_encoder/generation_config.json"
    "text_encoder/model.safetensors"
    "tokenizer/tokenizer.json"
    "tokenizer/tokenizer_config.json"
}

/// Whether this build includes them.
pub const ARE_HERE: bool = !SHARED.is_empty();

pub fn of(which: Small) -> Vec<File<'static>> {
    let own = match which {
        Small::Layered => LAYERED,
        Small::Edit => EDIT,
    };
    [own, SHARED].concat()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn models() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models"))
    }

    fn files_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path.display().to_string()] })
            .collect()
    }

    #[test]
    fn every_file_is_listed() {
        for (folder, own) in [(LAYERED::FOLDER, LAYERED::PATHS), (EDIT::FOLDER, EDIT::PATHS)] {
            let folder = models().join(folder);
            let there: BTreeSet<_> = files_in(&folder).into_iter().collect();
            let listed = [own, SHARED::PATHS].concat();
            assert_eq!(there, listed.iter().map(|path| folder.join(path).display().to_string()).collect());
        }
    }

    #[test]
    fn shared_files_are_the_same_in_both() {
        for path in SHARED::PATHS {
            let read = |folder: &str| fs::read(models().join(folder).join(path)).unwrap();
            assert!(read(SHARED::FOLDER) == read(EDIT::FOLDER), "{path} differs: list it for each checkpoint");
        }
    }
}
