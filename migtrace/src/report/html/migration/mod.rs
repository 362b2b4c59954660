//! The page of one migration.

mod downtime;
mod overview;

use maud::{Markup, html};

pub(super) use overview::{MOST_STEPS, axis, curves, highest};

use super::sections::{bounded, section, under};
use crate::record::{Estimate, Outcome, Record};
use crate::report::content::{UNKNOWN, clean, side};
use crate::report::quantities::Bounded;
use crate::report::{
    downtime as downtime_text, echo, first_signs, flows, headline, libvirt_figures, losses, parts, phases,
    qemu_figures, summary, totals,
};

/// Everything about a migration under its title. `index` is its place among the records of the page.
pub(super) fn article(record: &Record, index: usize, title: &Markup) -> Markup {
    html! {
        article id=(format!("m{}", index + 1)) {
            header {
                (title)
                p class="when" { (hosts(record)) ", " (summary::start(&record.start)) }
                (section(&headline::section(record), ""))
            }
            (figures(record))
            @if let Some(error) = &record.migration.error {
                p class="alarm" { strong { "Error:" } " " (clean(error)) }
            }
            (overview::charts(record, index))
            (downtime_section(record, index))
            (under("Echo requests", echo::of_record(record)))
            (under("What QEMU was doing", [phases::section(record)]))
            (under("What crossed the wire", flows::section(record).into_iter().chain(totals::section(record))))
            (under("QEMU's figures", qemu_figures::section(record)))
            (under("libvirt's figures", libvirt_figures::section(record)))
            (under("Not measured", losses::not_measured(&record.not_measured)))
            (under("Lost", losses::lost(record.lost)))
            (under("Details", [summary::section(record)]))
        }
    }
}

/// How it ended: the word, its colour and a sign.
pub(super) fn outcome(record: &Record) -> Markup {
    let (class, sign) = match record.migration.outcome {
        Outcome::Completed => ("good", "✓"),
        Outcome::Failed => ("bad", "✕"),
        Outcome::Cancelled => ("odd", "⊘"),
        Outcome::Interrupted | Outcome::Unknown => ("odd", "?"),
    };
    html! {
        span class=(format!("outcome {class}")) { span aria-hidden="true" { (sign) " " } (headline::outcome(record)) }
    }
}

/// Which hosts have seen it.
fn hosts(record: &Record) -> String {
    let host =
        |observer: &crate::record::Observer| format!("{} ({})", clean(&observer.host), side(observer.role));
    match &record.observers[..] {
        [] => "host unknown".to_owned(),
        observers => observers.iter().map(host).collect::<Vec<_>>().join(", "),
    }
}

/// The figures that matter most, large.
fn figures(record: &Record) -> Markup {
    let downtime = &record.downtime;
    let card = |name: &'static str, figure: &Bounded, how: &str| {
        html! { div { dt { (name) } dd { (bounded(figure)) @if !how.is_empty() { " " small { (how) } } } } }
    };
    let measured = |name, length: &Option<Estimate>, none: &str| match length {
        Some(length) => card(name, &length.into(), &clean(length.method.as_str())),
        None => card(name, &Bounded::alone(none), ""),
    };
    let stop = if downtime.never_stopped() { "not stopped" } else { UNKNOWN };
    html! {
        dl class="figures" {
            (measured("Total time", &record.total_time, UNKNOWN))
            (measured("Stop", &downtime.stop, stop))
            (measured("Reachability", &downtime.reachability, UNKNOWN))
            (measured("Network", &downtime.network, UNKNOWN))
            (card("Sent", &Bounded::alone(headline::sent(record)), "on the wire"))
        }
    }
}

fn downtime_section(record: &Record, index: usize) -> Markup {
    let said = downtime_text::section(record);
    let parts = parts::sections(record);
    html! {
        section {
            h3 { (said.title) }
            @if let Some([most, _]) = &parts { (section(most, "")) }
            (downtime::chart(record, index))
            (section(&said, &said.title))
            @if let Some([_, parts]) = &parts { (section(parts, "")) }
            @if let Some(signs) = &first_signs::section(&record.downtime) { (section(signs, "")) }
        }
    }
}
