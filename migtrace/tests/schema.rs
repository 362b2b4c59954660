//! The JSON Schemas under `schema/` are those of the types.
//!
//! After a change of a type: `UPDATE_SCHEMA=1 cargo test -p migtrace --test schema`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

use migtrace::event::Event;
use migtrace::probe::ProbeReport;
use migtrace::record::Record;
use migtrace::study::answer::Answer;
use migtrace::study::run::Run;
use schemars::{JsonSchema, schema_for};
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema").join(format!("{name}.schema.json"))
}

fn check<T: JsonSchema>(name: &str, id: &str) {
    let mut schema = schema_for!(T);
    schema.insert("$id".to_owned(), Value::from(format!("urn:{id}")));
    let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = path(name);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == schema,
        "{} is not the schema of the types any more. If the change is meant: \
         UPDATE_SCHEMA=1 cargo test -p migtrace --test schema, and read the difference; what breaks a reader \
         needs a new version of the schema's name",
        path.display()
    );
}

#[test]
fn the_record_schema_is_that_of_the_types() {
    check::<Record>("record", migtrace::record::SCHEMA);
}

#[test]
fn the_event_schema_is_that_of_the_types() {
    check::<Event>("events", migtrace::event::SCHEMA);
}

#[test]
fn the_schema_of_runs_is_that_of_the_types() {
    check::<Run>("run", migtrace::study::run::SCHEMA);
}

#[test]
fn the_probe_schema_is_that_of_the_types() {
    check::<ProbeReport>("probe", migtrace::probe::SCHEMA);
}

#[test]
fn the_schema_of_answers_is_that_of_the_types() {
    check::<Answer>("answer", migtrace::study::answer::SCHEMA);
}

/// Complaints of the schema of `T` about a value.
fn complaints<T: JsonSchema>(value: &Value) -> Vec<String> {
    let root = schema_for!(T).to_value();
    let mut found = Vec::new();
    validate(&root, &root, value, "", &mut found);
    found
}

/// Validates by JSON Schema 2020-12, as far as these schemas use it: a keyword that is not known here is a
/// failure of the test, not something to skip.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else {
        assert_eq!(schema, &Value::Bool(true), "{at}");
        return;
    };
    let valid = |schema: &Value| {
        let mut found = Vec::new();
        validate(root, schema, value, at, &mut found);
        found.is_empty()
    };
    for (keyword, rule) in schema {
        let holds = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "examples" | "default" => true,
            "$ref" => {
                let target = rule.as_str().and_then(|r| r.strip_prefix('#')).unwrap();
                validate(root, root.pointer(target).unwrap(), value, at, found);
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|t| is(value, t)),
                one => is(value, one),
            },
            "format" => has_format(rule.as_str().unwrap(), value),
            "minimum" => value.as_f64().is_none_or(|v| v >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|v| v <= rule.as_f64().unwrap()),
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "required" => {
                let has = |key: &Value| value.get(key.as_str().unwrap()).is_some();
                !value.is_object() || rule.as_array().unwrap().iter().all(has)
            }
            "properties" => {
                for (key, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        validate(root, schema, value, &format!("{at}/{key}"), found);
                    }
                }
                true
            }
            // The only objects that have it are maps, whose keys have no schemas of their own.
            "additionalProperties" if !schema.contains_key("properties") => {
                validate_each(root, rule, value.as_object().into_iter().flatten(), at, found);
                true
            }
            "items" => {
                validate_each(root, rule, value.as_array().into_iter().flatten().enumerate(), at, found);
                true
            }
            "allOf" => rule.as_array().unwrap().iter().all(valid),
            "anyOf" => rule.as_array().unwrap().iter().any(valid),
            "oneOf" => rule.as_array().unwrap().iter().filter(|s| valid(s)).count() == 1,
            other => panic!("{at}: the keyword {other} is not known to this test"),
        };
        if !holds {
            found.push(format!("{at}: {keyword}"));
        }
    }
}

fn has_format(format: &str, value: &Value) -> bool {
    match (format, value) {
        ("uint64" | "int64" | "uint32" | "uint16", Value::Number(n)) => n.is_u64() || n.is_i64(),
        ("ip", Value::String(s)) => s.parse::<std::net::IpAddr>().is_ok(),
        ("uint64" | "int64" | "uint32" | "uint16" | "double" | "ip", _) => true,
        (other, _) => panic!("the format {other} is not known to this test"),
    }
}

fn validate_each<'v>(
    root: &Value,
    schema: &Value,
    values: impl Iterator<Item = (impl Display, &'v Value)>,
    at: &str,
    found: &mut Vec<String>,
) {
    for (place, value) in values {
        validate(root, schema, value, &format!("{at}/{place}"), found);
    }
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not known to this test"),
    }
}

#[test]
fn every_golden_record_and_every_line_of_every_log_is_valid() {
    for name in common::log_names() {
        for record in common::replay(&name) {
            let found = complaints::<Record>(&serde_json::to_value(record).unwrap());
            assert!(found.is_empty(), "{name}: {found:#?}");
        }
        for event in common::events(&name).0 {
            let found = complaints::<Event>(&serde_json::to_value(&event).unwrap());
            assert!(found.is_empty(), "{name}: {event:?}: {found:#?}");
        }
    }
}

/// They are of runs in the lab, in which libvirt and QEMU migrated.
#[test]
fn every_kept_run_is_valid() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/runs");
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let found = complaints::<Run>(&value);
        assert!(found.is_empty(), "{}: {found:#?}", path.display());
        let run: Run = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(run).unwrap(), value);
    }
}

#[test]
fn the_schemas_refuse_what_is_wrong() {
    let mut record = serde_json::to_value(&common::replay("precopy-7.2")[0]).unwrap();
    assert!(complaints::<Record>(&record).is_empty());
    record["migration"]["outcome"] = Value::from("splendid");
    assert!(!complaints::<Record>(&record).is_empty());
    let mut event = serde_json::to_value(&common::events("precopy-7.2").0[1]).unwrap();
    assert!(complaints::<Event>(&event).is_empty());
    event["at_ns"] = Value::from(-1);
    assert!(!complaints::<Event>(&event).is_empty());
}

#[test]
fn the_answer_of_a_study_is_valid_and_can_be_read_back() {
    for folder in [common::study::Folder::empty(), common::study::Folder::whole()] {
        let answer = folder.answer();
        let value = serde_json::to_value(&answer).unwrap();
        let found = complaints::<Answer>(&value);
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!(serde_json::from_value::<Answer>(value).unwrap(), answer);
    }
}
