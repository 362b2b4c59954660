//! Studies: many migrations under conditions that differ in a planned way, and the answer that their records give.
//!
//! - [`plan::Plan`] says which conditions are tried, how often, and by which commands. It is a TOML file.
//! - [`order`] makes the runs of it; [`environment`] says what the commands of a run are told.
//! - [`directory::StudyDirectory`] is where all of it is kept. A study goes on with the plan that it was begun with:
//!   [`difference()`] tells another one.
//! - [`run::Run`] is what one migration of a study left beside its [record](crate::record::Record): how it ended, how long the
//!   driver took, and what the method of lost pings and a byte meter would have said ([`pings`], [`meter`]).
//! - [`answer::Answer`] is what the runs say together: medians with their ranges and bounds, the old method's errors, findings,
//!   and checks. [`material`] reads what it is made from.

pub mod answer;
mod difference;
pub mod directory;
pub mod environment;
pub mod material;
pub mod meter;
pub mod order;
pub mod pings;
pub mod plan;
pub mod run;

pub use difference::difference;
