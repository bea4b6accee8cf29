//! Traces: OpenTelemetry's own variables decide whether and where they are exported, and there are no settings besides.
//!
//! This reads those that decide whether to start. The SDK reads the others itself: `OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_SPAN_*` and the exporter's headers and
//! compression.

use std::time::Duration;

use super::Environment;
use crate::job::TraceContext;

/// How long an export may take, by the specification.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The only protocol of this build.
const PROTOCOL: &str = "http/protobuf";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traces {
    Off,
    /// The variables ask for something that this build cannot do.
    Unsupported(String),
    Otlp(OtlpTarget),
}

/// The receiver of the traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpTarget {
    /// The full address. May have a password.
    pub endpoint: String,
    /// The variable that the address is from.
    pub variable: &'static str,
    pub timeout: Duration,
}

impl Traces {
    pub(super) fn of(environment: &Environment) -> Self {
        let get = |name: &str| environment.get(name).map(|value| value.trim().to_owned());
        let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, get(name)?)));
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Self::Off;
        }
        let of_traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let Some((variable, endpoint)) = first([of_traces, "OTEL_EXPORTER_OTLP_ENDPOINT"]) else { return Self::Off };
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Self::Off,
            Some(other) => {
                return Self::Unsupported(format!(
                    "OTEL_TRACES_EXPORTER: `{other}` is not supported; set it to otlp, or to none"
                ));
            }
        }
        if let Some((variable, protocol)) = first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])
            && protocol != PROTOCOL
        {
            return Self::Unsupported(format!(
                "{variable}: `{protocol}` is not supported; set it to {PROTOCOL}, and the endpoint to the collector's \
                 port for HTTP, usually 4318"
            ));
        }
        if !is_address(&endpoint) {
            // It may have a password.
            let shown = without_login(&endpoint);
            return Self::Unsupported(format!(
                "{variable}: `{shown}` is not an address; write it with http:// or https:// and the collector's port for \
                 HTTP, for instance http://collector:4318"
            ));
        }
        let endpoint = match variable == of_traces {
            true => endpoint,
            false => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        };
        let timeout = first(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"])
            .and_then(|(_, milliseconds)| milliseconds.parse().ok())
            .map_or(USUAL_TIMEOUT, Duration::from_millis);
        Self::Otlp(OtlpTarget { endpoint, variable, timeout })
    }
}

fn is_address(endpoint: &str) -> bool {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.starts_with([':', '/', '?', '#']) && !rest.is_empty() && !rest.contains(char::is_whitespace)
    })
}

fn without_login(endpoint: &str) -> &str {
    endpoint.rsplit('@').next().unwrap_or(endpoint)
}

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The numbers that the SDK reads; it takes its own for one that it cannot read, and says nothing.
const NUMBERS: [&str; 11] = [
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
];

