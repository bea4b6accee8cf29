//! The export of traces by OTLP.

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{Key, KeyValue, global};
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

/// The name of this service, if the environment has none.
const SERVICE: &str = "acetate";
/// How long the end of a process waits for the last spans to be sent.
const LAST_EXPORT: Duration = Duration::from_secs(2);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Exports the spans of this process from now on, in batches, on a thread of its own. Call it once.
pub fn export_traces(client: impl HttpClient + 'static, endpoint: &str, timeout: Duration) -> Result<(), String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(timeout)
        .build()
        .map_err(|error| error.to_string())?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    if PROVIDER.set(provider.clone()).is_ok() {
        global::set_tracer_provider(provider);
    }
    Ok(())
}

/// Sends what is left; for the end of the process. A collector that does not answer is not waited for.
pub fn finish_traces() {
    if let Some(provider) = PROVIDER.get() {
        // The reason was logged when the first export failed.
        let _ = provider.shutdown_with_timeout(LAST_EXPORT);
    }
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come before ours.
fn resource() -> Resource {
    let found = Resource::builder().build();
    let service = found.get(&Key::new("service.name")).map(|name| name.to_string()).unwrap_or_default();
    let mut own = Vec::new();
    if service.is_empty() || service.starts_with("unknown_service") {
        own.push(KeyValue::new("service.name", SERVICE));
    }
    if found.get(&Key::new("service.version")).is_none() {
        own.push(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    Resource::builder().with_attributes(own).build()
}
