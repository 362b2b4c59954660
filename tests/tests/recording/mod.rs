//! `migtrace record` beside connections that no QEMU owns, and the facts that it found.

pub(crate) mod transfer;

use lab::Host;
use lab::tracing;
use migtrace::event::{Event, Fact, FlowCounters, LogReader, TcRemoved};
use migtrace::units::{Counters, Directions};
use migtrace::vocabulary::Lost;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A `migtrace record` that counts.
pub(crate) struct Recording(tracing::Recording);

impl Recording {
    /// Returns when everything is attached.
    pub(crate) fn start(host: &Host, options: &[&str]) -> Self {
        Self(tracing::Recording::start(host, options).unwrap())
    }

    /// Ends it as Ctrl-C does. No QEMU owns the flows of these tests, so it has seen no migration.
    pub(crate) fn stop(self) -> Facts {
        let recorded = self.end_by(Signal::SIGINT);
        let said = &recorded.stderr;
        assert!(said.contains("no migration was seen before the recording was interrupted"), "{said}");
        assert_eq!(recorded.code, Some(1), "{said}");
        let log = File::open(recorded.events_path()).unwrap();
        Facts(LogReader::new(BufReader::new(log)).map(Result::unwrap).collect())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits until its log has an event with this text.
    pub(crate) fn wait_for(&self, text: &str) {
        self.0.wait_for_event(text, PATIENCE).unwrap();
    }

    /// Ends it so that it cannot clean up.
    pub(crate) fn kill(self) {
        self.end_by(Signal::SIGKILL);
    }

    fn end_by(self, signal: Signal) -> tracing::Recorded {
        self.0.signal(signal).unwrap();
        self.0.finish(PATIENCE).unwrap()
    }
}

/// The facts of an event log.
pub(crate) struct Facts(Vec<Event>);

impl Facts {
    fn last<T>(&self, wanted: impl Fn(&Fact) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|event| wanted(&event.fact))
    }

    /// What was counted of a connection in the end, if it was counted at all.
    pub(crate) fn flow(&self, local: SocketAddr, remote: SocketAddr) -> Option<FlowCounters> {
        self.last(|fact| match fact {
            Fact::FlowCounters(of) if of.flow.local == local && of.flow.remote == remote => Some(of.clone()),
            _ => None,
        })
    }

    /// How many connections were seen.
    pub(crate) fn flows(&self) -> usize {
        self.0.iter().filter(|event| matches!(event.fact, Fact::FlowSeen { .. })).count()
    }

    /// What was counted in the end of each connection, those of the same ends one after the other.
    pub(crate) fn of_each_connection(&self) -> Vec<FlowCounters> {
        let mut of_each: Vec<FlowCounters> = Vec::new();
        let mut is_over = true;
        for event in &self.0 {
            match &event.fact {
                Fact::FlowGone { .. } => is_over = true,
                Fact::FlowCounters(of) => {
                    match of_each.last_mut().filter(|last| last.flow == of.flow && !is_over) {
                        Some(last) => *last = of.clone(),
                        None => of_each.push(of.clone()),
                    }
                    is_over = false;
                }
                _ => {}
            }
        }
        of_each
    }

    /// Whether the opening of a connection was seen.
    pub(crate) fn is_from_start(&self, local: SocketAddr) -> bool {
        let from_start = self.last(|fact| match fact {
            Fact::FlowSeen { flow, from_start, .. } if flow.local == local => Some(*from_start),
            _ => None,
        });
        from_start.unwrap_or_else(|| panic!("no connection of {local} was seen"))
    }

    /// What was counted of IP fragments between two hosts in the end.
    pub(crate) fn fragments(&self, here: IpAddr, there: IpAddr) -> Option<Directions<Counters>> {
        self.last(|fact| match fact {
            Fact::Fragments { local, remote, counters } if (*local, *remote) == (here, there) => {
                Some(*counters)
            }
            _ => None,
        })
    }

    /// What was lost in the end.
    pub(crate) fn lost(&self) -> Lost {
        self.last(|fact| if let Fact::Lost { so_far, .. } = fact { Some(*so_far) } else { None })
            .unwrap_or_default()
    }

    /// The programs that were removed, and when that was told.
    pub(crate) fn removed(&self) -> Vec<(u64, TcRemoved)> {
        let told = self.0.iter().filter_map(|event| match &event.fact {
            Fact::TcRemoved(removed) => Some((event.at_ns.0, removed.clone())),
            _ => None,
        });
        told.collect()
    }

    /// What is said not to be measured.
    pub(crate) fn not_measured(&self) -> Vec<String> {
        let told = self.0.iter().filter_map(|event| match &event.fact {
            Fact::NotMeasured(what) => Some(format!("{}: {}", what.what, what.why)),
            _ => None,
        });
        told.collect()
    }
}
