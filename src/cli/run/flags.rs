//! The flags that all kinds of jobs share.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    app::Submitter,
    cli::{
        Failure,
        job_name::JobName,
        out_file::{OutFile, Replaceable},
        params::parse_label,
        runtime::block_on,
        trace::TraceFlags,
    },
    config::{Flag, GuidanceMode, LoadedConfig},
    job::{InputRef, JobError, JobId},
    store::file_url,
};

/// Where the result goes, and the job's id and labels.
#[derive(Debug, Args)]
pub struct JobFlags {
    /// Folder for the results: a new or empty one, or one with an earlier result, which is replaced
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Id of the job, a UUID. The same id is the same job: it runs once, then returns its results again
    #[arg(long, value_name = "ID")]
    pub id: Option<JobId>,
    /// Label of the job, shown by `acetate jobs`; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Take the result of an equal job that has succeeded, if there is one: the same pictures, parameters, seed and
    /// model
    #[arg(long)]
    pub reuse: bool,
    #[command(flatten)]
    pub trace: TraceFlags,
    /// Also write one picture with the input, the layers and the result side by side. An earlier sheet is replaced
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Replace the file of --sheet also if it is not an earlier sheet; links, pipes and devices are never replaced
    #[arg(long, requires = "sheet")]
    pub force: bool,
    /// Print the job as JSON, as `acetate jobs show --json` does
    #[arg(long)]
    pub json: bool,
}

impl JobFlags {
    pub fn sheet_file(&self) -> Option<OutFile<'_>> {
        let replaces = if self.force { Replaceable::All } else { Replaceable::Sheets };
        self.sheet.as_deref().map(|path| OutFile { flag: "--sheet", path, replaces })
    }
}

/// The device and number format of the models.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct DeviceFlags {
    /// Where the models run: cpu, cuda, cuda:N, several GPUs as cuda:0,cuda:1, or cuda:all [default: cpu]
    #[arg(long, value_name = "DEVICE", value_parser = checked_device)]
    device: Option<String>,
    /// The two passes of a step with guidance: serial, or parallel on two GPUs in nearly half the time; --device then
    /// names GPUs in pairs [default: serial]
    #[arg(long, value_name = "HOW", value_parser = checked_guidance)]
    guidance: Option<String>,
    /// Number format: f32, or on a GPU also bf16 or fp8 [default: f32 on the CPU, bf16 on a GPU]
    #[arg(long, value_name = "FORMAT", value_parser = checked_dtype)]
    dtype: Option<String>,
    /// File with the text encoder's weights instead of the model's own, for instance ComfyUI's
    /// qwen_2.5_vl_7b_fp8_scaled.safetensors
    #[arg(long, value_name = "FILE")]
    text_encoder: Option<PathBuf>,
    /// Round the text encoder's layers to fp8: half their memory on a GPU, a little less exact
    #[arg(long)]
    text_encoder_fp8: bool,
    /// Load the edit model at startup instead of on first use
    #[arg(long)]
    load_edit_model: bool,
}

impl DeviceFlags {
    pub fn settings(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        flags.extend(text_flag("--device", "qwen_image.device", self.device.as_ref()));
        flags.extend(text_flag("--guidance", "qwen_image.guidance", self.guidance.as_ref()));
        flags.extend(text_flag("--dtype", "qwen_image.dtype", self.dtype.as_ref()));
        flags.extend(path_flag("--text-encoder", "qwen_image.text_encoder_path", self.text_encoder.as_deref()));
        if self.text_encoder_fp8 {
            flags.push(Flag { name: "--text-encoder-fp8", key: "qwen_image.text_encoder_fp8", value: true.into() });
        }
        if self.load_edit_model {
            flags.push(Flag { name: "--load-edit-model", key: "qwen_image.load_edit_model", value: true.into() });
        }
        flags
    }
}

pub fn text_flag(name: &'static str, key: &'static str, value: Option<&String>) -> Option<Flag> {
    value.map(|value| Flag { name, key, value: value.clone().into() })
}

