//! `acetate export`: writes the layers of a result, or their composite, as one file for other programs.

use std::{
    io::{Cursor, IsTerminal},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{
    Failure,
    export_batch::{self, BatchExport},
    global::GlobalArgs,
    job_name::JobName,
    jobs,
    out_file::{OutFile, Replaceable},
    output,
    runtime::block_on,
};
use crate::{
    app::{NestedResult, Submitter},
    config::LoadedConfig,
    image::{DecodeLimits, ExportError, ExportFormat, Exported, Sheet, Stack},
    job::{BatchId, JobError, JobId, JobState, Manifest},
    store::{ObjectKey, ResultFiles, io_error},
};

#[derive(Debug, Args)]
#[command(after_help = "\
The file contains every layer of the result, with its name and position. It does not contain
layer-00.png, the whole picture as the model regenerates it; only a ZIP has that, and the manifest.
A PPTX has one slide of the picture's shape, on which each layer can be moved. WebP (lossless) and
JPEG (quality 95, on white where it is transparent) are the composite of the layers.

Examples:
  acetate export out/scene --out scene.psd
  acetate export last --out scene.ora
  acetate export last --out scene.pptx
  acetate export last --out scene.webp
  acetate export out/scene --format zip --out - | ssh host 'cat > scene.zip'
  acetate export --batch posters --out psd/")]
pub struct ExportLayersArgs {
    /// A job that has succeeded (its id, the beginning of the id, or `last`), or a folder with its result
    #[arg(value_name = "JOB|FOLDER", required_unless_present = "batch", conflicts_with = "batch")]
    source: Option<String>,
    /// Export all jobs of this batch that have succeeded, each into a file in the folder --out, named after its
    /// picture. Run again, it writes those that are missing
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchId>,
    /// zip, ora (OpenRaster: Krita), psd (Photoshop, GIMP) or pptx (PowerPoint); or webp or jpg for one picture
    /// [default: the extension of --out; with --batch: psd]
    #[arg(long)]
    format: Option<ExportFormat>,
    /// Of a job with variants: which one, from 1 [default: 1]. A ZIP also has the pictures of the others
    #[arg(long, value_name = "N", conflicts_with = "batch")]
    variant: Option<u32>,
    /// The file to write, or - for standard output (with --format); with --batch, the folder
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Replace files that exist; links, pipes and devices are never replaced
    #[arg(long)]
    force: bool,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
}

/// A layer in the `--json` list, back to front.
#[derive(Serialize)]
struct ListedLayer<'a> {
    name: &'a str,
    file: &'a str,
    opacity: f32,
    visible: bool,
}

