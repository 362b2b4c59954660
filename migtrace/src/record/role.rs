//! A host's part in a migration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A host's part in a migration.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The guest leaves it.
    Source,
    /// The guest arrives at it.
    Destination,
}
