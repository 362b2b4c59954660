//! Merges the event logs of the hosts of a migration into one record, and prints it as a line of JSON.
//!
//! The hosts' clocks need not be synchronised: packets that both have stamped say how they relate. What was found out of that is
//! printed to standard error. `cargo run -p migtrace-logs --bin merge -- SOURCE.jsonl DESTINATION.jsonl [OBSERVER.jsonl...]`

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::{env, process};

use migtrace::event::LogReader;
use migtrace::record::Observer;
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::terminal;
use migtrace::timeline::{self, Timeline};

fn main() -> Result<(), Box<dyn Error>> {
    let logs: Vec<_> = env::args_os().skip(1).collect();
    if logs.len() < 2 {
        eprintln!("usage: merge LOG LOG...");
        process::exit(2);
    }
    let hosts = logs.iter().map(|log| fold(Path::new(log))).collect::<Result<Vec<_>, _>>()?;
    // Which log is whose is found out. Logs of which some may belong to other migrations: `merged_as_found`.
    let records = timeline::merged(&hosts).map_err(|alone| {
        format!("{} does not belong to the others: {}", logs[alone.host].display(), alone.why)
    })?;
    for record in &records {
        print!("{}", report::json_line(record)?);
        record.observers.iter().for_each(describe);
    }
    Ok(())
}

fn fold(log: &Path) -> Result<Timeline, Box<dyn Error>> {
    let mut timeline = Timeline::new(Selection::default());
    for event in LogReader::new(BufReader::new(File::open(log)?)) {
        timeline.push(&event.map_err(|error| format!("{}: {error}", log.display()))?);
    }
    Ok(timeline)
}

/// How well the clock of a host is known. All times of the record are those of the first host's clock.
fn describe(host: &Observer) {
    let clock = match &host.alignment {
        None => "its clock is the record's".to_owned(),
        Some(clock) => match (clock.low_ns, clock.high_ns) {
            (Some(low), Some(high)) => {
                format!(
                    "its clock is known to within {} ({})",
                    report::duration(high.abs_diff(low)),
                    clock.method
                )
            }
            _ => format!("its clock has no bounds on both sides ({})", clock.method),
        },
    };
    // A host's name is what somebody has given it.
    eprintln!("{} ({}): {clock}", terminal::clean(&host.host), host.role);
}
