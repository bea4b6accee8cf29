//! `POST /v1/inputs`: uploads a picture once; any number of jobs can name it.

use axum::{
    Json,
    extract::{Request, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    extract,
    jobs::{StoredUpload, upload_one},
    openapi::Binary,
    problem::{Answer, Problem},
};

/// An uploaded picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadView {
    /// The picture's name, for `{"upload": NAME}` as an input of jobs: the SHA-256 of its bytes and an extension.
    #[schema(examples("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b.png"))]
    pub upload: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Bytes.
    pub size: u64,
}

/// Upload a picture
///
/// Send the file as the body, or a form with the field `image`. The same bytes have the same name, however often they
/// are uploaded. A picture that no job names is deleted with old jobs (`acetate jobs prune`).
#[utoipa::path(post, path = "/v1/inputs", tag = "inputs", operation_id = "upload_input",
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The picture is stored", body = UploadView),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn upload(State(api): State<Api>, request: Request) -> Answer<Json<UploadView>> {
    let kind = extract::media_type(request.headers());
    if kind != "multipart/form-data" && kind != "application/octet-stream" && !kind.starts_with("image/") {
        return Err(extract::unsupported("image/*, application/octet-stream or multipart/form-data"));
    }
    let StoredUpload { name, width, height, size } = upload_one(&api, request).await?;
    Ok(Json(UploadView { upload: name, width, height, size }))
}
