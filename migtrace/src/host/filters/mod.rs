//! The eBPF filters of the clsact qdisc: lists, adds and removes them, and listens for changes.
//!
//! Hosts have filters of kinds and with attributes that no parser knows. Other filters are therefore read only as far as it
//! takes to tell them from ours, so that none of them can hide ours.

mod changes;
mod filter;
mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_sys::protocols::NETLINK_ROUTE;

pub(crate) use changes::{News, Touched};
pub(crate) use filter::{Filter, Place, Way};

use super::netlink::Connection;
use message::Message;

/// Asks the kernel for filters of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Filters(Connection);

impl Filters {
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn open() -> io::Result<Self> {
        Connection::open(NETLINK_ROUTE).map(Self)
    }

    /// The eBPF filters at a place in the order in which they run, or only those with one preference. There are none where
    /// there is no clsact qdisc, or no interface.
    ///
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn list(&mut self, place: Place, preference: Option<u16>) -> io::Result<Vec<Filter>> {
        let question = Message::question(place, preference.unwrap_or(0));
        let answers: Vec<Message> = self.0.dump(&question)?;
        Ok(answers.into_iter().filter_map(|answer| answer.filter(place)).collect())
    }

    /// Adds a filter. It runs before the others with its preference.
    ///
    /// # Errors
    /// `EINVAL` when filters of another kind or protocol have that preference; `ENOENT` without a clsact qdisc; whatever
    /// else the kernel refuses.
    pub(crate) fn add(
        &mut self,
        place: Place,
        preference: u16,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let change = Message::addition(place, preference, name, program);
        self.0.change(change, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a filter. It is not an error if the filter is gone already.
    ///
    /// # Errors
    /// The kernel refuses, or the netlink socket's.
    pub(crate) fn remove(&mut self, filter: &Filter) -> io::Result<()> {
        let change = Message::removal(filter);
        match self.0.change(change, 0) {
            // The entry of a preference goes with its last filter, and all of them go with the qdisc.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}
