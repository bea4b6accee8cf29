//! `POST /v1/images/edits`, as in the OpenAI API, for its clients: an edit job for each picture, and a wait for the
//! end.
//!
//! Errors have OpenAI's form ([`errors`]). What an edit cannot do is refused by name, not ignored.

mod error;
mod form;

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    caller::Caller,
    extract, files,
    jobs::{SubmitBody, key, reused},
    problem::{Answer, ApiError},
    wait::{Wait, done, files_of, submission},
};
use crate::job::{JobKind, MAX_SEED};
pub use error::{OpenAiError, errors};
use form::{EditForm, ImageEditForm, ResponseFormat};

/// The pictures, as in the OpenAI API.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImagesResponse {
    /// Seconds since 1970.
    created: i64,
    data: Vec<EditedImage>,
    /// `png`.
    output_format: &'static str,
    /// `WIDTHxHEIGHT`.
    size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    background: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EditedImage {
    /// The PNG in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    /// Where this server has the PNG; it needs the same token.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// The job that made it.
    job: String,
}

/// Edit a picture by an instruction, and wait for the result
///
/// As in the OpenAI API. Closing the connection cancels the jobs, unless the request has an `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/images/edits", tag = "openai", operation_id = "create_image_edit",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice")),
    request_body(content = ImageEditForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The pictures", body = ImagesResponse),
        (status = "default", description = "The error", body = OpenAiError)))]
pub async fn edits(State(api): State<Api>, caller: Caller, request: Request) -> Answer<Json<ImagesResponse>> {
    let api = api.by(&caller);
    let headers = request.headers().clone();
    let key = key(&headers, &caller)?;
    if extract::media_type(&headers) != "multipart/form-data" {
        return Err(extract::unsupported("multipart/form-data"));
    }
    let form = form::read(&api, request).await?;
    let wait = Wait { most: Some(api.settings().wait), key: key.as_ref() };
    let rows = done(&api, form.bodies(), wait).await.map_err(|failure| match failure.code.as_ref() {
        "conflict" if key.is_some() => reused(failure),
        _ => failure,
    })?;
    let (mut data, mut size) = (Vec::with_capacity(rows.len()), String::new());
    for row in &rows {
        let Some(file) = files_of(row).first() else {
            return Err(ApiError::not_found("the edit has no result").of_job(row.id()));
        };
        size = format!("{}x{}", file.width, file.height);
        let job = row.id().to_string();
        data.push(match form.response {
            ResponseFormat::B64Json => {
                let png = files::read(&api, row, file).await.map_err(|failure| failure.of_job(row.id()))?;
                EditedImage { b64_json: Some(STANDARD.encode(png)), url: None, job }
            }
            ResponseFormat::Url => {
                let url = format!("{}/v1/jobs/{job}/files/{}", origin(&headers), file.name);
                EditedImage { b64_json: None, url: Some(url), job }
            }
        });
    }
    let created = rows.iter().filter_map(|row| row.finished_at).max().unwrap_or_else(jiff::Timestamp::now).as_second();
    Ok(Json(ImagesResponse { created, data, output_format: "png", size, background: form.background.shown() }))
}

impl EditForm {
    /// One job for each picture that is asked for.
    fn bodies(&self) -> Vec<SubmitBody> {
        let mut bodies = Vec::new();
        for index in 0..u64::from(self.n) {
            let mut params = self.params.clone();
            if let Some(seed) = params.get("seed").and_then(serde_json::Value::as_u64) {
                params.insert("seed".to_owned(), seed.saturating_add(index).min(MAX_SEED).into());
            }
            let mut body = submission(JobKind::Edit, self.images.clone(), params);
            let number = if self.n > 1 { Some(("n".to_owned(), (index + 1).to_string())) } else { None };
            body.input.mask.clone_from(&self.mask);
            body.labels = self
                .user
                .iter()
                .map(|user| ("user".to_owned(), user.clone()))
                .chain(number)
                .collect::<BTreeMap<_, _>>();
            bodies.push(body);
        }
        bodies
    }
}

/// The address by which the client reached this server.
fn origin(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    let host = text(header::HOST.as_str()).unwrap_or("localhost");
    format!("{scheme}://{host}")
}
