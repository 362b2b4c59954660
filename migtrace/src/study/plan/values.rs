//! Values in a plan, as people write them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// Environment variables.
pub type Variables = BTreeMap<String, String>;

/// A value of an axis. In a plan, its name alone will do.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "Written")]
pub struct Value {
    /// Its name.
    pub name: String,
    /// What the report calls it, if not by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The environment variables that it gives the driver.
    pub set: Variables,
}

/// A value as it is written.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a value of an axis is its name, or { name = ..., title = ..., set = { VARIABLE = ... } }"
)]
enum Written {
    Name(String),
    Whole(Whole),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    name: String,
    title: Option<String>,
    #[serde(default, deserialize_with = "scalars")]
    set: Variables,
}

impl From<Written> for Value {
    fn from(written: Written) -> Self {
        match written {
            Written::Name(name) => Self { name, title: None, set: Variables::new() },
            Written::Whole(Whole { name, title, set }) => Self { name, title, set },
        }
    }
}

/// A number, a truth value or a text, which becomes the text of a variable.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a variable is a text, a number, or true or false")]
enum Scalar {
    Text(String),
    Integer(i64),
    Number(f64),
    Truth(bool),
}

/// Variables, whose values need no quotes if they are numbers.
pub(super) fn scalars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Variables, D::Error> {
    let scalars = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    let text = |scalar| match scalar {
        Scalar::Text(text) => text,
        Scalar::Integer(number) => number.to_string(),
        Scalar::Number(number) => number.to_string(),
        Scalar::Truth(truth) => truth.to_string(),
    };
    Ok(scalars.into_iter().map(|(name, scalar)| (name, text(scalar))).collect())
}

/// A length of time with its unit: `30s`, `2m`.
pub(super) mod duration {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::study::plan) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed =
            text.parse::<jiff::SignedDuration>().ok().and_then(|parsed| Duration::try_from(parsed).ok());
        parsed.ok_or_else(|| {
            D::Error::custom(format!("`{text}` is not a length of time; write for example 30s or 2m"))
        })
    }

    pub(in crate::study::plan) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::text_of(*duration))
    }
}

/// As [`duration`], where there may be none.
pub(super) mod some_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(in crate::study::plan) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }

    #[allow(clippy::ref_option, reason = "serde calls it with a reference")]
    pub(in crate::study::plan) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// A length of time as a plan may have it: `1m 30s`.
#[must_use]
pub fn text_of(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| "forever".to_owned(), |signed| format!("{signed:#}"))
}