/// Variables that are wrong, and that the SDK ignores. None if traces are off.
pub(super) fn remarks(environment: &Environment) -> Vec<String> {
    if !matches!(Traces::of(environment), Traces::Otlp(_)) {
        return Vec::new();
    }
    let mut remarks = Vec::new();
    let get = |name: &str| environment.get(name).map(|value| value.trim().to_owned());
    let sampler = get("OTEL_TRACES_SAMPLER");
    match sampler.as_deref() {
        Some(name) if !SAMPLERS.contains(&name) => {
            remarks.push(format!(
                "OTEL_TRACES_SAMPLER: `{name}` is not one of {}; all traces are kept",
                SAMPLERS.join(", ")
            ));
        }
        Some(name) if name.ends_with("traceidratio") => {
            let ratio = get("OTEL_TRACES_SAMPLER_ARG").and_then(|text| text.parse::<f64>().ok());
            if !ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)) {
                remarks
                    .push("OTEL_TRACES_SAMPLER_ARG: is not a number between 0 and 1; all traces are kept".to_owned());
            }
        }
        Some(_) | None => {}
    }
    for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
        // Their values are secrets.
        let is_pair = |pair: &str| {
            pair.split_once('=').is_some_and(|(key, value)| !key.trim().is_empty() && !value.trim().is_empty())
        };
        let wrong = get(name)
            .and_then(|text| text.split_terminator(',').position(|pair| !pair.trim().is_empty() && !is_pair(pair)));
        if let Some(index) = wrong {
            remarks.push(format!(
                "{name}: part {} is not NAME=VALUE and is not sent; separate headers by commas, and write a comma within a \
                 value as %2C",
                index + 1
            ));
        }
    }
    for name in ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"] {
        if let Some(other) = get(name).filter(|value| value != "gzip") {
            remarks.push(format!("{name}: `{other}` is not supported; use gzip, or leave it out for none"));
        }
    }
    for name in NUMBERS {
        if get(name).is_some_and(|value| !value.parse::<u64>().is_ok_and(|number| number > 0)) {
            remarks.push(format!("{name}: is not a whole number above 0; the default is used"));
        }
    }
    let size = |name: &str, usual: u64| get(name).and_then(|value| value.parse().ok()).unwrap_or(usual);
    let (batch, queue) = (size("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), size("OTEL_BSP_MAX_QUEUE_SIZE", 2048));
    if batch > queue {
        remarks.push(format!(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE: {batch} is more than OTEL_BSP_MAX_QUEUE_SIZE, {queue}; the smaller one counts"
        ));
    }
    remarks
}

/// The trace that this process was started in.
pub(super) fn of_this_command(environment: &Environment) -> Option<TraceContext> {
    let (parent, state) = (environment.get("TRACEPARENT"), environment.get("TRACESTATE"));
    TraceContext::read("TRACEPARENT", parent.as_deref(), state.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Traces {
        Traces::of(&Environment::from_list(pairs))
    }

    #[test]
    fn an_endpoint_turns_traces_on() {
        let target = |endpoint: &str, variable, timeout| {
            Traces::Otlp(OtlpTarget {
                endpoint: endpoint.to_owned(),
                variable,
                timeout: Duration::from_millis(timeout),
            })
        };
        let (all, own) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        assert_eq!(of(&[(all, "http://c:4318")]), target("http://c:4318/v1/traces", all, 10_000));
        assert_eq!(of(&[(all, "http://c/otlp/")]), target("http://c/otlp/v1/traces", all, 10_000));
        let both = [(all, "http://c:4318"), (own, "https://t/x/"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "250")];
        assert_eq!(of(&both), target("https://t/x/", own, 250));
        for off in [
            &[][..],
            &[(all, "")],
            &[("OTEL_TRACES_EXPORTER", "otlp")],
            &[(all, "http://c"), ("OTEL_SDK_DISABLED", "TRUE")],
            &[(all, "http://c"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(of(off), Traces::Off, "{off:?}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named_with_what_is() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for (variable, value, advice) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp"),
        ] {
            let Traces::Unsupported(reason) = of(&[endpoint, (variable, value)]) else { panic!("{variable}") };
            assert!(reason.contains(variable) && reason.contains(value) && reason.contains(advice), "{reason}");
        }
        let both = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")];
        assert!(matches!(of(&[endpoint, both[0], both[1]]), Traces::Otlp(_)));
    }

    #[test]
    fn an_endpoint_is_an_address_with_its_scheme() {
        for (endpoint, shown) in [
            ("collector:4318", "collector:4318"),
            ("me:hunter2@collector:4318", "collector:4318"),
            ("grpc://collector:4317", "grpc://collector:4317"),
            ("http://", "http://"),
        ] {
            let Traces::Unsupported(reason) = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]) else {
                panic!("{endpoint}")
            };
            assert!(reason.contains(shown) && reason.contains("http://collector:4318"), "{reason}");
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }

    #[test]
    fn what_the_sdk_would_ignore_is_remarked() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let said = |pairs: &[(&str, &str)]| remarks(&Environment::from_list(&[&[endpoint], pairs].concat()));
        assert_eq!(said(&[]), [""; 0]);
        let good = [
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret,x=a%2Cb"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4096"),
        ];
        assert_eq!(said(&good), [""; 0]);
        for (name, value, wanted) in [
            ("OTEL_TRACES_SAMPLER", "always", "always_on"),
            ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret", "part 1 is not NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "whole number"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000", "is more than OTEL_BSP_MAX_QUEUE_SIZE, 2048"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "whole number"),
        ] {
            let said = said(&[(name, value)]).join("; ");
            assert!(said.contains(name) && said.contains(wanted) && !said.contains("s3cret"), "{said}");
        }
        assert_eq!(remarks(&Environment::from_list(&[("OTEL_TRACES_SAMPLER", "always")])), [""; 0], "traces are off");
    }

    #[test]
    fn a_command_may_be_part_of_a_trace() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let environment = Environment::from_list(&[("TRACEPARENT", parent), ("TRACESTATE", "a=b")]);
        let trace = of_this_command(&environment).unwrap();
        assert_eq!((trace.traceparent(), trace.tracestate()), (parent, Some("a=b")));
        assert_eq!(of_this_command(&Environment::from_list(&[("TRACEPARENT", "x")])), None);
    }
}
