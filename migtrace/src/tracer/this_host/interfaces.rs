//! The interfaces at which packets are counted.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::errors::with_causes;
use crate::event::{Device, Fact, Interface};
use crate::host::links::{self, CountingPoint, LinkEvent, LinkWatcher};
use crate::kernel::Kernel;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::now;
use crate::units::MonotonicNs;

/// How long after an interface has appeared it may still get its address, and become one to count at.
const SETTLING: Duration = Duration::from_secs(60);

/// So many interfaces may have been counted at before the names of those that are gone are forgotten.
const MOST_NAMES: usize = 256;

/// The interfaces at which packets are counted, and those that may become such.
pub(in crate::tracer) struct Interfaces {
    /// Those that a person named; empty for every one with an address of its own.
    requested: Vec<String>,
    watcher: LinkWatcher,
    /// Names by index of those that are or were counted at.
    names: BTreeMap<u32, String>,
    /// Until then, an interface that has appeared may get ready to be counted at.
    settled: Option<Instant>,
}

impl Interfaces {
    pub(in crate::tracer) const fn new(requested: Vec<String>, watcher: LinkWatcher) -> Self {
        Self { requested, watcher, names: BTreeMap::new(), settled: None }
    }

    /// The next interface that comes, goes or changes its name. Cancel-safe.
    pub(in crate::tracer) async fn next_change(&mut self) -> io::Result<LinkEvent> {
        self.watcher.next().await
    }

    /// The name of an interface at which packets are counted.
    pub(in crate::tracer) fn name(&self, index: u32) -> String {
        self.names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"))
    }

    /// Begins to count at an interface.
    pub(in crate::tracer) fn count_at(
        &mut self,
        kernel: &mut Kernel,
        point: &CountingPoint,
    ) -> Result<Interface, TracerError> {
        let attach = kernel.attach(&point.name, point.index, point.skip_tagged, point.tag_bytes)?;
        self.names.insert(point.index, point.name.clone());
        let below = point.below.iter().cloned().map(|(name, kind)| Device { name, kind }).collect();
        Ok(Interface {
            name: point.name.clone(),
            index: point.index,
            attach,
            kind: point.kind.clone(),
            below,
        })
    }

    /// An interface has come, gone, or changed its name.
    pub(in crate::tracer) fn follow(&mut self, base: &mut Base, now: MonotonicNs, change: LinkEvent) {
        match change {
            LinkEvent::Removed { index, .. } => {
                if base.kernel.is_attached(index) {
                    base.kernel.detach(index);
                    base.events.add(now, Fact::InterfaceGone { interface: self.name(index) });
                }
                // The names of the latest are still needed for what comes late.
                if self.names.len() > MOST_NAMES {
                    self.names.retain(|index, _| base.kernel.is_attached(*index));
                }
            }
            LinkEvent::Renamed { index, to, .. } => {
                if let Some(name) = self.names.get_mut(&index) {
                    *name = to;
                }
            }
            LinkEvent::Added { .. } => {
                self.settled = Some(Instant::now() + SETTLING);
                self.count_at_new(base, now);
            }
        }
    }

    /// Whether an interface that has appeared may still get ready.
    pub(in crate::tracer) fn is_any_unsettled(&self) -> bool {
        self.settled.is_some_and(|settled| Instant::now() < settled)
    }

    /// Looks whether an interface that has appeared is ready.
    pub(in crate::tracer) fn look(&mut self, base: &mut Base) -> Result<(), TracerError> {
        if self.is_any_unsettled() {
            self.count_at_new(base, now()?);
        }
        Ok(())
    }

    /// Counts at each new interface that would have been chosen at the start.
    fn count_at_new(&mut self, base: &mut Base, now: MonotonicNs) {
        // A requested interface that is still missing, or one without an address yet, is no error here.
        let Ok(points) = links::counting_points(&self.requested) else { return };
        for point in points {
            if base.kernel.is_attached(point.index) {
                continue;
            }
            match self.count_at(&mut base.kernel, &point) {
                Ok(interface) => base.events.add(now, Fact::InterfaceAdded(interface)),
                Err(error) => base.events.not_measured(
                    now,
                    &format!("packets at {}", point.name),
                    format!("it appeared while tracing and could not be attached: {}", with_causes(&error)),
                ),
            }
        }
    }
}
