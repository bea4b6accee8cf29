//! Datasets: the rows of a manifest, or the pictures of a folder or a prefix.
//!
//! A [`DatasetSource`] is read on a thread of its own, row by row, and its rows arrive in small groups ([`Reading`]),
//! so that a million rows are never in memory. [`ColumnMapping`] says which columns of a row are about the job; the
//! others are carried through to the results. [`Pick`] chooses some of the rows.

mod archive;
mod columns;
mod delimited;
mod fields;
mod hub;
mod imagefolder;
mod json;
mod list;
mod listed;
mod nan;
mod parquet;
mod paths;
mod pick;
mod pictures;
mod reading;
mod remote;
mod source;
mod tally;
mod text;

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};

use crate::job::JobError;

pub use columns::{ColumnFlags, ColumnMapping, Split, not_of_a_row};
pub use hub::{is_on_hub, pull};
pub use listed::why_not;
pub use paths::{Base, resolve};
pub use pick::{DrawnRows, Pick, PickFlags, Picked};
pub use pictures::ChosenPictures;
pub use reading::{Reading, ShownAs};
pub use remote::{Fetched, fetch};
pub use source::DatasetSource;
pub use tally::Tally;

pub type Fields = Map<String, Value>;

/// One row, as the source has it.
#[derive(Debug)]
pub struct Row {
    /// From 1, without the header and empty lines.
    pub number: u64,
    /// For messages: `m.csv:3 (row 2)`, or the address of a picture.
    pub place: String,
    pub fields: Result<Fields, JobError>,
    pub form: RowForm,
    /// The pictures that the row itself has.
    pub pictures: Vec<RowPicture>,
    /// Relative paths start here. Absent: in the folder of the source.
    pub folder: Option<Arc<Path>>,
}

/// What the values of a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowForm {
    /// Texts, as in CSV.
    Texts,
    /// Of any type, as in JSON and Parquet.
    Typed,
    /// Those of a JSON file that is beside the row's pictures in an archive.
    Archived,
}

/// A picture inside a dataset's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPicture {
    /// The column, or what follows the first dot in the name of a file in an archive.
    pub column: String,
    /// Its path in the dataset; empty if it has none.
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Row {
    /// Whether it has a column, also an empty one.
    pub fn has(&self, column: &str) -> bool {
        self.fields.as_ref().is_ok_and(|fields| fields.contains_key(column))
            || self.pictures.iter().any(|picture| picture.is_of(column))
    }

    /// The row of a picture that was found in a folder or under a prefix.
    fn of_picture(number: u64, url: String) -> Self {
        let fields = Fields::from_iter([("image".to_owned(), Value::from(url.as_str()))]);
        Self::new(number, url, Ok(fields), RowForm::Typed)
    }

    fn new(number: u64, place: String, fields: Result<Fields, JobError>, form: RowForm) -> Self {
        Self { number, place, fields, form, pictures: Vec::new(), folder: None }
    }
}
