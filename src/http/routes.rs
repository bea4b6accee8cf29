//! The routes and their middleware.

use std::sync::LazyLock;

use axum::{
    Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::header,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api::Api, audit, batches, dead_letters, export, files, inputs, jobs, metrics, middleware, openai, openapi, probes,
    queue, qwen_image_server, server_info, static_files, thumbnails,
};

/// The routes that need a token, if one is set.
fn guarded() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(jobs::submit, jobs::list))
        .routes(routes!(jobs::show, jobs::delete))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::events))
        .routes(routes!(audit::history))
        .routes(routes!(audit::list))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show, dead_letters::drop))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(inputs::upload))
        .routes(routes!(files::layer))
        .routes(routes!(files::show_manifest))
        .routes(routes!(files::file))
        .routes(routes!(thumbnails::thumbnail))
        .routes(routes!(export::zip))
        .routes(routes!(export::ora))
        .routes(routes!(export::psd))
        .routes(routes!(export::pptx))
        .routes(routes!(export::webp))
        .routes(routes!(export::jpg))
        .routes(routes!(export::stack))
        .routes(routes!(batches::list))
        .routes(routes!(batches::show))
        .routes(routes!(batches::cancel))
        .routes(routes!(batches::retry))
        .routes(routes!(queue::show))
        .routes(routes!(queue::pause))
        .routes(routes!(queue::resume))
        .routes(routes!(server_info::config))
        .routes(routes!(server_info::models))
        .routes(routes!(openai::edits))
        .routes(routes!(qwen_image_server::decompose))
        .routes(routes!(qwen_image_server::edit_layer))
        .routes(routes!(qwen_image_server::config))
        .routes(routes!(qwen_image_server::status))
        .routes(routes!(qwen_image_server::edit_status))
}

fn open() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(middleware::session_show, middleware::session_open, middleware::session_close))
}

/// The OpenAPI document of all API routes.
pub fn api_document() -> utoipa::openapi::OpenApi {
    let routes = OpenApiRouter::with_openapi(openapi::Document::openapi()).merge(guarded()).merge(open());
    openapi::complete(routes.into_openapi())
}

/// All routes: the API, the web UI and the probes.
pub fn routes(api: Api) -> Router {
    let guarded: Router<Api> = guarded().into();
    let open: Router<Api> = open().into();
    let probes = Router::new()
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .with_state(api.parts.probes.clone());
    let most = usize::try_from(api.settings().max_upload_bytes).unwrap_or(usize::MAX);
    guarded
        .route_layer(from_fn_with_state(api.clone(), middleware::authorize))
        .merge(open)
        .route("/openapi.json", get(document))
        .route("/docs", get(static_files::docs))
        // Outside the token check: too many requests are refused before anything else is checked.
        .route_layer(from_fn_with_state(api.clone(), middleware::limit))
        .fallback(static_files::page)
        .method_not_allowed_fallback(static_files::wrong_method)
        .with_state(api.clone())
        .layer(DefaultBodyLimit::max(most))
        .layer(from_fn_with_state(api.clone(), middleware::size))
        .layer(from_fn(middleware::identity))
        .layer(middleware::cors(&api.settings().cors_origins))
        .layer(from_fn_with_state(api.clone(), middleware::same_origin))
        .layer(from_fn_with_state(api, middleware::trusted_host))
        .merge(probes)
        .layer(from_fn(openai::errors))
        .layer(middleware::compression())
        .layer(from_fn(middleware::weak_tags))
        .layer(from_fn(middleware::headers))
        .layer(from_fn(middleware::trace))
        .layer(from_fn(metrics::requests))
}

