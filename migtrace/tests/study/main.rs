//! `migtrace study run`, with commands that only pretend to migrate.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod driver_scripts;
mod endings;
mod going_on;
mod loads;
mod old_method;
mod plans;
mod refusals;
mod scene;
