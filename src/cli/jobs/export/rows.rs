//! The rows of a batch: those of its datasets in their order, then jobs that were submitted in other ways.

use std::collections::{BTreeSet, VecDeque};

use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::sample::is_exported;
use crate::{
    app::Submitter,
    cli::jobs::results::prompt,
    database::{DatasetCursor, DatasetJob, JobRow, JobStore},
    job::{BatchId, FileEntry, InputRef, JobError, JobId, LayerRole, ParentLayer, Placement},
};

/// The number of rows read at a time.
pub const PAGE: u32 = 500;

/// The columns that every row has.
pub const OWN: [&str; 7] = ["row", "id", "kind", "input", "prompt", "caption", "seed"];
/// The column that says where layers belong.
pub const LAYER_INFO: &str = "layer_info";
/// The number of the variant, 1 in a job without variants.
pub const VARIANT: &str = "variant";
/// The job whose result this one took.
pub const REUSED_FROM: &str = "reused_from";
/// The layer that a job takes apart: the job that made it, its number, and its variant.
pub const FROM: [&str; 3] = ["from_job", "from_layer", "from_variant"];
/// The columns that exports of earlier versions are without.
pub const LATER: [&str; 6] = [LAYER_INFO, VARIANT, REUSED_FROM, FROM[0], FROM[1], FROM[2]];
/// The columns of pictures.
pub const PICTURES: [&str; 5] = ["regenerated", "layers", "edited_layers", "edited", "composite"];

/// One row, and its job as it is now.
#[derive(Debug)]
pub struct ExportedRow {
    /// Absent for a job that is of no row of the dataset.
    pub number: Option<u64>,
    /// How many rows of earlier sources have the same number and job.
    pub nth: u32,
    pub meta: Map<String, Value>,
    pub job: JobRow,
}

pub struct ResultRows {
    jobs: JobStore,
    batch: BatchId,
    page: VecDeque<ExportedRow>,
    /// The next page, which is read while the rows of this one are used.
    coming: Option<AbortOnDropHandle<Result<ResultPage, JobError>>>,
}

/// Where a page begins.
enum PageCursor {
    /// Nothing: at the first row.
    Dataset(Option<DatasetCursor>),
    Outside(Option<JobId>),
}

struct ResultPage {
    rows: Vec<ExportedRow>,
    /// None: it is the last one.
    next: Option<PageCursor>,
}

impl ResultRows {
    pub fn of(submitter: &Submitter, batch: &BatchId) -> Self {
        let (jobs, batch) = (submitter.jobs.clone(), batch.clone());
        let mut rows = Self { jobs, batch, page: VecDeque::new(), coming: None };
        rows.begin(PageCursor::Dataset(None));
        rows
    }

    pub async fn next(&mut self) -> Result<Option<ExportedRow>, JobError> {
        while self.page.is_empty() {
            let Some(coming) = self.coming.take() else { return Ok(None) };
            let read = coming.await;
            let ResultPage { rows, next } =
                read.map_err(|error| JobError::database(format!("a task that reads rows stopped: {error}")))??;
            if let Some(next) = next {
                self.begin(next);
            }
            self.page.extend(rows);
        }
        Ok(self.page.pop_front())
    }

    fn begin(&mut self, cursor: PageCursor) {
        let (jobs, batch) = (self.jobs.clone(), self.batch.clone());
        self.coming = Some(AbortOnDropHandle::new(tokio::spawn(async move { page(&jobs, &batch, cursor).await })));
    }
}

