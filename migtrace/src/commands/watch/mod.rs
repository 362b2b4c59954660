//! `migtrace watch`: records every migration of this host until it is told to end.

mod counts;
mod exports;
mod index;
mod leftovers;
mod lines;
mod lock;
mod pairs;
mod progress;
#[cfg(feature = "openmetrics")]
mod prometheus;
mod retention;
mod store;
mod troubles;
mod watching;

use anyhow::{Context as _, Result};
use migtrace::host::capabilities::Capability;

use self::exports::Exports;
use self::lines::Lines;
use self::store::Store;
use self::watching::{Files, Watching};
use super::record::{absent, describe_host, start_tracer};
use super::signals::Signals;
use super::{Exit, check_privileges, runtime_that_catches};
use crate::cli::WatchArgs;
use crate::streams::say;

pub(super) fn run(options: &WatchArgs) -> Result<Exit> {
    check_privileges(&Capability::NEEDED)?;
    // Before there are files that a signal would leave behind.
    let (runtime, signals) = runtime_that_catches(Signals::catch)?;
    let store = options.directory.as_ref().map(|directory| {
        let host = nix::unistd::gethostname().context("cannot read this host's name")?;
        Store::open(directory, &host.to_string_lossy(), options.keep)
    });
    let store = store.transpose()?;
    let lines = Lines::open(options.output.as_deref(), options.format)?;
    let exports = runtime.block_on(Exports::start(options))?;
    let files = Files::new(store, lines, exports);
    runtime.block_on(watch(options, files, signals))?;
    // A binary may still be asked for its version.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

async fn watch(options: &WatchArgs, files: Files, signals: Signals) -> Result<()> {
    let tracer = start_tracer(&options.scope)?;
    if let Some(why) = tracer.why_sleepless() {
        say(&format!("it does not sleep between migrations: {why}"));
    }
    let selection = migtrace::selection::Selection::new(options.scope.vm.clone(), options.scope.pid);
    let absent = absent(&tracer, &selection)?;
    describe_host(&tracer, &say);
    if let Some(vm) = absent.as_ref().and_then(|absent| absent.wanted.vm.as_ref()) {
        say(&format!("waiting for `{vm}`"));
    }
    say("ready");
    let watching = Watching::new(migtrace::watch::Watcher::new(tracer, selection), files);
    watching.until_told(signals, options.grace).await
}
