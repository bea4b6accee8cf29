//! Maps errors of the hub to job errors. The library names its own options; people set flags, settings and variables.

use std::io::ErrorKind;

use qwen_image::hub::{HubError, Small, human_bytes};

use crate::job::JobError;

impl From<HubError> for JobError {
    fn from(error: HubError) -> Self {
        let reason = explain(&error);
        let without_id = |id: &str| reason.strip_prefix(&format!("{id}: ")).unwrap_or(&reason).to_owned();
        match error {
            HubError::Reference { text, .. } | HubError::LoraReference { text, .. } => {
                Self::ModelNotFound { model: text, reason }
            }
            HubError::Folder { folder, .. } => Self::ModelNotFound { model: folder.display().to_string(), reason },
            HubError::Unpack { small, folder, needed, source } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    let needed = human_bytes(needed);
                    Self::DiskFull { path: format!("{} ({} needs {needed})", folder.display(), small.name()) }
                }
                _ => Self::storage(folder.display().to_string(), reason),
            },
            HubError::NoSmallModel { small, .. } | HubError::NoCacheFolder { small } => {
                Self::ModelNotFound { model: small.name().to_owned(), reason: without_id(small.name()) }
            }
            HubError::NotFound { ref id, .. } | HubError::Offline { ref id, .. } if is_dataset(id) => {
                Self::invalid("--from", reason)
            }
            HubError::Unauthorized { ref id, .. } if is_dataset(id) => {
                Self::InputForbidden { input: address(id), reason }
            }
            HubError::Checksum { ref id, .. }
            | HubError::Unreachable { ref id, .. }
            | HubError::Network { ref id, .. }
            | HubError::Listing { ref id, .. }
                if is_dataset(id) =>
            {
                Self::input_unreachable(address(id), without_id(id)).caused_by(error)
            }
            HubError::NoLora { id, .. }
            | HubError::NotFound { id, .. }
            | HubError::Unauthorized { id, .. }
            | HubError::Offline { id, .. } => Self::ModelNotFound { model: id, reason },
            HubError::NoSpace { id, needed, available, folder } => {
                let (needed, free) = (human_bytes(needed), human_bytes(available));
                Self::DiskFull { path: format!("{} ({id} needs {needed} more, {free} are free)", folder.display()) }
            }
            HubError::Checksum { ref id, .. }
            | HubError::Unreachable { ref id, .. }
            | HubError::Network { ref id, .. }
            | HubError::Listing { ref id, .. } => {
                let failed = Self::download(id.clone(), without_id(id));
                failed.caused_by(error)
            }
            // Only `--from` names datasets.
            HubError::DatasetReference { .. } | HubError::NoFiles { .. } => Self::invalid("--from", reason),
            HubError::Endpoint { .. } => Self::invalid("hub.endpoint", reason),
            HubError::Pickle { id, .. } | HubError::NotAModel { id, .. } => Self::ModelInvalid { model: id, reason },
            HubError::Io { path, source } if source.kind() == ErrorKind::StorageFull => {
                Self::DiskFull { path: path.display().to_string() }
            }
            HubError::Io { path, source } => {
                Self::storage(path.display().to_string(), source.to_string()).caused_by(source)
            }
            HubError::Cancelled => Self::Cancelled,
        }
    }
}

/// The message, in terms of what acetate's users can set.
fn explain(error: &HubError) -> String {
    match error {
        HubError::NoSmallModel { small, looked } => format!(
            "{}: no model was chosen, and the small default was not found in {looked}; give {} a folder in diffusers' \
             layout or a hub id such as {id}, or set {} in the configuration; `acetate models pull {id}` downloads it, \
             about 58 GB",
            small.name(),
            flag(*small),
            setting(*small),
            id = small.full_model()
        ),
        HubError::Unpack { small, folder, needed, source } => format!(
            "{}: this model is part of the program and cannot be unpacked to {} ({source}); it needs {} in a folder that \
             can be written: set XDG_CACHE_HOME to one, or give another model with {}",
            small.name(),
            folder.display(),
            human_bytes(*needed),
            flag(*small)
        ),
        HubError::NoCacheFolder { small } => format!(
            "{}: this model is part of the program, and there is no home folder with a cache to unpack it to: set \
             XDG_CACHE_HOME to a folder that can be written, or give another model with {}",
            small.name(),
            flag(*small)
        ),
        HubError::Endpoint { endpoint } => format!(
            "{endpoint:?} is not an http or https address; set HF_ENDPOINT, or hub.endpoint in the configuration, to one \
             such as https://huggingface.co, or remove it"
        ),
        HubError::Unauthorized { id, endpoint, reason } => format!(
            "{endpoint} denies access to {id} ({reason}): if the name is right, the repository is private or gated; \
             accept its license at {endpoint}/{id} and set HF_TOKEN to a token that can read it{}",
            taken_for_id(id)
        ),
        HubError::Offline { id, revision, cache } => {
            let pull = match is_dataset(id) {
                true => format!("acetate submit KIND --from {}@{revision} --dry-run", address(id)),
                false => format!("acetate models pull {id}@{revision}"),
            };
            format!(
                "{id}@{revision} is not complete in {} and the hub is offline; go online (HF_HUB_OFFLINE, \
                 TRANSFORMERS_OFFLINE, or hub.offline in the configuration), or run `{pull}` on a machine with a \
                 network and copy the cache here{}",
                cache.display(),
                taken_for_id(id)
            )
        }
        HubError::NoFiles { id, revision } => format!(
            "{id}@{revision} has no pictures, archives, Parquet files or manifests there; check the path behind the name"
        ),
        _ => error.to_string(),
    }
}

