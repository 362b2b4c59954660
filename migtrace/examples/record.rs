//! Records the migrations of this host one after the other, and prints each record as a line of JSON.
//!
//! Run it as root: `cargo run --example record`. It is a starting point for feeding records into a tracing stack.

use migtrace::event::{EndReason, Fact};
use migtrace::record::Record;
use migtrace::recorder::{Recorder, RecorderError};
use migtrace::selection::Selection;
use migtrace::tracer::Tracer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    loop {
        for record in next_migration().await? {
            println!("{}", serde_json::to_string(&record)?);
        }
    }
}

/// Waits for the next migration to end.
async fn next_migration() -> Result<Vec<Record>, RecorderError> {
    // Nothing is missed from here on. A migration that already runs is recorded too, and its record says so.
    let tracer = Tracer::builder().start()?;
    for qemu in tracer.qemus() {
        eprintln!("tracing {} (pid {})", qemu.name.as_deref().unwrap_or("a VM"), qemu.pid);
    }
    let mut recorder = Recorder::new(tracer, Selection::default());
    while let Some(event) = recorder.next().await? {
        // Every event is available as it happens, too.
        if let Fact::Qmp(event) = event.fact {
            eprintln!("QEMU {}: {} {}", event.pid, event.name, event.data);
        }
    }
    let (_, timeline) = recorder.finish(EndReason::MigrationEnded)?;
    Ok(timeline.finish())
}
