//! One live migration: its options, its driver, and what the driver saw.

mod driver;
mod options;
mod outcome;
mod settings;

pub(crate) use driver::drive;
pub use driver::{Action, Progress};
pub use options::Migration;
pub use outcome::{Migrated, ObservedEvent, Outcome, Side};
pub(crate) use settings::prepare;
