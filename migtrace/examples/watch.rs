//! Follows all migrations of this host, and sends each record somewhere, with attributes of its own.
//!
//! Run it as root: `cargo run --example watch`. Here, "somewhere" is standard output, one line of JSON a record; replace
//! `send` by what your platform has.

use migtrace::record::Record;
use migtrace::selection::Selection;
use migtrace::tracer::Tracer;
use migtrace::watch::{News, Watcher};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing is missed from here on, however many migrations run at once.
    let mut watcher = Watcher::new(Tracer::builder().start()?, Selection::default());
    loop {
        match watcher.next().await? {
            News::Begun { journal } => eprintln!("migration {journal} has begun"),
            News::Finished(finished) => {
                for record in &finished.records {
                    send(&with_attributes(record)?);
                }
            }
            // The events of each migration come here, too: written down, they are its log.
            _ => {}
        }
    }
}

/// The record, and what only the platform knows.
fn with_attributes(record: &Record) -> Result<Value, serde_json::Error> {
    let tenant = record.vm.name.as_deref().and_then(|name| name.split('-').next());
    Ok(json!({ "tenant": tenant, "record": serde_json::to_value(record)? }))
}

fn send(message: &Value) {
    println!("{message}");
}