impl ExportLayersArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        if let Some(batch) = &self.batch {
            let format = self.format.unwrap_or(ExportFormat::Psd);
            let wish = BatchExport { batch, format, out: &self.out, force: self.force, json: self.json };
            return export_batch::run(global, &wish);
        }
        let format = self.format()?;
        self.check_out()?;
        let loaded = global.load(Vec::new())?;
        let limits = DecodeLimits::from(&loaded.config.image);
        let (manifest, stack) = block_on(self.open(&loaded))?;
        if self.to_stdout() {
            return to_stdout(&stack, format, &limits);
        }
        let written = write(&stack, format, &limits, &self.out)?;
        self.report(format, &manifest, &stack, written)
    }

    fn format(&self) -> Result<ExportFormat, Failure> {
        self.format.or_else(|| ExportFormat::of_path(&self.out)).ok_or_else(|| {
            let out = self.out.display();
            Failure::Usage(format!(
                "--out: `{out}` does not end in .zip, .ora, .psd, .pptx, .webp or .jpg; give --format"
            ))
        })
    }

    /// Runs before anything is read.
    fn check_out(&self) -> Result<(), Failure> {
        let refuse = |reason: String| Err(JobError::invalid("--out", reason).into());
        if self.to_stdout() {
            return match (self.json, std::io::stdout().is_terminal()) {
                (true, _) => refuse("--out - and --json both write to standard output; use one of them".to_owned()),
                (_, true) => refuse("- is standard output, which is a terminal here; send it to a file".to_owned()),
                _ => Ok(()),
            };
        }
        let replaces = if self.force { Replaceable::All } else { Replaceable::Nothing };
        let out = OutFile { flag: "--out", path: &self.out, replaces };
        out.check()?;
        Ok(out.check_folder()?)
    }

    fn to_stdout(&self) -> bool {
        self.out.as_os_str() == "-"
    }

    /// A folder with that name takes precedence over a job.
    async fn open(&self, loaded: &LoadedConfig) -> Result<(Manifest, Stack), Failure> {
        let source = self.source.as_deref().unwrap_or_default();
        let path = Path::new(source);
        if path.exists() {
            return if path.is_dir() {
                let files = ResultFiles::in_folder(path).await?;
                let stack = Stack::of_result(&files.manifest, files.read_all().await?, self.variant)?;
                Ok((files.manifest, stack))
            } else {
                let reason = format!("{source} is a file; give the folder of a result, or a job's id");
                Err(JobError::invalid("JOB|FOLDER", reason).into())
            };
        }
        let name: JobName = source.parse().map_err(|_| {
            let reason = format!(
                "there is no folder `{source}`, and it is not a job: an id (a UUID), the beginning of one, or `last`"
            );
            JobError::invalid("JOB|FOLDER", reason)
        })?;
        let (submitter, _) = Submitter::to_read(loaded).await?;
        let made = async {
            let id = name.id(&submitter).await?;
            let files = published(&submitter, id).await?;
            let row = jobs::job(&submitter, id).await?;
            let nested = NestedResult::find(&submitter.jobs, row, self.variant).await?;
            Ok::<_, JobError>((files.manifest, nested.stack(&submitter.stores).await?))
        };
        let made = made.await;
        submitter.close().await;
        Ok(made?)
    }

    fn report(
        &self,
        format: ExportFormat,
        manifest: &Manifest,
        stack: &Stack,
        (size, note): (u64, Option<&str>),
    ) -> Result<(), Failure> {
        if self.json {
            let listed = |sheet: &Sheet| {
                let Sheet { name, file, opacity, visible, .. } = sheet;
                json!(ListedLayer { name, file, opacity: *opacity, visible: *visible })
            };
            return output::json(&json!({
                "job": manifest.job,
                "format": format.as_str(),
                "file": self.out.display().to_string(),
                "size": size,
                "note": note,
                "layers": stack.sheets.iter().map(listed).collect::<Vec<_>>(),
            }));
        }
        let layers = match stack.sheets.len() {
            1 => "1 layer".to_owned(),
            count => format!("{count} layers"),
        };
        output::line(&format!("{}  {layers}, {}", self.out.display(), output::size(size)))?;
        note.map_or(Ok(()), |note| output::line(&format!("note      {note}")))
    }
}

async fn published(submitter: &Submitter, id: JobId) -> Result<ResultFiles, JobError> {
    let row = jobs::job(submitter, id).await?;
    let Some(result) = row.published.as_ref().filter(|_| row.state == JobState::Succeeded) else {
        return Err(JobError::invalid("id", format!("job {id} {}", row.without_result())));
    };
    let store = submitter.stores.at_root(result.root.as_deref())?;
    ResultFiles::published(store, ObjectKey::parse(&result.manifest)?).await
}

/// Writes the layers of a result as one file; returns its size in bytes and what is to be noted about it.
pub async fn write_result(
    files: &ResultFiles,
    format: ExportFormat,
    limits: &DecodeLimits,
    path: &Path,
) -> Result<(u64, Option<&'static str>), JobError> {
    let stack = Stack::of_result(&files.manifest, files.read_all().await?, None)?;
    write(&stack, format, limits, path)
}

/// The formats need a file that can be written anywhere, so it is made in memory first.
fn to_stdout(stack: &Stack, format: ExportFormat, limits: &DecodeLimits) -> Result<(), Failure> {
    let failed = |error: std::io::Error| io_error(Path::new("standard output"), "write the export", error);
    let Exported { out, note } = stack.write(format, limits, Cursor::new(Vec::new())).map_err(|error| match error {
        ExportError::Stack(error) => error,
        ExportError::Write(error) => failed(error),
    })?;
    output::verbatim(out.get_ref())?;
    if let Some(note) = note {
        output::error(&format!("note: {note}"));
    }
    Ok(())
}

/// Replaces a file, but nothing else; returns its size in bytes and what is to be noted about it.
fn write(
    stack: &Stack,
    format: ExportFormat,
    limits: &DecodeLimits,
    path: &Path,
) -> Result<(u64, Option<&'static str>), JobError> {
    const ACTION: &str = "write the export";
    let mut note = None;
    let size = OutFile { flag: "--out", path, replaces: Replaceable::All }.write(ACTION, |file| {
        let exported = stack.write(format, limits, file).map_err(|error| match error {
            ExportError::Stack(error) => error,
            ExportError::Write(error) => io_error(path, ACTION, error),
        })?;
        note = exported.note;
        Ok(exported.out)
    })?;
    Ok((size, note))
}
