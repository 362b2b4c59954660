//! The answer of a study, for people and for programs.
//!
//! `tables`, `published`, `steps` and `old_method` hold what is said, [`text`] sets it, [`csv`] lists every figure.

pub mod csv;
mod grid;
pub(super) mod numbers;
pub(super) mod old_method;
pub(super) mod published;
pub(super) mod sentences;
pub(super) mod steps;
pub(super) mod tables;
pub mod text;
pub(super) mod words;
