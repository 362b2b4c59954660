//! Folds event logs into records, and prints the stop of each migration: its bounds, and what it was made of.
//!
//! It needs no privileges, no kernel of a certain version and no compiler for eBPF: this package takes the library with
//! `default-features = false`. `cargo run -p migtrace-logs --bin fold -- LOG...`

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::{env, process};

use migtrace::event::LogReader;
use migtrace::record::{Estimate, Record};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::terminal;
use migtrace::timeline::Timeline;

fn main() -> Result<(), Box<dyn Error>> {
    let logs: Vec<_> = env::args_os().skip(1).collect();
    if logs.is_empty() {
        eprintln!("usage: fold LOG...");
        process::exit(2);
    }
    for log in &logs {
        for record in records(Path::new(log))? {
            print(&record);
        }
    }
    Ok(())
}

/// The records of a log: one for each migration.
fn records(log: &Path) -> Result<Vec<Record>, Box<dyn Error>> {
    let mut timeline = Timeline::new(Selection::default());
    for event in LogReader::new(BufReader::new(File::open(log)?)) {
        match event {
            Ok(event) => timeline.push(&event),
            // The recording may have been killed. What comes before is whole, and the record says how far it goes.
            Err(error) => eprintln!("{}: {error}", log.display()),
        }
    }
    Ok(timeline.finish_once())
}

fn print(record: &Record) {
    println!("{}", report::line(record));
    match &record.downtime.stop {
        Some(stop) => println!("  stop {}, by {}", bounds(stop), stop.method),
        None if record.downtime.never_stopped() => println!("  the guest was not stopped"),
        None => println!("  how long the guest was stopped is not known"),
    }
    for part in &record.downtime.parts {
        println!("    {} at the {}: {}", part.name, part.role, bounds(&part.length));
    }
    for entry in &record.not_measured {
        println!("  not measured: {}", terminal::clean(&format!("{}: {}", entry.what, entry.why)));
    }
}

/// A length is never printed without its bounds: no upper bound is not the same as a small error.
fn bounds(length: &Estimate) -> String {
    let at_least =
        format!("{} (at least {}", report::duration(length.value_ns), report::duration(length.low_ns));
    match length.high_ns {
        Some(high_ns) => format!("{at_least}, at most {})", report::duration(high_ns)),
        None => format!("{at_least}; nothing bounds it from above)"),
    }
}
