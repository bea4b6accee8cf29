//! Turns a client's request into a job request: fills in defaults, and checks everything before the job is accepted.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    database::SubmitOptions,
    http::{
        api::Api,
        caller::Caller,
        problem::{Answer, ApiError},
        view::InputView,
    },
    job::{
        BatchId, InputRef, Inputs, JobError, JobId, JobKind, JobRequest, Output, Task, check_version, expand_presets,
        leave_lightning, pictures_of, time_from_value,
    },
};

/// The maximum length of a webhook's address.
const LONGEST_WEBHOOK: usize = 2048;

/// A job to submit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(
    json!({"kind": "decompose", "input": {"image": "s3://in/scene.png"}, "params": {"layers": 4, "preset": "balanced"}, "labels": {"dataset": "posters"}, "batch": "posters-1"}),
    json!({"kind": "edit", "input": {"image": {"job": "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "layer": 2}}, "params": {"instruction": "Change the color to blue"}}),
    json!({"kind": "composite", "input": {"images": [{"job": "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "layer": 1}, {"job": "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e22", "file": "edited.png"}]}}),
    json!({"kind": "workflow", "input": {"image": {"upload": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b.png"}}, "params": {"decompose": {"layers": 3}, "edits": [{"layer": 2, "instruction": "Make it green"}]}})
))]
pub struct SubmitBody {
    /// The version of the request's format: 1 to 3.
    #[serde(default)]
    pub version: Option<u32>,
    /// A UUID of your choice: the same id with the same body is the same job.
    #[serde(default)]
    pub id: Option<JobId>,
    pub kind: JobKind,
    #[serde(default)]
    pub input: InputBody,
    /// Where the results go. Default: the server's store.
    #[serde(default)]
    pub output: Option<Output>,
    /// The parameters of this kind of job. Default: the server's defaults.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub params: Map<String, Value>,
    /// Your own key-value pairs, stored with the job.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// 0 to 9, higher first.
    #[serde(default)]
    #[schema(maximum = 9)]
    pub priority: u8,
    #[serde(default)]
    pub batch: Option<BatchId>,
    /// Start not before this time, RFC 3339. Until then the job is `queued`.
    #[serde(default, deserialize_with = "not_before")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
    /// Take the result of an equal job that has succeeded, if there is one: the same pictures, parameters and model,
    /// and the same seed, which must be given.
    #[serde(default)]
    pub reuse: bool,
    /// An address to call when the job ends.
    #[serde(default)]
    pub webhook: Option<String>,
}

/// One picture as `image`, or several as `images`; and the mask of an edit.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBody {
    /// For a decompose: the layer of an earlier job to split. It is the same as `image`.
    #[serde(default)]
    pub from: Option<InputView>,
    #[serde(default)]
    pub image: Option<InputView>,
    #[serde(default)]
    pub images: Vec<InputView>,
    /// Where an edit, or the edits of a workflow, may change their picture: white may change, black stays. Of a layer
    /// (`{"job", "layer"}`) it is the alpha. Another size is scaled.
    #[serde(default)]
    pub mask: Option<InputView>,
}

/// Reads and checks the request. `by_key` is the id that its `Idempotency-Key` stands for.
pub async fn job_request(api: &Api, body: SubmitBody, by_key: Option<JobId>) -> Answer<(JobRequest, SubmitOptions)> {
    check_version(body.version.unwrap_or(1).into())?;
    let id = body.id.or(by_key).unwrap_or_else(JobId::new);
    let InputBody { from, image, images, mask } = body.input;
    let is_layer = |from: &InputView| resolve(api, from.clone()).is_ok_and(|from| from.as_layer().is_some());
    let inputs = pictures_of(body.kind, from, image, images, is_layer)?;
    let inputs = Inputs { mask, ..Inputs::named(body.kind, inputs) }.try_map(|input| resolve(api, input))?;
    let request = JobRequest {
        id,
        inputs,
        output: body.output.unwrap_or_else(|| Output { prefix: api.stores().usual_output() }),
        task: Task::from_params(body.kind, with_defaults(api, body.kind, body.params))?,
        labels: body.labels,
        priority: body.priority,
    };
    request.validate()?;
    if body.reuse {
        request.check_reuse()?;
    }
    check_model(api, &request.task).await?;
    api.stores().results(&request.output.prefix)?;
    for input in request.inputs.with_mask() {
        check(api, input).await?;
    }
    api.jobs().nesting(&request).await?;
    if let Some(url) = &body.webhook {
        check_webhook(api, url)?;
    }
    let SubmitBody { batch, not_before: at, webhook, reuse, .. } = body;
    let options = SubmitOptions { batch, at, webhook, reuse, ..SubmitOptions::default() };
    Ok((request, options))
}

/// The same times as in a message.
fn not_before<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    time_from_value("not_before", &value).map_err(|error| match error {
        JobError::InvalidRequest { reason, .. } => serde::de::Error::custom(reason),
        other => serde::de::Error::custom(other),
    })
}

pub fn resolve(api: &Api, input: InputView) -> Answer<InputRef> {
    Ok(match input {
        InputView::Url(url) => InputRef::Url(url),
        InputView::Layer { job, layer } => InputRef::Layer { job, layer },
        InputView::File { job, file } => InputRef::File { job, file },
        InputView::Upload { upload } => match api.stores().brought(&upload) {
            Some(url) => InputRef::Url(url),
            None => {
                return Err(
                    JobError::invalid("input", "`upload` is not the name of an upload (SHA-256.EXTENSION)").into()
                );
            }
        },
    })
}

/// Fills in the configured defaults.
fn with_defaults(api: &Api, kind: JobKind, mut asked: Map<String, Value>) -> Value {
    expand_presets(&mut asked);
    let defaults = &api.settings().defaults;
    let known = match kind {
        JobKind::Decompose => json!(defaults.decompose),
        JobKind::Edit => json!(defaults.edit),
        JobKind::Composite => json!({}),
        JobKind::Workflow => json!(defaults.workflow()),
    };
    let mut params = known.as_object().cloned().unwrap_or_default();
    leave_lightning(&mut params, &asked);
    for (name, value) in asked {
        match (params.get_mut(&name), value) {
            // Each part of a workflow has its own defaults.
            (Some(Value::Object(inner)), Value::Object(asked)) => inner.extend(asked),
            (_, value) => {
                params.insert(name, value);
            }
        }
    }
    if kind == JobKind::Workflow {
        let edits = params.get_mut("edits").and_then(Value::as_array_mut);
        for edit in edits.into_iter().flatten().filter_map(Value::as_object_mut) {
            for (name, value) in json!(defaults.edit).as_object().cloned().unwrap_or_default() {
                if !matches!(name.as_str(), "instruction" | "output_size") {
                    edit.entry(name).or_insert(value);
                }
            }
        }
    }
    Value::Object(params)
}

/// Checks that an input is allowed. An earlier job's picture and an upload must also exist;
/// addresses are not read yet.
pub async fn check(api: &Api, input: &InputRef) -> Answer<()> {
    match input {
        InputRef::Url(url) => {
            api.stores().inputs().check(url)?;
            match api.stores().brought_key(url) {
                Some(key) if !api.stores().own().exists(&key).await? => {
                    let detail = format!(
                        "upload {}: not found; it may have been deleted with old jobs; upload it again, for instance \
                         with POST /v1/inputs",
                        key.name()
                    );
                    Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "input_not_found", detail).about("input"))
                }
                _ => Ok(()),
            }
        }
        InputRef::Layer { job, .. } | InputRef::File { job, .. } => match api.jobs().get(*job).await? {
            Some(row) => Ok(row.picture(input).map(drop)?),
            None => Err(JobError::no_job(input).into()),
        },
    }
}

/// Checks what the model of this process was made for, where it is known, so that a job that must fail is not accepted.
async fn check_model(api: &Api, task: &Task) -> Answer<()> {
    let (params, at) = match task {
        Task::Decompose(params) => (params, "params"),
        Task::Workflow(params) => (&params.decompose, "params.decompose"),
        Task::Edit(_) | Task::Composite(_) => return Ok(()),
    };
    if !api.settings().works {
        // The workers may have another model.
        return Ok(());
    }
    let model = api.models().await.decompose;
    if let (Some([least, most]), Some(layers)) = (model.layers, params.layers.number())
        && !(least..=most).contains(&layers)
    {
        let amount = if layers > most { "many" } else { "few" };
        let reason = match most {
            0 => {
                format!("the model {} lifts one part out of the picture; ask for 0, and name it in `prompt`", model.id)
            }
            _ if layers == 0 => format!(
                "0 lifts one part out of the picture, for which the model {} was not made; use a Layered-Control \
                 checkpoint, or {least} to {most} layers",
                model.id
            ),
            _ => format!("{layers} is too {amount}: the model {} makes {least} to {most} layers", model.id),
        };
        return Err(JobError::invalid(format!("{at}.layers"), reason).into());
    }
    match (params.resolution, model.resolutions) {
        (Some(asked), Some(accepted)) if !accepted.contains(&asked) => {
            let accepted = accepted.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
            let reason = format!("{asked} is not supported by the model {}, which was made for {accepted}", model.id);
            Err(JobError::invalid(format!("{at}.resolution"), reason).into())
        }
        _ => Ok(()),
    }
}

fn check_webhook(api: &Api, url: &str) -> Answer<()> {
    if api.settings().webhook_secret.is_none() {
        let reason = "this server does not send webhooks: http.webhook_secret is not set";
        return Err(JobError::invalid("webhook", reason).into());
    }
    if url.len() > LONGEST_WEBHOOK {
        return Err(JobError::invalid("webhook", format!("is longer than {LONGEST_WEBHOOK} bytes")).into());
    }
    api.settings().webhook_policy.check("webhook", url).map_err(|error| ApiError::from(error).about("webhook"))
}

/// An `Idempotency-Key`, and whose it is: one sender's key must not lead to the job of another.
#[derive(Debug)]
pub struct IdempotencyKey {
    sender: Option<String>,
    key: String,
}

impl IdempotencyKey {
    pub fn id(&self) -> JobId {
        JobId::of_key(self.sender.as_deref(), &self.key)
    }

    /// Of one of several jobs with the same key.
    pub fn nth(&self, index: usize) -> JobId {
        match index {
            0 => self.id(),
            index => JobId::of_key(self.sender.as_deref(), &format!("{} {index}", self.key)),
        }
    }
}

/// Characters of an `Idempotency-Key`.
const LONGEST_KEY: usize = 255;

/// The key of an `Idempotency-Key` header.
pub fn key(headers: &axum::http::HeaderMap, caller: &Caller) -> Answer<Option<IdempotencyKey>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(str::trim).filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
    match key {
        Some(key) => Ok(Some(IdempotencyKey { sender: caller.named().map(str::to_owned), key: key.to_owned() })),
        None => {
            let detail = format!("an Idempotency-Key has 1 to {LONGEST_KEY} visible ASCII characters");
            Err(ApiError::bad_request(detail).about("Idempotency-Key"))
        }
    }
}

/// The error for a key that was used with another body.
pub fn reused(failure: ApiError) -> ApiError {
    if failure.status != StatusCode::CONFLICT {
        return failure;
    }
    let detail = "this Idempotency-Key was used with another body; use a new key for a new job";
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "conflict", detail).about("Idempotency-Key")
}
