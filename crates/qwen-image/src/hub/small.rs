//! The small trained checkpoints that come with acetate, for use when no model was chosen.
//!
//! No path is built into the program. They are searched relative to the program and to the current folder:
//!
//! ```text
//! {folder of the program}/models/                      unpacked side by side
//! {folder of the program}/../share/acetate/models/     installed
//! {any folder above the program}/models/               a checkout, known by its Cargo.toml: target/release/acetate
//! {current folder}/models/
//! {any folder above the current one}/models/           a checkout whose program was built elsewhere
//! ```
//!
//! A `models/` folder above the current folder counts only in a checkout: in `/tmp` it could be another user's.
//!
//! A program may also contain the checkpoints, and pass a way to unpack them ([`SmallModelPaths::embedded`]).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{EmbeddedModels, HubError};

/// The small trained checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Small {
    /// Splits pictures into layers.
    Layered,
    /// Edits pictures by instruction.
    Edit,
}

impl Small {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Layered, Self::Edit];

    /// The name of its folder below `models/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layered => "layered-nano",
            Self::Edit => "edit-nano",
        }
    }

    /// The class in its `model_index.json`.
    pub fn pipeline(self) -> &'static str {
        match self {
            Self::Layered => "QwenImageLayeredPipeline",
            Self::Edit => "QwenImageEditPlusPipeline",
        }
    }

    /// The hub id of the corresponding full model, a download of about 58 GB.
    pub fn full_model(self) -> &'static str {
        match self {
            Self::Layered => "Qwen/Qwen-Image-Layered",
            Self::Edit => "Qwen/Qwen-Image-Edit-2509",
        }
    }
}

/// The program's folder and the current folder, as absolute paths; unknown ones are not searched.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SmallModelPaths {
    /// The path of the running program.
    pub executable: Option<PathBuf>,
    /// The folder that the program was started in.
    pub current_dir: Option<PathBuf>,
    /// The checkpoints inside the program, which are used last.
    pub embedded: Option<EmbeddedModels>,
}

impl SmallModelPaths {
    /// The first folder that really has the checkpoint, with a `model_index.json` that names its pipeline; otherwise
    /// the built-in one.
    ///
    /// # Errors
    /// [`HubError::NoSmallModel`] with the searched folders; [`HubError::Unpack`] and [`HubError::NoCacheFolder`] if it
    /// is built in and cannot be unpacked.
    pub fn find(&self, small: Small) -> Result<PathBuf, HubError> {
        let mut others = Vec::new();
        for place in self.beside_the_program().into_iter().chain(self.near_the_current_folder()) {
            let folder = place.join(small.name());
            match pipeline_of(&folder) {
                Some(found) if found == small.pipeline() => return Ok(folder),
                Some(found) => others.push(format!("{} exists, but is for a {found}", folder.display())),
                None => {}
            }
        }
        if let Some(embedded) = &self.embedded {
            return (embedded.unpack)(small, embedded.cache.as_deref());
        }
        // A checkout may be above the program or above the current folder.
        others.dedup();
        Err(HubError::NoSmallModel { small, looked: [vec![self.in_words()], others].concat().join("; ") })
    }

    fn beside_the_program(&self) -> Vec<PathBuf> {
        // A link in a bin/ folder leads to the program's real folder, with its models. If the program was replaced
        // since it started, the link cannot be resolved, but its folder is still known.
        let real = self.executable.as_ref().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()));
        let Some(folder) = real.as_deref().and_then(Path::parent) else { return Vec::new() };
        let installed = folder.parent().map(|prefix| prefix.join("share").join("acetate").join("models"));
        let checkouts = folder.ancestors().skip(1).filter(|above| holds_this_project(above));
        let beside = folder.join("models");
        [beside].into_iter().chain(installed).chain(checkouts.map(|above| above.join("models"))).collect()
    }

    fn near_the_current_folder(&self) -> impl Iterator<Item = PathBuf> {
        let folders = self.current_dir.iter().flat_map(|folder| folder.ancestors().enumerate());
        folders
            .filter(|(above, folder)| *above == 0 || holds_this_project(folder))
            .map(|(_, folder)| folder.join("models"))
    }

    /// For messages.
    fn in_words(&self) -> String {
        let mut places: Vec<String> =
            self.beside_the_program().iter().map(|place| place.display().to_string()).collect();
        places.extend(self.near_the_current_folder().map(|place| place.display().to_string()));
        places.dedup();
        if places.is_empty() {
            "any folder, because this process does not know its own path".to_owned()
        } else {
            places.join(", ")
        }
    }
}

/// The pipeline class of a checkpoint folder; none if it is not one.
fn pipeline_of(folder: &Path) -> Option<String> {
    let index: Value = serde_json::from_slice(&fs::read(folder.join("model_index.json")).ok()?).ok()?;
    Some(index.get("_class_name")?.as_str()?.to_owned())
}

