//! Reports: records and probes for people to read, and as JSON for programs.
//!
//! A report is made from a record alone, never from events.

mod content;
mod downtime;
mod drawing;
mod echo;
mod first_signs;
mod flows;
mod headline;
pub mod html;
mod layout;
mod libvirt_figures;
mod losses;
mod parts;
mod phases;
pub mod probe;
mod qemu_figures;
mod quantities;
pub mod study;
mod summary;
pub mod text;
mod totals;
mod traffic_of;
mod wall_clocks;

pub use headline::line;
pub use quantities::{bytes, duration, duration_beside};
use serde::Serialize;

use crate::terminal;

/// A record, or the report of a probe, as indented JSON that ends with a newline.
///
/// # Errors
/// When a part of it has no JSON form. A record made from an event log always has one.
pub fn json(record: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(record).map(|text| terminal::clean_json(&text).into_owned() + "\n")
}

/// As [`json`], but on one line: several of them are JSON Lines.
///
/// # Errors
/// As [`json`].
pub fn json_line(record: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(record).map(|text| terminal::clean_json(&text).into_owned() + "\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn a_report_knows_no_events() {
        let module = concat!("crate::", "event");
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let source = fs::read_to_string(&path).unwrap();
                assert!(!source.contains(module), "{} uses {module}", path.display());
            }
        }
    }
}
