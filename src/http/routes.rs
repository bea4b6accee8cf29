//! The routes and their middleware.

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::header,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api::Api, audit, batches, dead_letters, export, files, jobs, metrics, middleware, probes, queue, qwen_image_server,
    server_info, static_files, thumbnails,
};

/// The OpenAPI document without its paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "acetate",
        description = "Splits pictures into transparent RGBA layers and edits layers by instruction, as jobs. \
                       docs/api.md covers what this schema leaves out."
    ),
    components(schemas(jobs::StateEvent)),
    security(("token" = [])),
    modifiers(&Bearer),
    tags(
        (name = "jobs", description = "Submit and manage jobs"),
        (name = "pictures", description = "Layers, files, thumbnails and exports"),
        (name = "batches", description = "Groups of jobs with one name"),
        (name = "audit", description = "Who did what"),
        (name = "dead-letters", description = "Messages that are not valid jobs, or that RabbitMQ removed from their queue"),
        (name = "queue", description = "What waits and runs; pause and resume"),
        (name = "server", description = "Server information"),
        (name = "session", description = "Browser sessions, for requests that cannot send a token"),
        (name = "qwen-image", description = "The Qwen-Image web server's endpoints, which wait for their job")
    )
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

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
        .routes(routes!(files::layer))
        .routes(routes!(files::file))
        .routes(routes!(thumbnails::thumbnail))
        .routes(routes!(export::zip))
        .routes(routes!(export::ora))
        .routes(routes!(export::psd))
        .routes(routes!(export::stack))
        .routes(routes!(batches::list))
        .routes(routes!(batches::show))
        .routes(routes!(batches::cancel))
        .routes(routes!(queue::show))
        .routes(routes!(queue::pause))
        .routes(routes!(queue::resume))
        .routes(routes!(server_info::config))
        .routes(routes!(server_info::models))
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
pub fn openapi() -> utoipa::openapi::OpenApi {
    OpenApiRouter::with_openapi(Document::openapi()).merge(guarded()).merge(open()).into_openapi()
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
        .layer(middleware::compression())
        .layer(from_fn(middleware::weak_tags))
        .layer(from_fn(middleware::headers))
        .layer(from_fn(middleware::trace))
        .layer(from_fn(metrics::requests))
}

async fn document() -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Json(openapi())).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use qwen_image::pipeline::{
        CFG_SCALE, CFG_UNTIL, LAYERS, NUM_INFERENCE_STEPS, RESOLUTION, RESOLUTION_STEP, STEP_CACHE,
    };
    use serde_json::{Value, json};

    use crate::job::{COMPOSITE_IMAGES, MAX_PRIORITY};

    /// Adds what the specification requires and the types do not express.
    #[test]
    fn the_document_is_a_good_one() {
        let document = serde_json::to_value(super::openapi()).unwrap();
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
        let document = serde_json::to_value(super::openapi()).unwrap();
        let field = |schema: &str, field: &str| {
            let found = document.pointer(&format!("/components/schemas/{schema}/properties/{field}"));
            found.unwrap_or_else(|| panic!("{schema} has no {field}")).clone()
        };
        let bounds = |schema: &str, name: &str, least: Value, most: Value| {
            let of = |key: &str| field(schema, name)[key].as_f64();
            assert_eq!((of("minimum"), of("maximum")), (least.as_f64(), most.as_f64()), "{schema}.{name}");
        };
        bounds("DecomposeParams", "layers", json!(LAYERS.start()), json!(LAYERS.end()));
        bounds("DecomposeParams", "resolution", json!(RESOLUTION.start()), json!(RESOLUTION.end()));
        assert_eq!(field("DecomposeParams", "resolution")["multipleOf"].as_f64(), json!(RESOLUTION_STEP).as_f64());
        for schema in ["DecomposeParams", "EditParams"] {
            bounds(schema, "steps", json!(NUM_INFERENCE_STEPS.start()), json!(NUM_INFERENCE_STEPS.end()));
            bounds(schema, "cfg_scale", json!(CFG_SCALE.start()), json!(CFG_SCALE.end()));
            bounds(schema, "cfg_until", json!(CFG_UNTIL.start()), json!(CFG_UNTIL.end()));
            bounds(schema, "step_cache", json!(STEP_CACHE.start()), json!(STEP_CACHE.end()));
        }
        bounds("SubmitBody", "priority", json!(0), json!(MAX_PRIORITY));
        let layers = field("StackBody", "layers");
        assert_eq!(
            (&layers["minItems"], &layers["maxItems"]),
            (&json!(COMPOSITE_IMAGES.start()), &json!(COMPOSITE_IMAGES.end()))
        );
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
