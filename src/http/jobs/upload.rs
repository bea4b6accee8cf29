//! Pictures that are uploaded with a request.

use std::{error::Error, time::Duration};

use axum::{
    extract::{FromRequest, Multipart, Request, multipart::Field},
    http::StatusCode,
};
use serde_json::{Map, Value, json};

use super::{
    request::SubmitBody,
    upload_memory::{UploadShare, is_full},
};
use crate::{
    http::{
        api::Api,
        extract,
        listen::is_too_slow,
        problem::{Answer, ApiError},
        view::InputView,
    },
    image::{self, PictureInfo},
    job::{COMPOSITE_IMAGES, JobError, MAX_PRIORITY, MAX_REQUEST_BYTES, object_from_value, value_from_slice},
};

/// How long an upload may take. It holds memory for that long.
const ARRIVAL: Duration = Duration::from_secs(600);

/// Reads a form: stores its pictures and builds the request from its other fields.
pub async fn form(api: &Api, request: Request) -> Answer<SubmitBody> {
    receive(api, request, |request| collect(api, request)).await
}

/// Stores the picture that is a request's body, or the only field of its form.
pub async fn upload_one(api: &Api, request: Request) -> Answer<StoredUpload> {
    receive(api, request, |request: Request| async move {
        if extract::media_type(request.headers()) != "multipart/form-data" {
            let (parts, body) = request.into_parts();
            let bytes = extract::whole(&parts.headers, body, api.settings().limits.max_bytes).await?;
            return keep(api, "image", bytes.into()).await;
        }
        let mut form = multipart(request).await?;
        let mut kept = None;
        while let Some(field) = form.next_field().await.map_err(broken)? {
            let name = field.name().unwrap_or_default().to_owned();
            if name != "image" || kept.is_some() {
                let reason = "is not a field of this form, which has one field, `image`";
                return Err(JobError::invalid(name.escape_debug().to_string(), reason).into());
            }
            kept = Some(picture(api, field).await?);
        }
        kept.ok_or_else(no_picture)
    })
    .await
}

/// Lets `read` read an upload, whose memory is counted until it returns.
pub async fn receive<T, F>(api: &Api, request: Request, read: impl FnOnce(Request) -> F) -> Answer<T>
where
    F: Future<Output = Answer<T>>,
{
    let share = UploadShare::default();
    let request = request.map(|body| api.upload_memory.counted(body, &share));
    let late = || extract::too_slow(format!("the form took more than {} minutes to arrive", ARRIVAL.as_secs() / 60));
    tokio::time::timeout(ARRIVAL, read(request)).await.map_err(|_| late())?
}

pub async fn multipart(request: Request) -> Answer<Multipart> {
    Multipart::from_request(request.map(extract::discard_rest), &())
        .await
        // What the library says does not say what to do.
        .map_err(|_| {
            let reason = "has no boundary, which tells where the parts of a form begin; leave the header to the HTTP \
                          client, as curl -F does";
            ApiError::bad_request(format!("the Content-Type multipart/form-data {reason}")).about("Content-Type")
        })
}

fn no_picture() -> ApiError {
    let reason = "is missing; send a picture as the field `image`, for instance curl -F image=@scene.png";
    JobError::invalid("image", reason).into()
}

async fn collect(api: &Api, request: Request) -> Answer<SubmitBody> {
    let mut form = multipart(request).await?;
    let mut texts = Texts::default();
    let (mut pictures, mut mask) = (Vec::new(), None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "mask" if mask.is_some() => {
                return Err(JobError::invalid(name, "is given twice; an edit has one mask").into());
            }
            "mask" if field.file_name().is_some() => {
                mask = Some(InputView::Upload { upload: picture(api, field).await?.name });
            }
            "mask" => mask = Some(reference("mask", &read_text(field).await?)?),
            "image" | "images" | "reference" => {
                let most = *COMPOSITE_IMAGES.end();
                if pictures.len() == most {
                    return Err(JobError::invalid(name, format!("more than {most} pictures")).into());
                }
                pictures.push(match name.as_str() {
                    "reference" => reference("reference", &read_text(field).await?)?,
                    _ => InputView::Upload { upload: picture(api, field).await?.name },
                });
            }
            _ => {
                texts.add(&name, read_text(field).await?)?;
            }
        }
    }
    texts.body(pictures, mask)
}