/// Nothing for a dataset, which has its own prefix.
fn taken_for_id(id: &str) -> String {
    match is_dataset(id) {
        true => String::new(),
        false => format!(" (there is no folder {id}, so it was used as a hub id)"),
    }
}

fn is_dataset(id: &str) -> bool {
    id.starts_with("datasets/") && id.matches('/').count() == 2
}

/// The address of a dataset, as `--from` takes it.
fn address(id: &str) -> String {
    format!("hf://{id}")
}

fn flag(small: Small) -> &'static str {
    match small {
        Small::Layered => "--model",
        Small::Edit => "--model (--edit-model of a workflow)",
    }
}

fn setting(small: Small) -> &'static str {
    match small {
        Small::Layered => "qwen_image.model_path",
        Small::Edit => "qwen_image.edit_model_path",
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn messages_name_flags_settings_and_variables_and_no_field_of_the_library() {
        let (id, endpoint) = ("Org/Model".to_owned(), "https://hub.example".to_owned());
        let (revision, cache) = ("main".to_owned(), PathBuf::from("/cache"));
        let denied = std::io::Error::from(ErrorKind::PermissionDenied);
        for (error, wanted) in [
            (
                HubError::NoSmallModel { small: Small::Layered, looked: "/models".to_owned() },
                &["give --model a folder", "qwen_image.model_path", "acetate models pull Qwen/Qwen-Image-Layered"][..],
            ),
            (
                HubError::NoSmallModel { small: Small::Edit, looked: "/models".to_owned() },
                &["--edit-model", "qwen_image.edit_model_path", "acetate models pull Qwen/Qwen-Image-Edit-2509"],
            ),
            (
                HubError::Unpack { small: Small::Edit, folder: cache.clone(), needed: 300_010, source: denied },
                &["permission denied", "it needs 300.0 kB", "set XDG_CACHE_HOME", "--edit-model"],
            ),
            (HubError::NoCacheFolder { small: Small::Layered }, &["set XDG_CACHE_HOME", "with --model"]),
            (
                HubError::Endpoint { endpoint: "localhost".to_owned() },
                &["\"localhost\"", "HF_ENDPOINT", "hub.endpoint"],
            ),
            (
                HubError::Unauthorized { id: id.clone(), endpoint, reason: "HTTP 401".to_owned() },
                &["HTTP 401", "set HF_TOKEN", "https://hub.example/Org/Model", "there is no folder Org/Model"],
            ),
            (
                HubError::Offline { id, revision, cache },
                &["acetate models pull Org/Model@main", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "hub.offline"],
            ),
        ] {
            let said = JobError::from(error).to_string();
            for wanted in wanted {
                assert!(said.contains(wanted), "{wanted} is not in: {said}");
            }
            assert!(!said.contains("HubConfig") && !said.contains("EmbeddedModels"), "{said}");
        }
    }

    #[test]
    fn errors_of_a_dataset_do_not_speak_of_models() {
        let (id, revision, reason) = ("datasets/Org/Set".to_owned(), "main".to_owned(), "HTTP 500".to_owned());
        let (endpoint, cache) = ("https://hub.example".to_owned(), PathBuf::from("/cache"));
        let (file, hash) = ("a.csv".to_owned(), "0".repeat(40));
        for (error, code, wanted) in [
            (
                HubError::Offline { id: id.clone(), revision: revision.clone(), cache },
                "invalid_request",
                "`acetate submit KIND --from hf://datasets/Org/Set@main --dry-run`",
            ),
            (
                HubError::NotFound { id: id.clone(), revision: revision.clone(), endpoint: endpoint.clone() },
                "invalid_request",
                "--from: datasets/Org/Set has no revision main",
            ),
            (
                HubError::Unauthorized { id: id.clone(), endpoint, reason: "HTTP 401".to_owned() },
                "input_forbidden",
                "https://hub.example/datasets/Org/Set",
            ),
            (
                HubError::Unreachable { id: id.clone(), reason: reason.clone() },
                "input_unreachable",
                "hf://datasets/Org/Set: HTTP 500; check the network and the spelling",
            ),
            (HubError::Network { id: id.clone(), reason: reason.clone() }, "input_unreachable", "resumes there"),
            (HubError::Listing { id: id.clone(), reason }, "input_unreachable", "list of files"),
            (
                HubError::Checksum { id: id.clone(), file, expected: hash.clone(), actual: hash },
                "input_unreachable",
                "a.csv arrived twice",
            ),
            (HubError::NoFiles { id, revision }, "invalid_request", "no pictures, archives, Parquet files"),
        ] {
            let error = JobError::from(error);
            let said = error.to_string();
            assert!(error.code() == code && said.contains(wanted), "{wanted} is not in: {said}");
            assert!(!said.contains("model") && !said.contains("folder"), "{said}");
        }
    }
}