async fn page(jobs: &JobStore, batch: &BatchId, cursor: PageCursor) -> Result<ResultPage, JobError> {
    match cursor {
        PageCursor::Dataset(cursor) => {
            let mut cursor = match cursor {
                Some(cursor) => cursor,
                None => jobs.dataset_cursor(batch).await?,
            };
            let page = jobs.dataset_jobs(batch, &mut cursor, PAGE).await?;
            let next = if page.is_empty() { PageCursor::Outside(None) } else { PageCursor::Dataset(Some(cursor)) };
            let rows = page.into_iter().map(|DatasetJob { number, nth, meta, job }| ExportedRow {
                number: Some(number),
                nth,
                meta: meta.unwrap_or_default(),
                job,
            });
            Ok(ResultPage { rows: rows.collect(), next: Some(next) })
        }
        PageCursor::Outside(after) => {
            let page = jobs.batch_rows_outside(batch, after, PAGE).await?;
            let next = page.last().map(|last| PageCursor::Outside(Some(last.id())));
            let rows = page.into_iter().map(|job| ExportedRow { number: None, nth: 0, meta: Map::new(), job });
            Ok(ResultPage { rows: rows.collect(), next })
        }
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

    /// The variants of the job, each of which is a row of the export; `None` is a job without variants.
    pub fn variants(&self) -> BTreeSet<Option<u32>> {
        let files = self.job.published.iter().flat_map(|result| &result.files);
        let variants: BTreeSet<_> = files.filter(|file| is_exported(file)).map(|file| file.variant).collect();
        if variants.is_empty() { BTreeSet::from([None]) } else { variants }
    }

    /// The row of a variant without its pictures.
    pub fn record(&self, variant: Option<u32>) -> Map<String, Value> {
        let request = &self.job.request;
        let input: Vec<String> = request.inputs.iter().map(InputRef::name).collect();
        let result = self.job.published.as_ref();
        let caption = result.and_then(|result| result.caption.clone());
        let seed = result.and_then(|result| result.files.iter().find(|file| file.variant == variant)?.seed);
        let own = [
            json!(self.number),
            json!(self.job.id()),
            json!(request.task.kind()),
            json!(input),
            json!(prompt(request)),
            json!(caption),
            json!(seed.unwrap_or_else(|| request.seed())),
        ];
        let own = OWN.into_iter().map(str::to_owned).zip(own);
        let later = [
            (LAYER_INFO.to_owned(), self.layer_info(variant)),
            (VARIANT.to_owned(), json!(variant.unwrap_or(1))),
            (REUSED_FROM.to_owned(), json!(result.and_then(|result| result.reused_from))),
        ];
        let from = request.parent_layer();
        let from = [
            json!(from.as_ref().map(|layer| layer.job)),
            json!(from.as_ref().map(|layer| layer.layer)),
            json!(from.as_ref().map(ParentLayer::variant)),
        ];
        let from = FROM.into_iter().map(str::to_owned).zip(from);
        own.chain(later).chain(from).chain(self.foreign().map(|(name, value)| (name, value.clone()))).collect()
    }

    /// For each layer, then for each edited one, its number, its name, and where its file belongs on the canvas.
    /// Readers of JSON take the types from the first rows, so that a layer that is not trimmed has a place, too.
    fn layer_info(&self, variant: Option<u32>) -> Value {
        let of = |role: LayerRole| {
            self.job
                .published
                .iter()
                .flat_map(|result| &result.files)
                .filter(move |file| file.role == role && file.variant == variant)
        };
        let info = |file: &FileEntry| {
            let Placement { x, y, width, height } = file.canvas();
            json!({
                "layer": file.layer(), "name": file.shown_name(), "edited": file.role == LayerRole::EditedLayer, "x": x, "y": y,
                "canvas_width": width, "canvas_height": height,
            })
        };
        let all: Vec<_> = of(LayerRole::Layer).chain(of(LayerRole::EditedLayer)).map(info).collect();
        if all.is_empty() { Value::Null } else { Value::Array(all) }
    }

    /// The columns of the dataset, as they are called in an export.
    pub fn foreign(&self) -> impl Iterator<Item = (String, &Value)> {
        foreign(&self.meta)
    }
}

/// The columns of a row of the dataset, as they are called in an export.
pub fn foreign(meta: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    meta.iter().map(|(name, value)| (free_name(name, meta), value))
}

/// The name of a column of the dataset, with a `_` at its end where acetate has a column of that name, or where readers
/// would take it for a picture.
fn free_name(name: &str, columns: &Map<String, Value>) -> String {
    let of_picture = |name: &str| ["file_name", "file_names"].iter().any(|end| name.ends_with(end));
    let is_taken =
        |name: &str| OWN.contains(&name) || LATER.contains(&name) || PICTURES.contains(&name) || of_picture(name);
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
