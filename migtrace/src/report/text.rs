//! A record as a person reads it after the migration: at most [`WIDTH`] columns wide, without colour.

pub use super::layout::WIDTH;
use super::layout::print;
pub use super::qemu_figures::OWN_FIGURES;
use super::{
    downtime, echo, first_signs, flows, headline, libvirt_figures, losses, parts, phases, qemu_figures,
    summary, totals,
};
use crate::record::Record;

/// The report of one migration.
#[must_use]
pub fn render(record: &Record) -> String {
    let mut sections = vec![headline::section(record), summary::section(record), downtime::section(record)];
    sections.extend(parts::sections(record).into_iter().flatten());
    sections.extend(first_signs::section(&record.downtime));
    sections.extend(echo::of_record(record));
    sections.push(phases::section(record));
    sections.extend(flows::section(record));
    sections.extend(totals::section(record));
    sections.extend(qemu_figures::section(record));
    sections.extend(libvirt_figures::section(record));
    sections.extend(losses::not_measured(&record.not_measured));
    sections.extend(losses::lost(record.lost));
    let mut text = String::new();
    sections.iter().for_each(|section| print(section, &mut text));
    text
}
