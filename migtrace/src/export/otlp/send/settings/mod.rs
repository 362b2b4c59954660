//! Where and how to send: the environment variables of OpenTelemetry's specification, and what overrides them.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use crate::export::otlp::{Buckets, Temporality};

/// How long one request may take, unless the environment says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often metrics are sent, unless the environment says otherwise.
const METRICS_EVERY: Duration = Duration::from_mins(1);

/// The port of OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Signal {
    /// A trace.
    Traces,
    /// Metrics.
    Metrics,
}

impl Signal {
    /// The part of a variable's name that is for this signal alone.
    const fn infix(self) -> &'static str {
        match self {
            Self::Traces => "TRACES_",
            Self::Metrics => "METRICS_",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// How requests are carried.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
}

/// Where one signal goes.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// How.
    pub protocol: Protocol,
    /// The whole URL; of gRPC only its scheme and authority matter.
    pub endpoint: Uri,
    /// More headers. Their values may be secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Whether requests are compressed with gzip.
    pub gzip: bool,
    /// The certificates that are trusted, in PEM, instead of the system's.
    pub certificate: Option<PathBuf>,
    /// The client's own key and certificate, in PEM.
    pub client: Option<ClientFiles>,
}

/// The files with which a client shows who it is.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientFiles {
    /// Its private key.
    pub key: PathBuf,
    /// Its certificate, with those that it is signed by.
    pub certificate: PathBuf,
}

/// Where everything goes.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Traces; none if they are not wanted.
    pub traces: Option<Target>,
    /// Metrics; none if they are not wanted.
    pub metrics: Option<Target>,
    /// How often metrics are sent.
    pub metrics_every: Duration,
    /// From when their values count.
    pub temporality: Temporality,
    /// Which buckets of their histograms are sent.
    pub buckets: Buckets,
    /// `service.name`, if it was chosen.
    pub service_name: Option<String>,
    /// More attributes of the resource.
    pub attributes: Vec<(String, String)>,
    /// What of the environment makes no sense, and is ignored.
    pub ignored: Vec<String>,
}

/// What prevents any sending.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{from}: {why}")]
pub struct BadSettings {
    from: String,
    why: String,
}

impl Settings {
    /// Reads the environment through `variable`. `endpoint` overrides where it says to send to.
    ///
    /// # Errors
    /// When an endpoint is none. Everything else that makes no sense is ignored, as the specification wants it, and named in
    /// [`Settings::ignored`].
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        endpoint: Option<&str>,
    ) -> Result<Self, BadSettings> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let mut environment = Environment { variable: &variable, ignored: Vec::new() };
        let mut settings = Self::default();
        if environment.is_true("OTEL_SDK_DISABLED") {
            settings.ignored.push("OTEL_SDK_DISABLED is true: nothing is sent".to_owned());
            return Ok(settings);
        }
        if environment.is_wanted("OTEL_TRACES_EXPORTER") {
            settings.traces = Some(environment.target(Signal::Traces, endpoint)?);
        }
        if environment.is_wanted("OTEL_METRICS_EXPORTER") {
            settings.metrics = Some(environment.target(Signal::Metrics, endpoint)?);
        }
        let every = environment.milliseconds("OTEL_METRIC_EXPORT_INTERVAL");
        settings.metrics_every = every.filter(|every| !every.is_zero()).unwrap_or(METRICS_EVERY);
        settings.temporality = environment.temporality();
        settings.buckets = environment.buckets();
        settings.service_name = variable("OTEL_SERVICE_NAME");
        settings.attributes = environment.resource_attributes();
        environment.ignored.dedup();
        settings.ignored = environment.ignored;
        Ok(settings)
    }

    /// Where a signal goes.
    #[must_use]
    pub const fn target(&self, signal: Signal) -> Option<&Target> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
        }
    }
}

struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    ignored: Vec<String>,
}

