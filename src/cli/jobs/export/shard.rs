//! A shard that is being written. Nothing of it is visible before it is finished.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};
use tempfile::{NamedTempFile, TempDir};

use super::{
    DatasetFormat,
    columns::ResultColumns,
    memory::NTH,
    parquet::ParquetFile,
    rows::ExportedRow,
    sample::{Sample, SamplePicture},
};
use crate::{
    job::JobError,
    store::{Target, io_error},
};

/// The pictures that are sent to S3 at a time.
const AT_A_TIME: usize = 8;
/// Larger pictures are written at once, without a copy in between.
const BUFFER: usize = 64 << 10;
/// The unit of an archive.
const BLOCK: usize = 512;

pub struct ShardFile {
    number: u64,
    /// For each row what the export remembers of it.
    lines: Vec<String>,
    bytes: u64,
    columns: ResultColumns,
    content: ShardContent,
}

enum ShardContent {
    Archive(NamedTempFile, BufWriter<File>),
    Parquet(NamedTempFile, Box<ParquetFile>),
    Lines(NamedTempFile, BufWriter<File>),
    Folder(TempDir),
    /// The objects of a folder are written one by one; what names them comes last.
    Prefix(Target),
}

pub struct FinishedShard {
    pub lines: Vec<String>,
    pub bytes: u64,
}

impl ShardFile {
    pub fn begin(
        target: &Target,
        format: DatasetFormat,
        number: u64,
        columns: &ResultColumns,
    ) -> Result<Self, JobError> {
        let new_file = || -> Result<(NamedTempFile, File), JobError> {
            let file = target.new_file()?;
            let same = file.as_file().try_clone().map_err(|error| io_error(file.path(), "write the file", error))?;
            Ok((file, same))
        };
        let content = match format {
            DatasetFormat::Webdataset => {
                let (file, same) = new_file()?;
                ShardContent::Archive(file, BufWriter::with_capacity(BUFFER, same))
            }
            DatasetFormat::Parquet => {
                let (file, same) = new_file()?;
                let writer = ParquetFile::begin(same, columns.clone()).map_err(|error| error.at(file.path()))?;
                ShardContent::Parquet(file, Box::new(writer))
            }
            DatasetFormat::Jsonl => {
                let (file, same) = new_file()?;
                ShardContent::Lines(file, BufWriter::with_capacity(BUFFER, same))
            }
            DatasetFormat::Imagefolder => match target.new_folder()? {
                Some(folder) => ShardContent::Folder(folder),
                None => ShardContent::Prefix(target.clone()),
            },
        };
        Ok(Self { number, lines: Vec::new(), bytes: 0, columns: columns.clone(), content })
    }

    /// The size of the pictures and texts so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn rows(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Adds the rows of a job: one, or one for each variant.
    pub async fn add(&mut self, item: &ExportedRow, key: &str, mut sample: Sample) -> Result<(), JobError> {
        for variant in self.columns.variants_of(item) {
            let key = variant.map_or_else(|| key.to_owned(), |variant| format!("{key}-variant-{variant:02}"));
            let pictures = sample.pictures.extract_if(.., |picture| picture.variant == variant).collect();
            self.add_row(item, &key, item.record(variant), pictures).await?;
        }
        Ok(())
    }

