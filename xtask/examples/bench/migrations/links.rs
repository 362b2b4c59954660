//! Migrations that the lab's own driver makes, over links of several kinds.

use anyhow::{Context as _, Result, bail};
use migtrace_lab::{Builder, CpuLoad, Lab, Migration, Outcome};

use super::measured::Measured;
use super::{Recordings, Row};

/// How often the guest is migrated over each kind of link.
const MIGRATIONS: u32 = 7;

/// A kind of link between the hosts.
struct Link {
    name: &'static str,
    lab: fn(Builder) -> Builder,
    /// Of a thousand packets, so many are lost.
    lost_per_mille: u32,
    /// What else the CPUs do meanwhile.
    load: Option<fn() -> Result<CpuLoad>>,
}

const NOT_LIMITED: Link = Link { name: "not limited", lab: |lab| lab, lost_per_mille: 0, load: None };
const LIMITED: Link =
    Link { name: "400 Mbit/s", lab: |lab| lab.rate("400mbit"), lost_per_mille: 0, load: None };

const LINKS: [Link; 10] = [
    NOT_LIMITED,
    Link { name: "not limited, CPUs busy", load: Some(CpuLoad::busy), ..NOT_LIMITED },
    Link { name: "not limited, CPUs stalled", load: Some(CpuLoad::stalls), ..NOT_LIMITED },
    Link { name: "1 Gbit/s", lab: |lab| lab.rate("1gbit"), ..NOT_LIMITED },
    LIMITED,
    Link { name: "400 Mbit/s, CPUs busy", load: Some(CpuLoad::busy), ..LIMITED },
    Link { name: "400 Mbit/s, CPUs stalled", load: Some(CpuLoad::stalls), ..LIMITED },
    Link { name: "400 Mbit/s, 1 % of the packets lost", lost_per_mille: 10, ..LIMITED },
    Link {
        name: "not limited, neither GSO nor GRO",
        lab: |lab| lab.sender_offloads(false).receiver_gro(false),
        ..NOT_LIMITED
    },
    Link { name: "not limited, GRO but no GSO", lab: |lab| lab.sender_offloads(false), ..NOT_LIMITED },
];

/// Migrates guests over each kind of link.
pub(super) fn measure() -> Result<Vec<Row>> {
    LINKS.iter().map(row).collect()
}

fn row(link: &Link) -> Result<Row> {
    eprintln!("{MIGRATIONS} migrations over a link: {}", link.name);
    let builder = (link.lab)(Lab::builder().memory_mib(192).dirty(24, 20));
    let mut lab = builder.start().context("cannot make the lab")?;
    lab.wait_guest_ready()?;
    if link.lost_per_mille > 0 {
        lab.drop_packets(link.lost_per_mille)?;
    }
    let _load = link.load.map(|start| start()).transpose()?;
    let measured = (0..MIGRATIONS).map(|_| migration(&mut lab)).collect::<Result<Vec<_>>>()?;
    Ok(Row::of(link.name, &measured))
}

fn migration(lab: &mut Lab) -> Result<Measured> {
    let recordings = Recordings::start(lab.guest_host(), lab.other_host())?;
    let migrated = lab.migrate(&Migration::default())?;
    if migrated.outcome != Outcome::Completed {
        bail!("a migration ended otherwise: {:?}", migrated.outcome);
    }
    let record = recordings.merged()?;
    let qemu_ms = migrated.qemu_downtime_ms().context("QEMU reports no downtime")?;
    Measured::of(&record, &migrated.events, qemu_ms, None)
}
