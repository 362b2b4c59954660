use super::*;

fn read(variables: &[(&str, &str)], endpoint: Option<&str>) -> Result<Settings, BadSettings> {
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
    Settings::read(find, endpoint)
}

/// The endpoints of traces and of metrics, and the protocol of traces.
fn endpoints(variables: &[(&str, &str)], endpoint: Option<&str>) -> (String, String, Protocol) {
    let settings = read(variables, endpoint).unwrap();
    let (traces, metrics) = (settings.traces.unwrap(), settings.metrics.unwrap());
    (traces.endpoint.to_string(), metrics.endpoint.to_string(), traces.protocol)
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
const AGGREGATION: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
const INSECURE: &str = "OTEL_EXPORTER_OTLP_INSECURE";

#[test]
fn endpoints_are_those_of_the_specification() {
    use Protocol::{Grpc, HttpJson, HttpProtobuf};
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, &'a str, &'a str, Protocol);
    let cases: [Case<'_>; 12] = [
        (&[], None, "http://localhost:4318/v1/traces", "http://localhost:4318/v1/metrics", HttpProtobuf),
        (&[(PROTOCOL, "grpc")], None, "http://localhost:4317/", "http://localhost:4317/", Grpc),
        (&[(ENDPOINT, "http://c:1")], None, "http://c:1/v1/traces", "http://c:1/v1/metrics", HttpProtobuf),
        // The path of a base stays; that of a signal's own endpoint is taken as it is.
        (
            &[(ENDPOINT, "https://c/o/")],
            None,
            "https://c/o/v1/traces",
            "https://c/o/v1/metrics",
            HttpProtobuf,
        ),
        (
            &[(ENDPOINT, "http://c:1"), (OF_TRACES, "http://t:2/x")],
            None,
            "http://t:2/x",
            "http://c:1/v1/metrics",
            HttpProtobuf,
        ),
        (&[(OF_TRACES, "http://t:2")], None, "http://t:2/", "http://localhost:4318/v1/metrics", HttpProtobuf),
        // What was given on the command line stands above all variables.
        (
            &[(ENDPOINT, "http://c:1"), (OF_TRACES, "http://t:2/x")],
            Some("http://g:3"),
            "http://g:3/v1/traces",
            "http://g:3/v1/metrics",
            HttpProtobuf,
        ),
        (&[], Some("http://g:4317"), "http://g:4317/", "http://g:4317/", Grpc),
        (
            &[(PROTOCOL, "http/json")],
            Some("http://g:4317"),
            "http://g:4317/v1/traces",
            "http://g:4317/v1/metrics",
            HttpJson,
        ),
        // gRPC needs no scheme.
        (&[(PROTOCOL, "grpc"), (ENDPOINT, "c:1")], None, "https://c:1/", "https://c:1/", Grpc),
        (
            &[(PROTOCOL, "grpc"), (ENDPOINT, "c:1"), (INSECURE, "True")],
            None,
            "http://c:1/",
            "http://c:1/",
            Grpc,
        ),
        // A scheme says more than the variable does.
        (
            &[(PROTOCOL, "grpc"), (ENDPOINT, "https://c:1"), (INSECURE, "true")],
            None,
            "https://c:1/",
            "https://c:1/",
            Grpc,
        ),
    ];
    for (variables, given, traces, metrics, protocol) in cases {
        let expected = (traces.to_owned(), metrics.to_owned(), protocol);
        assert_eq!(endpoints(variables, given), expected, "{variables:?} {given:?}");
    }
}

#[test]
fn an_empty_variable_is_as_if_it_were_not_set() {
    assert_eq!(endpoints(&[(ENDPOINT, ""), (PROTOCOL, " ")], None), endpoints(&[], None));
}

