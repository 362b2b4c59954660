//! What the fuzz targets share with the tests of migtrace, besides the checks in `migtrace::invariants`.

pub mod events;
pub mod frame;
pub mod lines;
mod statuses;
