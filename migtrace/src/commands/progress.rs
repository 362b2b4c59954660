//! The line that shows a running migration. Only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use migtrace::record::Role;
use migtrace::report::bytes;
use migtrace::terminal::clean;
use migtrace::timeline::Live;

use crate::streams::say;

/// A changing line on standard error; hidden if standard error is not a terminal.
pub(super) fn line() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// The line of a migration on standard error.
pub(super) struct Progress {
    bar: ProgressBar,
    here: LiveLine,
}

/// What is shown of a migration on this host.
#[derive(Default)]
pub(super) struct LiveLine {
    /// Wire bytes and time when it was last shown, for the rate.
    last: Option<(u64, u64)>,
    rate: f64,
}

impl Progress {
    /// The line; hidden if standard error is not a terminal.
    pub(super) fn new() -> Self {
        let bar = line();
        bar.set_message("waiting for a migration");
        Self { bar, here: LiveLine::default() }
    }

    /// Prints a line that stays.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// Whether anybody can see it.
    pub(super) fn is_seen(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Shows the migration as it is now on this host, and on its peers.
    pub(super) fn show(&mut self, here: Option<Live>, there: Vec<(&str, Live)>) {
        let mut parts = Vec::new();
        if let Some(live) = here {
            parts.push(self.here.of(&live));
        }
        parts.extend(there.iter().map(|(name, live)| on_peer(name, live)));
        if !parts.is_empty() {
            self.bar.set_message(clean(&parts.join(" | ")).into_owned());
        }
        self.bar.tick();
    }

    /// Shows what is waited for.
    pub(super) fn show_wait(&self, what: &str) {
        self.bar.set_message(format!("waiting for {what}"));
        self.bar.tick();
    }

    /// Removes the line.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl LiveLine {
    /// The migration as it is now.
    pub(super) fn of(&mut self, live: &Live) -> String {
        self.measure_rate(live);
        let vm = live.vm.as_deref().unwrap_or("a VM");
        let pass = live.pass.map(|pass| format!(" pass {pass}")).unwrap_or_default();
        let elapsed = Duration::from_nanos(live.elapsed_ns).as_secs_f64();
        let rate = bytes(self.rate as u64);
        let sent = live.wire_bytes.map_or("no connection seen".to_owned(), |wire_bytes| {
            format!("{} sent, {rate}/s", bytes(wire_bytes.tx))
        });
        clean(&format!("{vm}: {}{pass}, {sent}, {elapsed:.1} s", live.phase)).into_owned()
    }

    fn measure_rate(&mut self, live: &Live) {
        let Some(wire_bytes) = live.wire_bytes else { return };
        let now = (wire_bytes.tx, live.elapsed_ns);
        if let Some((bytes, at_ns)) = self.last
            && now.1 > at_ns
        {
            self.rate = now.0.saturating_sub(bytes) as f64 * 1e9 / (now.1 - at_ns) as f64;
        }
        self.last = Some(now);
    }
}

/// A migration as a peer sees it.
fn on_peer(name: &str, live: &Live) -> String {
    let pass = live.pass.map(|pass| format!(" pass {pass}")).unwrap_or_default();
    let crossed = live.wire_bytes.map_or("no connection seen".to_owned(), |wire_bytes| {
        let what = if live.role == Role::Destination { "received" } else { "sent" };
        format!("{} {what}", bytes(wire_bytes.tx))
    });
    format!("{name}: {}{pass}, {crossed}", live.phase)
}
