//! Merges the layers of settings and records the source of each value.

use std::{fmt, path::PathBuf, sync::LazyLock};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::{Actual, Kind},
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use super::{
    Config, Environment, Traces, aws, file,
    file::FileLayer,
    nearest::nearest,
    passwords,
    redact::{HIDDEN, shown},
    secret_files,
    telemetry::check_filter,
    tokens, traces,
};
use crate::job::{JobError, TraceContext};
use qwen_image::hub::{HubConfig, SmallModelPaths};

const DEFAULTS: &str = include_str!("../../config/default.toml");
const FROM_DEFAULTS: &str = "the defaults";

/// The sources of settings in addition to the built-in defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--profile`; else `ACETATE_PROFILE`.
    pub profile: Option<String>,
    pub environment: Environment,
    pub flags: Vec<Flag>,
}

/// A flag that sets a setting.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The flag's name for messages: `--model`.
    pub name: &'static str,
    /// `qwen_image.model_path`.
    pub key: &'static str,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub struct LoadedConfig {
    pub config: Config,
    /// `[hub]` and the variables of Hugging Face's tools.
    pub hub: HubConfig,
    /// Where to look for the small models.
    pub surroundings: SmallModelPaths,
    /// The cache folder; none if there is no home folder.
    pub cache_dir: Option<PathBuf>,
    /// Whether and where traces are exported.
    pub traces: Traces,
    /// The trace that this command is part of.
    pub trace: Option<TraceContext>,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    pub profile: String,
    /// Every setting with its value and origin, secrets hidden.
    pub settings: Vec<Setting>,
    /// Who runs this process.
    pub user: String,
    /// What the owner should know; logged once the log has started.
    pub remarks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    pub key: String,
    pub value: String,
    pub from: String,
}

/// Invalid settings: the source of each, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(Vec<Mistake>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    place: String,
    reason: String,
}

impl LoadedConfig {
    /// A setting that a file, a variable or a flag sets; none if it has its default.
    pub fn chosen(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key && setting.from != FROM_DEFAULTS)
    }

    /// The same error, with the flag, file or variable that a refused setting is from.
    #[must_use]
    pub fn with_origin(&self, error: JobError) -> JobError {
        match error {
            JobError::InvalidRequest { field, reason } => JobError::invalid(self.name_of(&field), reason),
            error => error,
        }
    }

    /// The flag that a setting is from, or else its key, with its file or variable.
    pub fn name_of(&self, key: &str) -> String {
        match self.settings.iter().find(|setting| setting.key == key) {
            Some(setting) if setting.from.starts_with("--") => setting.from.clone(),
            Some(setting) => format!("{key} (from {})", setting.from),
            None => key.to_owned(),
        }
    }
}

impl ConfigError {
    pub(super) fn new(place: &str, reason: impl Into<String>) -> Self {
        Self(vec![Mistake { place: place.to_owned(), reason: reason.into() }])
    }

