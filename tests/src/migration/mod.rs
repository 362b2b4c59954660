//! One live migration: its options, its driver, and what the driver saw.

mod driver;
mod options;
mod outcome;

pub use driver::{Action, Progress};
pub(crate) use driver::{drive, prepare};
pub use options::Migration;
pub use outcome::{Migrated, ObservedEvent, Outcome, Side};
