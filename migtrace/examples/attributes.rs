//! Adds what only the platform knows of a VM (whose it is, of which flavour) to its records, and to their OpenTelemetry traces.
//!
//! `cargo run --example attributes -- PLATFORM.json RECORD.json...`. The first file stands for the platform's database: an object
//! by the UUIDs of VMs, such as `{"6f1c2a34-...": {"tenant.id": "acme", "flavour.vcpus": 4}}`. OpenStack's answer is in the domain's
//! `<metadata>`, for `virsh metadata`; KubeVirt's in the labels of the VirtualMachineInstance.
//!
//! Each record goes to standard output, on one line, as `{"platform": {...}, "record": {...}}`; and, if `OTEL_EXPORTER_OTLP_ENDPOINT`
//! is set, as a trace to that collector.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process};

use migtrace::export::otlp::queue::{Limits, Queue};
use migtrace::export::otlp::send::Settings;
use migtrace::export::otlp::{AttributeValue, Exporter, Origin, PlatformAttributes, ThisHost};
use migtrace::record::{self, Record};
use migtrace::report;
use serde_json::{Map, Value, json};

/// How long to wait for the collector at the end.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(Into::into).collect();
    let [platform, records @ ..] = &arguments[..] else {
        eprintln!("usage: attributes PLATFORM.json RECORD.json...");
        process::exit(2);
    };
    let exporter = exporter(|name| env::var(name).ok())?;
    pass_on(platform, records, exporter, &mut io::stdout().lock())
}

/// Writes each record with what the platform knows of its VM, and sends it.
fn pass_on(
    platform: &Path,
    records: &[PathBuf],
    exporter: Option<Exporter>,
    output: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let platform = Platform(serde_json::from_slice(&fs::read(platform)?)?);
    for file in records {
        for record in record::read(&fs::read(file)?) {
            let record = record?;
            let known = platform.of(&record);
            output
                .write_all(report::json_line(&json!({ "platform": known, "record": record }))?.as_bytes())?;
            if let Some(exporter) = &exporter {
                // These were recorded before. Where migrations have just ended, `send_with` also counts them in the metrics.
                exporter.send_again_with(&record, &attributes(known)?)?;
            }
        }
    }
    let Some(exporter) = exporter else { return Ok(()) };
    let counts = exporter.shutdown(PATIENCE);
    if !counts.is_all_sent() {
        return Err(format!("not all traces have arrived: {counts:?}").into());
    }
    Ok(())
}

/// What the platform knows, by the UUIDs of its VMs.
struct Platform(HashMap<String, Map<String, Value>>);

impl Platform {
    /// By the UUID: anybody who may start a VM can give it the name of another.
    fn of(&self, record: &Record) -> Option<&Map<String, Value>> {
        self.0.get(record.vm.uuid.as_deref()?)
    }
}

/// Where the environment says. It keeps 64 MiB in memory while the collector is away; `Queue::in_directory` keeps them on a disk.
fn exporter(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Exporter>, Box<dyn Error>> {
    if variable("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
        return Ok(None);
    }
    let mut settings = Settings::read(variable, None)?;
    settings.metrics = None;
    let origin = Origin { this_host: Some(ThisHost::read()?), ..Origin::default() };
    let queue = Queue::in_memory(Limits::default());
    Ok(Some(Exporter::start(&settings, origin, queue, |line| eprintln!("OTLP: {line}"))?))
}

fn attributes(known: Option<&Map<String, Value>>) -> Result<PlatformAttributes, Box<dyn Error>> {
    let mut attributes = PlatformAttributes::default();
    for (name, value) in known.into_iter().flatten() {
        let value: AttributeValue = match value {
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) if number.is_i64() => number.as_i64().unwrap_or_default().into(),
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        };
        attributes.insert(name, value)?;
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

    use std::io::{BufRead as _, BufReader, Read as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Takes one request of OTLP, in JSON, and returns its body.
    fn collector(listener: &TcpListener) -> Value {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = BufReader::new(connection.try_clone().unwrap());
        let mut length = 0;
        loop {
            let mut line = String::new();
            request.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        request.read_exact(&mut body).unwrap();
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_tenant_and_a_flavour_are_beside_the_record_and_on_its_trace() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs/precopy-7.2.record.json");
        let record = record::read(&fs::read(&file).unwrap()).next().unwrap().unwrap();
        let known = json!({ "tenant.id": "acme", "flavour.vcpus": 4, "evacuation": false });
        let folder = tempfile::tempdir().unwrap();
        let platform = folder.path().join("platform.json");
        fs::write(&platform, json!({ record.vm.uuid.clone().unwrap(): known }).to_string()).unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let variable = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("http/json".to_owned()),
            _ => None,
        };
        let exporter = exporter(variable).unwrap();
        let received = thread::spawn(move || collector(&listener));
        let mut output = Vec::new();
        pass_on(&platform, &[file], exporter, &mut output).unwrap();

        let line: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(line["platform"], known);
        assert_eq!(line["record"], serde_json::to_value(&record).unwrap());
        let trace = received.join().unwrap();
        let span = &trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        let value = |key: &str| {
            let attributes = span["attributes"].as_array().unwrap().iter();
            attributes
                .into_iter()
                .find(|attribute| attribute["key"] == key)
                .map(|found| found["value"].clone())
        };
        assert_eq!(span["name"], "migration");
        assert_eq!(value("tenant.id"), Some(json!({ "stringValue": "acme" })));
        assert_eq!(value("flavour.vcpus"), Some(json!({ "intValue": "4" })));
        assert_eq!(value("evacuation"), Some(json!({ "boolValue": false })));
    }
}
