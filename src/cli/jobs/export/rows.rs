//! The rows of a batch: those of its dataset in their order, then jobs that were submitted in other ways.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::sample::is_exported;
use crate::{
    app::Submitter,
    cli::jobs::results::prompt,
    database::{DatasetJob, JobRow},
    job::{BatchId, FileEntry, JobError, JobId, LayerRole, Placement},
};

/// The number of rows read at a time.
const PAGE: u32 = 500;

/// The columns that every row has.
pub const OWN: [&str; 7] = ["row", "id", "kind", "input", "prompt", "caption", "seed"];
/// The column that says where layers belong.
pub const LAYER_INFO: &str = "layer_info";
/// The columns of pictures.
pub const PICTURES: [&str; 5] = ["regenerated", "layers", "edited_layers", "edited", "composite"];

/// One row, and its job as it is now.
#[derive(Debug)]
pub struct ExportedRow {
    /// Absent for a job that is of no row of the dataset.
    pub number: Option<u64>,
    pub meta: Map<String, Value>,
    pub job: JobRow,
}

pub struct ResultRows<'a> {
    submitter: &'a Submitter,
    batch: &'a BatchId,
    page: VecDeque<ExportedRow>,
    next: PageCursor,
}

/// Where the next page begins.
enum PageCursor {
    Dataset(Option<(u64, JobId)>),
    Outside(Option<JobId>),
    End,
}

impl<'a> ResultRows<'a> {
    pub fn of(submitter: &'a Submitter, batch: &'a BatchId) -> Self {
        Self { submitter, batch, page: VecDeque::new(), next: PageCursor::Dataset(None) }
    }

    pub async fn next(&mut self) -> Result<Option<ExportedRow>, JobError> {
        let jobs = &self.submitter.jobs;
        while self.page.is_empty() {
            match self.next {
                PageCursor::Dataset(after) => {
                    let page = jobs.dataset_jobs(self.batch, after, PAGE).await?;
                    let last = page.last().map(|row| (row.number, row.job.id()));
                    self.next = last.map_or(PageCursor::Outside(None), |last| PageCursor::Dataset(Some(last)));
                    let item = |DatasetJob { number, meta, job }| ExportedRow {
                        number: Some(number),
                        meta: meta.unwrap_or_default(),
                        job,
                    };
                    self.page.extend(page.into_iter().map(item));
                }
                PageCursor::Outside(after) => {
                    let page = jobs.batch_rows_outside(self.batch, after, PAGE).await?;
                    self.next = page.last().map_or(PageCursor::End, |last| PageCursor::Outside(Some(last.id())));
                    self.page.extend(page.into_iter().map(|job| ExportedRow { number: None, meta: Map::new(), job }));
                }
                PageCursor::End => return Ok(None),
            }
        }
        Ok(self.page.pop_front())
    }
}

impl ExportedRow {
    /// For messages.
    pub fn place(&self) -> String {
        match self.number {
            Some(number) => format!("row {number} (job {})", self.job.id()),
            None => format!("job {}", self.job.id()),
        }
    }

    /// The row without its pictures.
    pub fn record(&self) -> Map<String, Value> {
        let request = &self.job.request;
        let input: Vec<String> = request.inputs.iter().map(ToString::to_string).collect();
        let caption = self.job.published.as_ref().and_then(|result| result.caption.clone());
        let own = [
            json!(self.number),
            json!(self.job.id()),
            json!(request.task.kind()),
            json!(input),
            json!(prompt(request)),
            json!(caption),
            json!(request.seed()),
        ];
        let own = OWN.into_iter().map(str::to_owned).zip(own);
        let info = self.layer_info().map(|info| (LAYER_INFO.to_owned(), info));
        own.chain(info).chain(self.foreign().map(|(name, value)| (name, value.clone()))).collect()
    }

    /// For each layer, then for each edited one, its number, its name, and where its file belongs on the canvas.
    /// Readers of JSON take the types from the first rows, so that a layer that is not trimmed has a place, too.
    fn layer_info(&self) -> Option<Value> {
        let of = |role: LayerRole| {
            self.job
                .published
                .iter()
                .flat_map(|result| &result.files)
                .filter(move |file| file.role == role && is_exported(file))
        };
        let info = |file: &FileEntry| {
            let Placement { x, y, width, height } = file.canvas();
            json!({
                "layer": file.layer(), "name": file.shown_name(), "edited": file.role == LayerRole::EditedLayer, "x": x, "y": y,
                "canvas_width": width, "canvas_height": height,
            })
        };
        let all: Vec<_> = of(LayerRole::Layer).chain(of(LayerRole::EditedLayer)).map(info).collect();
        (!all.is_empty()).then_some(Value::Array(all))
    }

    /// The columns of the dataset, as they are called in an export.
    pub fn foreign(&self) -> impl Iterator<Item = (String, &Value)> {
        self.meta.iter().map(|(name, value)| (free_name(name, &self.meta), value))
    }
}

/// The name of a column of the dataset, with a `_` at its end where acetate has a column of that name, or where readers
/// would take it for a picture.
fn free_name(name: &str, columns: &Map<String, Value>) -> String {
    let of_picture = |name: &str| ["file_name", "file_names"].iter().any(|end| name.ends_with(end));
    let is_taken =
        |name: &str| OWN.contains(&name) || name == LAYER_INFO || PICTURES.contains(&name) || of_picture(name);
    if !name.is_empty() && !is_taken(name) {
        return name.to_owned();
    }
    let mut free = format!("{name}_");
    while is_taken(&free) || columns.contains_key(&free) {
        free.push('_');
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_their_names_where_these_are_free() {
        let columns =
            json!({ "caption": 1, "width": 2, "file_name": 3, "row": 4, "row_": 5, "": 6, "thumb_file_name": 7 });
        let columns = columns.as_object().unwrap();
        let names: Vec<_> = columns.keys().map(|name| free_name(name, columns)).collect();
        let mut wanted = ["caption_", "width", "file_name_", "row__", "row_", "_", "thumb_file_name_"];
        wanted.sort_unstable();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, wanted);
    }
}
