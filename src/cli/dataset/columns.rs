//! Which columns of a row are about the job. The others are carried through to the results.

use clap::Args;
use serde_json::{Value, json};

use super::{
    Fields, RowForm, RowPicture,
    fields::{ELSEWHERE, FIELDS, is_meant, is_message, is_of_a_job, is_one_letter_off, parameters},
    listed::why_not,
    pictures::{ChosenPictures, WantedPictures, base, choose},
};
use crate::job::{JobError, JobKind, value_from_slice};

/// The names of a picture in other programs' manifests, the most telling first.
const PICTURES: [&str; 6] = ["file_name", "image_path", "image_url", "url", "path", "filename"];
/// What would be silently carried through, although it is meant for the job.
const NOT_OF_A_ROW: [&str; 3] = ["not_before", "tenant", "webhook"];
/// What programs write for a missing value.
const MISSING: [&str; 6] = ["nan", "NaN", "NULL", "null", "None", "NA"];
/// The most bytes of other columns that a job carries.
const MOST_CARRIED: usize = 16 << 10;

#[derive(Debug, Clone, Default, Args)]
pub struct ColumnFlags {
    /// With --from: take a field of the job from a column with another name, for instance image=photo or prompt=text;
    /// may be repeated
    #[arg(long = "column", value_name = "FIELD=COLUMN", value_parser = parse_column, requires = "from")]
    pub columns: Vec<(String, String)>,
    /// With --from: ignore this column; may be repeated
    #[arg(long, value_name = "COLUMN", requires = "from")]
    pub drop_column: Vec<String>,
}

fn parse_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, column)) if !field.is_empty() && !column.is_empty() => Ok((field.to_owned(), column.to_owned())),
        _ => Err("write FIELD=COLUMN, for instance image=photo".to_owned()),
    }
}

/// How the columns of a dataset become fields of jobs.
#[derive(Debug, Clone)]
pub struct ColumnMapping {
    kind: JobKind,
    renamed: Vec<(String, String)>,
    dropped: Vec<String>,
    /// The columns of the source, if they are known before its rows.
    header: Option<Vec<String>>,
}

/// A row, taken apart.
#[derive(Debug, Default, PartialEq)]
pub struct Split {
    /// The fields of the job.
    pub job: Fields,
    /// The other columns.
    pub meta: Fields,
    /// The pictures that the row itself has, and its mask.
    pub chosen: ChosenPictures,
    /// The columns that are parameters of the job because they are called so.
    pub taken: Vec<String>,
    /// The column with the picture, and another one that may be meant.
    pub instead: Option<(String, String)>,
}

impl ColumnMapping {
    pub fn new(kind: JobKind, flags: &ColumnFlags) -> Result<Self, JobError> {
        for (field, column) in &flags.columns {
            if !is_of_a_job(field, kind) {
                let reason = format!(
                    "`{field}={column}`: a {kind} job has no field `{field}`; its fields are {}, and label.NAME",
                    FIELDS.iter().chain(&parameters(kind)).copied().collect::<Vec<_>>().join(", ")
                );
                return Err(JobError::invalid("--column", reason));
            }
        }
        Ok(Self { kind, renamed: flags.columns.clone(), dropped: flags.drop_column.clone(), header: None })
    }

    /// Refuses names of columns that the source does not have. `header`: nothing if only its rows tell.
    pub fn over(mut self, header: Option<Vec<String>>) -> Result<Self, JobError> {
        if let Some(header) = &header {
            let is_there = |column: &String| header.iter().any(|name| name == column || base(column) == Some(name));
            if let Some((flag, column)) = self.asked().into_iter().find(|(_, column)| !is_there(column)) {
                return Err(JobError::invalid(flag, format!("there is no column `{column}`; {}", listed(header))));
            }
        }
        self.header = header;
        Ok(self)
    }

    /// The columns that the flags name, each with its flag.
    pub fn asked(&self) -> Vec<(&'static str, String)> {
        let renamed = self.renamed.iter().map(|(_, column)| ("--column", column.clone()));
        renamed.chain(self.dropped.iter().map(|column| ("--drop-column", column.clone()))).collect()
    }

