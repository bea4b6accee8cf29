//! The configuration file: found, read, and sorted into profiles.

use std::path::{Path, PathBuf};

use figment::{
    Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use super::{
    clean,
    env::Environment,
    layers::{ConfigError, current_key, is_section, known_key, section_names, twice_named},
};

/// A file as a layer of settings.
pub(super) struct FileLayer {
    origin: String,
    profiles: Map<Profile, Dict>,
}

impl FileLayer {
    /// Reads both `[section]` and `[profile.section]`: a first word that is not a section is a profile. Unknown
    /// settings are reported and left out.
    pub(super) fn parse(origin: &str, text: &str, errors: &mut Vec<ConfigError>) -> Result<Self, ConfigError> {
        let data = Toml::string(text).data().map_err(|error| ConfigError::new(origin, error.kind.to_string()))?;
        let mut profiles: Map<Profile, Dict> = Map::new();
        let mut wrong = |reason: String| errors.push(ConfigError::new(origin, reason));
        for (name, value) in data.into_values().flatten() {
            if is_section(&name) {
                let value = known(&name, value, &mut wrong);
                merge(profiles.entry(Profile::Default).or_default(), name, value);
                continue;
            }
            let Some(sections) = value.as_dict() else {
                wrong(unknown(&name));
                continue;
            };
            for (section, value) in sections {
                if !is_section(section) {
                    let meant = meant(&name);
                    wrong(format!("[{name}] is neither a section nor a profile{meant}: {}", unknown(section)));
                    continue;
                }
                let value = known(section, value.clone(), &mut wrong);
                merge(profiles.entry(Profile::new(&name)).or_default(), section.clone(), value);
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

/// The file to read: the given one, otherwise the first that exists.
pub(super) fn find(named: Option<&Path>, environment: &Environment) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read =
        |path: PathBuf| match std::fs::read(&path).map_err(|error| format!("cannot read it: {error}")).and_then(text) {
            Ok(text) => Ok(Some((path, text))),
            Err(reason) => Err(ConfigError::new(&path.display().to_string(), reason)),
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

/// A file's text without the byte order mark that some editors write.
fn text(bytes: Vec<u8>) -> Result<String, String> {
    let text = clean::decoded(bytes)?;
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned))
}

/// A file may have both `[default.x]` and `[x]`; the keys of both apply.
fn merge(profile: &mut Dict, name: String, value: Value) {
    match (profile.get_mut(&name), value) {
        (Some(Value::Dict(_, old)), Value::Dict(_, new)) => old.extend(new),
        (_, value) => drop(profile.insert(name, value)),
    }
}

/// A section without its unknown keys.
fn known(section: &str, value: Value, wrong: &mut impl FnMut(String)) -> Value {
    let Value::Dict(tag, keys) = value else {
        if let Err(reason) = known_key(section) {
            wrong(reason);
        }
        return value;
    };
    let is_set =
        |path: &str| path.split_once('.').is_some_and(|(within, key)| within == section && keys.contains_key(key));
    for (old, new) in twice_named(is_set) {
        wrong(format!("both `{old}` and `{new}` are set; the first is the earlier name of the second, so remove it"));
    }
    let keys = keys.into_iter().filter_map(|(key, value)| {
        let path = current_key(format!("{section}.{key}"));
        known_key(&path).map_err(&mut *wrong).ok()?;
        Some((path.split_once('.').map_or(key, |(_, key)| key.to_owned()), value))
    });
    Value::Dict(tag, keys.collect())
}

/// The section that the name of a server stands for.
fn meant(section: &str) -> &'static str {
    match section {
        "database" | "db" | "postgres" | "sqlite" => " (the job database is in [status])",
        "rabbitmq" | "amqp" | "broker" => " (RabbitMQ is in [queue])",
        "s3" | "storage" => " (S3 is in [store])",
        "model" | "models" | "gpu" => " (models and devices are in [qwen_image])",
        _ => "",
    }
}

fn unknown(name: &str) -> String {
    format!("`{name}` is not a setting; the sections are {}", section_names().join(", "))
}
