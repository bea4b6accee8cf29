//! Exports layers, or their composite, as one file: those of a job, or any arrangement of pictures.

use std::{io::Cursor, ops::RangeInclusive};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::{
    api::Api,
    caller::{Caller, Role},
    extract::{Id, Json, QueryParams},
    files::{self, check_match, is_known, missing, published, unchanged},
    jobs::{check, resolve},
    nested::NestedResult,
    openapi::Binary,
    problem::{Answer, ApiError, Problem},
    range::download,
    view::InputView,
};
use crate::{
    image::{self, ExportError, ExportFormat, Group, Sheet, Stack},
    job::{COMPOSITE_IMAGES, FileEntry, InputRef, JobError, JobId},
    store::input_name,
};

/// Exports change when a layer is taken apart.
const ASK_AGAIN: &str = "private, no-cache";

pub const FORMATS: [ExportFormat; 6] = ExportFormat::ALL;

/// Exports layers as one file.
const LAYERS: RangeInclusive<usize> = COMPOSITE_IMAGES;
/// How many groups a layer may be in.
const MOST_GROUPS: usize = 8;
const MOST_BYTES: usize = 256 * 1024;

/// Export the layers of a job as a ZIP of PNGs
#[utoipa::path(get, path = "/v1/jobs/{id}/export.zip", tag = "pictures", operation_id = "export_zip", params(("id" = JobId, Path), VariantQuery),
    responses((status = 200, description = "The layers as ZIP", body = inline(Binary), content_type = "application/zip"), (status = 206, description = "A part (`Range`)"), (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn zip(
    State(api): State<Api>,
    Id(id): Id,
    QueryParams(asked): QueryParams<VariantQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    of_job(&api, id, ExportFormat::Zip, asked.variant, &headers).await
}

/// Export the layers of a job for Krita
#[utoipa::path(get, path = "/v1/jobs/{id}/export.ora", tag = "pictures", operation_id = "export_ora", params(("id" = JobId, Path), VariantQuery),
    responses((status = 200, description = "The layers as OpenRaster", body = inline(Binary), content_type = "image/openraster"), (status = 206, description = "A part (`Range`)"), (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn ora(
    State(api): State<Api>,
    Id(id): Id,
    QueryParams(asked): QueryParams<VariantQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    of_job(&api, id, ExportFormat::Ora, asked.variant, &headers).await
}

/// Export the layers of a job for Photoshop and GIMP
#[utoipa::path(get, path = "/v1/jobs/{id}/export.psd", tag = "pictures", operation_id = "export_psd", params(("id" = JobId, Path), VariantQuery),
    responses((status = 200, description = "The layers as PSD", body = inline(Binary), content_type = "image/vnd.adobe.photoshop"), (status = 206, description = "A part (`Range`)"), (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn psd(
    State(api): State<Api>,
    Id(id): Id,
    QueryParams(asked): QueryParams<VariantQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    of_job(&api, id, ExportFormat::Psd, asked.variant, &headers).await
}

/// Export the layers of a job for PowerPoint, as pictures on one slide
#[utoipa::path(get, path = "/v1/jobs/{id}/export.pptx", tag = "pictures", operation_id = "export_pptx", params(("id" = JobId, Path), VariantQuery),
    responses((status = 200, description = "The layers as PPTX", body = inline(Binary), content_type = "application/vnd.openxmlformats-officedocument.presentationml.presentation"), (status = 206, description = "A part (`Range`)"), (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn pptx(
    State(api): State<Api>,
    Id(id): Id,
    QueryParams(asked): QueryParams<VariantQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    of_job(&api, id, ExportFormat::Pptx, asked.variant, &headers).await
}

/// Export the composite of a job's layers as lossless WebP
#[utoipa::path(get, path = "/v1/jobs/{id}/export.webp", tag = "pictures", operation_id = "export_webp", params(("id" = JobId, Path), VariantQuery),
    responses((status = 200, description = "The composite as WebP", body = inline(Binary), content_type = "image/webp"), (status = 206, description = "A part (`Range`)"), (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn webp(
    State(api): State<Api>,
    Id(id): Id,
    QueryParams(asked): QueryParams<VariantQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    of_job(&api, id, ExportFormat::Webp, asked.variant, &headers).await
}

/// Export the composite of a job's layers as JPEG
#[utoipa::path(get, path = "/v1/jobs/{id}/export.jpg", tag = "pictures", operation_id = "export_jpg", params(("id" = JobId, Path), VariantQuery),
    responses((status = 200, description = "The composite as JPEG, on white where it is transparent", body = inline(Binary), content_type = "image/jpeg"), (status = 206, description = "A part (`Range`)"), (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn jpg(
    State(api): State<Api>,
    Id(id): Id,
    QueryParams(asked): QueryParams<VariantQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    of_job(&api, id, ExportFormat::Jpeg, asked.variant, &headers).await
}

/// Of a job with variants: which one.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VariantQuery {
    /// The variant whose layers are exported, from 1. Default: the first one.
    #[serde(default)]
    #[param(minimum = 1, maximum = 64)]
    variant: Option<u32>,
}

async fn of_job(
    api: &Api,
    id: JobId,
    format: ExportFormat,
    variant: Option<u32>,
    headers: &HeaderMap,
) -> Answer<Response> {
    let row = api.job(id).await?;
    let result = published(&row)?;
    if !result.files.iter().any(FileEntry::is_layer) {
        let kind = row.request.task.kind();
        return Err(ApiError::not_found(format!("a {kind} job has no layers; get its picture from /files")));
    }
    // Its layers may be taken apart later.
    let nested = NestedResult::find(api.jobs(), row, variant).await?;
    let tag = format!("\"{:x}-{format}\"", Sha256::digest(nested.tag()));
    check_match(headers, &tag)?;
    if is_known(headers, &tag) {
        return Ok(unchanged(&tag, ASK_AGAIN));
    }
    let bytes = write(api, nested.stack(api.stores()).await?, format).await?;
    let response = download(headers, bytes, format.media_type(), &tag, ASK_AGAIN);
    Ok(attached(response, &format!("acetate-{id}.{format}")))
}

/// A stack of pictures from any jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StackBody {
    format: Format,
    /// Back to front.
    #[schema(min_items = 1, max_items = 64)]
    layers: Vec<LayerBody>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    Zip,
    Ora,
    Psd,
    Pptx,
    Webp,
    Jpg,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LayerBody {
    /// With `file` or `layer`.
    #[serde(default)]
    job: Option<JobId>,
    /// The picture's name in that job: `layer-01.png`, `edited.png`.
    #[serde(default)]
    file: Option<String>,
    /// The number of a layer of that job.
    #[serde(default)]
    layer: Option<u32>,
    /// Instead of a job: an uploaded picture.
    #[serde(default)]
    upload: Option<String>,
    /// Instead of a job: an address that jobs may read. Needs the role `submit`.
    #[serde(default)]
    url: Option<String>,
    /// The layer's name in the file. Default: its file name.
    #[serde(default)]
    name: Option<String>,
    #[serde(default = "solid")]
    #[schema(minimum = 0, maximum = 1)]
    opacity: f32,
    #[serde(default = "shown")]
    visible: bool,
    /// The names of the groups that it is in, outermost first, at most 8. Layers next to each other with the same names
    /// are in one group.
    #[serde(default)]
    #[schema(max_items = 8)]
    groups: Vec<String>,
}

fn solid() -> f32 {
    1.0
}

fn shown() -> bool {
    true
}

/// Export a stack of pictures as one file
///
/// The pictures may come from any jobs, uploads and addresses; each has a name, an opacity and a visibility. WebP and
/// JPEG are the composite of the visible ones, JPEG on white where it is transparent.
#[utoipa::path(post, path = "/v1/export", tag = "pictures", operation_id = "export_stack", request_body = StackBody,
    responses(
        (status = 200, description = "The stack in the requested format", content(
            (inline(Binary) = "application/zip"), (inline(Binary) = "image/openraster"), (inline(Binary) = "image/vnd.adobe.photoshop"),
            (inline(Binary) = "application/vnd.openxmlformats-officedocument.presentationml.presentation"), (inline(Binary) = "image/webp"), (inline(Binary) = "image/jpeg"))),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn stack(
    State(api): State<Api>,
    caller: Caller,
    Json(asked): Json<StackBody, MOST_BYTES>,
) -> Answer<Response> {
    let given = asked.layers.len();
    if !LAYERS.contains(&given) {
        let (least, most) = LAYERS.into_inner();
        return Err(JobError::invalid("layers", format!("{least} to {most} layers, {given} given")).into());
    }
    let mut sheets = Vec::with_capacity(given);
    for (at, layer) in asked.layers.into_iter().enumerate() {
        sheets.push(sheet(&api, &caller, at, layer).await?);
    }
    let format = match asked.format {
        Format::Zip => ExportFormat::Zip,
        Format::Ora => ExportFormat::Ora,
        Format::Psd => ExportFormat::Psd,
        Format::Pptx => ExportFormat::Pptx,
        Format::Webp => ExportFormat::Webp,
        Format::Jpg => ExportFormat::Jpeg,
    };
    let bytes = write(&api, Stack { sheets, beside: Vec::new() }, format).await?;
    let response = ([(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()))], bytes).into_response();
    Ok(attached(response, &format!("acetate.{format}")))
}

impl LayerBody {
    fn picture(&mut self, at: usize) -> Answer<InputView> {
        let (job, file, layer, upload, url) =
            (self.job, self.file.take(), self.layer, self.upload.take(), self.url.take());
        match (job, file, layer, upload, url) {
            (Some(job), Some(file), None, None, None) => Ok(InputView::File { job, file }),
            (Some(job), None, Some(layer), None, None) => Ok(InputView::Layer { job, layer }),
            (None, None, None, Some(upload), None) => Ok(InputView::Upload { upload }),
            (None, None, None, None, Some(url)) => Ok(InputView::Url(url)),
            _ => {
                let reason = "is one of {\"job\", \"file\"}, {\"job\", \"layer\"}, {\"upload\"} and {\"url\"}";
                Err(JobError::invalid(format!("layers[{at}]"), reason).into())
            }
        }
    }
}

async fn sheet(api: &Api, caller: &Caller, at: usize, mut layer: LayerBody) -> Answer<Sheet> {
    let picture = layer.picture(at)?;
    if let InputView::Url(_) = &picture {
        // Others may see pictures of this server, and not have it read from anywhere.
        caller.check(Role::Submit)?;
    }
    let input = resolve(api, picture)?;
    let (file, png, placement) = match &input {
        InputRef::Layer { job, .. } | InputRef::File { job, .. } => {
            let Some(row) = api.jobs().get(*job).await? else {
                return Err(JobError::InputNotFound { input: input.to_string() }.into());
            };
            let file = row.picture(&input)?;
            let png = files::read(api, &row, file).await.map_err(|failure| failure.of_job(*job))?;
            (file.name.clone(), png, file.placement)
        }
        InputRef::Url(url) => {
            check(api, &input).await?;
            let bytes = api.stores().inputs().read(url, api.settings().limits.max_bytes).await?;
            (format!("picture-{:02}.png", at + 1), as_png(api, url, bytes).await?, None)
        }
    };
    let name = layer.name.unwrap_or_else(|| file.clone());
    if layer.groups.len() > MOST_GROUPS {
        let reason = format!("{} groups; a layer is in at most {MOST_GROUPS}", layer.groups.len());
        return Err(JobError::invalid(format!("layers[{at}].groups"), reason).into());
    }
    let groups = layer.groups.into_iter().map(|name| Group { file: name.clone(), name }).collect();
    Ok(Sheet { name, file, png, placement, opacity: layer.opacity, visible: layer.visible, groups })
}

/// Pictures of other formats, which archives of layers cannot contain, become PNGs.
async fn as_png(api: &Api, url: &str, bytes: Vec<u8>) -> Answer<Vec<u8>> {
    let (limits, name) = (api.settings().limits, input_name(url));
    let _turn = api.uploads.acquire().await;
    let shown = name.clone();
    let made = tokio::task::spawn_blocking(move || {
        let picture = image::decode(&name, &bytes, &limits)?;
        image::encode_png(&picture.pixels)
    });
    match made.await {
        Ok(png) => Ok(png?),
        Err(_) => Err(JobError::InvalidImage { input: shown, reason: "cannot be decoded".to_owned() }.into()),
    }
}

async fn write(api: &Api, stack: Stack, format: ExportFormat) -> Answer<Vec<u8>> {
    let limits = api.settings().limits;
    let _turn = api.uploads.acquire().await;
    let written = tokio::task::spawn_blocking(move || stack.write(format, &limits, Cursor::new(Vec::new()))).await;
    match written {
        Ok(Ok(made)) => Ok(made.out.into_inner()),
        Ok(Err(ExportError::Stack(error))) => Err(error.into()),
        Ok(Err(ExportError::Write(error))) => {
            Err(JobError::Busy { reason: format!("the file could not be made: {error}") }.into())
        }
        Err(_) => Err(missing(JobError::invalid("layers", "these layers cannot be written as one file"))),
    }
}

fn attached(mut response: Response, name: &str) -> Response {
    let text = format!("attachment; filename=\"{name}\"");
    let value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    response
}