/// It is made once: that takes far longer than sending it, and anyone may ask for it.
async fn document() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| serde_json::to_vec(&api_document()).unwrap_or_default().into());
    let headers = [(header::CACHE_CONTROL, "no-cache"), (header::CONTENT_TYPE, "application/json")];
    (headers, DOCUMENT.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use qwen_image::{
        Preset, Sampler,
        pipeline::{
            CFG_SCALE, CFG_UNTIL, FEATHER, LAYERS, NUM_INFERENCE_STEPS, RESOLUTION, RESOLUTION_STEP, STEP_CACHE,
        },
    };
    use serde_json::{Value, json};

    use crate::job::{COMPOSITE_IMAGES, JobKind, MAX_PRIORITY, MIN_PSNR, Task};

    /// Adds what the specification requires and the types do not express.
    #[test]
    fn the_document_is_a_good_one() {
        let document = serde_json::to_value(super::api_document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut names = BTreeSet::new();
        let paths = document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
        for operation in paths {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "two operations are called {name}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name}");
            for answer in operation["responses"].as_object().unwrap().values() {
                assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {answer}");
            }
        }
        assert!(names.len() >= 33, "{names:?}");
        assert!(!references(&document).is_empty());
        for reference in references(&document) {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference} is nowhere");
        }
    }

    /// The attributes accept only literals.
    #[test]
    fn the_bounds_of_the_schemas_are_those_that_are_checked() {
        let document = serde_json::to_value(super::api_document()).unwrap();
        let field = |schema: &str, field: &str| {
            let found = document.pointer(&format!("/components/schemas/{schema}/properties/{field}"));
            found.unwrap_or_else(|| panic!("{schema} has no {field}")).clone()
        };
        let bounds = |schema: &str, name: &str, least: Value, most: Value| {
            let of = |key: &str| field(schema, name)[key].as_f64();
            assert_eq!((of("minimum"), of("maximum")), (least.as_f64(), most.as_f64()), "{schema}.{name}");
        };
        let count = document.pointer("/components/schemas/LayerCount/oneOf/0").unwrap();
        assert_eq!((&count["minimum"], &count["maximum"]), (&json!(LAYERS.start()), &json!(LAYERS.end())));
        bounds("DecomposeParams", "resolution", json!(RESOLUTION.start()), json!(RESOLUTION.end()));
        assert_eq!(field("DecomposeParams", "resolution")["multipleOf"].as_f64(), json!(RESOLUTION_STEP).as_f64());
        for schema in ["DecomposeParams", "EditParams", "UploadForm"] {
            bounds(schema, "steps", json!(NUM_INFERENCE_STEPS.start()), json!(NUM_INFERENCE_STEPS.end()));
            bounds(schema, "cfg_scale", json!(CFG_SCALE.start()), json!(CFG_SCALE.end()));
            bounds(schema, "cfg_until", json!(CFG_UNTIL.start()), json!(CFG_UNTIL.end()));
            bounds(schema, "step_cache", json!(STEP_CACHE.start()), json!(STEP_CACHE.end()));
        }
        for schema in ["SubmitDecompose", "SubmitEdit", "UploadForm"] {
            assert_eq!(field(schema, "priority")["maximum"].as_f64(), json!(MAX_PRIORITY).as_f64());
        }
        for schema in ["EditParams", "UploadForm"] {
            bounds(schema, "feather", json!(FEATHER.start()), json!(FEATHER.end()));
        }
        for schema in ["DecomposeParams", "UploadForm"] {
            bounds(schema, "min_psnr", json!(MIN_PSNR.start()), json!(MIN_PSNR.end()));
        }
        bounds("UploadForm", "resolution", json!(RESOLUTION.start()), json!(RESOLUTION.end()));
        bounds("ImageEditForm", "steps", json!(NUM_INFERENCE_STEPS.start()), json!(NUM_INFERENCE_STEPS.end()));
        let layers = field("StackBody", "layers");
        assert_eq!(
            (&layers["minItems"], &layers["maxItems"]),
            (&json!(COMPOSITE_IMAGES.start()), &json!(COMPOSITE_IMAGES.end()))
        );
    }

    /// Generators make types and functions from it.
    #[test]
    fn generators_can_use_the_document() {
        let document = serde_json::to_value(super::api_document()).unwrap();
        let at = |pointer: &str| document.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}")).clone();
        for kind in JobKind::ALL {
            let name = format!("{}{}", kind.as_str()[..1].to_uppercase(), &kind.as_str()[1..]);
            for schema in [format!("Submit{name}"), format!("{name}Job"), format!("{name}Message")] {
                let properties = at(&format!("/components/schemas/{schema}/properties"));
                assert_eq!(properties["kind"]["enum"], json!([kind]), "{schema}");
                assert_eq!(properties["params"]["$ref"], format!("#/components/schemas/{name}Params"), "{schema}");
            }
            let choice = at("/components/schemas/SubmitBody");
            assert_eq!(choice["discriminator"]["mapping"][kind.as_str()], format!("#/components/schemas/Submit{name}"));
            let example = at(&format!("/components/schemas/Submit{name}/examples/0"));
            assert_eq!(example["kind"], json!(kind));
        }
        // Examples are valid.
        for kind in ["SubmitDecompose", "SubmitEdit", "SubmitComposite", "SubmitWorkflow"] {
            let example = at(&format!("/components/schemas/{kind}/examples/0"));
            let body: crate::http::jobs::SubmitBody = serde_json::from_value(example.clone()).unwrap();
            Task::from_params(body.kind, body.params.into()).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(name.contains('_'), "{method} {path} is called {name}: a verb and a noun");
                let answers = operation["responses"].as_object().unwrap().values();
                let bodies = answers.chain([&operation["requestBody"]]).filter_map(|body| body["content"].as_object());
                for (kind, content) in bodies.flatten() {
                    let is_binary =
                        !kind.contains("json") && !kind.starts_with("text/") && !kind.starts_with("multipart/");
                    let wanted = json!({"type": "string", "format": "binary"});
                    assert_eq!(content["schema"] == wanted, is_binary, "{method} {path}: {kind}: {content}");
                }
            }
        }
        assert_eq!(document["servers"][0]["url"], "/");
        assert_eq!(
            at("/webhooks/job_ended/post/requestBody/content/application~1json/schema/$ref"),
            "#/components/schemas/JobEvent"
        );
        assert!(at("/components/schemas/Manifest/properties").as_object().unwrap().contains_key("files"));
        // The form has all that JSON has.
        let form = at("/components/schemas/UploadForm/properties");
        for schema in ["DecomposeParams", "EditParams", "WorkflowParams", "SubmitDecompose"] {
            for field in at(&format!("/components/schemas/{schema}/properties")).as_object().unwrap().keys() {
                let known = ["version", "output", "input", "labels"].contains(&field.as_str());
                assert!(known || form.get(field).is_some(), "the form has no {field}");
            }
        }
        for (schema, names) in [("Preset", json!(Preset::ALL)), ("Sampler", json!(Sampler::ALL))] {
            assert_eq!(at(&format!("/components/schemas/{schema}/enum")), names);
        }
    }

    fn references(value: &Value) -> Vec<String> {
        match value {
            Value::Object(fields) => {
                let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
                own.into_iter().chain(fields.values().flat_map(references)).collect()
            }
            Value::Array(items) => items.iter().flat_map(references).collect(),
            _ => Vec::new(),
        }
    }
}
