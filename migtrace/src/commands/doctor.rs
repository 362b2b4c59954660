//! `migtrace doctor`: tells what can be measured on this host.

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};
use migtrace::event::{Probe, ProbeStatus};
use migtrace::host::capabilities::{self, Capabilities, Capability};
use migtrace::host::environment::Environment;
use migtrace::{kernel, report, terminal::clean};
use serde::Serialize;

use super::Exit;
use super::destination::Destination;
use crate::cli::{Doctor, Format};
use crate::streams::Stream;

/// Everything that `doctor` found.
#[derive(Serialize)]
struct Findings {
    probes: Vec<Probe>,
    lacking: Vec<Lacking>,
}

#[derive(Serialize)]
struct Lacking {
    what: String,
    fix: String,
}

pub(super) fn run(options: &Doctor) -> Result<Exit> {
    let findings = examine()?;
    let text = match options.format {
        Format::Text => table(&findings),
        Format::Json => report::json(&findings).context("cannot write JSON")?,
    };
    Destination::open(None, Stream::Output)?.write(&text)?;
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
    Ok(Findings { probes: kernel::examine(), lacking })
}

fn verdict(findings: &Findings) -> Exit {
    let wire_is_missing = findings
        .probes
        .iter()
        .any(|probe| probe.name == kernel::WIRE && probe.status == ProbeStatus::Missing);
    if wire_is_missing {
        Exit::Unusable
    } else if findings.probes.iter().all(|probe| probe.status == ProbeStatus::Ok) {
        Exit::Done
    } else {
        Exit::Lacking
    }
}

fn table(findings: &Findings) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["PROBE", "STATUS", "HOOK", "OBSERVES"]);
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        table.set_width(100);
    }
    for probe in &findings.probes {
        let status = match probe.status {
            ProbeStatus::Ok => "ok",
            ProbeStatus::Fallback => "fallback",
            ProbeStatus::Missing => "missing",
        };
        let hook = probe.hook.as_deref().unwrap_or("-");
        table.add_row([&probe.name, status, hook, &probe.observes].map(clean));
    }
    let rows = table.lines().map(|row| format!("{}\n", row.trim_end()));
    let mut text: String = rows.collect();
    for probe in &findings.probes {
        let remarks = [("lost", &probe.lost), ("note", &probe.note), ("why", &probe.why)];
        for (label, remark) in remarks {
            if let Some(remark) = remark {
                text.push('\n');
                text.push_str(&clean(&format!("{}: {label}: {remark}", probe.name)));
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
