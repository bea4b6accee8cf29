//! What an export remembers, in the hidden folder `.acetate-export` of its target: what it is, and the rows of each
//! finished shard.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::Write,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DatasetFormat, card::card, columns::ResultColumns, rows::ExportedRow};
use crate::{
    job::{BatchId, JobError, JobId},
    store::{Target, io_error},
};

const ABOUT: &str = "export.json";
/// Names of rows have so many digits at least.
const DIGITS: usize = 6;

/// A row of a finished shard; a line of its list may have more fields.
#[derive(Debug, Deserialize)]
struct WrittenRow {
    row: Option<u64>,
    id: JobId,
    /// What the names of its pictures end with. Absent in rows that an earlier version wrote.
    files: Option<Vec<String>>,
    /// Whether the columns of the export have its values.
    #[serde(default)]
    fits: bool,
    #[serde(default, rename = "__nth")]
    nth: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct About {
    version: u32,
    batch: BatchId,
    format: String,
    columns: ResultColumns,
}

pub struct Memory<'a> {
    target: &'a Target,
    about: About,
    is_new: bool,
    /// The number of finished shards.
    shards: u64,
    rows: u64,
    /// What the names of the pictures of finished shards end with.
    files: BTreeSet<String>,
    /// Whether the columns of the export and `files` describe all rows.
    all_fit: bool,
    /// For each number the first job that was written, or is about to be; its files have the number as their name.
    first: HashMap<u64, JobId>,
    /// Other jobs with the same number, the same job of another source, and jobs without a number.
    others: HashSet<(Option<u64>, JobId, u32)>,
}

