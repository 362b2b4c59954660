//! Values lie within their bounds, and the record names itself well.

use serde_json::Value;
use uuid::Uuid;

use super::violations::Violations;
use crate::record::{Observer, Outcome, Record};

/// Each value lies within its bounds, wherever in the record it is.
pub(super) fn bounds(path: &str, json: &Value, found: &mut Violations) {
    match json {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                bounds(&format!("{path}/{index}"), item, found);
            }
        }
        // What QEMU and libvirt have said is quoted as it came.
        Value::Object(_) if ["/qemu/stats", "/libvirt/stats"].contains(&path) => {}
        Value::Object(fields) => {
            if let (Some(value), Some(low)) = (whole(json, "value_ns"), whole(json, "low_ns")) {
                let high = whole(json, "high_ns");
                found.unless(low <= value && high.is_none_or(|high| value <= high), || {
                    format!("bounds: {path}: {value} is not within {low} and {high:?}")
                });
            }
            let unnamed = json["method"].as_str().is_some_and(str::is_empty);
            found.unless(!unnamed, || format!("bounds: {path}: no method"));
            for (name, field) in fields {
                bounds(&format!("{path}/{name}"), field, found);
            }
        }
        _ => {}
    }
}

fn whole(json: &Value, field: &str) -> Option<i128> {
    let number = json.get(field)?;
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

pub(super) fn identity(record: &Record, found: &mut Violations) {
    if let Some(id) = &record.migration.id {
        let is_uuid = Uuid::parse_str(id)
            .is_ok_and(|uuid| uuid.get_version_num() == 5 && uuid.hyphenated().to_string() == *id);
        found.unless(is_uuid, || format!("identity: {id:?} is not a UUID of version 5"));
    } else {
        let may_still_come = record.migration.outcome == Outcome::Interrupted;
        found.unless(may_still_come, || "identity: the migration has ended, and has no id".to_owned());
    }
    let schema = &record.schema;
    found.unless(schema == crate::record::SCHEMA, || format!("identity: the schema is {schema:?}"));
    let start = &record.start;
    found.unless(start.realtime_ns.is_some() == start.error_ns.is_some(), || {
        format!("identity: the start's wall time and its error are not both known: {start:?}")
    });
    if let Some(libvirt) = &record.libvirt {
        let said = |seen: &Observer| seen.host == libvirt.host && seen.role == libvirt.role.into();
        found.unless(record.observers.iter().any(said), || {
            format!(
                "identity: libvirt on {} ({:?}) has said something, and did not observe",
                libvirt.host, libvirt.role
            )
        });
    }
    for observer in &record.observers {
        found.unless(observer.clock.is_some() == start.realtime_ns.is_some(), || {
            "identity: the start's wall time is known without a clock, or the reverse".to_owned()
        });
    }
}
