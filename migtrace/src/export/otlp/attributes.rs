//! Attributes of spans and resources. What is not known is left out.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};

use crate::record::Estimate;

/// Attributes, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(super) fn into_vec(self) -> Vec<KeyValue> {
        self.0
    }

    pub(super) fn text<'v>(&mut self, key: &str, value: impl Into<Option<&'v str>>) -> &mut Self {
        self.push(key, value.into().map(text_value))
    }

    /// A number that OTLP can carry: it has no unsigned ones.
    pub(super) fn number(&mut self, key: &str, value: impl Into<Option<u64>>) -> &mut Self {
        self.signed(key, value.into().and_then(|value| i64::try_from(value).ok()))
    }

    pub(super) fn signed(&mut self, key: &str, value: impl Into<Option<i64>>) -> &mut Self {
        self.push(key, value.into().map(Value::IntValue))
    }

    pub(super) fn flag(&mut self, key: &str, value: impl Into<Option<bool>>) -> &mut Self {
        self.push(key, value.into().map(Value::BoolValue))
    }

    /// A list of texts; left out when it is empty.
    pub(super) fn list(&mut self, key: &str, values: impl IntoIterator<Item = String>) -> &mut Self {
        let value = |text| AnyValue { value: Some(Value::StringValue(text)) };
        let values: Vec<_> = values.into_iter().map(value).collect();
        self.push(key, (!values.is_empty()).then_some(Value::ArrayValue(ArrayValue { values })))
    }

    /// A length with its bounds: `KEY.value_ns`, `.low_ns`, `.high_ns` where there is one, and `.method`.
    pub(super) fn estimate<'e>(&mut self, key: &str, estimate: impl Into<Option<&'e Estimate>>) -> &mut Self {
        let Some(estimate) = estimate.into() else { return self };
        self.number(&format!("{key}.value_ns"), estimate.value_ns)
            .number(&format!("{key}.low_ns"), estimate.low_ns)
            .number(&format!("{key}.high_ns"), estimate.high_ns)
            .text(&format!("{key}.method"), estimate.method.as_str())
    }

    fn push(&mut self, key: &str, value: Option<Value>) -> &mut Self {
        if let Some(value) = value {
            let value = Some(AnyValue { value: Some(value) });
            self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
        }
        self
    }
}

fn text_value(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}