    /// Takes a row apart. A whole message, with a `version` and its `input`, stays as it is.
    ///
    /// # Errors
    /// A row without a picture, with the names that it has.
    pub fn split(&self, mut row: Fields, form: RowForm, mut pictures: Vec<RowPicture>) -> Result<Split, JobError> {
        let is_table = form == RowForm::Texts;
        if is_message(&row) && !is_table && pictures.is_empty() {
            return Ok(Split { job: row, ..Split::default() });
        }
        let seen: Vec<String> = row.keys().cloned().chain(pictures.iter().map(|one| one.column.clone())).collect();
        for name in &self.dropped {
            row.remove(name);
            pictures.retain(|picture| !picture.is_of(name));
        }
        let missing = row.iter().find(|(name, value)| value.is_null() && may_be_a_picture(name));
        let missing = missing.map(|(name, _)| name.clone());
        let kind = row.get("kind").and_then(Value::as_str).and_then(|kind| kind.parse().ok()).unwrap_or(self.kind);
        let (mut job, mut meta) = (Fields::new(), Fields::new());
        for (field, column) in &self.renamed {
            let has_pictures = pictures.iter().any(|picture| picture.is_of(column));
            match row.remove(column) {
                Some(value) => put(&mut job, field, value, is_table)?,
                None if has_pictures && (is_picture(field) || field == "mask") => {}
                None if has_pictures => {
                    let reason = format!("`{field}={column}`: the column has pictures, which no `{field}` is");
                    return Err(JobError::invalid("--column", reason));
                }
                None if is_picture(field) && self.header.is_some() => {
                    return Err(JobError::invalid(column, "is empty; the row has no picture"));
                }
                None if is_picture(field) => {
                    return Err(JobError::invalid(
                        "--column",
                        format!("there is no column `{column}`; {}", listed(&seen)),
                    ));
                }
                None => {}
            }
        }
        if let Some(name) = NOT_OF_A_ROW.into_iter().find(|name| row.contains_key(*name)) {
            return Err(not_of_a_row(name));
        }
        // Where the picture is named, or in the row itself, other columns are not about it: the path that the program
        // which made the row knew leads to another file, or to none.
        let is_file = form == RowForm::Archived;
        let is_named = self.renamed.iter().any(|(field, _)| is_picture(field))
            || pictures.iter().any(|picture| picture.is_of_its_row(is_file));
        let has_mask = pictures.iter().any(|picture| picture.is_called("mask"));
        let mut taken = Vec::new();
        for (name, value) in row {
            let is_taken = job.contains_key(&name) || is_named && is_picture(&name) || has_mask && name == "mask";
            if !is_taken && is_meant(&name, &value, kind) {
                let is_parameter = name != "mask" && parameters(kind).contains(&name.as_str());
                if !value.is_null() && (name == "output" || is_parameter) {
                    taken.push(name.clone());
                }
                put(&mut job, &name, value, is_table)?;
            } else {
                meta.insert(name, value);
            }
        }
        let named = self.renamed.iter().filter(|(field, _)| is_picture(field));
        let wanted = WantedPictures {
            kind,
            named: named.map(|(_, column)| column.as_str()).collect(),
            mask: self.renamed.iter().find(|(field, _)| field == "mask").map(|(_, column)| column.as_str()),
            has_picture: job.keys().any(|name| is_picture(name)),
            has_mask: job.contains_key("mask"),
        };
        let chosen = choose(pictures, &wanted)?;
        if chosen.pictures.is_empty() && !job.keys().any(|name| is_picture(name)) {
            match named_picture(&meta).and_then(|name| meta.remove(&name)) {
                Some(value) => drop(job.insert("image".to_owned(), value)),
                None => return Err(no_picture(&seen, &missing, is_table)),
            }
        }
        check_size(&meta)?;
        let used = ["input", "image", "images"].into_iter().find(|name| job.contains_key(*name));
        let instead = used.filter(|_| !is_named).map(str::to_owned).zip(named_picture(&meta));
        Ok(Split { job, meta, chosen, taken, instead })
    }
}

impl ColumnMapping {
    /// Whether a column of this name may have the pictures of a job.
    pub fn may_be_a_picture(&self, name: &str) -> bool {
        may_be_a_picture(name) || name == "mask" || self.renamed.iter().any(|(_, column)| column == name)
    }