#[test]
fn an_endpoint_that_is_none_is_one_clear_error() {
    let bad = [
        ("localhost:4318", "has neither the scheme http nor https"),
        ("ftp://c", "has neither the scheme http nor https"),
        ("http://", "is no URL"),
        ("http://user:secret@c:1", "has a user in it"),
        ("not a url", "has neither the scheme"),
        ("http://not a url", "is no URL"),
        ("", "has neither the scheme"),
    ];
    for (text, why) in bad {
        let error = read(&[], Some(text)).unwrap_err().to_string();
        assert!(error.starts_with("--otlp: `") && error.contains(why), "{text}: {error}");
    }
    let error = read(&[(OF_TRACES, "c:1")], None).unwrap_err().to_string();
    assert!(error.starts_with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `c:1`"), "{error}");
}

#[test]
fn what_is_of_one_signal_stands_above_what_is_of_all() {
    let settings = read(
        &[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "100"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc%3D, x-tenant = 7"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-tenant=8"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem"),
        ],
        None,
    );
    let settings = settings.unwrap();
    let (traces, metrics) = (settings.traces.unwrap(), settings.metrics.unwrap());
    let text = |target: &Target| -> Vec<_> {
        target.headers.iter().map(|(key, value)| format!("{key}: {}", value.to_str().unwrap())).collect()
    };
    assert_eq!((traces.timeout, traces.gzip), (Duration::from_millis(2_500), true));
    assert_eq!((metrics.timeout, metrics.gzip), (Duration::from_millis(100), false));
    assert_eq!(text(&traces), ["authorization: Bearer abc=", "x-tenant: 7"]);
    assert_eq!(text(&metrics), ["x-tenant: 8"]);
    assert_eq!(metrics.certificate, Some("/ca.pem".into()));
    let client = ClientFiles { key: "/k.pem".into(), certificate: "/c.pem".into() };
    assert_eq!(traces.client, Some(client));
    assert_eq!(settings.ignored, [""; 0]);
}

#[test]
fn what_makes_no_sense_is_ignored_and_said_without_secrets() {
    let cases = [
        (PROTOCOL, "thrift", "OTEL_EXPORTER_OTLP_PROTOCOL: no protocol `thrift`"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "OTEL_EXPORTER_OTLP_TIMEOUT: `10s` is not a number"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "OTEL_EXPORTER_OTLP_COMPRESSION: no compression"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret", "OTEL_EXPORTER_OTLP_HEADERS: entry 2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "OTEL_EXPORTER_OTLP_HEADERS: entry 1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=x\u{1}", "OTEL_EXPORTER_OTLP_HEADERS: entry 1"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k", "OTEL_EXPORTER_OTLP_CLIENT_KEY and _CLIENT_CERTIFICATE"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b", "OTEL_RESOURCE_ATTRIBUTES is not a list"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "often", "OTEL_METRIC_EXPORT_INTERVAL: `often`"),
        (TEMPORALITY, "none", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: no temporality `none`"),
        (
            AGGREGATION,
            "drop",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION: no aggregation `drop`; write explicit_bucket_histogram or base2_exponential_bucket_histogram",
        ),
    ];
    for (name, value, why) in cases {
        let settings = read(&[(name, value)], None).unwrap();
        assert_eq!(settings.ignored.len(), 1, "{name}: {:?}", settings.ignored);
        assert!(settings.ignored[0].starts_with(why), "{:?}", settings.ignored);
        assert!(!settings.ignored[0].contains("secret"));
        assert_eq!(settings.traces.unwrap().timeout, TIMEOUT);
        assert_eq!(settings.attributes, []);
        assert_eq!((settings.temporality, settings.buckets), (Temporality::Cumulative, Buckets::Exponential));
    }
}

#[test]
fn counters_and_histograms_have_the_temporality_that_the_specification_gives_each_preference() {
    for (value, expected) in [
        ("cumulative", Temporality::Cumulative),
        ("DELTA", Temporality::Delta),
        ("LowMemory", Temporality::Delta),
    ] {
        let settings = read(&[(TEMPORALITY, value)], None).unwrap();
        assert_eq!((settings.temporality, settings.ignored.len()), (expected, 0));
    }
}

#[test]
fn histograms_are_those_that_were_asked_for_and_exponential_if_none_were() {
    for (value, expected) in [
        ("", Buckets::Exponential),
        ("explicit_bucket_histogram", Buckets::Explicit),
        (" EXPLICIT_BUCKET_HISTOGRAM ", Buckets::Explicit),
        ("base2_exponential_bucket_histogram", Buckets::Exponential),
    ] {
        let settings = read(&[(AGGREGATION, value)], None).unwrap();
        assert_eq!((settings.buckets, settings.ignored), (expected, Vec::new()), "{value}");
    }
}

#[test]
fn what_is_switched_off_is_not_sent() {
    let off = read(&[("OTEL_SDK_DISABLED", "TRUE")], Some("http://c:1")).unwrap();
    assert_eq!((&off.traces, &off.metrics, off.ignored.len()), (&None, &None, 1));
    let on = read(&[("OTEL_SDK_DISABLED", "1")], None).unwrap();
    assert!(on.traces.is_some());
    let no_metrics = read(&[("OTEL_METRICS_EXPORTER", "none")], None).unwrap();
    assert!(no_metrics.traces.is_some() && no_metrics.metrics.is_none());
}

#[test]
fn the_resource_is_named_by_the_environment() {
    let settings =
        read(&[("OTEL_SERVICE_NAME", "moves"), ("OTEL_RESOURCE_ATTRIBUTES", "a.b=c%2Cd, e=")], None).unwrap();
    assert_eq!(settings.service_name.as_deref(), Some("moves"));
    let pairs = [("a.b", "c,d"), ("e", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(settings.attributes, pairs);
}
