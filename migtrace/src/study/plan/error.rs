//! What is wrong with a plan.

/// Why a plan cannot be run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no TOML, or has what no plan has.
    #[error("line {line}, column {column}: {why}")]
    Form {
        /// Where, from 1.
        line: usize,
        /// Where in that line, from 1.
        column: usize,
        /// What is wrong there.
        why: String,
    },
    /// It has the form of a plan, and makes no sense.
    #[error("{place}: {why}")]
    Sense {
        /// The part of the plan.
        place: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
}

impl PlanError {
    pub(super) fn of_toml(error: &toml::de::Error, text: &str) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let start_of_line = before.rfind('\n').map_or(0, |end| end + 1);
        Self::Form {
            line: before.matches('\n').count() + 1,
            column: before[start_of_line..].chars().count() + 1,
            why: error.message().replace('\n', "; "),
        }
    }

    pub(super) fn sense(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Sense { place: place.into(), why: why.into() }
    }
}