pub fn path_flag(name: &'static str, key: &'static str, value: Option<&Path>) -> Option<Flag> {
    // The manifest names the file, wherever it is read.
    let whole = |value: &Path| std::path::absolute(value).unwrap_or_else(|_| value.to_owned());
    value.map(|value| Flag { name, key, value: whole(value).display().to_string().into() })
}

/// Replaces the beginning of a job's id, or `last`, by the whole id: `job:last:2`.
///
/// # Errors
/// If there is no such job, or if there are several.
pub fn with_whole_ids<'a>(
    loaded: &LoadedConfig,
    texts: impl IntoIterator<Item = &'a mut String>,
) -> Result<(), Failure> {
    let texts: Vec<_> = texts.into_iter().filter(|text| short_name(text).is_some()).collect();
    if texts.is_empty() {
        return Ok(());
    }
    block_on(async {
        let (submitter, _) = Submitter::to_read(loaded).await.map_err(|error| loaded.with_origin(error))?;
        let written = write_whole_ids(&submitter, texts).await;
        submitter.close().await;
        Ok(written?)
    })
}

/// The same, of a database that is open.
pub async fn write_whole_ids<'a>(
    submitter: &Submitter,
    texts: impl IntoIterator<Item = &'a mut String>,
) -> Result<(), JobError> {
    for text in texts {
        if let Some((name, picture)) = short_name(text) {
            *text = format!("job:{}:{picture}", name.id(submitter).await?);
        }
    }
    Ok(())
}

/// The job of a picture, if it is not named by its whole id, and which of its pictures.
pub fn short_name(text: &str) -> Option<(JobName, String)> {
    let (name, picture) = text.strip_prefix("job:")?.split_once(':')?;
    match name.parse() {
        Ok(name @ (JobName::Beginning(_) | JobName::Last)) => Some((name, picture.to_owned())),
        Ok(JobName::Id(_)) | Err(_) => None,
    }
}

/// A picture on the command line: a path, a `file:///` address, `job:ID:LAYER`, or `job:ID:FILE`.
pub fn input(text: &str) -> Result<InputRef, Failure> {
    if let Some(rest) = text.strip_prefix("job:") {
        let Some((job, picture)) = rest.split_once(':').filter(|(_, picture)| !picture.is_empty()) else {
            let reason = format!(
                "`{text}` is not a layer of a job; write job:ID:LAYER, for instance job:018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21:2"
            );
            return Err(JobError::invalid("input", reason).into());
        };
        let job = job.parse()?;
        return match picture.parse() {
            Ok(layer) => Ok(InputRef::Layer { job, layer }),
            // All pictures of results are PNG.
            Err(_) if picture.ends_with(".png") => Ok(InputRef::File { job, file: picture.to_owned() }),
            Err(_) => {
                let reason = format!(
                    "`{text}` names no picture of a job: write the number of a layer, such as job:{job}:2, or a file, \
                     such as job:{job}:edited.png"
                );
                Err(JobError::invalid("input", reason).into())
            }
        };
    }
    if text.is_empty() {
        return Err(JobError::invalid("IMAGE", "is empty; give a picture").into());
    }
    if text.contains("://") {
        return Ok(InputRef::Url(text.to_owned()));
    }
    let absolute = std::path::absolute(text).map_err(|_| JobError::InputNotFound { input: text.to_owned() })?;
    // Symbolic links and `..` are resolved here, so that the row names one file.
    let path = absolute.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => JobError::InputForbidden {
            input: text.to_owned(),
            reason: "permission denied; make the file readable".to_owned(),
        },
        _ => JobError::InputNotFound { input: text.to_owned() },
    })?;
    Ok(InputRef::Url(file_url(&path)))
}

fn checked_device(text: &str) -> Result<String, String> {
    text.parse::<qwen_image::Devices>().map(|_| text.to_owned())
}

fn checked_guidance(text: &str) -> Result<String, String> {
    text.parse::<GuidanceMode>().map(|_| text.to_owned())
}

fn checked_dtype(text: &str) -> Result<String, String> {
    text.parse::<qwen_image::ComputeDType>().map(|_| text.to_owned())
}
