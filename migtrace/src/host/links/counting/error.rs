//! Why packets cannot be counted as requested.

use std::io;

/// Why packets cannot be counted as requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CountingError {
    /// There is no such interface.
    #[error("no interface `{name}`; this network namespace has: {}", present.join(", "))]
    NoSuchInterface {
        /// The requested name.
        name: String,
        /// The interfaces that exist.
        present: Vec<String>,
    },
    /// The interface cannot be counted at.
    #[error("cannot count at `{name}`: {why}")]
    Unfit {
        /// The interface.
        name: String,
        /// The reason, and what to do.
        why: &'static str,
    },
    /// Packets of one interface also pass the other one.
    #[error(
        "cannot count at both `{upper}` and `{lower}`: `{lower}` is below `{upper}`, so each packet would be \
             counted twice; leave one of them out"
    )]
    Twice {
        /// The upper device: the bridge, the bond, the macvlan.
        upper: String,
        /// The lower one: the port, the parent.
        lower: String,
    },
    /// Nothing was requested, and no interface is suitable.
    #[error("no interface to count at: {}; name one with --interface", if reasons.is_empty() {
        "this network namespace has none".to_owned()
    } else {
        reasons.join("; ")
    })]
    None {
        /// Each interface, and why it is not suitable.
        reasons: Vec<String>,
    },
    /// The interfaces cannot be listed.
    #[error(transparent)]
    List(#[from] io::Error),
}
