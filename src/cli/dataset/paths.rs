//! The addresses in a row: paths are relative to the dataset's folder, and `job:ID:LAYER` is a layer of another job.

use std::{io::ErrorKind, path::Path};

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
}

/// Makes addresses of the pictures in the fields of a job.
pub fn resolve(fields: &mut Fields, base: Base<'_>) -> Result<(), JobError> {
    resolve_in(fields, base)?;
    match fields.get_mut("input") {
        Some(Value::Object(input)) => resolve_in(input, base),
        Some(Value::Array(images)) => images.iter_mut().try_for_each(|image| resolve_one(image, base)),
        Some(image) => resolve_one(image, base),
        None => Ok(()),
    }
}

fn resolve_in(fields: &mut Fields, base: Base<'_>) -> Result<(), JobError> {
    for name in ["image", "mask"] {
        if let Some(image) = fields.get_mut(name) {
            resolve_one(image, base)?;
        }
    }
    match fields.get_mut("images") {
        Some(Value::Array(images)) => images.iter_mut().try_for_each(|image| resolve_one(image, base)),
        _ => Ok(()),
    }
}

fn resolve_one(value: &mut Value, base: Base<'_>) -> Result<(), JobError> {
    let Some(text) = value.as_str() else { return Ok(()) };
    if text.starts_with("job:") {
        *value = json!(input(text).map_err(|failure| match failure {
            Failure::Error(error) => error,
            _ => JobError::invalid("input", format!("`{text}` is not a layer of a job")),
        })?);
        return Ok(());
    }
    if text.contains("://") {
        return Ok(());
    }
    let folder = match base {
        Base::Folder(folder) => folder,
        Base::Address(base) => {
            *value = json!(format!("{base}{}", text.trim_start_matches("./")));
            return Ok(());
        }
    };
    if text.is_empty() {
        return Err(JobError::invalid("input", "the address of the picture is empty"));
    }
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
        assert_eq!(resolved(json!("s3://b/k"), here).unwrap(), json!("s3://b/k"));
        let away = Base::Address("https://h/set/");
        assert_eq!(resolved(json!("./a.png"), away).unwrap(), json!("https://h/set/a.png"));
    }
}
