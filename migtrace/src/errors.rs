//! An error as text, for where only text is possible.

use std::error::Error;

/// An error with its causes, on one line. A cause that the text has already is not repeated.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// An error that only names its cause.
    #[derive(Debug, thiserror::Error)]
    #[error("cannot do it")]
    struct Outer(#[from] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("a file is bad: {0}")]
    struct Inner(#[source] io::Error);

    #[test]
    fn each_cause_appears_once() {
        let error = Outer::from(Inner(io::Error::other("it is empty")));
        assert_eq!(with_causes(&error), "cannot do it: a file is bad: it is empty");
    }
}
