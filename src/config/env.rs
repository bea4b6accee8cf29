//! The environment: variables and paths of the process, read once and then passed as a value.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    layers::{ConfigError, current_key, keys, known_key, twice_named},
    nearest::nearest,
    secret_files,
};
use qwen_image::hub::SmallModelPaths;

const PREFIX: &str = "ACETATE__";

/// The environment of this process, or of a test.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Names whose values are not UTF-8.
    unreadable: Vec<String>,
    pub(super) surroundings: SmallModelPaths,
}

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "the one place that looks")]
    pub fn of_this_process() -> Self {
        let (executable, current_dir) = (std::env::current_exe().ok(), std::env::current_dir().ok());
        let mut environment =
            Self { surroundings: SmallModelPaths { executable, current_dir, embedded: None }, ..Self::default() };
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(environment.variables.insert(name, value)),
                Err(_) => environment.unreadable.push(name),
            }
        }
        environment
    }

    pub fn from_pairs<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { variables, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn from_list(pairs: &[(&str, &str)]) -> Self {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { variables, ..Self::default() }
    }

    /// An empty variable counts as not set.
    pub fn get(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from).or_else(dirs::home_dir)
    }

    /// Who runs this process, for the audit log: the user's name, or the number if the system does not know one.
    pub(super) fn user(&self) -> String {
        owner().or_else(|| self.get("USER")).or_else(|| self.get("USERNAME")).unwrap_or_else(|| "unknown".to_owned())
    }

    /// `$XDG_CONFIG_HOME/acetate/config.toml`, or this system's folder for such files.
    pub(super) fn user_file(&self) -> Option<PathBuf> {
        let folder = self.base_folder("XDG_CONFIG_HOME").or_else(dirs::config_dir)?;
        Some(folder.join("acetate").join("config.toml"))
    }

    pub(super) fn data_dir(&self) -> Option<PathBuf> {
        let folder = self.base_folder("XDG_DATA_HOME").or_else(dirs::data_dir)?;
        Some(folder.join("acetate"))
    }

    pub(super) fn cache_dir(&self) -> Option<PathBuf> {
        let folder = self.base_folder("XDG_CACHE_HOME").or_else(dirs::cache_dir)?;
        Some(folder.join("acetate"))
    }

    /// The XDG specification requires paths that are not absolute to be ignored.
    fn base_folder(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// `(variable, key, value)` of every setting; a variable with our prefix that is not a setting is an error.
    pub(super) fn settings(&self, errors: &mut Vec<ConfigError>) -> Vec<(String, String, String)> {
        for name in self.unreadable.iter().filter(|name| name.starts_with(PREFIX)) {
            errors.push(ConfigError::new(name, "its value is not UTF-8"));
        }
        for (old, new) in twice_named(|key| self.variables.contains_key(&variable(key))) {
            let (old, new) = (variable(old), variable(new));
            let reason = format!("{new} is set, too; the first is the earlier name of the second, so unset it");
            errors.push(ConfigError::new(&old, reason));
        }
        let mut settings = Vec::new();
        for (name, value) in &self.variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let key = current_key(rest.to_ascii_lowercase().replace("__", "."));
            if let Err(reason) = known_key(&key) {
                errors.push(ConfigError::new(name, reason));
                continue;
            }
            match secret_files::rule(&key)(value) {
                Ok(value) => settings.push((name.clone(), key, value.to_owned())),
                Err(reason) => errors.push(ConfigError::new(name, reason)),
            }
        }
        settings
    }

    /// Variables that look like settings and are none: `ACETATE_QUEUE_URL` with one underscore.
    pub(super) fn remarks(&self) -> Vec<String> {
        let one_underscore = self.variables.keys().filter(|name| !name.starts_with(PREFIX));
        let meant = one_underscore.filter_map(|name| {
            let meant = nearest(name.strip_prefix("ACETATE_")?, keys())?;
            Some(format!("{name} is not a setting and has no effect; did you mean {}?", variable(meant)))
        });
        meant.collect()
    }
}

/// The variable of a setting: `ACETATE__QUEUE__URL` of `queue.url`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The owner of this process, whatever the variables say.
#[cfg(target_os = "linux")]
fn owner() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid.as_str())).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| format!("uid{uid}")))
}

#[cfg(not(target_os = "linux"))]
fn owner() -> Option<String> {
    None
}
