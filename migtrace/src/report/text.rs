//! A record as a person reads it after the migration: at most [`WIDTH`] columns wide, without colour.

pub use super::layout::WIDTH;
pub use super::qemu_figures::OWN_FIGURES;
use super::{
    downtime, echo, first_signs, flows, headline, libvirt_figures, losses, parts, phases, qemu_figures,
    summary, totals,
};
use crate::record::Record;

/// The report of one migration.
#[must_use]
pub fn render(record: &Record) -> String {
    let mut text = String::new();
    headline::section(record, &mut text);
    summary::section(record, &mut text);
    downtime::section(record, &mut text);
    parts::section(record, &mut text);
    first_signs::section(&record.downtime, &mut text);
    echo::of_record(record, &mut text);
    phases::section(record, &mut text);
    flows::section(record, &mut text);
    totals::section(record, &mut text);
    qemu_figures::section(record, &mut text);
    libvirt_figures::section(record, &mut text);
    losses::not_measured(&record.not_measured, &mut text);
    losses::lost(record.lost, &mut text);
    text
}
