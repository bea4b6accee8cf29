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
    fn a_command_may_be_part_of_a_trace() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let environment = Environment::from_list(&[("TRACEPARENT", parent), ("TRACESTATE", "a=b")]);
        let trace = of_this_command(&environment).unwrap();
        assert_eq!((trace.traceparent(), trace.tracestate()), (parent, Some("a=b")));
        assert_eq!(of_this_command(&Environment::from_list(&[("TRACEPARENT", "x")])), None);
    }
}
