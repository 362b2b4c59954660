//! A `migtrace record` of connections that no QEMU owns, and the event log that it wrote.

use crate::support::PATIENCE;
use migtrace::event::{CarriedBefore, Event, Fact, FlowCounters, LogReader, TcRemoved};
use migtrace::units::{Counters, Directions};
use migtrace::vocabulary::Lost;
use migtrace_lab::{Host, migtrace_command};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};

/// A running `migtrace record` that counts connections.
pub(crate) struct FlowRecording(migtrace_command::Recording);

impl FlowRecording {
    /// Starts it, and returns once everything is attached.
    pub(crate) fn start(host: &Host, options: &[&str]) -> Self {
        Self(migtrace_command::Recording::start(host, options).unwrap())
    }

    /// Interrupts it as Ctrl-C does, and reads its log. No QEMU owns the flows, so it reports that it saw no migration.
    pub(crate) fn stop(self) -> EventLog {
        let recorded = self.end_by(Signal::SIGINT);
        let stderr = &recorded.stderr;
        assert!(stderr.contains("no migration was seen before the recording was interrupted"), "{stderr}");
        assert_eq!(recorded.code, Some(1), "{stderr}");
        let log = File::open(recorded.events_path()).unwrap();
        EventLog(LogReader::new(BufReader::new(log)).map(Result::unwrap).collect())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits until a line of its log contains this text.
    pub(crate) fn wait_for(&self, text: &str) {
        self.0.wait_for_event(text, PATIENCE).unwrap();
    }

    /// Kills it, so that it cannot clean up.
    pub(crate) fn kill(self) {
        self.end_by(Signal::SIGKILL);
    }

    fn end_by(self, signal: Signal) -> migtrace_command::Recorded {
        self.0.signal(signal).unwrap();
        self.0.finish(PATIENCE).unwrap()
    }
}

/// The events of a recording, in their order.
pub(crate) struct EventLog(Vec<Event>);

impl EventLog {
    fn last<T>(&self, wanted: impl Fn(&Fact) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|event| wanted(&event.fact))
    }

    /// The last counters of a connection, if it was counted at all.
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

    /// The last counters of each connection, where connections with the same addresses and ports follow each other.
    pub(crate) fn flows_in_turn(&self) -> Vec<FlowCounters> {
        let mut last_counters: Vec<FlowCounters> = Vec::new();
        let mut is_over = true;
        for event in &self.0 {
            match &event.fact {
                Fact::FlowGone { .. } => is_over = true,
                Fact::FlowCounters(of) => {
                    match last_counters.last_mut().filter(|last| last.flow == of.flow && !is_over) {
                        Some(last) => *last = of.clone(),
                        None => last_counters.push(of.clone()),
                    }
                    is_over = false;
                }
                _ => {}
            }
        }
        last_counters
    }

    /// Whether the opening of a connection was seen.
    pub(crate) fn is_from_start(&self, local: SocketAddr) -> bool {
        let from_start = self.last(|fact| match fact {
            Fact::FlowSeen { flow, from_start, .. } if flow.local == local => Some(*from_start),
            _ => None,
        });
        from_start.unwrap_or_else(|| panic!("no connection of {local} was seen"))
    }

    /// What a connection had carried before it was counted, if it opened during a sleep.
    pub(crate) fn carried_before(&self, local: SocketAddr) -> Option<CarriedBefore> {
        self.last(|fact| match fact {
            Fact::FlowCarriedBefore(carried) if carried.flow.local == local => Some(carried.clone()),
            _ => None,
        })
    }

    /// The last counters of IP fragments between two hosts.
    pub(crate) fn fragments(&self, here: IpAddr, there: IpAddr) -> Option<Directions<Counters>> {
        self.last(|fact| match fact {
            Fact::Fragments { local, remote, counters } if (*local, *remote) == (here, there) => {
                Some(*counters)
            }
            _ => None,
        })
    }

    /// What was lost in all.
    pub(crate) fn lost(&self) -> Lost {
        self.last(|fact| if let Fact::Lost { so_far, .. } = fact { Some(*so_far) } else { None })
            .unwrap_or_default()
    }

    /// The programs that somebody removed, and when each removal was recorded.
    pub(crate) fn removed(&self) -> Vec<(u64, TcRemoved)> {
        let removals = self.0.iter().filter_map(|event| match &event.fact {
            Fact::TcRemoved(removed) => Some((event.at_ns.0, removed.clone())),
            _ => None,
        });
        removals.collect()
    }

    /// What was reported as not measured, and why.
    pub(crate) fn not_measured(&self) -> Vec<String> {
        let reports = self.0.iter().filter_map(|event| match &event.fact {
            Fact::NotMeasured(what) => Some(format!("{}: {}", what.what, what.why)),
            _ => None,
        });
        reports.collect()
    }
}
