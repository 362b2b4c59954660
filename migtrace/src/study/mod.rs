//! Studies: many migrations under conditions that differ in a planned way, and the answer that their records give.
//!
//! - [`plan::Plan`] says which conditions are tried, how often, and by which commands. It is a TOML file.
//! - [`run::Run`] is what one migration of a study left beside its [record](crate::record::Record): how it ended, how long the
//!   driver took, and what the method of lost pings and a byte meter would have said.

pub mod plan;
pub mod run;
