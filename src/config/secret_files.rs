//! Secrets in files, as systemd's credentials and the secrets of Docker and Kubernetes are: `http.token_file` names the
//! file that has `http.token`.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use figment::{Figment, value::Value};

use super::{
    Environment, clean,
    layers::{ConfigError, One, origin},
};

/// The settings that may be in a file. The setting that names the file has `_file` at its end.
pub(super) const SECRETS: [&str; 11] = [
    "queue.url",
    "queue.password",
    "status.url",
    "status.listen_url",
    "status.password",
    "store.access_key_id",
    "store.secret_access_key",
    "http.token",
    "http.tokens",
    "http.webhook_secret",
    "hub.token",
];

/// More is not a secret but another file.
const LARGEST_BYTES: u64 = 1 << 20;

/// What systemd sets for units with `LoadCredential=`; a path may begin with it.
const CREDENTIALS: &str = "${CREDENTIALS_DIRECTORY}";

/// Folders of one container, in which every file can be read by everybody and there is nobody else.
const OF_A_CONTAINER: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// What makes a text the value of a setting.
type Clean = fn(&str) -> Result<&str, String>;

/// The rule for the value of a setting.
pub(super) fn rule(key: &str) -> Clean {
    // JSON, which has lines.
    if key == "http.tokens" { clean::lines } else { clean::value }
}

/// The text of a file, and what the owner should know.
#[derive(Debug)]
pub(super) struct SecretFile {
    pub(super) text: String,
    pub(super) remark: Option<String>,
}

/// The settings that were read from files, and remarks for the log.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) keys: Vec<&'static str>,
    pub(super) remarks: Vec<String>,
}

/// Reads the files that settings name. A value of a later source overrides a file of an earlier one, and the other way
/// round; both in one source are a mistake.
pub(super) fn resolve(
    mut figment: Figment,
    environment: &Environment,
    errors: &mut Vec<ConfigError>,
) -> (Figment, Resolved) {
    let mut resolved = Resolved::default();
    for key in SECRETS {
        let file_key = format!("{key}_file");
        figment = cleaned(figment, key, errors);
        let Some(file) = SettingValue::find(&figment, &file_key) else { continue };
        let Value::String(_, path) = &file.value else { continue };
        if let Some(value) = SettingValue::find(&figment, key) {
            if value.rank > file.rank {
                continue;
            }
            if value.rank == file.rank {
                let reason = format!("{key} ({}) is given, too; keep one of the two", value.origin);
                errors.push(ConfigError::new(&file.origin, format!("{file_key}: {reason}")));
                continue;
            }
        }
        match read_with(Path::new(path), environment, rule(key)) {
            Ok(found) => {
                let origin = format!("{path} ({})", file.origin);
                figment = figment.merge(One { origin, key: key.to_owned(), value: Value::from(found.text) });
                resolved.keys.push(key);
                resolved.remarks.extend(found.remark.map(|remark| format!("{file_key}: {remark}")));
            }
            Err(reason) => errors.push(ConfigError::new(&file.origin, format!("{file_key}: {reason}"))),
        }
    }
    (figment, resolved)
}

/// With a secret that is written into the configuration file by the rule that holds for variables and files.
fn cleaned(figment: Figment, key: &'static str, errors: &mut Vec<ConfigError>) -> Figment {
    let Ok(Value::String(_, text)) = figment.find_value(key) else { return figment };
    let origin = origin(&figment, key);
    match rule(key)(&text) {
        Ok(value) if value == text => figment,
        Ok(value) => figment.merge(One { origin, key: key.to_owned(), value: Value::from(value) }),
        Err(reason) => {
            errors.push(ConfigError::new(&origin, format!("{key}: {reason}")));
            figment
        }
    }
}

/// The secret in a file. The error names the file.
pub(super) fn read(named: &Path, environment: &Environment) -> Result<SecretFile, String> {
    read_with(named, environment, clean::value)
}

fn read_with(named: &Path, environment: &Environment, clean: Clean) -> Result<SecretFile, String> {
    let path = expanded(named, environment)?;
    let wrong = |reason: &str| format!("{}: {reason}", path.display());
    let mut bytes = Vec::new();
    let file = clean::open(&path).map_err(|error| wrong(&format!("cannot read it: {error}")))?;
    let remark = remark(&path, &file);
    file.take(LARGEST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(&format!("cannot read it: {error}")))?;
    if bytes.len() as u64 > LARGEST_BYTES {
        return Err(wrong("is larger than 1 MiB; is it the right file?"));
    }
    let text =
        clean::decoded(bytes).and_then(|text| clean(&text).map(str::to_owned)).map_err(|reason| wrong(&reason))?;
    if text.is_empty() {
        return Err(wrong("is empty; write the secret into it, or leave the setting out"));
    }
    Ok(SecretFile { text, remark })
}

fn expanded(path: &Path, environment: &Environment) -> Result<PathBuf, String> {
    let Some(rest) = path.to_str().and_then(|text| text.strip_prefix(CREDENTIALS)) else { return Ok(path.to_owned()) };
    match environment.get("CREDENTIALS_DIRECTORY") {
        Some(folder) => Ok(PathBuf::from(format!("{folder}{rest}"))),
        None => Err(format!(
            "{}: CREDENTIALS_DIRECTORY is not set; systemd sets it for units with LoadCredential=",
            path.display()
        )),
    }
}

/// Whether everybody on this machine can read the secret.
#[cfg(unix)]
fn remark(path: &Path, file: &File) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().ok().filter(std::fs::Metadata::is_file)?.permissions().mode();
    let alone = OF_A_CONTAINER.iter().any(|folder| path.starts_with(folder));
    (mode & 0o004 != 0 && !alone)
        .then(|| format!("every user of this machine can read {0}; run `chmod o-r {0}`", path.display()))
}

#[cfg(not(unix))]
fn remark(_: &Path, _: &File) -> Option<String> {
    None
}

/// A setting that is not empty, and its source.
struct SettingValue {
    value: Value,
    origin: String,
    /// Later sources have a higher one.
    rank: u8,
}

impl SettingValue {
    fn find(figment: &Figment, key: &str) -> Option<Self> {
        let value = figment.find_value(key).ok()?;
        let is_empty = match &value {
            Value::String(_, text) => text.is_empty(),
            Value::Array(_, values) => values.is_empty(),
            _ => false,
        };
        let origin = origin(figment, key);
        let rank = match origin.as_str() {
            name if name.starts_with("--") => 2,
            name if name.starts_with("ACETATE__") => 1,
            _ => 0,
        };
        (!is_empty).then_some(Self { value, origin, rank })
    }
}