    /// The parameter that another column may stand for: its name is one letter away, or that of other programs.
    pub fn meant(&self, name: &str) -> Option<&'static str> {
        let parameters = parameters(self.kind);
        // It is one itself, which another column stands for.
        if parameters.contains(&name) {
            return None;
        }
        let elsewhere = ELSEWHERE.iter().find(|(other, _)| *other == name).map(|(_, field)| *field);
        let meant = elsewhere.filter(|field| parameters.contains(field));
        meant.or_else(|| parameters.into_iter().find(|field| field.len() > 4 && is_one_letter_off(name, field)))
    }
}

/// Whether a column of this name may have the pictures of a manifest.
pub fn may_be_a_picture(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_picture(&name) || PICTURES.contains(&name.as_str())
}

/// The column with the picture, if none has the name of the field; large letters do not matter, as in `URL` or `Image`.
fn named_picture(columns: &Fields) -> Option<String> {
    let texts: Vec<&String> = columns.iter().filter(|(_, value)| value.is_string()).map(|(name, _)| name).collect();
    let of = |known: &str| {
        let exactly = texts.iter().find(|name| **name == known);
        exactly.or_else(|| texts.iter().find(|name| name.eq_ignore_ascii_case(known)))
    };
    ["image", "input"].iter().chain(&PICTURES).find_map(|known| of(known)).map(|name| (*name).clone())
}

fn is_picture(name: &str) -> bool {
    matches!(name, "image" | "images" | "input")
}

/// What people expect to be a field of a row, and is given otherwise.
pub fn not_of_a_row(name: &str) -> JobError {
    let instead = match name {
        "not_before" => "give the time of all jobs with --at",
        "tenant" => "name the column label.tenant, or give all jobs --label tenant=NAME",
        _ => "give the batch an address with --batch-webhook",
    };
    JobError::invalid(name, format!("a row has no field `{name}`: {instead}; --drop-column {name} ignores the column"))
}

/// Adds a field. A missing value is left out; a text of a table becomes what it means, and so does one in JSON where a
/// number is needed. A label is a text.
fn put(job: &mut Fields, field: &str, value: Value, is_table: bool) -> Result<(), JobError> {
    let value = match value {
        Value::Null => return Ok(()),
        Value::String(text) if is_table || field != "images" => typed(field, text)?,
        Value::Number(_) | Value::Bool(_) if field.starts_with("label.") => Value::String(value.to_string()),
        other => other,
    };
    job.insert(field.to_owned(), value);
    Ok(())
}

/// A cell of a table. Numbers and booleans are parsed as such, except in names and free text; several images are
/// separated by spaces.
fn typed(field: &str, cell: String) -> Result<Value, JobError> {
    let is_text = matches!(
        field,
        "image"
            | "input"
            | "id"
            | "kind"
            | "output"
            | "prompt"
            | "instruction"
            | "negative_prompt"
            | "output_size"
            | "mask"
            | "keep_rest"
            | "alpha"
            | "preset"
            | "sampler"
    );
    if is_text || field.starts_with("label.") {
        return Ok(Value::String(cell));
    }
    if MISSING.contains(&cell.as_str()) {
        return Err(JobError::invalid(field, format!("`{cell}` is not a value; leave the cell empty")));
    }
    Ok(match field {
        "images" => json!(cell.split_whitespace().collect::<Vec<_>>()),
        // Python writes True, and spreadsheets TRUE.
        _ if cell.eq_ignore_ascii_case("true") => Value::Bool(true),
        _ if cell.eq_ignore_ascii_case("false") => Value::Bool(false),
        // `7.0` as well, which is how pandas writes whole numbers of a column with gaps.
        _ => value_from_slice(cell.as_bytes()).unwrap_or(Value::String(cell)),
    })
}

/// `missing`: a column that usually has the picture, and has none in this row.
fn no_picture(seen: &[String], missing: &Option<String>, is_table: bool) -> JobError {
    if let Some(name) = missing {
        return JobError::invalid(name, "is empty; the row has no picture");
    }
    if let Some(picture) = seen.iter().find(|name| is_table && why_not(name).is_none()) {
        let reason = format!(
            "the first line has to name the columns, for instance image,caption, and has `{}`",
            picture.escape_debug()
        );
        return JobError::invalid("input", reason);
    }
    let what = if is_table { "column" } else { "field" };
    let known = PICTURES.map(|name| format!("`{name}`")).join(", ");
    let advice = "name the one with the picture, for instance --column image=photo";
    let reason = format!("there is no {what} `image` (or `images`, `input`, {known}); {}; {advice}", listed(seen));
    JobError::invalid("input", reason)
}