impl<'a> Memory<'a> {
    /// # Errors
    /// If the target has something else.
    pub async fn open(target: &'a Target, batch: &BatchId, format: DatasetFormat) -> Result<Self, JobError> {
        let place = target.place("");
        let refuse = |reason: String| Err(JobError::invalid("--out", format!("{place} {reason}")));
        let about = match target.read_own(ABOUT).await? {
            Some(text) => match serde_json::from_slice::<About>(&text) {
                Ok(about) if about.version == 1 => Some(about),
                Ok(_) => return refuse("was begun by a newer version of acetate; update this one".to_owned()),
                Err(error) => {
                    return refuse(format!("has a damaged .acetate-export/{ABOUT} ({error}); give another folder"));
                }
            },
            None => None,
        };
        if let Some(about) = &about {
            if about.batch != *batch || about.format != format.as_str() {
                let (format, batch) = (&about.format, &about.batch);
                return refuse(format!("has the export of batch {batch} as {format}; give another folder"));
            }
        } else if target.has_files().await? {
            return refuse("has other files; give an empty or new folder".to_owned());
        }
        let is_new = about.is_none();
        let new = || About {
            version: 1,
            batch: batch.clone(),
            format: format.as_str().to_owned(),
            columns: ResultColumns::default(),
        };
        let about = about.unwrap_or_else(new);
        let (first, others) = (HashMap::new(), HashSet::new());
        let files = BTreeSet::new();
        let mut memory = Self { target, about, is_new, shards: 0, rows: 0, files, all_fit: true, first, others };
        while let Some(list) = memory.list(memory.shards).await? {
            for line in list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let written = serde_json::from_slice(line).map_err(|error| {
                    let place = memory.target.place(&format!(".acetate-export/{}", list_name(memory.shards)));
                    JobError::storage(place, format!("is damaged ({error}); export to another folder"))
                })?;
                memory.count(written);
            }
            memory.shards += 1;
        }
        Ok(memory)
    }

    fn count(&mut self, written: WrittenRow) {
        self.claim(written.row, written.id, written.nth);
        self.rows += 1;
        // An archive has the values as JSON.
        let fits = written.fits || self.about.format == DatasetFormat::Webdataset.as_str();
        self.all_fit &= fits && written.files.is_some();
        self.files.extend(written.files.into_iter().flatten());
    }

    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Makes the target that of this export.
    pub async fn begin(&mut self, columns: ResultColumns) -> Result<(), JobError> {
        self.about.columns = columns;
        self.target.write_own(ABOUT, serde_json::to_vec_pretty(&self.about).unwrap_or_default()).await
    }

    pub fn columns(&self) -> &ResultColumns {
        &self.about.columns
    }

    /// The number of the next shard.
    pub fn next_shard(&self) -> u64 {
        self.shards
    }

    /// The number of rows in finished shards.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether a row is in a finished shard.
    pub fn has(&self, item: &ExportedRow) -> bool {
        self.is_first(item) || self.others.contains(&(item.number, item.job.id(), item.nth))
    }

    /// The name of a row's files, without dots: `000123`.
    pub fn name(&mut self, item: &ExportedRow) -> String {
        let id = item.job.id();
        self.claim(item.number, id, item.nth);
        match item.number {
            Some(number) if self.is_first(item) => format!("{number:0DIGITS$}"),
            Some(number) if item.nth > 0 => format!("{number:0DIGITS$}-{id}-{}", item.nth + 1),
            Some(number) => format!("{number:0DIGITS$}-{id}"),
            None => id.to_string(),
        }
    }

    fn is_first(&self, item: &ExportedRow) -> bool {
        item.nth == 0 && item.number.and_then(|number| self.first.get(&number)) == Some(&item.job.id())
    }

    fn claim(&mut self, number: Option<u64>, id: JobId, nth: u32) {
        let is_first = nth == 0 && number.is_some_and(|number| *self.first.entry(number).or_insert(id) == id);
        if !is_first {
            self.others.insert((number, id, nth));
        }
    }

    /// Remembers the rows of a finished shard, each as a JSON object with `row` and `id`.
    pub async fn add(&mut self, lines: Vec<String>) -> Result<(), JobError> {
        let mut list = lines.join("\n").into_bytes();
        list.push(b'\n');
        self.target.write_own(&list_name(self.shards), list).await?;
        self.shards += 1;
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).for_each(|written| self.count(written));
        Ok(())
    }

    /// Writes `README.md`, if readers need it.
    pub async fn write_card(&self, format: DatasetFormat) -> Result<(), JobError> {
        let files = self.all_fit.then_some(&self.files);
        match card(format, &self.about.batch, &self.about.columns, files) {
            Some(card) => self.target.write("README.md", card.into_bytes()).await,
            None => Ok(()),
        }
    }

    /// Writes `metadata.jsonl`, which names the pictures of all finished shards.
    pub async fn write_metadata(&self) -> Result<(), JobError> {
        let mut file = self.target.new_file()?;
        for shard in 0..self.shards {
            let list = self.list(shard).await?.unwrap_or_default();
            let path = file.path().to_owned();
            file.write_all(&without_nth(list)).map_err(|error| io_error(&path, "write the file", error))?;
        }
        self.target.keep(file, "metadata.jsonl").await
    }

    async fn list(&self, shard: u64) -> Result<Option<Vec<u8>>, JobError> {
        self.target.read_own(&list_name(shard)).await
    }
}

/// What a line remembers of a row that shares its number and its job with one of another source, and its readers do not
/// know.
pub const NTH: &str = "__nth";

/// Lines of metadata as readers want them.
fn without_nth(list: Vec<u8>) -> Vec<u8> {
    let quoted = format!("\"{NTH}\"");
    if !list.windows(quoted.len()).any(|part| part == quoted.as_bytes()) {
        return list;
    }
    let mut plain = Vec::with_capacity(list.len());
    for line in list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(mut fields) => {
                fields.remove(NTH);
                plain.extend(Value::Object(fields).to_string().into_bytes());
            }
            Err(_) => plain.extend_from_slice(line),
        }
        plain.push(b'\n');
    }
    plain
}

fn list_name(shard: u64) -> String {
    format!("shard-{shard:06}.jsonl")
}
