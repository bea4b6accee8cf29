//! Data sets of the Hugging Face hub: `hf://datasets/ORG/NAME`, downloaded into the cache of its own tools.

use std::path::PathBuf;

use qwen_image::hub::{DataSetRef, HubConfig, resolve_data_set};

use super::listed::{is_hidden, is_picture};
use crate::{
    cli::{
        Failure,
        download_bar::download_bar,
        global::{GlobalArgs, ProgressStyle},
    },
    job::JobError,
};

const PREFIX: &str = "hf://datasets/";
/// What a data set's rows are in, besides pictures.
const DATA: [&str; 9] = [".parquet", ".tar", ".tar.gz", ".tgz", ".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.gz"];

pub fn is_on_hub(text: &str) -> bool {
    text.starts_with("hf://")
}

/// Downloads what is missing; returns the folder, or the file that the address names.
pub fn pull(global: &GlobalArgs, config: &HubConfig, address: &str) -> Result<PathBuf, Failure> {
    let Some(name) = address.strip_prefix(PREFIX) else {
        let reason = format!("`{address}` is not a data set of the hub; write {PREFIX}ORG/NAME");
        return Err(JobError::invalid("--from", reason).into());
    };
    let data_set = DataSetRef::parse(name).map_err(JobError::from)?;
    let mut bar = download_bar(global.progress_style() == ProgressStyle::Bar, || false);
    let snapshot = resolve_data_set(config, &data_set, &is_data, &mut bar).map_err(JobError::from)?;
    Ok(if data_set.path.is_empty() { snapshot.folder } else { snapshot.folder.join(&data_set.path) })
}

fn is_data(path: &str) -> bool {
    let name = path.to_ascii_lowercase();
    let ending = name.rsplit('.').next().unwrap_or_default();
    is_hidden(path).is_none() && (is_picture(ending) || DATA.iter().any(|data| name.ends_with(data)))
}