fn holds_this_project(folder: &Path) -> bool {
    let name = "name = \"acetate\"";
    fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.lines().any(|line| line.trim() == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            // The program's folder is found by its real path.
            Self(folder).with("opt/bin/acetate", "")
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn with(self, name: &str, text: &str) -> Self {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn with_model(self, folder: &str, class: &str) -> Self {
            self.with(&format!("{folder}/model_index.json"), &format!(r#"{{"_class_name": "{class}"}}"#))
        }

        fn layered(self, models: &str) -> Self {
            self.with_model(&format!("{models}/layered-nano"), "QwenImageLayeredPipeline")
        }

        /// What is found by this program, started in this folder.
        fn find(&self, executable: &str, current_dir: &str, small: Small) -> Result<PathBuf, String> {
            let paths = SmallModelPaths {
                executable: Some(self.path(executable)),
                current_dir: Some(self.path(current_dir)),
                embedded: None,
            };
            paths.find(small).map_err(|error| error.to_string())
        }

        fn found(&self, current_dir: &str) -> PathBuf {
            self.find("opt/bin/acetate", current_dir, Small::Layered).unwrap()
        }
    }

    #[test]
    fn the_places_in_their_order() {
        let mut place = Fixture::new().layered("work/models");
        assert_eq!(place.found("work"), place.path("work/models/layered-nano"));
        // A folder above counts only as a checkout.
        assert!(place.find("opt/bin/acetate", "work/deep/down", Small::Layered).is_err());
        place = place.with("work/Cargo.toml", "[package]\nname = \"acetate\"\n");
        assert_eq!(place.found("work/deep/down"), place.path("work/models/layered-nano"));
        place = place.layered("models").with("Cargo.toml", "[package]\nname = \"another\"\n");
        assert_eq!(place.found("work"), place.path("work/models/layered-nano"));
        place = place.with("Cargo.toml", "[package]\nname = \"acetate\"\n");
        assert_eq!(place.found("work"), place.path("models/layered-nano"));
        place = place.layered("opt/share/acetate/models");
        assert_eq!(place.found("work"), place.path("opt/share/acetate/models/layered-nano"));
        place = place.layered("opt/bin/models");
        assert_eq!(place.found("work"), place.path("opt/bin/models/layered-nano"));
    }

    #[test]
    fn each_checkpoint_has_its_own_place() {
        let place = Fixture::new().layered("opt/bin/models");
        let place = place.with_model("opt/share/acetate/models/edit-nano", "QwenImageEditPlusPipeline");
        let edit = place.find("opt/bin/acetate", "", Small::Edit);
        assert_eq!(edit, Ok(place.path("opt/share/acetate/models/edit-nano")));
        assert_eq!(place.found(""), place.path("opt/bin/models/layered-nano"));
    }

    #[test]
    fn a_folder_without_the_right_checkpoint_is_passed_over() {
        let place = Fixture::new().with("opt/bin/models/layered-nano/README", "").layered("work/models");
        assert_eq!(place.found("work"), place.path("work/models/layered-nano"));
        let place = place.with("opt/bin/models/layered-nano/model_index.json", "{");
        assert_eq!(place.found("work"), place.path("work/models/layered-nano"));
        let place = place.with_model("opt/bin/models/layered-nano", "QwenImageEditPlusPipeline");
        assert_eq!(place.found("work"), place.path("work/models/layered-nano"));
        let error = place.find("opt/bin/acetate", "", Small::Layered).unwrap_err();
        let other = place.path("opt/bin/models/layered-nano").display().to_string();
        assert!(error.contains(&format!("{other} exists, but is for a QwenImageEditPlusPipeline")), "{error}");
    }

    #[test]
    fn a_linked_program_is_followed() {
        let place = Fixture::new().layered("opt/bin/models");
        std::os::unix::fs::symlink(place.path("opt/bin/acetate"), place.path("acetate")).unwrap();
        let found = place.find("acetate", "", Small::Layered);
        assert_eq!(found, Ok(place.path("opt/bin/models/layered-nano")));
        // One that was replaced while it ran.
        let found = place.find("opt/bin/acetate (deleted)", "", Small::Layered);
        assert_eq!(found, Ok(place.path("opt/bin/models/layered-nano")));
    }

    #[test]
    fn what_the_program_carries_comes_last() {
        let place = Fixture::new().layered("work/models");
        let unpack = |small: Small, cache: Option<&Path>| Ok(cache.unwrap().join(small.name()));
        let paths = SmallModelPaths {
            executable: None,
            current_dir: Some(place.path("work")),
            embedded: Some(EmbeddedModels { cache: Some("/cache".into()), unpack }),
        };
        assert_eq!(paths.find(Small::Layered).unwrap(), place.path("work/models/layered-nano"));
        assert_eq!(paths.find(Small::Edit).unwrap(), Path::new("/cache/edit-nano"));
    }

    #[test]
    fn what_is_nowhere_is_told_with_the_places_and_the_remedies() {
        let place = Fixture::new();
        for small in Small::ALL {
            let error = place.find("opt/bin/acetate", "work", small).unwrap_err();
            let places = ["opt/bin/models", "opt/share/acetate/models", "work"].map(|name| place.path(name));
            let places = places.iter().map(|place| place.to_str().unwrap());
            for wanted in [small.name(), small.full_model()].into_iter().chain(places) {
                assert!(error.contains(wanted), "{wanted} is not in: {error}");
            }
        }
        let error = SmallModelPaths::default().find(Small::Edit).unwrap_err().to_string();
        assert!(error.contains("not found in any folder"), "{error}");
    }
}