impl Environment<'_> {
    fn target(&mut self, signal: Signal, given: Option<&str>) -> Result<Target, BadSettings> {
        let protocol = self.protocol(signal, given);
        let endpoint = self.endpoint(signal, protocol, given)?;
        let timeout = self.of(signal, "TIMEOUT").map(|(name, _)| self.milliseconds(&name));
        let key = self.of(signal, "CLIENT_KEY").map(|(_, path)| path);
        let certificate = self.of(signal, "CLIENT_CERTIFICATE").map(|(_, path)| path);
        if key.is_some() != certificate.is_some() {
            self.ignore("OTEL_EXPORTER_OTLP_CLIENT_KEY and _CLIENT_CERTIFICATE need each other");
        }
        let client = key.zip(certificate);
        Ok(Target {
            protocol,
            endpoint,
            headers: self.headers(signal),
            timeout: timeout.flatten().unwrap_or(TIMEOUT),
            gzip: self.gzip(signal),
            certificate: self.of(signal, "CERTIFICATE").map(|(_, path)| path.into()),
            client: client
                .map(|(key, certificate)| ClientFiles { key: key.into(), certificate: certificate.into() }),
        })
    }

    /// A variable of OTLP, and its name: the one of the signal, or else the one of all.
    fn of(&self, signal: Signal, what: &str) -> Option<(String, String)> {
        let names = [signal.infix(), ""].map(|infix| format!("OTEL_EXPORTER_OTLP_{infix}{what}"));
        names.iter().find_map(|name| self.named(name))
    }

    /// A variable, and its name.
    fn named(&self, name: &str) -> Option<(String, String)> {
        (self.variable)(name).map(|value| (name.to_owned(), value))
    }

    fn protocol(&mut self, signal: Signal, given: Option<&str>) -> Protocol {
        let asked = self.of(signal, "PROTOCOL");
        let known = [
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
            ("http/json", Protocol::HttpJson),
        ];
        if let Some(protocol) = self.one_of("protocol", asked, &known) {
            return protocol;
        }
        // The port says it where nothing else does: nothing but gRPC is expected there.
        let given = given.and_then(|given| given.parse::<Uri>().ok());
        if given.is_some_and(|given| given.port_u16() == Some(GRPC_PORT)) {
            Protocol::Grpc
        } else {
            Protocol::HttpProtobuf
        }
    }

    fn endpoint(
        &mut self,
        signal: Signal,
        protocol: Protocol,
        given: Option<&str>,
    ) -> Result<Uri, BadSettings> {
        let own_name = format!("OTEL_EXPORTER_OTLP_{}ENDPOINT", signal.infix());
        let own = (self.variable)(&own_name).filter(|_| given.is_none());
        let is_whole = own.is_some();
        let (from, text) = match (given, own) {
            (Some(given), _) => ("--otlp".to_owned(), given.to_owned()),
            (None, Some(own)) => (own_name, own),
            (None, None) => {
                let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
                let default = match protocol {
                    Protocol::Grpc => "http://localhost:4317",
                    Protocol::HttpProtobuf | Protocol::HttpJson => "http://localhost:4318",
                };
                (name.to_owned(), (self.variable)(name).unwrap_or_else(|| default.to_owned()))
            }
        };
        let text = self.with_scheme(signal, protocol, text.trim());
        let adds_path = protocol != Protocol::Grpc && !is_whole;
        let url = if adds_path {
            let base = text.split(['?', '#']).next().unwrap_or_default();
            format!("{}/{}", base.trim_end_matches('/'), signal.path())
        } else {
            text.clone()
        };
        let checked = checked(&text).and_then(|_| checked(&url));
        checked.map_err(|why| BadSettings { from, why: format!("`{text}` {why}") })
    }

    /// gRPC's targets need no scheme; a variable says whether they are without TLS.
    fn with_scheme(&self, signal: Signal, protocol: Protocol, text: &str) -> String {
        if protocol != Protocol::Grpc || text.contains("://") {
            return text.to_owned();
        }
        let insecure = self.of(signal, "INSECURE").is_some_and(|(_, value)| is_true(&value));
        format!("{}://{text}", if insecure { "http" } else { "https" })
    }

    fn headers(&mut self, signal: Signal) -> Vec<(HeaderName, HeaderValue)> {
        let Some((name, list)) = self.of(signal, "HEADERS") else { return Vec::new() };
        let entries: Vec<_> = list.split(',').filter(|entry| !entry.trim().is_empty()).collect();
        let mut headers = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            let header = entry.split_once('=').and_then(|(key, value)| {
                let key: HeaderName = key.trim().parse().ok()?;
                // gRPC sends such headers as bytes in another encoding.
                let is_text = !key.as_str().ends_with("-bin");
                Some((key, HeaderValue::from_str(&decoded(value.trim())?).ok()?)).filter(|_| is_text)
            });
            match header {
                Some(header) => headers.push(header),
                // Not the entry itself: it may be a secret.
                None => {
                    self.ignore(&format!("{name}: entry {} is not of the form key=value", place + 1));
                }
            }
        }
        headers
    }

    fn gzip(&mut self, signal: Signal) -> bool {
        let asked = self.of(signal, "COMPRESSION");
        self.one_of("compression", asked, &[("gzip", true), ("none", false)]).unwrap_or_default()
    }

    /// Counters and histograms are all that there is; of those both `delta` and `lowmemory` want the same.
    fn temporality(&mut self) -> Temporality {
        let asked = self.named("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
        let known = [
            ("cumulative", Temporality::Cumulative),
            ("delta", Temporality::Delta),
            ("lowmemory", Temporality::Delta),
        ];
        self.one_of("temporality", asked, &known).unwrap_or_default()
    }

    /// The default is not the specification's: stops take from milliseconds to minutes, and only exponential buckets are narrow
    /// all the way.
    fn buckets(&mut self) -> Buckets {
        let asked = self.named("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION");
        let known = [
            ("explicit_bucket_histogram", Buckets::Explicit),
            ("base2_exponential_bucket_histogram", Buckets::Exponential),
        ];
        self.one_of("aggregation", asked, &known).unwrap_or_default()
    }

    /// What a variable's word stands for; none if it is not set, or no word that is known, which is said then.
    fn one_of<T: Copy>(
        &mut self,
        what: &str,
        asked: Option<(String, String)>,
        known: &[(&str, T)],
    ) -> Option<T> {
        let (name, value) = asked?;
        let value = value.trim();
        let found = known.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        if found.is_none() {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            let (last, others) = words.split_last()?;
            self.ignore(&format!("{name}: no {what} `{value}`; write {} or {last}", others.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        let value = (self.variable)(name)?;
        let parsed = value.trim().parse().ok().map(Duration::from_millis);
        if parsed.is_none() {
            self.ignore(&format!("{name}: `{}` is not a number of milliseconds", value.trim()));
        }
        parsed
    }

    fn resource_attributes(&mut self) -> Vec<(String, String)> {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(list) = (self.variable)(name) else { return Vec::new() };
        let entries = list.split(',').filter(|entry| !entry.trim().is_empty());
        let pair = |entry: &str| {
            let (key, value) = entry.split_once('=')?;
            let key = decoded(key.trim()).filter(|key| !key.is_empty())?;
            Some((key, decoded(value.trim())?))
        };
        let attributes: Option<Vec<_>> = entries.map(pair).collect();
        if attributes.is_none() {
            self.ignore(&format!("{name} is not a list of key=value"));
        }
        attributes.unwrap_or_default()
    }

    /// Whether an exporter is not switched off. Others than OTLP's are not ours.
    fn is_wanted(&self, name: &str) -> bool {
        (self.variable)(name).is_none_or(|value| value.split(',').any(|word| word.trim() != "none"))
    }

    fn is_true(&self, name: &str) -> bool {
        (self.variable)(name).is_some_and(|value| is_true(&value))
    }

    fn ignore(&mut self, why: &str) {
        if !self.ignored.iter().any(|known| known == why) {
            self.ignored.push(why.to_owned());
        }
    }
}

/// As the specification has it: everything else is false.
fn is_true(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

/// A URL that can be sent to.
fn checked(url: &str) -> Result<Uri, String> {
    let how = "write for example http://localhost:4318, or http://localhost:4317 for gRPC";
    let has_scheme = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if !has_scheme {
        return Err(format!("has neither the scheme http nor https; {how}"));
    }
    let uri: Uri = url.parse().map_err(|error| format!("is no URL ({error}); {how}"))?;
    let authority = uri.authority().map_or("", hyper::http::uri::Authority::as_str);
    if authority.contains('@') {
        return Err("has a user in it: put credentials into OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(format!("names no host; {how}"));
    }
    Ok(uri)
}

/// What `%20` and the like stand for. None where that is not text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
