//! The configuration file: found, read, and sorted into profiles.

use std::path::{Path, PathBuf};

use figment::{
    Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use super::{
    env::Environment,
    layers::{ConfigError, is_section, known_key, section_names},
};

/// A file as a layer of settings.
pub(super) struct FileLayer {
    origin: String,
    profiles: Map<Profile, Dict>,
}

impl FileLayer {
    /// Reads `[section]` and `[profile.section]` alike: a first word that is no section is a profile.
    pub(super) fn parse(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let data = Toml::string(text).data().map_err(|error| ConfigError::new(origin, error.kind.to_string()))?;
        let mut profiles: Map<Profile, Dict> = Map::new();
        for (name, value) in data.into_values().flatten() {
            if is_section(&name) {
                check(origin, &name, &value)?;
                merge(profiles.entry(Profile::Default).or_default(), name, value);
                continue;
            }
            let Some(sections) = value.as_dict() else {
                return Err(ConfigError::new(origin, unknown(&name)));
            };
            for (section, value) in sections {
                if !is_section(section) {
                    return Err(ConfigError::new(
                        origin,
                        format!("[{name}] is neither a section nor a profile: {}", unknown(section)),
                    ));
                }
                check(origin, section, value)?;
                merge(profiles.entry(Profile::new(&name)).or_default(), section.clone(), value.clone());
            }
        }
        Ok(Self { origin: origin.to_owned(), profiles })
    }

    pub(super) fn has_profile(&self, name: &str) -> bool {
        self.profiles.contains_key(&Profile::new(name))
    }

    pub(super) fn profile_names(&self) -> Vec<String> {
        self.profiles.keys().map(|profile| profile.as_str().as_str().to_owned()).collect()
    }
}

impl Provider for FileLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(self.profiles.clone())
    }
}

/// The file to read: the one that was named, else the first that exists.
pub(super) fn find(named: Option<&Path>, environment: &Environment) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) => Err(ConfigError::new(&path.display().to_string(), format!("cannot read it: {error}"))),
    };
    if let Some(path) = named {
        return read(path.to_owned());
    }
    let places = [Some("acetate.toml".into()), Some("config/acetate.toml".into()), environment.user_file()];
    match places.into_iter().flatten().find(|path| path.is_file()) {
        Some(path) => read(path),
        None => Ok(None),
    }
}

/// `[default.x]` and `[x]` may both stand in one file; the keys of both hold.
fn merge(profile: &mut Dict, name: String, value: Value) {
    match (profile.get_mut(&name), value) {
        (Some(Value::Dict(_, old)), Value::Dict(_, new)) => old.extend(new),
        (_, value) => drop(profile.insert(name, value)),
    }
}

fn check(origin: &str, section: &str, value: &Value) -> Result<(), ConfigError> {
    let Some(keys) = value.as_dict() else {
        return known_key(section).map_err(|reason| ConfigError::new(origin, reason));
    };
    for key in keys.keys() {
        known_key(&format!("{section}.{key}")).map_err(|reason| ConfigError::new(origin, reason))?;
    }
    Ok(())
}

fn unknown(name: &str) -> String {
    format!("`{name}` is not a setting; the sections are {}", section_names().join(", "))
}
