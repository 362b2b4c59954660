//! JSON that names its schema, as all does that migtrace writes.

use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};

/// Why JSON is not what was to be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is no JSON, or not all of it is there.
    #[error(transparent)]
    NoJson(serde_json::Error),
    /// migtrace has not written it.
    #[error("it does not name a schema")]
    NoSchema,
    /// It is of another version of migtrace, or something else that migtrace writes.
    #[error("its schema is `{found}`; this migtrace reads only `{expected}`")]
    OtherSchema {
        /// The schema that it names.
        found: String,
        /// The one that can be read.
        expected: &'static str,
    },
    /// It is not what its schema says.
    #[error(transparent)]
    Invalid(serde_json::Error),
}

/// Reads one value.
pub(crate) fn read<T: DeserializeOwned>(json: &[u8], schema: &'static str) -> Result<T, ReadError> {
    read_value(serde_json::from_slice(json).map_err(ReadError::NoJson)?, schema)
}

/// Reads values that follow each other, on one line each or on several. After one that is no JSON there are no more.
pub(crate) fn read_all<T: DeserializeOwned>(
    json: &[u8],
    schema: &'static str,
) -> impl Iterator<Item = Result<T, ReadError>> {
    let values = Deserializer::from_slice(json).into_iter();
    values.map(move |value| read_value(value.map_err(ReadError::NoJson)?, schema))
}

/// Reads a value whose JSON was parsed. The schema's name is checked before everything else, because the JSON of another
/// version need not have the same fields.
pub(crate) fn read_value<T: DeserializeOwned>(value: Value, schema: &'static str) -> Result<T, ReadError> {
    match value.get("schema").and_then(Value::as_str) {
        Some(name) if name == schema => serde_json::from_value(value).map_err(ReadError::Invalid),
        Some(name) => Err(ReadError::OtherSchema { found: name.to_owned(), expected: schema }),
        None => Err(ReadError::NoSchema),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const SCHEMA: &str = "migtrace.number/1";

    #[derive(Debug, Deserialize)]
    struct Number {
        number: u32,
    }

    fn of(schema: &str, number: &str) -> String {
        format!("{{\"schema\": {schema},\n\"number\": {number}}}")
    }

    fn why(json: &str) -> ReadError {
        read::<Number>(json.as_bytes(), SCHEMA).unwrap_err()
    }

    #[test]
    fn the_schema_is_looked_at_before_everything_else() {
        let json = of("\"migtrace.number/1\"", "7");
        assert_eq!(read::<Number>(json.as_bytes(), SCHEMA).unwrap().number, 7);
        assert!(matches!(why(&json[..json.len() - 1]), ReadError::NoJson(_)));
        assert!(matches!(why(&of("\"migtrace.number/1\"", "\"7\"")), ReadError::Invalid(_)));
        let other = "its schema is `migtrace.number/2`; this migtrace reads only `migtrace.number/1`";
        assert_eq!(why(&of("\"migtrace.number/2\"", "\"7\"")).to_string(), other);
        for none in [of("null", "7"), of("1", "7"), "{}".to_owned(), "[]".to_owned()] {
            assert!(matches!(why(&none), ReadError::NoSchema), "{none}");
        }
    }

    #[test]
    fn values_that_follow_each_other_are_read_up_to_the_first_that_is_no_json() {
        let json = of("\"migtrace.number/1\"", "1") + &of("\"migtrace.number/1\"", "2") + "\n{";
        let read: Vec<_> = read_all::<Number>(json.as_bytes(), SCHEMA).collect();
        assert!(matches!(
            &read[..],
            [Ok(Number { number: 1 }), Ok(Number { number: 2 }), Err(ReadError::NoJson(_))]
        ));
    }
}
