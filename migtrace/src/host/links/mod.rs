//! The network interfaces of this namespace: which there are, which carry a route, at which to count, and what changes.

mod counting;
mod route;
mod table;
#[cfg(test)]
mod tests;
mod watcher;

pub use counting::CountingError;
pub(crate) use counting::{CountingPoint, counting_points};
pub(crate) use route::route_interface;
pub(crate) use table::{Link, list, name_of};
pub(crate) use watcher::{LinkEvent, LinkWatcher};