    /// Without mistakes there is no error.
    pub(super) fn all(errors: Vec<Self>) -> Result<(), Self> {
        let mistakes: Vec<Mistake> = errors.into_iter().flat_map(|error| error.0).collect();
        if mistakes.is_empty() { Ok(()) } else { Err(Self(mistakes)) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [Mistake { place, reason }] = self.0.as_slice() else {
            write!(f, "configuration, {} mistakes:", self.0.len())?;
            return self.0.iter().try_for_each(|Mistake { place, reason }| write!(f, "\n  {place}: {reason}"));
        };
        write!(f, "configuration, {place}: {reason}")
    }
}

impl std::error::Error for ConfigError {}

/// Reads and checks all settings. Reports all mistakes at once.
pub fn load(sources: &Sources) -> Result<LoadedConfig, ConfigError> {
    let mut figment =
        Figment::from(NamedProvider { origin: FROM_DEFAULTS.to_owned(), provider: Toml::string(DEFAULTS) });

    let named = sources.profile.clone().or_else(|| sources.environment.get("ACETATE_PROFILE"));
    let profile = named.clone().unwrap_or_else(|| "default".to_owned());
    let found = file::find(sources.file.as_deref(), &sources.environment)?;
    let mut profiles = Vec::new();
    let mut has_profile = profile.eq_ignore_ascii_case("default");
    let mut errors = Vec::new();
    if let Some((path, text)) = &found {
        let layer = FileLayer::parse(&path.display().to_string(), text, &mut errors)?;
        has_profile |= layer.has_profile(&profile);
        profiles = layer.profile_names();
        figment = figment.merge(layer);
    }
    if !has_profile {
        let place = if sources.profile.is_some() { "--profile" } else { "ACETATE_PROFILE" };
        let known = match &found {
            Some((path, _)) => format!("{} has {}", path.display(), profiles.join(", ")),
            None => "no configuration file was found".to_owned(),
        };
        return Err(ConfigError::new(place, format!("there is no profile `{profile}`; {known}")));
    }

    for (variable, key, text) in sources.environment.settings(&mut errors) {
        let value = read_as_default(&key, text);
        figment = figment.merge(One { origin: variable, key, value });
    }
    for flag in &sources.flags {
        figment =
            figment.merge(One { origin: flag.name.to_owned(), key: flag.key.to_owned(), value: flag.value.clone() });
    }

    let figment = figment.select(Profile::new(&profile));
    let (figment, resolved) = secret_files::resolve(figment, &sources.environment, &mut errors);
    let (figment, mut config) = checked(figment, &mut errors)?;
    let origin = |key: &str| origin(&figment, key);
    let (wrong, more) = tokens::read_files(&mut config.http.tokens, &sources.environment);
    errors.extend(wrong.into_iter().map(|reason| ConfigError::new(&origin("http.tokens"), reason)));
    if let Err((key, reason)) = passwords::apply(&mut config) {
        errors.push(ConfigError::new(&origin(key), format!("{key}: {reason}")));
    }
    ConfigError::all(errors)?;
    let mut hub = config.hub.resolve(&sources.environment);
    hub.ca_file.clone_from(&config.tls.ca_file);
    config.store.credentials_hint =
        aws::credentials_hint(&sources.environment, |path| std::fs::read_to_string(path).ok());
    config.data_dir = absolute_data_dir(&config.data_dir, &sources.environment)?;
    if let Some(filter) = sources.environment.get("RUST_LOG") {
        config.telemetry.level = filter;
    }

    let settings = keys()
        .map(|key| Setting {
            value: match figment.find_value(key) {
                Ok(_) if resolved.keys.contains(&key) => HIDDEN.to_owned(),
                Ok(value) => shown(key, &text_of(&value)),
                Err(_) => String::new(),
            },
            from: origin(key),
            key: key.to_owned(),
        })
        .collect();
    let surroundings = sources.environment.surroundings.clone();
    let cache_dir = sources.environment.cache_dir();
    let user = sources.environment.user();
    let mut remarks = [sources.environment.remarks(), resolved.remarks, more].concat();
    if let Some(Err(reason)) = sources.environment.get("RUST_LOG").map(|filter| check_filter(&filter)) {
        remarks.push(format!("RUST_LOG: {reason}"));
    }
    remarks.extend(traces::remarks(&sources.environment));
    let worker = &config.worker;
    if worker.heartbeat_seconds > worker.lease_seconds / 3.0 && origin("worker.heartbeat_seconds") != FROM_DEFAULTS {
        remarks.push(format!(
            "worker.heartbeat_seconds ({}) is more than a third of worker.lease_seconds ({}), and a third is used: with one \
             heartbeat lost, a job would be taken from its worker",
            worker.heartbeat_seconds, worker.lease_seconds
        ));
    }
    Ok(LoadedConfig {
        config,
        hub,
        surroundings,
        cache_dir,
        traces: Traces::of(&sources.environment),
        trace: traces::of_this_command(&sources.environment),
        file: found.map(|(path, _)| path),
        profile,
        settings,
        user,
        remarks,
    })
}

/// The settings as values. Invalid settings are recorded and replaced by their defaults while the others are checked.
fn checked(mut figment: Figment, errors: &mut Vec<ConfigError>) -> Result<(Figment, Config), ConfigError> {
    loop {
        let (key, error) = match figment.extract::<Config>() {
            Err(error) => (error.path.join("."), explain(&figment, error)),
            Ok(config) => match config.check() {
                Ok(()) => return Ok((figment, config)),
                Err((key, reason)) => {
                    (key.to_owned(), ConfigError::new(&origin(&figment, key), format!("{key}: {reason}")))
                }
            },
        };
        let default = KNOWN.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone());
        let stands_in = origin(&figment, &key) == STAND_IN;
        match default.filter(|_| !stands_in) {
            Some(value) => {
                errors.push(error);
                figment = figment.merge(One { origin: STAND_IN.to_owned(), key, value });
            }
            // Replacing it would change nothing, so the rest cannot be checked.
            None => {
                // It was reported with the value that was set.
                if !stands_in {
                    errors.push(error.clone());
                }
                return Err(ConfigError::all(std::mem::take(errors)).err().unwrap_or(error));
            }
        }
    }
}

const STAND_IN: &str = "the default that stands in";

pub(super) fn origin(figment: &Figment, key: &str) -> String {
    figment.find_metadata(key).map_or_else(String::new, |data| data.name.to_string())
}

fn absolute_data_dir(set: &std::path::Path, environment: &Environment) -> Result<PathBuf, ConfigError> {
    let path = if set.as_os_str().is_empty() { environment.data_dir() } else { Some(set.to_owned()) };
    let path = path.ok_or_else(|| {
        ConfigError::new("data_dir", "there is no home folder for the data; set ACETATE__DATA_DIR to a folder")
    })?;
    std::path::absolute(&path).map_err(|error| ConfigError::new("data_dir", format!("{}: {error}", path.display())))
}

/// Every setting as `section.key` with its default, in the order of `config/default.toml`'s sections.
static KNOWN: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
    let defaults = Toml::string(DEFAULTS).data().unwrap_or_default();
    let mut known = Vec::new();
    for (section, value) in defaults.into_values().flatten() {
        match value {
            Value::Dict(_, keys) => {
                known.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
            value => known.push((section, value)),
        }
    }
    known
});

pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(key, _)| key.as_str())
}

pub(super) fn section_names() -> Vec<&'static str> {
    let mut names: Vec<_> = keys().filter_map(|key| key.split_once('.').map(|(section, _)| section)).collect();
    names.dedup();
    names
}

pub(super) fn is_section(name: &str) -> bool {
    keys().any(|key| key == name || key.split_once('.').is_some_and(|(section, _)| section == name))
}

/// Settings under their earlier names, which files and variables may still have.
const RENAMED: [(&str, &str); 1] = [("worker.database_patience_seconds", "worker.database_retry_seconds")];

/// The name that a setting has now.
pub(super) fn current_key(key: String) -> String {
    RENAMED.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| (*new).to_owned())
}

/// Settings that one place has under both names, the earlier one first.
pub(super) fn twice_named(has: impl Fn(&str) -> bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    RENAMED.into_iter().filter(move |(old, new)| has(old) && has(new))
}

/// Refuses unknown settings and lists the known ones.
pub(super) fn known_key(key: &str) -> Result<(), String> {
    if keys().any(|known| known == key) {
        return Ok(());
    }
    if let Some(meant) = nearest(key, keys()) {
        return Err(format!("`{key}` is not a setting; did you mean {meant}?"));
    }
    let section = key.split_once('.').map_or(key, |(section, _)| section);
    if !is_section(section) {
        return Err(format!("`{key}` is not a setting; the sections are {}", section_names().join(", ")));
    }
    let there: Vec<_> = keys().filter_map(|known| known.strip_prefix(section)?.strip_prefix('.')).collect();
    Err(format!("`{key}` is not a setting; [{section}] has {}", there.join(", ")))
}

/// A variable is text. If the default is text, the value stays text, so that a token of digits does not become a
/// number.
fn read_as_default(key: &str, text: String) -> Value {
    let default = KNOWN.iter().find(|(known, _)| known == key).map(|(_, value)| value);
    match default {
        // JSON, which is not how figment writes lists.
        _ if key == "http.tokens" => Value::from(text),
        Some(Value::String(..)) | None => Value::from(text),
        Some(_) => text.parse().unwrap_or_else(|_| Value::from(text)),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => plain(&number.to_actual()),
        Value::Array(_, values) => values.iter().map(text_of).collect::<Vec<_>>().join(", "),
        other => format!("{other:?}"),
    }
}

/// figment's first error as place, key and reason.
fn explain(figment: &Figment, error: figment::Error) -> ConfigError {
    let place = error.metadata.as_ref().map_or("the settings".to_owned(), |data| data.name.to_string());
    let path = error.path.join(".");
    let reason = match &error.kind {
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            too_large(figment, &path, found, wanted)
                // A secret without its quotes.
                .unwrap_or_else(|| format!("{} is not {}", shown(&path, &plain(found)), in_words(wanted)))
        }
        other => other.to_string(),
    };
    ConfigError::new(&place, format!("{path}: {reason}"))
}

/// What is wrong with a number that its type cannot hold: the bound of the setting, or else that of the type.
fn too_large(figment: &Figment, key: &str, found: &Actual, wanted: &str) -> Option<String> {
    let most = match wanted {
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "u64" | "usize" => u64::MAX,
        _ => return None,
    };
    let number = match found {
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) if *number > 0 => number.to_string(),
        // Of more digits than figment's numbers have.
        Actual::Str(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.clone(),
        Actual::Float(number) if *number > 0.0 && number.fract() == 0.0 => number.to_string(),
        _ => return None,
    };
    if number.parse::<u128>().is_ok_and(|number| number <= u128::from(most)) {
        return None;
    }
    let largest = One { origin: STAND_IN.to_owned(), key: key.to_owned(), value: Value::from(most) };
    match figment.clone().merge(largest).extract::<Config>().map(|config| config.check()) {
        Ok(Err((refused, reason))) if refused == key => Some(reason.replacen(&most.to_string(), &number, 1)),
        Ok(_) | Err(_) => Some(format!("{number} is too large; the most is {most}")),
    }
}

/// A value as it stands in a file.
fn plain(value: &Actual) -> String {
    match value {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Str(text) => format!("{text:?}"),
        Actual::Char(one) => format!("{one:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What serde calls by Rust's types.
pub(super) fn in_words(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" | "path string" => "a text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other.strip_prefix("struct ").map_or(other, |_| "a section with settings"),
    }
}

/// A provider with a readable name.
struct NamedProvider<P> {
    origin: String,
    provider: P,
}

impl<P: Provider> Provider for NamedProvider<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.provider.data()
    }
}

/// One setting, over all profiles.
pub(super) struct One {
    pub(super) origin: String,
    pub(super) key: String,
    pub(super) value: Value,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = match self.key.split_once('.') {
            Some((section, key)) => {
                let inner = Dict::from([(key.to_owned(), self.value.clone())]);
                Dict::from([(section.to_owned(), Value::from(inner))])
            }
            None => Dict::from([(self.key.clone(), self.value.clone())]),
        };
        Ok(Map::from([(Profile::Global, dict)]))
    }
}
