//! Reports interfaces that come, go, or change their name.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkHeader;
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::io::unix::AsyncFd;

use super::table::dump_links;
use crate::host::netlink::Connection;
use crate::host::route_netlink::{Answer, Message};

/// The multicast group of interface news (`RTNLGRP_LINK`).
const GROUP_LINK: u32 = 1;

/// What happened to an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum LinkEvent {
    /// It is new in this namespace.
    Added {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// It was deleted, or moved to another namespace.
    Removed {
        /// The index it had.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// It has another name.
    Renamed {
        /// Its index.
        index: u32,
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
}

/// A stream of [`LinkEvent`]s of the namespace in which it was made.
#[derive(Debug)]
pub(crate) struct LinkWatcher {
    news: AsyncFd<Connection>,
    table: Connection,
    known: Known,
}

impl LinkWatcher {
    /// Watches from now on. Interfaces that exist already are not reported. Needs a tokio runtime.
    ///
    /// # Errors
    /// The netlink sockets'.
    #[expect(deprecated, reason = "meant for types that may swap their descriptor; this one keeps its own")]
    pub(crate) fn new() -> io::Result<Self> {
        // Listen first: a change between the two is then reported rather than lost.
        let news = AsyncFd::new(Connection::listen(NETLINK_ROUTE, GROUP_LINK)?)?;
        let mut watcher = Self { news, table: Connection::open(NETLINK_ROUTE)?, known: Known::default() };
        watcher.reread()?;
        watcher.known.events.clear();
        Ok(watcher)
    }

    /// The next event. May be dropped and called again without missing one.
    ///
    /// # Errors
    /// The netlink sockets'.
    pub(crate) async fn next(&mut self) -> io::Result<LinkEvent> {
        loop {
            if let Some(event) = self.known.events.pop_front() {
                return Ok(event);
            }
            let mut ready = self.news.readable_mut().await?;
            match ready.get_inner_mut().receive::<Answer>() {
                Ok(messages) => {
                    for message in messages {
                        match message.payload {
                            NetlinkPayload::InnerMessage(Answer::Link(link)) => {
                                self.known.seen(&link);
                            }
                            NetlinkPayload::InnerMessage(Answer::LinkGone(link)) => {
                                self.known.gone(&link);
                            }
                            _ => {}
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // Either some messages were dropped, since there were too many at once, or one has an unknown form. In both
                // cases the table itself shows what has changed.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOBUFS)
                        || error.kind() == io::ErrorKind::InvalidData =>
                {
                    drop(ready);
                    self.reread()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Compares what is known with the kernel's table.
    fn reread(&mut self) -> io::Result<()> {
        let links = dump_links(&mut self.table)?;
        self.known.replace(&links);
        Ok(())
    }
}

impl AsRawFd for LinkWatcher {
    fn as_raw_fd(&self) -> RawFd {
        self.news.as_raw_fd()
    }
}

/// The interfaces as last reported, and what is still to be reported.
#[derive(Debug, Default)]
struct Known {
    names: BTreeMap<u32, String>,
    events: VecDeque<LinkEvent>,
}

impl Known {
    fn seen(&mut self, link: &Message<LinkHeader>) {
        // A bridge reports its ports in the same group, in a family of its own. A port that leaves a bridge still exists.
        if link.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let Some(name) = link.attributes.text(libc::IFLA_IFNAME) else { return };
        let index = link.header.index;
        match self.names.insert(index, name.clone()) {
            None => self.events.push_back(LinkEvent::Added { index, name }),
            Some(from) if from != name => {
                self.events.push_back(LinkEvent::Renamed { index, from, to: name });
            }
            Some(_) => {}
        }
    }

    fn gone(&mut self, link: &Message<LinkHeader>) {
        if link.header.interface_family == AddressFamily::Unspec {
            self.remove(link.header.index);
        }
    }

    fn remove(&mut self, index: u32) {
        if let Some(name) = self.names.remove(&index) {
            self.events.push_back(LinkEvent::Removed { index, name });
        }
    }

    fn replace(&mut self, links: &[Message<LinkHeader>]) {
        let vanished: Vec<u32> = self
            .names
            .keys()
            .copied()
            .filter(|index| !links.iter().any(|link| link.header.index == *index))
            .collect();
        for index in vanished {
            self.remove(index);
        }
        for link in links {
            self.seen(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::testing::{block_on, in_new_netns, ip, ip_batch, this_netns};

    async fn next(watcher: &mut LinkWatcher) -> LinkEvent {
        tokio::time::timeout(Duration::from_secs(10), watcher.next()).await.expect("an event").unwrap()
    }

    async fn silent(watcher: &mut LinkWatcher) {
        let outcome = tokio::time::timeout(Duration::from_millis(100), watcher.next()).await;
        assert!(outcome.is_err(), "{outcome:?}");
    }

    #[test]
    fn interfaces_that_come_change_their_name_and_go_are_reported_in_order() {
        in_new_netns(|| {
            block_on(async {
                ip("link add early0 type bridge");
                let mut watcher = LinkWatcher::new().unwrap();
                silent(&mut watcher).await;
                ip("link add new0 index 77 type bridge");
                ip("link set new0 name other0");
                ip("link set other0 up");
                ip("link delete other0");
                let (index, name) = (77, "new0".to_owned());
                assert_eq!(next(&mut watcher).await, LinkEvent::Added { index, name: name.clone() });
                assert_eq!(
                    next(&mut watcher).await,
                    LinkEvent::Renamed { index, from: name, to: "other0".into() }
                );
                assert_eq!(next(&mut watcher).await, LinkEvent::Removed { index, name: "other0".into() });
                silent(&mut watcher).await;
            });
        });
    }

    #[test]
    fn an_interface_that_leaves_a_bridge_has_not_gone() {
        in_new_netns(|| {
            block_on(async {
                ip("link add br0 type bridge");
                ip("link add vnet0 type veth peer name far0");
                let mut watcher = LinkWatcher::new().unwrap();
                ip("link set vnet0 master br0");
                ip("link set vnet0 nomaster");
                silent(&mut watcher).await;
            });
        });
    }

    #[test]
    fn an_interface_that_moves_to_another_namespace_has_gone() {
        in_new_netns(|| {
            let elsewhere = this_netns();
            in_new_netns(|| {
                block_on(async {
                    ip("link add vnet0 index 78 type veth peer name far0");
                    let mut watcher = LinkWatcher::new().unwrap();
                    ip(&format!("link set vnet0 netns {elsewhere}"));
                    assert_eq!(
                        next(&mut watcher).await,
                        LinkEvent::Removed { index: 78, name: "vnet0".into() }
                    );
                });
            });
        });
    }

    #[test]
    fn changes_whose_messages_were_dropped_are_found_in_the_table() {
        const ROUNDS: usize = 200;
        in_new_netns(|| {
            block_on(async {
                ip("link add last0 index 70000 type bridge");
                let mut watcher = LinkWatcher::new().unwrap();
                // Six messages a round at least, of some kilobytes of memory each: far more than the socket's receive
                // buffer (200 kB) holds.
                let round = "link add flap0 type veth peer name flap1\nlink delete flap0\n";
                ip_batch(&round.repeat(ROUNDS));
                ip("link delete last0");
                ip("link add end0 index 70001 type bridge");
                let mut seen = Vec::new();
                while seen.last() != Some(&LinkEvent::Added { index: 70001, name: "end0".into() }) {
                    seen.push(next(&mut watcher).await);
                }
                assert!(seen.len() < 4 * ROUNDS, "nothing was dropped, so this test proves nothing");
                assert!(seen.contains(&LinkEvent::Removed { index: 70000, name: "last0".into() }));
            });
        });
    }
}
