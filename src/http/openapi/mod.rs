//! The OpenAPI document: made from the routes and their types, and completed with what the macros cannot express.
//!
//! Generators read it, so that every operation has a name, every kind of job has its own type with its own parameters
//! ([`kinds`]), what a request leaves out has no default but the server's, pictures are binary ([`Binary`]), and the
//! calls of webhooks are described ([`webhooks`]).

mod kinds;
mod webhooks;

use utoipa::{
    Modify, OpenApi, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::jobs::StateEvent;
use crate::job::{CompositeParams, DecomposeParams, EditParams, LayerEdit, Manifest, WorkflowParams};

/// The document without its paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "acetate",
        description = "Splits pictures into transparent RGBA layers and edits layers by instruction, as jobs. \
                       docs/api.md covers what this schema leaves out."
    ),
    // Relative to the address of the document itself.
    servers((url = "/", description = "This server")),
    components(schemas(StateEvent, Manifest, DecomposeParams, EditParams, CompositeParams, WorkflowParams, LayerEdit)),
    security(("token" = [])),
    modifiers(&Bearer),
    tags(
        (name = "jobs", description = "Submit and manage jobs"),
        (name = "inputs", description = "Upload pictures once, for any number of jobs"),
        (name = "pictures", description = "Layers, files, thumbnails and exports"),
        (name = "batches", description = "Groups of jobs with one name"),
        (name = "audit", description = "Who did what"),
        (name = "dead-letters", description = "Messages that are not valid jobs, or that RabbitMQ removed from their queue"),
        (name = "queue", description = "What waits and runs; pause and resume"),
        (name = "server", description = "Server information"),
        (name = "session", description = "Browser sessions, for requests that cannot send a token"),
        (name = "openai", description = "The OpenAI API's image edits, which wait for their job"),
        (name = "qwen-image", description = "The Qwen-Image web server's endpoints, which wait for their job"),
        (name = "webhooks", description = "What this server calls")
    )
)]
pub struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The bytes of a file, in schemas.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Binary {}

/// Completes the document of all routes.
pub fn complete(document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let mut document = webhooks::describe(document);
    if let Some(components) = &mut document.components {
        kinds::without_defaults(&mut components.schemas);
        kinds::separate(&mut components.schemas);
        kinds::name_inputs(&mut components.schemas);
        kinds::name_history(&mut components.schemas);
    }
    document
}
