//! What holds for every record, whatever the events were. The tests and the fuzz targets share these checks.
//!
//! This is not part of the crate's interface: it may change with any version.

mod downtime;
pub mod inputs;
#[cfg(feature = "otlp")]
mod otlp;
mod phases;
mod rendering;
#[cfg(test)]
mod tests;
mod traffic;
mod values;
mod violations;

use violations::Violations;

use crate::record::Record;

/// Checks a record whose events were coherent.
///
/// # Errors
/// Everything that is wrong with it, one line each.
pub fn record(record: &Record) -> Result<(), String> {
    let mut found = Violations::default();
    derived(record, &mut found);
    traffic::copied(record, &mut found);
    found.result()
}

/// What the fold guarantees even when the events contradict each other.
fn derived(record: &Record, found: &mut Violations) {
    let json = match serde_json::to_value(record) {
        Ok(json) => json,
        Err(error) => return found.0.push(format!("it has no JSON form: {error}")),
    };
    values::bounds("", &json, found);
    values::identity(record, found);
    phases::phases(record, &json, found);
    phases::phase_bytes(record, found);
    traffic::traffic(record, found);
    downtime::order(record, found);
    phases::times(record, &json, found);
    downtime::downtime(record, found);
    downtime::reasons(record, found);
    rendering::rendered(record, found);
    #[cfg(feature = "otlp")]
    otlp::traced(record, found);
}