/// A picture that is stored.
#[derive(Debug)]
pub struct StoredUpload {
    /// Its name among the uploads.
    pub name: String,
    pub width: u32,
    pub height: u32,
    /// Bytes.
    pub size: u64,
}

async fn picture(api: &Api, field: Field<'_>) -> Answer<StoredUpload> {
    let of = field.name().unwrap_or_default().to_owned();
    let (name, bytes) = read_picture(api, field).await?;
    keep(api, &name, bytes).await.map_err(|error| of_picture(error, &of))
}

/// Says in which field a picture is that cannot be used.
pub fn of_picture(error: ApiError, field: &str) -> ApiError {
    match (error.code.as_ref(), &error.field) {
        ("invalid_image" | "image_too_large", None) => error.about(field),
        _ => error,
    }
}

/// The name and the bytes of an uploaded file.
pub async fn read_picture(api: &Api, field: Field<'_>) -> Answer<(String, Vec<u8>)> {
    let name = field.file_name().filter(|name| !name.is_empty()).unwrap_or("image").to_owned();
    Ok((name, read_field(field, api.settings().limits.max_bytes).await?))
}

/// Checks a picture's header and puts it into the store. Uploading the same bytes again returns the same name.
pub async fn keep(api: &Api, name: &str, bytes: Vec<u8>) -> Answer<StoredUpload> {
    let PictureInfo { ending, width, height, .. } = image::probe(name, &bytes, &api.settings().limits)?;
    let size = bytes.len() as u64;
    let key = api.stores().own().put_input(ending, bytes).await?;
    Ok(StoredUpload { name: key.name().to_owned(), width, height, size })
}

/// A reference to a picture, between the uploads of a form: an address, or JSON as in `input.image`.
fn reference(name: &str, text: &str) -> Answer<InputView> {
    let text = text.trim();
    let value = if text.starts_with('{') { extract::parse_value(text.as_bytes())? } else { json!(text) };
    serde_json::from_value(value).map_err(|error| JobError::invalid(name, error.to_string()).into())
}

pub async fn read_text(field: Field<'_>) -> Answer<String> {
    let name = field.name().unwrap_or_default().to_owned();
    let bytes = read_field(field, MAX_REQUEST_BYTES as u64).await?;
    String::from_utf8(bytes).map_err(|_| ApiError::bad_request("is not UTF-8").about(name))
}

