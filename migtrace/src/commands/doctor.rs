//! `migtrace doctor`: shows what can be measured on this host, and what is missing.

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};
use migtrace::event::{Instrument, InstrumentStatus};
use migtrace::host::capabilities::{self, Capabilities, Capability};
use migtrace::host::environment::Environment;
use migtrace::{kernel, report, terminal::clean};
use serde::Serialize;

use super::Exit;
use super::output::ReportOutput;
use crate::cli::{DoctorArgs, Format};
use crate::streams::Stream;

/// Everything that `doctor` found.
#[derive(Serialize)]
struct Findings {
    instruments: Vec<Instrument>,
    lacking: Vec<Lacking>,
}

#[derive(Serialize)]
struct Lacking {
    what: String,
    fix: String,
}

pub(super) fn run(options: &DoctorArgs) -> Result<Exit> {
    let findings = examine()?;
    let text = match options.format {
        Format::Text => table(&findings),
        Format::Json => report::json(&findings).context("cannot write JSON")?,
    };
    ReportOutput::open(None, Stream::Output)?.write(&text.into())?;
    Ok(verdict(&findings))
}

fn examine() -> Result<Findings> {
    let held = Capabilities::read().context("cannot read this process' capabilities")?;
    let mut lacking: Vec<_> = Environment::read()
        .shortfalls()
        .into_iter()
        .map(|shortfall| Lacking { what: shortfall.lacking, fix: shortfall.fix })
        .collect();
    if let Some(fix) = capabilities::advice(&held.missing(&Capability::NEEDED)) {
        lacking.insert(0, Lacking { what: "capabilities".into(), fix });
    }
    Ok(Findings { instruments: kernel::examine(), lacking })
}

fn verdict(findings: &Findings) -> Exit {
    let wire_is_missing = findings
        .instruments
        .iter()
        .any(|instrument| instrument.name == kernel::WIRE && instrument.status == InstrumentStatus::Missing);
    if wire_is_missing {
        Exit::Unusable
    } else if findings.instruments.iter().all(|instrument| instrument.status == InstrumentStatus::Ok) {
        Exit::Done
    } else {
        Exit::Lacking
    }
}

fn table(findings: &Findings) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header([
        "INSTRUMENT",
        "STATUS",
        "HOOK",
        "OBSERVES",
    ]);
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        table.set_width(100);
    }
    for instrument in &findings.instruments {
        let status = match instrument.status {
            InstrumentStatus::Ok => "ok",
            InstrumentStatus::Fallback => "fallback",
            InstrumentStatus::Missing => "missing",
        };
        let hook = instrument.hook.as_deref().unwrap_or("-");
        table.add_row([&instrument.name, status, hook, &instrument.observes].map(clean));
    }
    let rows = table.lines().map(|row| format!("{}\n", row.trim_end()));
    let mut text: String = rows.collect();
    for instrument in &findings.instruments {
        let remarks = [("lost", &instrument.lost), ("note", &instrument.note), ("why", &instrument.why)];
        for (label, remark) in remarks {
            if let Some(remark) = remark {
                text.push('\n');
                text.push_str(&clean(&format!("{}: {label}: {remark}", instrument.name)));
            }
        }
    }
    for lacking in &findings.lacking {
        text.push_str(&format!("\n{}\n    fix: {}", clean(&lacking.what), clean(&lacking.fix)));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
