//! In what two plans differ.

use serde_json::Value;

use super::plan::Plan;

/// The first thing in which two plans differ that decides the runs; none if both ask for the same runs. Titles, descriptions,
/// the layout and published figures may change.
#[must_use]
pub fn difference(old: &Plan, new: &Plan) -> Option<String> {
    first("", &decisive(old), &decisive(new))
}

/// What decides the runs.
fn decisive(plan: &Plan) -> Value {
    let mut plan = plan.clone();
    plan.title.clear();
    plan.description.clear();
    plan.report = super::plan::Layout::default();
    plan.published = None;
    for axis in &mut plan.axes {
        axis.title = None;
        for value in &mut axis.values {
            value.title = None;
        }
    }
    serde_json::to_value(plan).unwrap_or_default()
}

fn first(at: &str, old: &Value, new: &Value) -> Option<String> {
    match (old, new) {
        _ if old == new => None,
        (Value::Object(olds), Value::Object(news)) => {
            let keys = olds.keys().chain(news.keys().filter(|key| !olds.contains_key(*key)));
            keys.filter_map(|key| {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                first(&at, olds.get(key).unwrap_or(&Value::Null), news.get(key).unwrap_or(&Value::Null))
            })
            .next()
        }
        (Value::Array(olds), Value::Array(news)) => {
            let places = 0..olds.len().max(news.len());
            places
                .filter_map(|place| {
                    let (old, new) = (olds.get(place), news.get(place));
                    let name = old.or(new).and_then(|value| value.get("name")).and_then(Value::as_str);
                    let name = name.map_or_else(|| (place + 1).to_string(), str::to_owned);
                    first(&format!("{at}.{name}"), old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null))
                })
                .next()
        }
        _ => Some(format!("{at} was {} and is {}", shown(old), shown(new))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not there".to_owned(),
        Value::Object(fields) => match fields.get("name") {
            Some(name) => name.to_string(),
            None => value.to_string(),
        },
        value => value.to_string(),
    }
}