async fn read_field(mut field: Field<'_>, most: u64) -> Answer<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken)? {
        if (bytes.len() + piece.len()) as u64 > most {
            let name = field.name().unwrap_or("field").to_owned();
            return Err(ApiError::too_large(format!("{name} is larger than {most} bytes")).about(name));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

pub fn broken(error: axum::extract::multipart::MultipartError) -> ApiError {
    if let Some(detail) = is_too_slow(&error) {
        return extract::too_slow(detail);
    }
    if let Some(detail) = is_full(&error) {
        return extract::too_many(detail);
    }
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large("the form is larger than http.max_upload_bytes"),
        _ if is_cut_off(&error) => ApiError::bad_request("the form ends early: its last boundary is missing"),
        _ => ApiError::bad_request(
            "the body is not a form with the boundary of its Content-Type; leave both to the HTTP client, as curl -F does",
        ),
    }
}

/// Whether a form has no end. The reader of forms says it only in words.
fn is_cut_off(error: &dyn Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.to_string().contains("incomplete") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The fields other than pictures.
#[derive(Default)]
struct Texts {
    request: Option<Map<String, Value>>,
    fields: Map<String, Value>,
    params: Map<String, Value>,
    labels: Map<String, Value>,
}

impl Texts {
    fn add(&mut self, name: &str, text: String) -> Answer<()> {
        let wrong = |wanted: &str| ApiError::from(JobError::invalid(name, format!("`{text}` is not {wanted}")));
        match name {
            "request" => self.request = Some(extract::parse::<Map<String, Value>>(text.as_bytes())?),
            "params" => self.params.extend(extract::parse::<Map<String, Value>>(text.as_bytes())?),
            "label" => {
                let (key, value) = text.split_once('=').ok_or_else(|| wrong("a label such as dataset=posters"))?;
                self.labels.insert(key.to_owned(), json!(value));
            }
            "kind" | "id" | "batch" | "webhook" | "not_before" => {
                self.fields.insert(name.to_owned(), json!(text));
            }
            "priority" => {
                let number = whole_number(&text).ok_or_else(|| wrong(&format!("a number from 0 to {MAX_PRIORITY}")))?;
                self.fields.insert(name.to_owned(), json!(number));
            }
            "reuse" => {
                let flag: bool = text.trim().parse().map_err(|_| wrong("true or false"))?;
                self.fields.insert(name.to_owned(), json!(flag));
            }
            "layers" if text.trim().is_empty() => (),
            "layers" => {
                let number = whole_number(&text).map(|number| json!(number));
                self.params.insert(name.to_owned(), number.unwrap_or_else(|| json!(text.trim())));
            }
            "steps" | "resolution" | "seed" | "step_cache" | "feather" | "count" => {
                // Forms also send empty fields.
                if !text.trim().is_empty() {
                    let number = whole_number(&text).ok_or_else(|| wrong("a whole number"))?;
                    self.params.insert(name.to_owned(), json!(number));
                }
            }
            "cfg_scale" | "cfg_until" | "min_psnr" => {
                let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
                let number = number.ok_or_else(|| wrong("a number"))?;
                self.params.insert(name.to_owned(), json!(number));
            }
            "cfg_normalize" | "drift_guard" | "trim" => {
                let flag: bool = text.trim().parse().map_err(|_| wrong("true or false"))?;
                self.params.insert(name.to_owned(), json!(flag));
            }
            "edits" | "decompose" | "sigmas" | "loras" | "region" | "seeds" => {
                self.params.insert(name.to_owned(), extract::parse_value(text.as_bytes())?);
            }
            "preset" | "sampler" | "output_size" | "keep_rest" | "alpha" if text.is_empty() => (),
            "prompt" | "instruction" | "negative_prompt" | "output_size" | "keep_rest" | "alpha" | "preset"
            | "sampler" => {
                self.params.insert(name.to_owned(), json!(text));
            }
            _ => {
                let reason = "is not a field of this form; its fields are image, reference, mask, kind, the parameters, label, \
                              priority, batch, not_before, reuse, webhook, id, params and request";
                return Err(JobError::invalid(name.escape_debug().to_string(), reason).into());
            }
        }
        Ok(())
    }

    fn body(self, pictures: Vec<InputView>, mask: Option<InputView>) -> Answer<SubmitBody> {
        let Self { request, fields, params, labels } = self;
        let mut whole = match request {
            Some(request) if fields.is_empty() && params.is_empty() && labels.is_empty() => request,
            Some(_) => {
                return Err(
                    JobError::invalid("request", "cannot be combined with other fields; put them into it").into()
                );
            }
            None => {
                let mut whole = fields;
                whole.insert("params".to_owned(), Value::Object(params));
                whole.insert("labels".to_owned(), Value::Object(labels));
                whole
            }
        };
        whole.entry("kind").or_insert_with(|| json!("decompose"));
        if pictures.is_empty() && !whole.contains_key("input") {
            return Err(no_picture());
        }
        if !pictures.is_empty() {
            if whole.contains_key("input") {
                return Err(JobError::invalid(
                    "request",
                    "has an `input`, but the form has pictures too; name earlier pictures with the field `reference`",
                )
                .into());
            }
            whole.insert("input".to_owned(), json!({ "images": pictures, "mask": mask }));
        }
        object_from_value(Value::Object(whole)).map_err(|error| error.in_request("request", "").into())
    }
}

/// `7`, and also `7.0`, as spreadsheets and scripts write it.
fn whole_number(text: &str) -> Option<u64> {
    value_from_slice(text.as_bytes()).ok()?.as_u64()
}
