//! The addresses in a row: paths are relative to the dataset's folder, and `job:ID:LAYER` is a layer of another job.

use std::{io::ErrorKind, path::Path};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use super::Fields;
use crate::{
    cli::{Failure, run::flags::input},
    job::JobError,
    store::file_url,
};

/// Where relative paths start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base<'a> {
    Folder(&'a Path),
    /// Of a manifest that was downloaded: an address that ends with `/`.
    Address(&'a str),
    /// Nowhere, as in an archive, which was made on another machine: only addresses elsewhere are pictures.
    Nowhere,
}

/// Makes addresses of the pictures in the fields of a job.
pub fn resolve(fields: &mut Fields, base: Base<'_>) -> Result<(), JobError> {
    resolve_in(fields, base)?;
    match fields.get_mut("input") {
        Some(Value::Object(input)) => resolve_in(input, base),
        Some(pictures) => resolve_all("input", pictures, base),
        None => Ok(()),
    }
}

fn resolve_in(fields: &mut Fields, base: Base<'_>) -> Result<(), JobError> {
    let has_one = fields.get("image").is_some_and(|image| !image.is_null());
    for name in ["image", "images", "mask"] {
        if has_one && name == "images" && fields.get(name) == Some(&json!([])) {
            continue;
        }
        if let Some(pictures) = fields.get_mut(name) {
            resolve_all(name, pictures, base)?;
        }
    }
    Ok(())
}

/// A picture, or a list of them.
fn resolve_all(field: &str, value: &mut Value, base: Base<'_>) -> Result<(), JobError> {
    match value {
        Value::Array(pictures) if pictures.is_empty() => {
            Err(JobError::invalid(field, "is an empty list; the row has no picture"))
        }
        Value::Array(pictures) => pictures.iter_mut().try_for_each(|picture| resolve_one(field, picture, base)),
        picture => resolve_one(field, picture, base),
    }
}

fn resolve_one(field: &str, value: &mut Value, base: Base<'_>) -> Result<(), JobError> {
    let Some(text) = value.as_str() else { return Ok(()) };
    if text.starts_with("job:") {
        *value = json!(input(text).map_err(|failure| match failure {
            // About the id inside.
            Failure::Error(JobError::InvalidRequest { reason, .. }) if !reason.contains(text) => {
                JobError::invalid(field, format!("`{}`: {reason}", text.escape_debug()))
            }
            Failure::Error(error) => error,
            _ => JobError::invalid(field, format!("`{text}` is not a layer of a job")),
        })?);
        return Ok(());
    }
    if base == Base::Nowhere && (!text.contains("://") || text.starts_with("file:")) && !text.is_empty() {
        let shown: String = text.chars().take(80).collect();
        let reason = format!(
            "`{}` is a local file; a row of an archive has its picture inside, or names an address (s3://, https://); \
             --drop-column {field} ignores the field",
            shown.escape_debug()
        );
        return Err(JobError::invalid(field, reason));
    }
    if text.contains("://") {
        return Ok(());
    }
    if text.is_empty() {
        return Err(JobError::invalid("input", "the address of the picture is empty"));
    }
    if text.chars().any(char::is_control) || text.len() > LONGEST {
        let start: String = text.chars().take(40).collect();
        let reason = format!("`{}` ... is not the path of a picture", start.escape_debug());
        return Err(JobError::invalid("input", reason));
    }
    let folder = match base {
        Base::Folder(folder) => folder,
        Base::Address(base) => {
            *value = json!(below(base, text));
            return Ok(());
        }
        Base::Nowhere => return Ok(()),
    };
    let path = folder.join(text);
    let name = || path.display().to_string();
    let wrong = |error: std::io::Error| match error.kind() {
        ErrorKind::PermissionDenied => {
            JobError::InputForbidden { input: name(), reason: "permission denied; make the file readable".to_owned() }
        }
        _ => JobError::InputNotFound { input: name() },
    };
    // A linked file keeps its name, which caches of downloads need: what they link to is named by its hash.
    let path = match (path.parent(), path.file_name()) {
        (Some(parent), Some(file)) => parent.canonicalize().map_err(wrong)?.join(file),
        _ => path.canonicalize().map_err(wrong)?,
    };
    if path.metadata().map_err(wrong)?.is_dir() {
        let reason = format!("{} is a folder, not a picture", path.display());
        return Err(JobError::invalid("input", reason));
    }
    *value = json!(file_url(&path));
    Ok(())
}

/// The longest path that an operating system takes.
const LONGEST: usize = 4096;
/// What stays as it is in the path of an address. A `%` is one of an escape, or encoded by [`encoded`].
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\')
    .add(b'^')
    .add(b'|')
    .add(b'[')
    .add(b']');

/// The address of a path in a manifest at an address. In `https://`, its parts are encoded: a `#` or `?` belongs to the
/// name of a file. The keys of a bucket stay as they are.
fn below(base: &str, path: &str) -> String {
    let Some((scheme, rest)) = base.split_once("://") else { return format!("{base}{path}") };
    let is_web = scheme != "s3";
    if is_web && path.starts_with("//") {
        return format!("{scheme}:{}", encoded(path));
    }
    let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let mut steps: Vec<&str> = match path.starts_with('/') {
        true => Vec::new(),
        false => folder.split('/').filter(|step| !step.is_empty()).collect(),
    };
    let own = if is_web { encoded(path) } else { path.to_owned() };
    for step in own.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    format!("{scheme}://{host}/{}", steps.join("/"))
}

/// Escapes what has another meaning in an address; what is escaped already stays.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for (index, part) in path.split('%').enumerate() {
        if index > 0 {
            let is_escape = part.as_bytes().get(..2).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit));
            text.push_str(if is_escape { "%" } else { "%25" });
        }
        text.extend(utf8_percent_encode(part, ESCAPED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(value: Value, base: Base<'_>) -> Result<Value, String> {
        let mut fields = Fields::from_iter([("image".to_owned(), value)]);
        resolve(&mut fields, base).map_err(|error| error.to_string())?;
        Ok(fields["image"].clone())
    }

    #[test]
    fn paths_addresses_and_layers_of_jobs_are_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("deep")).unwrap();
        std::fs::write(root.join("blob"), "").unwrap();
        std::os::unix::fs::symlink(root.join("blob"), root.join("deep/a.png")).unwrap();
        let here = Base::Folder(&root);
        let address = file_url(&root.join("deep/a.png"));
        for path in ["deep/a.png", "deep/../deep/a.png"] {
            assert_eq!(resolved(json!(path), here).unwrap(), json!(address), "a link keeps its name");
        }
        assert!(resolved(json!("deep/b.png"), here).unwrap_err().contains("deep/b.png: not found"));
        assert!(resolved(json!("deep"), here).unwrap_err().contains("deep is a folder, not a picture"));
        assert!(resolved(json!(""), here).unwrap_err().contains("is empty"));
        let id = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";
        assert_eq!(resolved(json!(format!("job:{id}:2")), here).unwrap(), json!({ "job": id, "layer": 2 }));
        assert!(resolved(json!("job:2"), here).unwrap_err().contains("write job:ID:LAYER"));
        let error = resolved(json!("job:x:2"), here).unwrap_err();
        assert!(error.starts_with("image: `job:x:2`: `x` is not a UUID"), "{error}");
        assert_eq!(resolved(json!(["deep/a.png", "s3://b/k"]), here).unwrap(), json!([address, "s3://b/k"]));
        assert!(resolved(json!([]), here).unwrap_err().starts_with("image: is an empty list"));
        for path in ["deep/a.png", address.as_str()] {
            let error = resolved(json!(path), Base::Nowhere).unwrap_err();
            assert!(error.contains("is a local file; a row of an archive"), "{error}");
        }
        assert_eq!(resolved(json!("s3://b/k"), Base::Nowhere).unwrap(), json!("s3://b/k"));
        assert_eq!(resolved(json!("s3://b/k"), here).unwrap(), json!("s3://b/k"));
        let away = Base::Address("https://h/set/");
        for (path, wanted) in [
            ("./a.png", "https://h/set/a.png"),
            ("ok/photo#1.png", "https://h/set/ok/photo%231.png"),
            ("ok/what?.png", "https://h/set/ok/what%3F.png"),
            ("/ok/3.png", "https://h/ok/3.png"),
            ("ok/a b.png", "https://h/set/ok/a%20b.png"),
            ("ok/a%20b.png", "https://h/set/ok/a%20b.png"),
            ("100%.png", "https://h/set/100%25.png"),
            ("../x.png", "https://h/x.png"),
            ("../../../x.png", "https://h/x.png"),
            ("ok/../\u{e4}.png", "https://h/set/%C3%A4.png"),
            ("//other/a.png", "https://other/a.png"),
        ] {
            assert_eq!(resolved(json!(path), away).unwrap(), json!(wanted));
        }
        let bucket = Base::Address("s3://b/set/");
        for (path, wanted) in
            [("../a #?%.png", "s3://b/a #?%.png"), ("./a.png", "s3://b/set/a.png"), ("/a.png", "s3://b/a.png")]
        {
            assert_eq!(resolved(json!(path), bucket).unwrap(), json!(wanted));
        }
        for raw in ["\u{89}PNG\r\n\u{1a}", "\u{1b}[2J"] {
            let error = resolved(json!(raw), here).unwrap_err();
            assert!(error.contains("is not the path of a picture") && !error.chars().any(char::is_control), "{error}");
        }
    }
}