    async fn add_row(
        &mut self,
        item: &ExportedRow,
        key: &str,
        mut record: Map<String, Value>,
        mut pictures: Vec<SamplePicture>,
    ) -> Result<(), JobError> {
        self.columns.fit(&mut record);
        // In an archive, each row has its values as JSON.
        let (is_archive, as_text) = match self.content {
            ShardContent::Archive(..) => (true, true),
            ShardContent::Parquet(..) => (false, true),
            ShardContent::Lines(..) | ShardContent::Folder(_) | ShardContent::Prefix(_) => (false, false),
        };
        let fits = self.columns.check(item, &record, as_text);
        if !is_archive {
            fits.clone()?;
        }
        self.bytes += pictures.iter().map(|picture| picture.bytes.len() as u64).sum::<u64>();
        let folder = format!("{:06}", self.number);
        if let ShardContent::Prefix(target) = &self.content {
            let sends = pictures.iter_mut().map(|picture| {
                let name = format!("{folder}/{key}.{}", picture.ending);
                let (target, bytes) = (target.clone(), std::mem::take(&mut picture.bytes));
                async move { target.write(&name, bytes).await }
            });
            let sends: Vec<_> = sends.collect();
            stream::iter(sends).buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
        }
        // Files are written here, while other tasks read the next results.
        tokio::task::block_in_place(|| match &mut self.content {
            ShardContent::Archive(file, archive) => {
                write_sample(archive, key, &record, &pictures).map_err(|error| io_error(file.path(), "write", error))
            }
            ShardContent::Parquet(file, writer) => {
                writer.add(&record, key, &mut pictures).map_err(|error| error.at(file.path()))
            }
            ShardContent::Lines(file, lines) => {
                self.columns.begin_pictures(&mut record, "", "");
                for picture in &pictures {
                    put(&mut record, picture.column, picture.is_list, &picture.url);
                }
                let line = Value::Object(record.clone()).to_string();
                self.bytes += line.len() as u64 + 1;
                writeln!(lines, "{line}").map_err(|error| io_error(file.path(), "write", error))
            }
            ShardContent::Folder(made) => write_pictures(made.path(), key, &pictures),
            ShardContent::Prefix(_) => Ok(()),
        })?;
        let mut remembered = match &self.content {
            ShardContent::Folder(_) | ShardContent::Prefix(_) => {
                self.columns.begin_pictures(&mut record, "_file_name", "_file_names");
                for picture in &pictures {
                    let column = format!("{}_file_name{}", picture.column, if picture.is_list { "s" } else { "" });
                    put(&mut record, &column, picture.is_list, &format!("{folder}/{key}.{}", picture.ending));
                }
                Value::Object(record)
            }
            ShardContent::Archive(..) | ShardContent::Parquet(..) | ShardContent::Lines(..) => {
                let files: Vec<_> = pictures.iter().map(|picture| &picture.ending).collect();
                json!({ "row": item.number, "id": item.job.id(), "files": files, "fits": fits.is_ok() })
            }
        };
        if item.nth > 0 {
            remembered[NTH] = json!(item.nth);
        }
        self.lines.push(remembered.to_string());
        Ok(())
    }

    /// Makes the shard visible.
    pub async fn finish(self, target: &Target) -> Result<FinishedShard, JobError> {
        let Self { number, lines, bytes, content, .. } = self;
        let name = |extension: &str| format!("layers-{number:06}.{extension}");
        match content {
            ShardContent::Archive(file, mut archive) => {
                let ended = tokio::task::block_in_place(|| {
                    archive.write_all(&[0; 2 * BLOCK])?;
                    archive.flush()
                });
                ended.map_err(|error| io_error(file.path(), "write", error))?;
                target.keep(file, &name("tar")).await?;
            }
            ShardContent::Parquet(file, writer) => {
                tokio::task::block_in_place(|| writer.finish()).map_err(|error| error.at(file.path()))?;
                target.keep(file, &name("parquet")).await?;
            }
            ShardContent::Lines(file, mut lines) => {
                lines.flush().map_err(|error| io_error(file.path(), "write", error))?;
                target.keep(file, &name("jsonl")).await?;
            }
            ShardContent::Folder(made) => target.keep_folder(made, &format!("{number:06}")).await?,
            ShardContent::Prefix(_) => {}
        }
        Ok(FinishedShard { lines, bytes })
    }
}

/// Adds a picture to a record: as the value of its column, or to its list.
fn put(record: &mut Map<String, Value>, column: &str, is_list: bool, value: &str) {
    match record.get_mut(column) {
        Some(Value::Array(list)) if is_list => list.push(json!(value)),
        _ if is_list => drop(record.insert(column.to_owned(), json!([value]))),
        _ => drop(record.insert(column.to_owned(), json!(value))),
    }
}

/// Writes the entries of an archive. `tar::Builder` would copy each through a small buffer first.
fn write_sample(
    archive: &mut BufWriter<File>,
    key: &str,
    record: &Map<String, Value>,
    pictures: &[SamplePicture],
) -> std::io::Result<()> {
    let json = serde_json::to_vec(record)?;
    let pictures = pictures.iter().map(|picture| (picture.ending.as_str(), picture.bytes.as_slice()));
    for (ending, bytes) in pictures.chain([("json", json.as_slice())]) {
        let mut header = tar::Header::new_gnu();
        header.set_path(format!("{key}.{ending}"))?;
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        archive.write_all(header.as_bytes())?;
        archive.write_all(bytes)?;
        archive.write_all(&[0; BLOCK][..bytes.len().next_multiple_of(BLOCK) - bytes.len()])?;
    }
    Ok(())
}

fn write_pictures(folder: &Path, key: &str, pictures: &[SamplePicture]) -> Result<(), JobError> {
    for picture in pictures {
        let path = folder.join(format!("{key}.{}", picture.ending));
        fs::write(&path, &picture.bytes).map_err(|error| io_error(&path, "write the picture", error))?;
    }
    Ok(())
}
