//! Which event logs of a fleet belong together.
//!
//! A [`Summary`] is what a log is about, from a quick look at it; [`groups`] says which logs are to be folded together.
//! A group may be too large, and never too small: what the halves of a migration are is decided by the fold
//! ([`crate::timeline::merged_as_found`]).

mod groups;
mod summary;

pub use groups::groups;
pub use summary::Summary;

/// Something that logs may have in common, as a number. Two that differ have the same number only by chance.
type Key = u64;

fn key(of: impl std::hash::Hash) -> Key {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
