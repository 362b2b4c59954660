//! What the fuzz targets are made of, beside the checks in `migtrace::invariants`.

pub mod events;
pub mod frame;
pub mod lines;
mod statuses;
