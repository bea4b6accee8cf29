//! `README.md` of an export: the dataset card, from which Hugging Face's datasets and hub take the types of columns.
//! Without it they take them from the first rows, and fail at a column that begins without values, or at a row with
//! more layers.

use std::collections::BTreeSet;

use super::{
    DatasetFormat,
    columns::{Column, ColumnType, ResultColumns, is_list},
};
use crate::job::BatchId;

/// The types of acetate's own columns, as far as they are not those of pictures.
const OWN: [(&str, &str); 7] = [
    ("row", "dtype: int64"),
    ("id", "dtype: string"),
    ("kind", "dtype: string"),
    ("input", "sequence: string"),
    ("prompt", "dtype: string"),
    ("caption", "dtype: string"),
    ("seed", "dtype: int64"),
];

/// The card of an export whose readers need it. `files`: what the names of all pictures end with, such as
/// `layer_01.png`; absent if some rows are not as the columns say, so that readers have to look at them.
pub fn card(
    format: DatasetFormat,
    batch: &BatchId,
    columns: &ResultColumns,
    files: Option<&BTreeSet<String>>,
) -> Option<String> {
    let features = match format {
        // They have the types themselves: a schema, and one file with all rows.
        DatasetFormat::Parquet | DatasetFormat::Imagefolder => return None,
        DatasetFormat::Webdataset => files.map(|files| {
            let pictures = files.iter().map(|name| feature(name, "dtype: image"));
            let others = [("json", "dtype: json"), ("__key__", "dtype: string"), ("__url__", "dtype: string")];
            pictures.chain(others.map(|(name, kind)| feature(name, kind))).collect::<String>()
        }),
        DatasetFormat::Jsonl => files.map(|_| {
            let own = OWN.iter().map(|(name, kind)| feature(name, kind));
            let address =
                |name: &String| feature(name, if is_list(name) { "sequence: string" } else { "dtype: string" });
            let foreign = columns.foreign.iter().map(|Column { name, kind, .. }| feature(name, type_of(*kind)));
            own.chain(columns.pictures.iter().map(address)).chain(foreign).collect()
        }),
    };
    let head =
        features.map_or_else(String::new, |features| format!("---\ndataset_info:\n  features:\n{features}---\n\n"));
    Some(format!("{head}# {batch}\n\nLayers made with acetate.\n"))
}

fn feature(name: &str, kind: &str) -> String {
    // A string of JSON is one of YAML.
    format!("  - name: {}\n    {kind}\n", serde_json::Value::from(name))
}

fn type_of(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Bool => "dtype: bool",
        ColumnType::Int => "dtype: int64",
        ColumnType::Unsigned => "dtype: uint64",
        ColumnType::Float => "dtype: float64",
        ColumnType::Text | ColumnType::Mixed => "dtype: string",
        ColumnType::Json => "dtype: json",
    }
}
