//! OTLP in JSON: a request on one line, as the Collector's `otlpjsonfile` receiver reads it.

use serde::Serialize;
use serde_json::Value;

use crate::terminal;

/// One request as a line of JSON, without its end. Identifiers are in hexadecimal and 64-bit numbers are strings, as OTLP maps
/// them. Empty fields are left out, and what would steer a terminal is escaped.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json_line(request: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(request)?;
    remove_empty(&mut value);
    Ok(terminal::clean_json(&serde_json::to_string(&value)?).into_owned())
}

fn remove_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(remove_empty);
            fields.retain(|name, field| name == "stringValue" || !is_empty(field));
        }
        Value::Array(items) => items.iter_mut().for_each(remove_empty),
        _ => {}
    }
}

/// Whether a field of a message is what its absence means. An object stays, since its presence may mean something.
fn is_empty(field: &Value) -> bool {
    match field {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