/// `the columns are ...`.
fn listed(seen: &[String]) -> String {
    let names: Vec<_> = seen.iter().map(|name| format!("`{}`", name.escape_debug())).collect();
    match names.as_slice() {
        [] => "there are none".to_owned(),
        [one] => format!("the only one is {one}"),
        several => format!("there are {}", several.join(", ")),
    }
}

fn check_size(meta: &Fields) -> Result<(), JobError> {
    let size = |value: &Value| value.to_string().len();
    let total: usize = meta.iter().map(|(name, value)| name.len() + size(value)).sum();
    if total <= MOST_CARRIED {
        return Ok(());
    }
    let largest = meta.iter().max_by_key(|(_, value)| size(value));
    let (name, bytes) = largest.map(|(name, value)| (name.as_str(), size(value))).unwrap_or_default();
    let reason = format!(
        "has {bytes} bytes; the columns that are carried through to the results may have {MOST_CARRIED} bytes \
         together; leave it out with --drop-column {name}"
    );
    Err(JobError::invalid(name, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::DecomposeParams;

    fn columns(flags: &[(&str, &str)], drop: &[&str]) -> ColumnMapping {
        let columns = flags.iter().map(|(field, column)| ((*field).to_owned(), (*column).to_owned())).collect();
        let drop_column = drop.iter().map(|name| (*name).to_owned()).collect();
        ColumnMapping::new(JobKind::Decompose, &ColumnFlags { columns, drop_column }).unwrap()
    }

    fn split(columns: &ColumnMapping, row: &Value, is_table: bool) -> Result<(Value, Value), String> {
        let row = row.as_object().unwrap().clone();
        let form = if is_table { RowForm::Texts } else { RowForm::Typed };
        let split = columns.split(row, form, Vec::new()).map_err(|error| error.to_string())?;
        Ok((Value::Object(split.job), Value::Object(split.meta)))
    }

    #[test]
    fn what_is_not_about_the_job_is_carried_through() {
        let plain = columns(&[], &["noise"]);
        let row = json!({
            "file_name": "a.png", "url": "https://h/a.png", "prompt": "a cat", "id": 139, "labels": 3, "label.x": "y",
            "width": 7, "noise": 1, "seed": null,
        });
        let (job, meta) = split(&plain, &row, false).unwrap();
        assert_eq!(job, json!({ "image": "a.png", "prompt": "a cat", "label.x": "y" }));
        assert_eq!(meta, json!({ "id": 139, "labels": 3, "url": "https://h/a.png", "width": 7 }));
        for (row, image) in [
            (json!({ "URL": "https://h/a.png", "TEXT": "x" }), "https://h/a.png"),
            (json!({ "Image": "a.png", "url": "https://h/a.png" }), "a.png"),
            (json!({ "URL": 3, "Path": "a.png", "path": "b.png" }), "b.png"),
        ] {
            assert_eq!(split(&plain, &row, true).unwrap().0["image"], image, "{row}");
        }
        // Names that messages have, too.
        let row = json!({ "image": "a", "version": "2024", "kind": "poster", "priority": "high", "params": 7 });
        let (job, meta) = split(&plain, &row, false).unwrap();
        assert_eq!((job, meta.as_object().unwrap().len()), (json!({ "image": "a" }), 4));
        let row = json!({ "image": "a", "version": 3, "kind": "edit", "priority": "5" });
        assert_eq!(split(&plain, &row, true).unwrap().1, json!({ "version": 3 }));
        // A UUID is the job's id, and a whole message stays as it is.
        let id = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";
        assert_eq!(split(&plain, &json!({ "image": "a", "id": id }), false).unwrap().0["id"], id);
        let message = json!({ "version": 1, "kind": "decompose", "input": {}, "more": 1 });
        assert_eq!(split(&plain, &message, false).unwrap(), (message, json!({})));
        assert_eq!(
            (plain.meant("promt"), plain.meant("layer"), plain.meant("width")),
            (Some("prompt"), Some("layers"), None)
        );
    }

    #[test]
    fn fields_that_are_given_otherwise_are_named() {
        for (name, instead) in [("not_before", "--at"), ("tenant", "label.tenant"), ("webhook", "--batch-webhook")] {
            let row = json!({ "image": "a.png", name: "x" });
            for is_table in [false, true] {
                let error = split(&columns(&[], &[]), &row, is_table).unwrap_err();
                assert!(error.starts_with(name) && error.contains(instead), "{error}");
            }
            assert_eq!(split(&columns(&[], &[name]), &row, true).unwrap().1, json!({}));
        }
    }

    #[test]
    fn fields_are_taken_from_columns_with_other_names() {
        let renamed = columns(&[("image", "photo"), ("prompt", "text")], &[]);
        let (job, meta) = split(&renamed, &json!({ "photo": "a.png", "text": "x", "prompt": "other" }), false).unwrap();
        assert_eq!((job, meta), (json!({ "image": "a.png", "prompt": "x" }), json!({ "prompt": "other" })));
        let error = split(&renamed, &json!({ "picture": "a.png" }), true).unwrap_err();
        assert_eq!(error, "--column: there is no column `photo`; the only one is `picture`");
        // Where the columns are known, every wrong name is one.
        let header = || Some(vec!["photo".to_owned(), "text".to_owned()]);
        let error = columns(&[("seed", "sed")], &[]).over(header()).unwrap_err().to_string();
        assert_eq!(error, "--column: there is no column `sed`; there are `photo`, `text`");
        let error = columns(&[("image", "photo.1")], &["nope"]).over(header()).unwrap_err().to_string();
        assert_eq!(error, "--drop-column: there is no column `nope`; there are `photo`, `text`");
        let error = split(&renamed.clone().over(header()).unwrap(), &json!({ "text": "x" }), true).unwrap_err();
        assert_eq!(error, "photo: is empty; the row has no picture");
        assert_eq!(columns(&[("seed", "w")], &[]).meant("seed"), None);
        let flags = ColumnFlags { columns: vec![("pormpt".to_owned(), "x".to_owned())], ..ColumnFlags::default() };
        let error = ColumnMapping::new(JobKind::Decompose, &flags).unwrap_err().to_string();
        assert!(error.contains("a decompose job has no field `pormpt`; its fields are version, id"), "{error}");
    }

    #[test]
    fn texts_of_tables_become_what_they_mean() {
        let plain = columns(&[], &[]);
        let row = json!({ "image": "7", "layers": "3.0", "cfg_normalize": "false", "images": "a b", "prompt": "12", "zip": "007" });
        let (job, meta) = split(&plain, &row, true).unwrap();
        let wanted = json!({ "image": "7", "layers": 3, "cfg_normalize": false, "images": ["a", "b"], "prompt": "12" });
        assert_eq!((job, meta), (wanted, json!({ "zip": "007" })));
        // As Python and spreadsheets write it, except in free text.
        let row = json!({ "image": "a", "cfg_normalize": "True", "trim": "FALSE", "prompt": "TRUE" });
        let wanted = json!({ "image": "a", "cfg_normalize": true, "trim": false, "prompt": "TRUE" });
        assert_eq!(split(&plain, &row, true).unwrap().0, wanted);
        let row =
            json!({ "image": "a b", "images": "a b", "layers": "4", "label.x": 5, "prompt": "12", "trim": "auto" });
        let wanted =
            json!({ "image": "a b", "images": "a b", "layers": 4, "label.x": "5", "prompt": "12", "trim": "auto" });
        assert_eq!(split(&plain, &row, false).unwrap().0, wanted);
        let error = split(&plain, &json!({ "image": "a", "seed": "nan" }), true).unwrap_err();
        assert_eq!(error, "seed: `nan` is not a value; leave the cell empty");
    }

    #[test]
    fn every_parameter_of_a_job_is_a_column() {
        let mut row = json!({ "image": "a.png", "preset": "fast", "sampler": "euler", "step_cache": 2, "loras": [] });
        let wanted = row.clone();
        row["num_inference_steps"] = json!(20);
        let (job, meta) = split(&columns(&[], &[]), &row, false).unwrap();
        assert_eq!((job, meta), (wanted, json!({ "num_inference_steps": 20 })));
        assert_eq!(columns(&[], &[]).meant("num_inference_steps"), Some("steps"));
        let known = serde_json::to_value(DecomposeParams { seed: Some(1), ..DecomposeParams::default() }).unwrap();
        let unknown = known.as_object().unwrap().keys().find(|field| !is_of_a_job(field, JobKind::Decompose));
        assert_eq!(unknown, None);
    }

    #[test]
    fn the_picture_of_a_row_comes_before_the_path_of_one() {
        let picture = |column: &str| RowPicture {
            column: column.to_owned(),
            name: String::new(),
            bytes: b"\x89PNG\r\n\x1a\n".to_vec(),
        };
        let row =
            json!({ "image": "/etc/a.png", "input": "make it red", "mask": "/etc/m.png", "url": "https://h/a.png" });
        let row = row.as_object().unwrap();
        let edit = ColumnMapping::new(JobKind::Edit, &ColumnFlags::default()).unwrap();
        let pictures = vec![picture("png"), picture("mask.png")];
        let found = edit.split(row.clone(), RowForm::Archived, pictures.clone()).unwrap();
        assert_eq!((found.job, found.meta), (Fields::new(), row.clone()));
        assert_eq!((found.chosen.pictures.as_slice(), found.chosen.mask.as_ref()), (&pictures[..1], pictures.get(1)));
        // In Parquet, other pictures may be beside the one that a path leads to.
        let row = json!({ "image": "a.png", "w": 1 }).as_object().unwrap().clone();
        let found = edit.split(row.clone(), RowForm::Typed, vec![picture("thumbnail")]).unwrap();
        assert_eq!((&found.job["image"], found.chosen), (&json!("a.png"), ChosenPictures::default()));
        let row = json!({ "input": "make it red" }).as_object().unwrap().clone();
        let found = edit.split(row.clone(), RowForm::Typed, vec![picture("image")]).unwrap();
        assert_eq!((found.job, found.meta), (Fields::new(), row));
    }

    #[test]
    fn columns_that_are_parameters_by_their_name_are_told() {
        let row = json!({ "input": "a cat", "file_name": "a.png", "trim": true, "output": "x", "seed": null, "w": 1 });
        let row = row.as_object().unwrap().clone();
        let found = columns(&[], &[]).split(row.clone(), RowForm::Typed, Vec::new()).unwrap();
        assert_eq!(found.taken, ["output", "trim"]);
        assert_eq!(found.instead, Some(("input".to_owned(), "file_name".to_owned())));
        let found = columns(&[("image", "file_name"), ("trim", "trim")], &[]);
        let found = found.split(row, RowForm::Typed, Vec::new()).unwrap();
        assert_eq!((found.taken, found.instead), (vec!["output".to_owned()], None));
    }

    #[test]
    fn large_columns_and_several_pictures_are_refused_with_what_to_do() {
        let plain = columns(&[], &[]);
        let error = split(&plain, &json!({ "image": "a", "text": "x".repeat(20_000) }), false).unwrap_err();
        assert!(error.contains("text: has 20002 bytes") && error.ends_with("--drop-column text"), "{error}");
        let bytes = b"\x89PNG\r\n\x1a\n";
        let picture =
            |column: &str| RowPicture { column: column.to_owned(), name: String::new(), bytes: bytes.to_vec() };
        let two = || vec![picture("input.png"), picture("target.png")];
        let error = plain.split(Fields::new(), RowForm::Archived, two()).unwrap_err().to_string();
        assert!(error.ends_with("choose one with --column image=input.png"), "{error}");
        let chosen = columns(&[("image", "target.png")], &[]).split(Fields::new(), RowForm::Archived, two()).unwrap();
        assert_eq!(chosen.chosen.pictures, [picture("target.png")]);
        let row = json!({ "input": ["a.png"], "images": "x" }).as_object().unwrap().clone();
        let chosen = columns(&[("image", "target.png")], &[]).split(row.clone(), RowForm::Archived, two()).unwrap();
        assert_eq!((chosen.job, chosen.meta), (Fields::new(), row));
        let left = columns(&[], &["input.png"]).split(Fields::new(), RowForm::Archived, two()).unwrap();
        assert_eq!(left.chosen.pictures, [picture("target.png")]);
    }
}
